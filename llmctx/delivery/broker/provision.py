"""The streams and consumers on the broker, made and changed until they are as `topology.py` has them.

What is there is compared setting by setting, so that it may be run again, and by several at once. Some settings cannot
be changed once a stream is there: of these it is said what to do, and nothing is touched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from llmctx.core.errors import LlmctxError
from llmctx.core.text import counted
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.topology import Topology
from llmctx.settings.transport_url import TransportUrl

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import ConsumerConfig, StreamConfig

COPIES: Final = 3
"""Of each stream, where the cluster has that many servers."""
_STREAM: Final = ("subjects", "max_bytes", "max_age", "discard", "duplicate_window", "deny_delete", "deny_purge")
_FIXED: Final = ("retention", "storage")
_CONSUMER: Final = ("ack_wait", "max_ack_pending", "max_deliver")
_FIXED_OF_CONSUMER: Final = ("ack_policy", "deliver_policy", "filter_subject")
_ATTEMPTS: Final = 3
_EXISTS: Final = 10058
_WORDS: Final = {
    10005: "the cluster has not enough servers for that many copies: start all of them, or set another number "
    "with replicas= in LLMCTX_TRANSPORT",
    10074: "a single server keeps one copy: leave out replicas= in LLMCTX_TRANSPORT",
    10047: "the broker has less room than that: lower max_bytes= in LLMCTX_TRANSPORT, or raise its max_file_store",
    10028: "the account's limit is lower than that: lower max_bytes= in LLMCTX_TRANSPORT, or raise the account's limit",
    10065: "another stream has this subject: choose another prefix= in LLMCTX_TRANSPORT",
    10076: "this server has no JetStream: enable it, with a store_dir",
    10039: "this account has no JetStream: enable it",
}
"""By the error code of JetStream."""


class ProvisionError(LlmctxError):
    __doc__ = "The broker's streams cannot be set up as needed. Do what the message says."


@dataclass(frozen=True, slots=True)
class Step:
    """A change of a stream or a consumer."""

    what: str
    is_new: bool
    """It makes what is not there, and changes nothing that is."""
    run: Callable[[], Awaitable[object]] = field(repr=False)


@dataclass(slots=True)
class Plan:
    """The changes that have to be made, and those that cannot be."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Sentences about what cannot be changed: with one of them nothing is done."""

    @property
    def changes(self) -> bool:
        """Return whether something that is there would be changed."""
        return not all(step.is_new for step in self.steps)


async def plan(jetstream: JetStreamContext, topology: Topology, servers: int) -> Plan:
    """Return what has to be done, on a cluster of so many `servers`. Changes nothing."""
    found = Plan()
    copies = COPIES if servers >= COPIES else 1
    for partition in range(topology.streams):
        # the shippers' consumer comes last: applications publish once it is there, and no reader misses anything
        consumers = [one.consumer_config() for one in (*topology.readers, topology)]
        await _plan_stream(found, jetstream, topology.stream_config(partition, copies), consumers)
    for one in (topology, *topology.readers):
        await _plan_stream(found, jetstream, one.refused_config(copies), ())
    await _plan_stream(found, jetstream, topology.erased_config(copies), ())
    if servers < COPIES:
        found.notes.append(
            f"The cluster has {servers} of the {COPIES} servers that it takes to lose one without losing messages."
        )
    found.notes.append(
        "Set `sync_interval: always` in the jetstream section of each server's configuration: otherwise what the "
        "broker has acknowledged in the last two minutes can be lost with the machine."
    )
    return found


async def _plan_stream(
    plan: Plan, jetstream: JetStreamContext, wanted: StreamConfig, consumers: Sequence[ConsumerConfig]
) -> None:
    from nats.js.errors import NotFoundError

    name = str(wanted.name)

    async def add() -> None:
        await jetstream.add_stream(wanted)
        for consumer in consumers:
            await jetstream.add_consumer(name, consumer)

    try:
        there = (await jetstream.stream_info(name)).config
    except NotFoundError:
        plan.steps.append(Step(f"create stream {name}: {_shape(wanted)}", True, add))
        return
    _plan_change(plan, jetstream, there, wanted)
    for consumer in consumers:
        await _plan_consumer(plan, jetstream, name, consumer)


async def _plan_consumer(plan: Plan, jetstream: JetStreamContext, stream: str, wanted: ConsumerConfig) -> None:
    from nats.js.errors import NotFoundError

    name = str(wanted.durable_name)

    async def add() -> None:
        await jetstream.add_consumer(stream, wanted)

    try:
        has = (await jetstream.consumer_info(stream, name)).config
    except NotFoundError:
        plan.steps.append(Step(f"create consumer {name} of stream {stream}", True, add))
        return
    if fixed := _differences(has, wanted, _different(has, wanted, _FIXED_OF_CONSUMER)):
        plan.refusals.append(
            f"Consumer {name} of stream {stream} has {fixed}, which cannot be changed. Delete it while no `llmctx "
            "ship` runs, and run this again: rows that are delivered twice are stored once."
        )
    elif changes := _differences(has, wanted, _different(has, wanted, _CONSUMER)):
        plan.steps.append(Step(f"change consumer {name} of stream {stream}: {changes}", False, add))


def _plan_change(plan: Plan, jetstream: JetStreamContext, there: StreamConfig, wanted: StreamConfig) -> None:
    from nats.js.api import RetentionPolicy

    name = str(wanted.name)
    fixed = _different(there, wanted, _FIXED)
    if wanted.retention == RetentionPolicy.WORK_QUEUE and there.retention == RetentionPolicy.INTEREST:
        fixed.remove("retention")  # for others who read the same frames; it, too, keeps what is not acknowledged
    if fixed:
        plan.refusals.append(
            f"Stream {name} has {_differences(there, wanted, fixed)}, which NATS cannot change. Let `llmctx ship` "
            f"empty it, delete it (nats stream rm {name}) and run this again: what is not stored is published again."
        )
        return
    changed = _different(there, wanted, _STREAM)
    # copies are never taken away by themselves: a server may be down
    changed += ["num_replicas"] if (wanted.num_replicas or 1) > (there.num_replicas or 1) else []
    if changed:
        made = replace(there, **{one: getattr(wanted, one) for one in changed})
        words = _differences(there, wanted, changed)
        plan.steps.append(Step(f"change stream {name}: {words}", False, lambda: jetstream.update_stream(made)))


def _different(there: Any, wanted: Any, names: tuple[str, ...]) -> list[str]:
    return [one for one in names if _value(there, one) != _value(wanted, one)]


def _value(config: Any, name: str) -> Any:
    value = getattr(config, name)
    if name in ("max_age", "duplicate_window", "ack_wait"):
        return float(value or 0)
    return bool(value) if name.startswith("deny") else (value or None)


def _differences(there: Any, wanted: Any, names: Iterable[str]) -> str:
    return ", ".join(f"{one} {_text(_value(there, one))} instead of {_text(_value(wanted, one))}" for one in names)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g} s"
    return ", ".join(value) if isinstance(value, list) else str(getattr(value, "value", value))


def _shape(config: StreamConfig) -> str:
    copies = config.num_replicas or 1
    size = (config.max_bytes or 0) / 1024**2
    days = (config.max_age or 0) / 86_400
    kept = f"at most {size:,.0f} MiB and {days:g} {'day' if days == 1 else 'days'}"
    return f"{counted(copies, 'copy', 'copies')}, {kept}"


def servers_of(connection: BrokerConnection, transport: TransportUrl) -> int:
    """Return of how many servers the cluster is, as far as the one that is connected knows."""
    known = connection.client._server_info.get("connect_urls") or ()
    return max(1, len(set(known)), len(transport.servers))


async def provision(
    connection: BrokerConnection, topology: Topology, servers: int, say: Callable[[str], object]
) -> None:
    """Make and change what has to be, and call `say` with what was done.

    Raise `ProvisionError` for what the broker refuses, before anything is changed where that is known before.
    """
    from nats.js.errors import APIError

    for _ in range(_ATTEMPTS):
        found = await plan(connection.jetstream, topology, servers)
        if found.refusals:
            raise ProvisionError(" ".join(found.refusals))
        met_another = False
        for step in found.steps:
            try:
                await step.run()
            except APIError as problem:
                if problem.err_code == _EXISTS:  # made by another one since we have looked
                    met_another = True
                    continue
                words = _WORDS.get(problem.err_code or 0, problem.description or str(problem))
                raise ProvisionError(f"The broker does not {step.what}: {words}.") from problem
            say(step.what)
        if not met_another:
            return
