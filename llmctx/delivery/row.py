"""From an ended call to its row: `record_of`, in the pipeline's thread; and from one that has begun to its marker.

What must not be kept is taken out here, before the row meets the journal, the database or a log: of prompts, answers,
reasoning, tool arguments, errors, tags and the team's attributes. Ids are left alone: they are what one asks by, and
so are names (model, node, agent). A redaction that fails costs the row all of those texts, and the row says so.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from llmctx.capture.open_calls import OpenCall
from llmctx.capture.payload.failures import CallFailure
from llmctx.capture.payload.messages import WORD_LIMIT, UnreadAnswer
from llmctx.capture.payload.snapshot import LIMIT, bound
from llmctx.core.columns import ColumnKind
from llmctx.core.record import CLEANED, SPECS, CallRecord, Reason, Source, Status, UsageSource, note_changes
from llmctx.delivery.agent_name import agent_name, names_around, word_of
from llmctx.delivery.journal.frames import as_json
from llmctx.delivery.payload_fields import MODEL_NAMES, fields_of, model_asked_for, snapshot_of
from llmctx.delivery.redact import RedactionFailed, Redactor
from llmctx.identity.explanation import KEY as EVIDENCE
from llmctx.identity.explanation import explanation
from llmctx.identity.scope import ID_FIELDS, CallContext
from llmctx.storage.sanitize import (
    ATTRIBUTES_LIMIT,
    UNKNOWN_MODEL,
    cut_attributes,
    plain_attributes,
    storable_json,
    storable_text,
)

_NANO: Final = 1_000_000
WITHHELD: Final = "llmctx_content"
"""The key of `attributes` that says why a row has no texts."""


class Texts(NamedTuple):
    """The limits and rules for a call's texts."""

    content: str = "full"
    limit: int = LIMIT
    redactor: Redactor | None = None
    withheld: str = ""
    """Why nothing at all may be kept."""


def record_of(call: OpenCall, texts: Texts) -> CallRecord:
    """Return the row of `call`. Times come from its start and a monotonic clock, never from now."""
    if call.scope is not None and call.scope.redacts:  # or each of its calls would lead to another
        return _record_of(call, Texts("none", texts.limit, withheld="this call was made by a redaction function"))
    try:
        return _record_of(call, texts)
    except RedactionFailed:
        return _record_of(call, Texts("none", texts.limit, withheld="a redaction failed"))


def _record_of(call: OpenCall, texts: Texts) -> CallRecord:
    fields = _reported(call, texts)
    if call.first_token_ns:
        fields["ttft_ms"] = round((call.first_token_ns - call.started_ns) / _NANO)
    if call.fields is not None:
        fields.update({name: value for name, value in _by_hand(call.fields, texts).items() if name in _SETTABLE})
    attributes = dict(fields.pop("attributes", None) or {})
    own = _own_attributes(call, texts)
    attributes = note_changes({**own, **attributes}, own.get(CLEANED) or []) or {}
    fields.update(_identity(call, fields, attributes))
    status = call.status
    if status is Status.CANCELLED:
        fields["error_code"] = fields.get("error_code") or "cancelled"
    elif status is Status.OK and fields.get("error_code"):
        status = Status.ERROR  # LangChain reports no error, and yet there is no answer
    fields.update(_minted(call, status))
    fields["attributes"] = attributes or None
    return CallRecord(**fields)


def _minted(call: OpenCall, status: Status) -> dict[str, Any]:
    """Return the columns that are known of every call that has ended."""
    created = datetime.fromtimestamp(call.created_s, UTC)
    took_ns = max(0, call.ended_ns - call.started_ns)
    return {
        "call_id": UUID(int=call.call_id.int),
        "created_at": created,
        "finished_at": created + timedelta(microseconds=took_ns // 1000),
        "latency_ms": round(took_ns / _NANO),
        "status": status.value,
        "success": status is Status.OK,
        "run_id": call.run_id,
        "parent_run_id": call.parent_run_id,
        "span_id": None if call.span is None else call.span.span_id,
    }


def record_of_prompt(call: OpenCall, texts: Texts) -> CallRecord:
    """Return the row of a call whose answer could not be read."""
    call.answer = call.stream = None
    return record_of(call, texts)


def bare_record_of(call: OpenCall, texts: Texts) -> CallRecord:
    """Return the row of a call of which nothing else could be read: whose it was, when, and how it ended."""
    model = (call.metadata or {}).get("ls_model_name")
    named = model if type(model) is str else UNKNOWN_MODEL  # it may be what could not be read
    return CallRecord(**_minted(call, call.status), model=named, **_identity(call, {}, {}))


def marker_of(call: OpenCall) -> bytes:
    """Return what the journal notes of a call that starts, as JSON: enough for a row, should the process die.

    No texts and no attributes: it is made on the caller's thread, where nothing is redacted, and in a microsecond. All
    but the run's ids is the same for many a call, and kept with the verdict.
    """
    attribution = call.attribution
    metadata, params = call.metadata or _NOTHING, call.params or _NOTHING
    model = metadata.get("ls_model_name")
    about = (
        call.candidates.thread_id,
        metadata.get("langgraph_node"),
        metadata.get("lc_agent_name"),
        metadata.get("graph_id"),
        names_around(metadata),
        model if type(model) is str and model else tuple(map(params.get, MODEL_NAMES)),
    )
    known = attribution.marker
    if call.fields is not None:
        known = about, _noted(call, metadata, params)
    elif known is None or known[0] != about:
        attribution.marker = known = about, _noted(call, metadata, params)
    run_id, parent_run_id = call.run_id, call.parent_run_id
    if not isinstance(run_id, UUID):  # made by hand; or a text, from a config
        run_id = _uuid_of(run_id)
    about_run = b"" if call.span is None else b',"span_id":"%016x"' % call.span.span
    if run_id is None:
        return b"%b%b}" % (known[1], about_run)
    if not isinstance(parent_run_id, UUID):
        return b'%b%b,"run_id":"%032x"}' % (known[1], about_run, run_id.int)
    return b'%b%b,"run_id":"%032x","parent_run_id":"%032x"}' % (known[1], about_run, run_id.int, parent_run_id.int)


def _uuid_of(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None


def _noted(call: OpenCall, metadata: dict[str, Any], params: dict[str, Any]) -> bytes:
    """Return the part of a marker that many calls have in common, without its last brace."""
    model = metadata.get("ls_model_name") if call.fields is None else call.fields.get("model")
    if type(model) is not str or not 0 < len(model) <= WORD_LIMIT:
        model = model_asked_for(params, metadata)
    attribution = call.attribution
    identity = attribution.identity
    node, agent_key = word_of(metadata.get("langgraph_node")), identity.agent_key or agent_name(metadata, call.scope)
    about = model, node, agent_key, attribution.source, attribution.reason
    ids = {name: value for name in _OWNERS_IDS if (value := getattr(identity, name)) is not None}
    if thread_id := call.candidates.thread_id or identity.thread_id:
        ids["thread_id"] = thread_id
    if call.fields is not None:
        return as_json({**ids, **_described(*about), **_marked_by_hand(call.fields)})[:-1]
    described = _description(*about)
    return b"%b,%b" % (as_json(ids)[:-1], described) if ids else b"{" + described


@lru_cache(maxsize=256)
def _description(model: str, node: str | None, agent_key: str | None, source: Source, reason: Reason | None) -> bytes:
    """Return `_described` as JSON without braces: calls with ids in their metadata share no verdict, but all of it."""
    return as_json(_described(model, node, agent_key, source, reason))[1:-1]


def _described(
    model: str, node: str | None, agent_key: str | None, source: Source, reason: Reason | None
) -> dict[str, Any]:
    """Return the columns that are the same for all calls of one place in a program, as a marker has them."""
    fields = {
        "model": model, "identity_source": source, "identity_reason": reason, "node": node, "agent_key": agent_key
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}


def _marked_by_hand(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a marker has of the columns that `CallLog.record` was given."""
    values = {name: values[name] for name in _MARKED.intersection(values) if isinstance(values[name], _SCALARS)}
    words = {name: word_of(value) if isinstance(value, str) else value for name, value in values.items()}
    return {name: value for name, value in words.items() if value is not None}


_NOTHING: Final[dict[str, Any]] = {}
_SCALARS: Final = (str, int, float, datetime, UUID, Decimal)
_SETTABLE: Final = frozenset(spec.name for spec in SPECS if not spec.minted)
_MARKED_IDS: Final = tuple(spec.name for spec in SPECS if spec.marked and spec.kind is ColumnKind.ID)
_MARKED: Final = frozenset(spec.name for spec in SPECS if spec.marked) - {"model", *_MARKED_IDS}
_OWNERS_IDS: Final = tuple(name for name in _MARKED_IDS if name not in ("agent_key", "thread_id"))


def _reported(call: OpenCall, texts: Texts) -> dict[str, Any]:
    """Return the columns that follow from what LangChain reported of the call."""
    answer, failure = call.answer, call.failure
    if texts.withheld and failure is not None:
        failure = CallFailure(failure.name, status=failure.status)
    fields = fields_of(
        metadata=call.metadata,
        params=call.params,
        tags=None if texts.withheld else call.tags,
        prompt=call.prompt,
        answer=answer.read() if isinstance(answer, UnreadAnswer) else answer,
        failure=failure,
        stream=call.stream,
        finished=call.status is Status.OK,
        scope=call.scope,
        shared_by=call.shared_by,
        content=texts.content,
        limit=texts.limit,
        redactor=texts.redactor,
    )
    fields["streamed"] = call.is_stream or call.stream is not None
    return fields


def _by_hand(values: dict[str, Any], texts: Texts) -> dict[str, Any]:
    """Return what `CallLog.record` was given, as columns: `response` and `reasoning` become snapshots."""
    fields = dict(values)
    response, reasoning = fields.pop("response", None), fields.pop("reasoning", None)
    cleaned: list[str] = []
    if texts.withheld:
        for name in _OF_TEXT:
            fields.pop(name, None)
    elif texts.redactor is not None:
        redactor = texts.redactor
        for name in _OF_TEXT:
            if (value := fields.get(name)) is None:
                continue
            if name == "attributes":
                fields[name] = _redacted(value, redactor)
            else:
                text = storable_text(value)
                cleaned += [name] if text != value else []
                fields[name] = redactor(text)
    if texts.content != "none":
        shown = None if response is None else {"role": "assistant", "content": response}
        for name, value in (("response_snapshot", shown), ("reasoning_snapshot", reasoning)):
            if value is not None:
                lost: list[object] = []
                fields[name] = snapshot_of(bound(value, texts.limit), texts.limit, texts.redactor, lost)
                cleaned += [name] if lost else []
    if cleaned:
        fields["attributes"] = note_changes(fields.get("attributes"), cleaned)
    parts = fields.get("prompt_tokens"), fields.get("completion_tokens")
    if fields.get("total_tokens") is None and all(type(part) is int and part >= 0 for part in parts):
        fields["total_tokens"] = sum(parts)  # as it is of LangChain's calls
    has_tokens = any(fields.get(name) is not None for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    fields.setdefault("usage_source", UsageSource.PROVIDER.value if has_tokens else None)
    return fields


_OF_TEXT: Final = ("error_code", "error_message", "attributes")


def _own_attributes(call: OpenCall, texts: Texts) -> dict[str, Any]:
    """Return what the team has bound beyond the ids."""
    if texts.withheld:
        return {WITHHELD: f"withheld: {texts.withheld}"}
    own = call.attribution.identity.attributes
    if not own or texts.redactor is None:
        return dict(own)
    return _redacted(own, texts.redactor)


def _redacted(attributes: Any, redactor: Redactor) -> dict[str, Any]:
    """Redact them as they will be stored, for an object's own words count as well."""
    plain, is_lossy = plain_attributes(dict(attributes))
    text = storable_json(plain)
    if text is None:
        return {}
    kept = orjson.loads(text)
    if len(text) > ATTRIBUTES_LIMIT:
        kept, is_lossy = cut_attributes(kept, len(text)), True
    return note_changes(redactor.redact_tree(kept), ["attributes"] if is_lossy else []) or {}


def _identity(call: OpenCall, fields: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
    """Return whose call it is, as columns; add to `attributes` how that was found, where it needs words."""
    attribution = call.attribution
    identity: CallContext = attribution.identity
    if (explained := explanation(attribution, call.candidates, call.call_site)) is not None:
        attributes[EVIDENCE] = explained
    if call.span is not None and not call.span.sampled:  # its trace is nowhere to be found
        attributes[EVIDENCE] = {**attributes.get(EVIDENCE, {}), "sampled": False}
    return {
        **{name: getattr(identity, name) for name in ID_FIELDS},
        "agent_key": identity.agent_key or fields.get("agent_key"),
        "thread_id": call.candidates.thread_id or identity.thread_id,
        "trace_id": identity.trace_id or (call.span.trace_id if call.span is not None else None),
        "identity_source": attribution.source.value,
        "identity_reason": None if attribution.reason is None else attribution.reason.value,
    }
