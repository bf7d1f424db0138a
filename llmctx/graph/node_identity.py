"""The identity of a wrapped node, and the scope that it opens.

Asked in this order: the `identify` callable, the state, `config["configurable"]`, `Runtime.context`,
`Runtime.server_info.user`. The first that knows something is believed, and filled by the others as far as they agree
with it. Everything that can be known beforehand is worked out when the graph is wrapped: `enter` runs in each node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard, guard_without_ids, swallow
from llmctx.core.record import Reason
from llmctx.graph.node_data import fill_ids, has_vouching_handler, read_ids
from llmctx.identity.authority import data_id, refuse_malformed, trusting
from llmctx.identity.candidates import as_text
from llmctx.identity.config_carrier import TASK_KEY, CarriedIdentity, carried_in, with_identity
from llmctx.identity.platform import RUNTIME, has_platform_user, platform_user
from llmctx.identity.present_scope import may_be_elsewhere, present_scope
from llmctx.identity.registration import node_scope
from llmctx.identity.registry.base import active, mark_unreliable
from llmctx.identity.scope import (
    EMPTY,
    FAILED_SCOPE,
    ID_FIELDS,
    CallContext,
    Scope,
    current_scope,
)

Identify = Callable[[Any, RunnableConfig], CallContext | None]
OpenScope = tuple[Scope, RunnableConfig | None]
"""The scope of a node, and the config that the node is to get."""

guard_wrapping: Final = partial(guard, "node_not_wrapped", "%s failed: a graph runs as if it were not wrapped")
"""Guard what wraps."""

MARK: Final = "__llmctx__"
"""On a wrapped runnable, builder or function: its plan. Named so that pydantic passes it over."""

FIELDS: Final = ("session_id", "user_id", "trace_id", "conversation_id", "agent_key")
"""What a node may know of its identity. Not thread_id: that one is LangGraph's own."""

# LangGraph's names for what it puts into config["configurable"] and into a task's path; its constants are private.
READ: Final = "__pregel_read"
_PUSH: Final = "__pregel_push"
_TYPE: Final = "__type"

NO_STATE: Final = object()
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_NO_IDS: Final[dict[str, Any]] = {}
_FIELDS: Final = frozenset(FIELDS)
_PEOPLE: Final = ("user_id", "session_id")
_SAME_NAMES: Final = tuple((name, name) for name in FIELDS)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The arguments of `wrap_graph` or `wrap_node`, made ready."""

    identify: Identify | None = None
    fields: Mapping[str, str] | None = None
    agent: dict[str, Any] = field(default_factory=dict)
    """agent_key, if it was given."""
    pairs: tuple[tuple[str, str], ...] = _SAME_NAMES
    """(identity field, key in the state)."""
    keys: frozenset[str] = frozenset((*FIELDS, _TYPE))
    """Keys in the state that may tell of an identity."""
    channels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Those keys that are channels of the graph -> identity field."""
    unseen: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Those channels that the node is not handed: its input schema is narrower than the state."""
    sends: bool = True
    """Whether the identity is to be sent along. Not into a bare subgraph, whose nodes do it themselves."""
    graph: str | None = None
    """The name of the node's graph, if it was given one; until it is wrapped, the one for a graph without."""
    inside: Any = None
    outside: Callable[[], Any] | None = None
    """Where a function was wrapped: it, and a reference to what it became."""

    @classmethod
    def build(cls, identify: Identify | None, fields: Mapping[str, str] | None, agent_key: str | None) -> Plan:
        if identify is not None and (not callable(identify) or inspect.iscoroutinefunction(identify)):
            raise TypeError("identify must be a plain function identify(state, config) -> CallContext | None")
        if fields is not None and not isinstance(fields, Mapping):
            raise TypeError(f"fields is a dict, identity field -> key in the state, not {type(fields).__name__}")
        if unknown := sorted(set(fields or ()) - set(FIELDS)):
            raise TypeError(f"fields maps {', '.join(FIELDS)} to keys of the state; unknown: {', '.join(unknown)}")
        return _made(identify, dict(fields or {}), agent_key)

    @classmethod
    def _of(cls, identify: Identify | None, names: dict[str, str], agent_key: str | None) -> Plan:
        pairs = tuple((name, names.get(name, name)) for name in FIELDS)
        agent = {} if agent_key is None else {"agent_key": agent_key}
        return cls(identify, names or None, agent, pairs, frozenset((*(key for _, key in pairs), _TYPE)))

    def __deepcopy__(self, memo: object) -> Plan:
        return self  # immutable; copies of a builder share it

    def _alone(self, other: Plan) -> Plan:
        return self

    @guard_wrapping(otherwise=_alone)
    def over(self, other: Plan) -> Plan:
        """Return this plan, with `other` for whatever it does not say."""
        return replace(
            self,
            identify=self.identify or other.identify,
            fields=self.fields or other.fields,
            agent=self.agent or other.agent,
            graph=self.graph or other.graph,
            pairs=self.pairs if self.fields else other.pairs,
            keys=self.keys if self.fields else other.keys,
        )

    def open_failed(self, state: Any, config: RunnableConfig | Scope | None) -> OpenScope:
        """Answer where a node's scope fails: the one around is not believed in its place, nor the registry."""
        given = None if isinstance(config, Scope) else config
        _doubt(given)
        return FAILED_SCOPE, given

    @guard_without_ids("node_scope_failed", otherwise=open_failed)
    def open(self, state: Any, config: RunnableConfig | Scope | None) -> OpenScope | None:
        """Open the scope of a node that starts here and now. What was not found is `FAILED_SCOPE`."""
        if state is FAILED_SCOPE or isinstance(config, Scope):
            return self.open_failed(state, config)
        around = var_child_runnable_config.get() if config is None or "metadata" not in config else None
        given: Mapping[str, Any] = config if config is not None else around or _NOTHING
        metadata: Mapping[str, Any] = given.get("metadata") or (around or _NOTHING).get("metadata") or _NOTHING
        scope = self._open(state, given, given.get("configurable") or _NOTHING, metadata)
        if self.graph is not None:
            scope.graph = self.graph
        who = scope.identity
        if self.sends and (who.user_id is not None or who.session_id is not None):
            # A config may be handed to a bare thread, or pickled: the identity goes with it. Nothing is added where no
            # user is known, nothing twice, and nothing that is not there without us (`config_carrier.py`).
            packed: CarriedIdentity | None = scope.anchor.packed
            if packed is None or packed.identity is not who:
                packed = scope.anchor.packed = CarriedIdentity(who, scope.of_request)
            sending = with_identity(metadata, packed)
            if sending is not metadata:
                config = cast("RunnableConfig", {**given, "metadata": sending})
        return scope, config

    def _open(
        self, state: Any, config: Mapping[str, Any], configurable: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> Scope:
        answer, failed = EMPTY, False
        if self.identify is not None:
            answer, failed = self._ask(self.identify, state, config)
        if self._nothing_to_find(state, configurable, metadata):
            ids, data, persisted, data_persisted = self.agent, _NO_IDS, False, False
        else:
            ids, data, persisted, data_persisted = self._find(answer, state, configurable, metadata)
        thread_id: Any = configurable.get("thread_id")
        if thread_id is not None:
            thread_id = as_text(thread_id)
        task = metadata.get(TASK_KEY)
        if task is not None and type(task) is not str:
            task = as_text(task)
        scope = None
        # In a bare thread the callbacks may be all that is left of the request.
        is_vouched = bool(data) and current_scope() is None and has_vouching_handler(config.get("callbacks"))
        if not is_vouched and not answer.attributes and ("user_id" not in ids or not data):
            scope = _inside(ids, metadata, thread_id, task, data)
        if scope is None:
            found = CallContext(**ids, attributes=answer.attributes) if ids or answer.attributes else EMPTY
            scope = node_scope(
                found,
                persisted=persisted,
                metadata=metadata,
                thread_id=thread_id,
                task=task,
                registries=active,
                data=CallContext(**data) if data else EMPTY,
                data_persisted=data_persisted,
                is_vouched=is_vouched,
            )
        if failed and scope.identity.user_id is None:
            scope.reason = Reason.IDENTIFY_FAILED
        return scope

    def _nothing_to_find(self, state: Any, configurable: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
        """Return whether nothing tells of an identity: a few looks, instead of a search."""
        runtime = configurable.get(RUNTIME)
        return (
            self.identify is None
            and type(state) is dict
            and self.keys.isdisjoint(state)
            and not (self.channels and self._hidden(metadata.get("langgraph_path")))
            and _FIELDS.isdisjoint(configurable)
            and (self.fields is None or self.keys.isdisjoint(configurable))
            and (runtime is None or runtime.context is None)
            and not has_platform_user(configurable)
        )

    def _find(
        self, answer: CallContext, state: Any, configurable: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], bool, bool]:
        """Return the ids that the server's code gives the node, those that are data of the caller, and of each whether
        they may be older than this request.
        """
        ids, persisted = _NO_IDS, False
        if answer is not EMPTY:
            ids = {name: value for name in ID_FIELDS if (value := getattr(answer, name)) is not None}
            # `identify` tells what it has read, not where. A user who stands in the state was read there, maybe of old.
            persisted = isinstance(state, Mapping) and any(
                type(value) is str and value == answer.user_id for value in state.values()
            )
        runtime = configurable.get(RUNTIME)
        user = platform_user(configurable)
        if user is not None and not trusting:
            ids = fill_ids(ids, {"user_id": user})
        data, data_persisted = _NO_IDS, False
        channels = self._hidden(metadata.get("langgraph_path"))  # ours: where this fails, nothing is known of the node
        try:
            data, data_persisted = self._data(state, configurable, channels, runtime)
        except Exception:  # noqa: BLE001  objects of any kind, which may raise at a mere look
            refuse_malformed()
        if user is not None and trusting:
            data = fill_ids(data, {"user_id": user})
        return ({**ids, **self.agent} if self.agent else ids), data, persisted, data_persisted

    def _data(
        self, state: Any, configurable: Mapping[str, Any], channels: Mapping[str, str], runtime: Any
    ) -> tuple[dict[str, Any], bool]:
        """Return what state, configurable and `Runtime.context` say, and whether it may be older than this request."""
        data = self._of_state(state, configurable, channels)
        persisted = "user_id" in data or "session_id" in data
        for given in (configurable, None if runtime is None else runtime.context):
            if given is not None:
                if self.fields is not None:
                    data = fill_ids(data, read_ids(given, self.pairs))
                data = fill_ids(data, read_ids(given, _SAME_NAMES))
        return data, persisted

    def _ask(self, identify: Identify, state: Any, config: Mapping[str, Any]) -> tuple[CallContext, bool]:
        """Return the answer of `identify`, and whether it failed."""
        try:
            answer: object = identify(None if state is NO_STATE else state, cast("RunnableConfig", config))
        except BaseException as problem:  # noqa: BLE001  the team's code, about state of any age
            swallow(problem, "node_identify_failed", "identify raised in a node")
            return EMPTY, True
        if answer is None:
            return EMPTY, False
        if not isinstance(answer, CallContext):
            diagnostics.count(
                "node_identify_failed", "identify must return a CallContext, not %s", type(answer).__name__
            )
            return EMPTY, True
        return answer, False

    def _hidden(self, path: Any) -> Mapping[str, str]:
        """Return the channels that the node was not handed. A Send hands over what it was given, of whatever kind."""
        return self.channels if path is not None and path[0] == _PUSH else self.unseen

    def _of_state(self, state: Any, configurable: Mapping[str, Any], channels: Mapping[str, str]) -> dict[str, Any]:
        ids: dict[str, Any]
        if type(state) is dict:
            if state.get(_TYPE) == "tool_call_with_context":
                # what create_agent sends to its tools
                return self._of_state(state.get("state"), configurable, channels)
            ids = _NO_IDS if state.keys().isdisjoint(self.keys) else read_ids(state, self.pairs)
        else:
            ids = read_ids(state, self.pairs)
        # The graph may know more than it hands to this node.
        if channels and ("user_id" not in ids or "session_id" not in ids):
            read = configurable.get(READ)
            if read is not None:
                known = {channels[key]: value for key, value in read(list(channels), False).items()}
                ids = fill_ids(ids, {name: value for name, value in known.items() if data_id(value)})
        return ids


def _plain(identify: Identify | None, names: dict[str, str], agent_key: str | None) -> Plan:
    return Plan()


@guard_wrapping(otherwise=_plain)
def _made(identify: Identify | None, names: dict[str, str], agent_key: str | None) -> Plan:
    return Plan._of(identify, names, agent_key)


def _inside(
    ids: Mapping[str, Any],
    metadata: Mapping[str, Any],
    thread_id: str | None,
    task: str | None,
    data: Mapping[str, Any] = _NO_IDS,
) -> Scope | None:
    """Return the scope of a node of which the scope around has nothing new to learn; None if that has to be decided.

    The common case, and what `registration.node_scope` would come to. It spares the node a look into the registries.
    """
    outer = current_scope()
    if may_be_elsewhere() or (outer is not None and outer.history is not None):
        outer = present_scope()
    sent = carried_in(metadata)
    if outer is None:
        if sent is not None:
            return None
        new = None
        authority = CallContext(**ids) if ids else EMPTY
        scope = Scope(CallContext(**{**data, **ids}) if data else authority, "node")
        scope.authority = authority
    else:
        who = outer.identity
        if outer.closed_at is not None or outer.failed or (thread_id is not None and thread_id not in outer.threads):
            return None
        if sent is not None and (type(sent) is not CarriedIdentity or sent.identity.user_id not in (None, who.user_id)):
            return None
        if outer.kind == "node" and outer.parent is not None and not who:
            return None
        if data:
            said = outer.authority
            ids = {**{n: v for n, v in data.items() if n in _PEOPLE or getattr(said, n) is None}, **ids}
        new = {name: value for name, value in ids.items() if getattr(who, name) != value} if ids else None
        if new and ("user_id" in new or "session_id" in new):
            return None
        scope = Scope(who.overlay(CallContext(**new)) if new else who, "node", outer)
        if new:
            scope.authority = outer.authority
    if thread_id is not None:
        if outer is not None:
            scope.threads = outer.threads  # which knows it already: see above
        else:
            scope.threads.add(thread_id)
    if active:
        known = scope.identity.user_id is not None or scope.identity.session_id is not None
        # The scope around stands for its nodes, as long as they are of one person: a registry then keeps one scope of
        # a request, not one of each node that it ever ran.
        party = scope if outer is None or (new and known) else outer
        anchor = party.anchor
        if anchor.identity is party.identity and anchor.closed_at is None:
            party = anchor
        if known or party.anonymous:
            try:  # `register_in_all`, spelled out: each node comes by here
                for registry in active:
                    registry.put(party, thread_id=thread_id, task=task if known else None)
            except BaseException as problem:  # noqa: BLE001  a registry may be the team's own
                mark_unreliable(thread_id, task)
                swallow(problem, "registry_failed", "a node could not be registered: its thread names no user")
    return scope


@guard_without_ids("node_scope_failed")
def _doubt(config: RunnableConfig | None) -> None:
    """Mark the thread and the task of a node whose scope could not be opened."""
    given: Any = config or var_child_runnable_config.get() or {}
    thread_id = (given.get("configurable") or {}).get("thread_id")
    mark_unreliable(None if thread_id is None else str(thread_id), (given.get("metadata") or {}).get(TASK_KEY))
