"""The fields of a row that follow from LangChain's payload.

This is the pipeline's half: `fields_of` turns into columns what `capture/payload` has kept on the caller's thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import orjson

from llmctx.capture.payload.failures import CODE_LIMIT, MESSAGE_LIMIT, CallFailure, read_body
from llmctx.capture.payload.messages import WORD_LIMIT, Answer, Choice, Prompt
from llmctx.capture.payload.snapshot import LIMIT, text_of, to_json_text
from llmctx.capture.payload.token_usage import (
    INT_MAX,
    UNKNOWN,
    Stream,
    Usage,
    from_metadata,
    from_provider,
    is_no_count,
    reconcile,
    usage_of,
)
from llmctx.core.record import (
    AUDIO_IN,
    AUDIO_OUT,
    CACHE_WRITTEN_1H,
    CLEANED,
    CONTRADICTORY,
    SHARED_USAGE,
    CostSource,
    UsageSource,
    note_changes,
)
from llmctx.core.text import counted, plain_text
from llmctx.delivery.agent_name import agent_name, word_of
from llmctx.delivery.redact import Redactor
from llmctx.identity.scope import Scope

_MAX_TOKENS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens_to_sample",
    "max_new_tokens",
    "maxTokens",
    "num_predict",
)
_TEMPERATURE: Final = ("temperature",)
_TOP_P: Final = ("top_p", "topP")
_PARAMS: Final = frozenset(_MAX_TOKENS + _TEMPERATURE + _TOP_P)
MODEL_NAMES: Final = ("model", "model_name", "model_id", "azure_deployment", "deployment_name")
_NESTED: Final = ("options", "model_kwargs", "generation_config", "inferenceConfig")
_NESTING: Final = frozenset(_NESTED)
_PLACES: Final = _PARAMS | _NESTING
_NANO: Final = Decimal("0.000000001")
_DEAREST: Final = Decimal(10**9)  # numeric(18, 9) ends there
_NOWHERE: Final[tuple[Mapping[str, Any], ...]] = ()
TAGS: Final = 32  # of the team's own that are kept
_OWN_TAGS: Final = ("seq:step:", "graph:step:", "map:key:", "branch:", "condition:", "langsmith:")


def fields_of(
    *,
    metadata: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
    prompt: Prompt | None = None,
    answer: Answer | None = None,
    failure: CallFailure | None = None,
    stream: Stream | None = None,
    finished: bool = True,
    scope: Scope | None = None,
    content: str = "full",
    limit: int = LIMIT,
    redactor: Redactor | None = None,
    shared_by: int = 1,
) -> dict[str, Any]:
    """Return the columns of a `CallRecord` that follow from what LangChain handed over.

    Args:
        metadata: The callback's `metadata`.
        params: The callback's `invocation_params`.
        finished: Whether the call ended well. Otherwise tokens may be missing for that reason.
        scope: The scope in which the call was made.
        content: "none" leaves prompt, response and reasoning NULL.
        limit: Bytes of each snapshot.
        redactor: Sees everything that goes into a snapshot before it is cut to size, the error's words, and tags.
        shared_by: Of how many calls the answer's tokens and cost are the sum. Of several, they are no one's.

    Raises `RedactionFailed` if the redactor failed.
    """
    metadata, params = metadata or {}, params or {}
    settings = _settings(params) if params else _NOWHERE
    usage, contradictory = reconcile(tokens_of(answer, stream=stream, metadata=metadata))
    is_shared = shared_by > 1 and usage != UNKNOWN
    if is_shared:
        usage, contradictory = UNKNOWN, {}
    first = answer.choices[0] if answer is not None and answer.choices else None
    fields: dict[str, Any] = {
        "model": _model(answer, params, metadata),
        "provider": _word(metadata.get("ls_provider") or (answer.client if answer else None)),
        "temperature": _param(settings, _TEMPERATURE, metadata.get("ls_temperature")),
        "top_p": _param(settings, _TOP_P, None),
        "max_tokens": _param(settings, _MAX_TOKENS, metadata.get("ls_max_tokens")),
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "cached_tokens": usage.cached,
        "reasoning_tokens": usage.reasoning,
        "usage_source": _usage_source(usage, answer, stream, finished=finished and failure is None).value,
        "finish_reason": _once(_word(answer.finish)) if answer is not None else None,
        "tool_calls": first.call_count if first is not None else None,
        "cached": answer.cached if answer is not None and answer.choices else None,
        "node": _word(metadata.get("langgraph_node")),
        "agent_key": agent_name(metadata, scope),
        "attributes": _attributes(tags, redactor, usage, contradictory),
        "response_model": _once(_word(answer.model)) if answer is not None else None,
        "response_id": _once(_word(answer.id)) if answer is not None else None,
        "service_tier": _once(_word(answer.tier)) if answer is not None else None,
        "cache_write_tokens": usage.cache_written,
    }
    cleaned = _fit_numbers(fields) + _unfit_tokens(answer, usage, contradictory)
    if is_shared:
        fields["usage_source"] = UsageSource.UNCERTAIN.value
        fields["attributes"] = {**(fields["attributes"] or {}), SHARED_USAGE: shared_by}
    elif answer is not None and (cost := money_of(answer.cost)) is not None:
        fields.update(cost_usd=cost, cost_source=CostSource.PROVIDER.value)
    if failure is not None:
        fields.update(error_fields(failure, redactor, cleaned))
    elif answer is not None and answer.blank and finished:
        fields.update(error_code="empty_answer", error_message="LangChain's client returned an empty answer")
    if content != "none":
        kept: dict[str, Any] = {}
        if prompt is not None and (prompt.messages or prompt.text is not None):
            kept["prompt_snapshot"] = _prompt_shown(prompt)
        if answer is not None and first is not None and not (failure is not None and first == Choice()):
            kept["response_snapshot"] = _response_shown(answer)
            if first.reasoning:
                kept["reasoning_snapshot"] = first.reasoning
        if redactor is not None:  # all at once: most calls hold nothing, and that is seen in one pass
            kept = redactor.redact_tree(kept)
        for name, value in kept.items():
            lost: list[object] = []
            fields[name] = to_json_text(value, limit, lost)
            if lost:
                cleaned.append(name)
    fields["attributes"] = note_changes(fields["attributes"], cleaned)
    return fields


def _fit_numbers(fields: dict[str, Any]) -> list[str]:
    """Make the call's parameters numbers that a column takes; return the names of those that are none."""
    unfit = []
    for name, read in (("temperature", _number), ("top_p", _number), ("max_tokens", _whole)):
        given = fields[name]
        fields[name] = read(given)
        if given is not None and fields[name] is None:
            unfit.append(name)
    return unfit


def _unfit_tokens(answer: Answer | None, usage: Usage, contradictory: dict[str, int]) -> list[str]:
    """Return the columns of token figures that were reported, and can be none."""
    if None not in usage[:3]:
        return []
    reported = (answer.usage if answer is not None else None) or {}
    columns = (
        ("prompt_tokens", "input_tokens", usage.prompt), ("completion_tokens", "output_tokens", usage.completion),
        ("total_tokens", "total_tokens", usage.total),
    )  # fmt: skip
    return [
        column
        for column, name, figure in columns
        if figure is None and reported.get(name) and column not in contradictory and is_no_count(reported[name])
    ]


def tokens_of(
    answer: Answer | None, *, stream: Stream | None = None, metadata: Mapping[str, Any] | None = None
) -> Usage:
    """Return all token figures of a call, also the one that has no column (`cache_written`), for its price."""
    if answer is None:
        return UNKNOWN
    client = answer.client or (metadata or {}).get("ls_provider")
    return usage_of(answer.usage, answer.raw, stream=stream, provider=client if isinstance(client, str) else "")


def _usage_source(usage: Usage, answer: Answer | None, stream: Stream | None, *, finished: bool) -> UsageSource:
    """Return the origin of the call's token figures, or why there are none."""
    if usage != UNKNOWN:
        return UsageSource.PROVIDER
    if not finished:
        return UsageSource.UNFINISHED
    if answer is not None and (any(from_metadata(answer.usage)) or any(from_provider(answer.raw))):
        return UsageSource.UNCERTAIN
    return UsageSource.NOT_REPORTED if stream is None else UsageSource.NO_STREAM_USAGE


def _model(answer: Answer | None, params: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return the model as the answer names it, else as it was asked for; "unknown" if neither says."""
    asked = [metadata.get("ls_model_name")]
    asked += [params.get(name) for name in MODEL_NAMES]
    named = _word(answer.model) if answer is not None else None
    if named is not None:
        return named if named in asked else _once(named) or "unknown"
    named = next(filter(None, map(_word, asked)), None)
    return "unknown" if named is None else named.removeprefix("models/")


def _word(value: Any) -> str | None:
    """Return a name as it is, which is cleaned when it is stored; None for what is none."""
    return plain_text(value) or None


def _once(word: str | None) -> str | None:
    """Return `word` once, where LangChain has put it together from several chunks ("stopstop")."""
    if word is None:
        return None
    period = (word + word).find(word, 1)
    return word[:period] if 3 <= period < len(word) else word


def _settings(params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the mappings that hold parameters: `params`, or those one level further in."""
    if _PLACES.isdisjoint(params):
        return _NOWHERE
    if _NESTING.isdisjoint(params):
        return (params,)
    places = [params, *[inner for name in _NESTED if isinstance(inner := params.get(name), dict)]]
    return [place for place in places if not _PARAMS.isdisjoint(place)]


def _param(places: Sequence[Mapping[str, Any]], names: tuple[str, ...], otherwise: Any) -> Any:
    """Return the first of `names` that is set."""
    for place in places:
        for name in names:
            if (value := place.get(name)) is not None:
                return value
    return otherwise


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9 or not math.isfinite(value):
        return None
    return float(value)


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT_MAX else None


def money_of(value: Any) -> Decimal | None:
    """Return an amount of US dollars; None for what is none."""
    try:
        found = None if value is None or isinstance(value, bool) else Decimal(str(value))
    except ArithmeticError:
        return None
    return found.quantize(_NANO) if found is not None and found.is_finite() and 0 <= found < _DEAREST else None


def snapshot_of(value: Any, limit: int, redactor: Redactor | None, lost: list[object]) -> str:
    """Return what was kept of a text or structure as bounded JSON, redacted; add what is missing to `lost`.

    Raises `RedactionFailed`.
    """
    return to_json_text(value if redactor is None else redactor.redact_tree(value), limit, lost)


def _attributes(
    tags: Sequence[str] | None, redactor: Redactor | None, usage: Usage, contradictory: dict[str, int]
) -> dict[str, Any] | None:
    """Return the team's tags, without those that LangChain gives to every step; the figures that have no column; and
    those that stand in none, because they contradict others.
    """
    kept: dict[str, Any] = {}
    if own := [tag for tag in map(plain_text, tags or ()) if tag is not None and not tag.startswith(_OWN_TAGS)]:
        some = own[:TAGS] if redactor is None else [redactor.redact(tag) for tag in own[:TAGS]]
        kept["tags"] = shown = [text_of(tag, WORD_LIMIT) for tag in some]
        if shown != some or len(own) > TAGS:
            kept[CLEANED] = ["attributes"]
    figures = ((CACHE_WRITTEN_1H, usage.cache_written_1h), (AUDIO_IN, usage.audio_in), (AUDIO_OUT, usage.audio_out))
    kept.update({name: figure for name, figure in figures if figure})
    if contradictory:
        kept[CONTRADICTORY] = contradictory
    return kept or None


def _prompt_shown(prompt: Prompt) -> list[Any]:
    if prompt.text is not None:
        return [{"role": "user", "content": prompt.text}]
    shown: list[Any] = [{"role": role, "content": kept, **(more or {})} for role, kept, more in prompt.messages]
    if prompt.left_out:
        shown.insert(1, {"role": "…", "content": f"…[{counted(prompt.left_out, 'message')} cut]…"})
    return shown


def _response_shown(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": "assistant", **_shown(answer.choices[0])}
    if len(answer.choices) > 1:
        shown["other_choices"] = [_shown(choice) for choice in answer.choices[1:]]
    return shown


def _shown(choice: Choice) -> dict[str, Any]:
    shown: dict[str, Any] = {"content": choice.text}
    if choice.calls:
        shown["tool_calls"] = list(choice.calls)
    if choice.refusal:
        shown["refusal"] = choice.refusal
    if choice.blocks:
        shown["blocks"] = list(choice.blocks)
    return shown


def model_asked_for(params: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> str:
    """Return the model as far as it is known when the call starts."""
    if metadata and (word := word_of(metadata.get("ls_model_name"))):
        return word.removeprefix("models/")
    if params:
        for name in MODEL_NAMES:
            if (value := params.get(name)) is not None and (word := word_of(value)):
                return word.removeprefix("models/")
    return "unknown"


def error_fields(
    failure: CallFailure, redactor: Redactor | None = None, cleaned: list[str] | None = None
) -> dict[str, str | None]:
    """Return error_code and error_message of the row; add to `cleaned` those that are cut or replaced.

    Raises `RedactionFailed` if the redactor failed.
    """
    code, kind, message = failure.code, failure.kind, failure.message
    if failure.body and not message:
        try:
            told = read_body(orjson.loads(failure.body), MESSAGE_LIMIT)
        except ValueError:  # a gateway's page, or cut short
            told = None
        if told is not None:
            code, kind, message = code or told.code, kind or told.kind, told.message
    message = message or failure.text
    code = code or kind or failure.name
    if redactor is not None:
        # a word of that length was cut, perhaps inside of what must not be kept
        code = redactor.redact(code) if len(code) < CODE_LIMIT else redactor.redact_cut(code, "")[0]
        message = redactor.redact_tree(message)
    fields = {
        "error_code": text_of(code, CODE_LIMIT),
        "error_message": text_of(message, MESSAGE_LIMIT) if message else None,
    }
    if cleaned is not None:
        cleaned += ["error_code"] if fields["error_code"] != code or len(code) == CODE_LIMIT else []
        cleaned += ["error_message"] if message and fields["error_message"] != message else []
    return fields
