"""Prompts and answers, as much of them as is kept, taken on the caller's thread.

Microseconds, no serialisation, no walk without end, nothing raised. What is kept are immutable texts and small
copies: no reference to a message stays behind, for the application may change it, it may hold a megabyte, and the
garbage collector would have to visit it.

Providers differ in where they put things, not in what they say, so each is looked for in every place known for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from llmctx.capture.payload.blocks import REASONING_BESIDE, Content, beside_content, sort_content, texts_of, told_of_end
from llmctx.capture.payload.providers import raw_usage, reported_cost, response_id, service_tier
from llmctx.capture.payload.snapshot import LIMIT, Cut, Pieces, SizeBudget, bounded_copy, cut, join_texts
from llmctx.core.diagnostics import diagnostics

MESSAGES: Final = 96  # messages kept of one prompt: the first, and the latest
FEW: Final = 4  # messages, none of which is left out
SHORT: Final = 1024  # characters of a message that is kept whole, whatever the room
BLOCKS_KEPT: Final = 32  # blocks kept of either end of a message
CHOICES: Final = 8
CALLS: Final = 64  # tool calls that are kept; all are counted
WORD_LIMIT: Final = 256  # model, finish reason, ids, names

_ROLES: Final = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessageChunk": "system",
    "ToolMessageChunk": "tool",
}
_CONTENT_ONLY: Final = {"human": "user", "system": "system"}  # kinds that have nothing else, but for a name

Message = tuple[str, Any, dict[str, Any] | None]
"""Role, content, further keys."""


class Prompt(NamedTuple):
    """A prompt as it is kept, with the number of messages that were left out after the first."""

    messages: tuple[Message, ...] = ()
    left_out: int = 0
    text: Any = None  # of a completion model


class Choice(NamedTuple):
    """One generation, as it is kept."""

    text: str | Cut | Pieces = ""
    reasoning: str | Cut | Pieces = ""
    refusal: str | Cut | None = None
    calls: tuple[dict[str, Any], ...] = ()
    call_count: int = 0
    blocks: tuple[Any, ...] = ()  # whatever else it says: images, results of the provider's own tools, citations


class Answer(NamedTuple):
    """The answer to the first prompt of a call, as it is kept."""

    choices: tuple[Choice, ...] = ()
    usage: dict[str, Any] | None = None  # usage_metadata
    raw: dict[str, Any] | None = None  # the provider's own usage object
    model: Any = None
    client: Any = None  # LangChain's name for the client that read the answer
    finish: Any = None
    cached: bool = False  # by LangChain's own cache
    blank: bool = False  # the client found nothing at all in the provider's answer
    id: Any = None
    tier: Any = None
    cost: Any = None  # as the provider reports it


def prompt_of_messages(messages: Sequence[BaseMessage], limit: int = LIMIT) -> Prompt:
    """Keep what a snapshot of `messages` may need: the first one, and the latest as far as there is room."""
    try:
        count = len(messages)
        if count <= FEW:
            usual = _usual(messages, max(SHORT, limit // FEW))
            if usual is not None:
                return Prompt(usual)
        room = SizeBudget(limit)
        if count <= FEW:
            return Prompt(tuple([_message(message.__dict__, room) for message in messages]))
        first = _message(messages[0].__dict__, room)
        kept: list[Message] = []
        index = count
        while index > 1 and room.chars > 0 and len(kept) < MESSAGES:
            index -= 1
            kept.append(_message(messages[index].__dict__, room))
        kept.append(first)
        kept.reverse()
        return Prompt(tuple(kept), index - 1)
    except Exception as problem:  # noqa: BLE001  a prompt that cannot be read is no reason to disturb the call
        diagnostics.count("prompt_unreadable", "a prompt could not be read; the row is stored without it", exc=problem)
        return Prompt()


def prompt_of_text(text: str, limit: int = LIMIT) -> Prompt:
    """Keep the prompt of a completion model, or what a hand-made call says is one."""
    try:
        return Prompt(text=cut(text, limit) if isinstance(text, str) else bounded_copy(text, SizeBudget(limit)))
    except Exception as problem:  # noqa: BLE001  as above
        diagnostics.count("prompt_unreadable", "a prompt could not be read; the row is stored without it", exc=problem)
        return Prompt()


class UnreadAnswer(NamedTuple):
    """A plain, short answer as it came, to be read in the pipeline: nothing in it can change, or is large."""

    text: str
    meta: dict[str, Any]
    usage: dict[str, Any] | None
    info: dict[str, Any] | None
    output: dict[str, Any] | None
    id: str | None

    def read(self) -> Answer:
        fields = {"response_metadata": self.meta, "usage_metadata": self.usage, "id": self.id}
        return answer_of_choices((Choice(self.text),), fields, self.info, self.output)


def hold_answer(result: LLMResult, limit: int = LIMIT) -> UnreadAnswer | Answer:
    """Return `answer_of`, or what it needs: for most answers, which are one text, the caller's thread does no more."""
    try:
        ((generation,),) = result.generations
        held = generation.__dict__
        fields = held["message"].__dict__
        text = fields["content"]
        plain = type(text) is str and 0 < len(text) <= limit
        if plain and not (fields["additional_kwargs"] or fields["tool_calls"] or fields["invalid_tool_calls"]):
            usage = fields["usage_metadata"]
            return UnreadAnswer(
                text,
                fields["response_metadata"].copy(),
                None if usage is None else usage.copy(),
                held["generation_info"],
                result.llm_output,
                fields["id"],
            )
    except (ValueError, KeyError, AttributeError, TypeError):  # it is of another kind
        pass
    return answer_of(result, limit)


def answer_of(result: LLMResult, limit: int = LIMIT) -> Answer:
    """Keep what a row needs of the first prompt's generations; also of the partial result of a broken stream."""
    try:
        if not result.generations or not result.generations[0]:
            return answer_of_choices((), {}, None, result.llm_output)._replace(blank=True)
        generations = result.generations[0][:CHOICES]
        first = generations[0].__dict__
        info = first.get("generation_info")
        if first.get("message") is None:
            choices = tuple([Choice(cut(generation.text or "", limit)) for generation in generations])
            return answer_of_choices(choices, {}, info, result.llm_output)
        messages = [generation.__dict__["message"].__dict__ for generation in generations]
        choices = tuple([choice_of(fields, limit) for fields in messages])
        return answer_of_choices(choices, messages[0], info, result.llm_output)
    except Exception as problem:  # noqa: BLE001  as above
        diagnostics.count(
            "answer_unreadable", "a response could not be read; the row is stored without it", exc=problem
        )
        return Answer()


def answer_of_choices(
    choices: tuple[Choice, ...], fields: dict[str, Any], info: dict[str, Any] | None, output: dict[str, Any] | None
) -> Answer:
    meta = fields.get("response_metadata") or info or {}
    usage = fields.get("usage_metadata")
    output = output or {}
    raw = raw_usage(meta, output, fields.get("additional_kwargs"))
    return Answer(
        choices,
        dict(usage) if usage else None,
        raw,
        meta.get("model_name") or meta.get("model") or output.get("model_name"),
        meta.get("model_provider"),
        _finish(meta) or (_finish(info) if info else None) or _block_reason(meta, output),
        usage is not None and "total_cost" in usage,  # `BaseChatModel._convert_cached_generations` leaves this
        info == {} and not meta and not usage and choices == (Choice(),),
        response_id(meta, output, fields.get("id")),
        service_tier(meta, output, raw),
        reported_cost(meta, output, raw),
    )


def _usual(messages: Sequence[BaseMessage], whole: int) -> tuple[Message, ...] | None:
    """Return a few texts of people, all shorter than `whole`, as most prompts are; None for any other.

    As `_message` keeps them: there is room for so many of that length.
    """
    kept = []
    for message in messages:
        fields = message.__dict__
        content, role = fields["content"], _CONTENT_ONLY.get(fields["type"])
        if role is None or type(content) is not str or len(content) >= whole or fields.get("name") is not None:
            return None
        kept.append((role, content, None))
    return tuple(kept)


# Both take a message's `__dict__`: it holds every field, and pydantic takes microseconds to say that one is missing.


def _message(fields: dict[str, Any], room: SizeBudget) -> Message:
    content = fields["content"]
    if type(content) is str and len(content) < SHORT:
        kept: Any = content
        room.chars -= len(content) + 16
    else:
        kept = room.text(content) if isinstance(content, str) else _blocks(content, room)
    kind: str = fields["type"]
    name = fields.get("name")
    if name is None and kind in _CONTENT_ONLY:
        return _CONTENT_ONLY[kind], kept, None
    role = _ROLES.get(kind, kind)
    more: dict[str, Any] = {}
    if kind == "chat":
        role = str(fields.get("role", kind))
    calls, invalid = fields.get("tool_calls"), fields.get("invalid_tool_calls")
    if calls or invalid:
        more["tool_calls"] = _calls(calls or (), invalid or (), room)
    elif (extra := fields.get("additional_kwargs")) and (call := extra.get("function_call")):
        more["function_call"] = bounded_copy(call, room)
    if call_id := fields.get("tool_call_id"):
        more["tool_call_id"] = cut(str(call_id), WORD_LIMIT)
    if name is not None:
        more["name"] = cut(name, WORD_LIMIT)
    return role, kept, more or None


def _blocks(content: Any, room: SizeBudget) -> Any:
    """Content that is a list of blocks, mostly texts: both of its ends."""
    if not isinstance(content, list) or len(content) <= 2 * BLOCKS_KEPT:
        return bounded_copy(content, room)
    note = f"…[{len(content) - 2 * BLOCKS_KEPT} blocks cut]…"
    return [*bounded_copy(content[:BLOCKS_KEPT], room), note, *bounded_copy(content[-BLOCKS_KEPT:], room)]


def choice_of(fields: dict[str, Any], limit: int) -> Choice:
    content = fields["content"]
    valid, invalid = fields.get("tool_calls") or (), fields.get("invalid_tool_calls") or ()
    count = len(valid) + len(invalid)
    if isinstance(content, str):
        sorted_ = Content(cut(content, limit))
    else:
        sorted_ = sort_content(content, limit, has_calls=count > 0)
    text, reasoning, refusal, blocks = sorted_
    calls: tuple[dict[str, Any], ...] = ()
    if count:
        calls = tuple(_calls(valid, invalid, SizeBudget(limit), fields.get("tool_call_chunks") or ()))
    extra = fields.get("additional_kwargs")
    if extra:
        if not reasoning:
            found = next(filter(None, map(extra.get, REASONING_BESIDE)), None)
            reasoning = join_texts(list(texts_of(found)), limit)
        call = extra.get("function_call")
        if not count and isinstance(call, dict) and call.get("name"):
            # shown like one, but not counted: providers do not count OpenAI's old single-call form among tool calls
            calls = (bounded_copy({"name": call["name"], "args": call.get("arguments")}, SizeBudget(limit)),)
        if not refusal and isinstance(extra.get("refusal"), str):
            refusal = extra["refusal"]
        is_all = not (text or reasoning or refusal or calls or blocks)
        blocks += beside_content(extra, limit, is_all=is_all)
    if not (text or reasoning or refusal or calls or blocks) and (meta := fields.get("response_metadata")):
        blocks = told_of_end(meta, limit)
    return Choice(text, reasoning, cut(refusal, limit) if refusal else None, calls, count, blocks)


def _calls(
    valid: Sequence[Any], invalid: Sequence[Any], room: SizeBudget, chunks: Sequence[Any] = ()
) -> list[dict[str, Any]]:
    """Tool calls without the keys that say nothing, bounded; arguments as they came in `chunks` if they are no JSON."""
    kept = []
    for call in (*valid[:CALLS], *invalid[: max(0, CALLS - len(valid))]):
        one = {"name": call.get("name"), "args": call.get("args"), "id": call.get("id")}
        if not one["args"]:
            unread = (chunk["args"] for chunk in chunks if chunk["id"] == one["id"])
            one["args"] = next((args for args in unread if args and args.strip(" {}")), one["args"])
        if error := call.get("error"):
            one["error"] = error
        kept.append(bounded_copy(one, room))
    return kept


def _block_reason(meta: Mapping[str, Any], output: Mapping[str, Any]) -> Any:
    """Return why Google has not answered a prompt at all."""
    feedback = meta.get("prompt_feedback") or output.get("prompt_feedback")
    found = feedback.get("block_reason") if isinstance(feedback, dict) else None
    return getattr(found, "name", found) or None


def _finish(meta: Mapping[str, Any]) -> Any:
    """Return why the provider stopped, in its own word."""
    found = meta.get("finish_reason") or meta.get("stop_reason") or meta.get("stopReason") or meta.get("done_reason")
    if found is None and "status" in meta:  # OpenAI's Responses
        details = meta.get("incomplete_details")
        found = (details.get("reason") if isinstance(details, dict) else None) or meta.get("status")
    return found
