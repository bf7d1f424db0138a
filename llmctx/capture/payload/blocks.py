"""The blocks of an answer: visible text, reasoning, a refusal, and all others as they came, bounded.

Blocks are those of LangChain's v1 content standard and those that each provider defines. Whatever is not known here
is kept as well, with a note in place of binaries: an answer that says something is never stored as if it were empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from llmctx.capture.payload.snapshot import Cut, Pieces, SizeBudget, bounded_copy, join_texts

BLOCKS: Final = 4096  # blocks of an answer that are looked at
OTHERS: Final = 64  # blocks that are kept whole
_DEPTH: Final = 6

_REASONING: Final = frozenset({"thinking", "reasoning", "reasoning_content", "thought"})
_REASONING_PARTS: Final = ("thinking", "reasoning", "reasoning_content", "summary", "content", "text")
_VISIBLE: Final = frozenset({"text", "output_text", "text_delta"})
_CALLS: Final = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call", "custom_tool_call",
     "input_json_delta"}
)  # fmt: skip
"""Blocks that repeat what stands in the message's `tool_calls`."""
_STRUCTURE: Final = frozenset(
    {"type", "index", "id", "item_id", "call_id", "tool_call_id", "status", "phase", "role", "event", "encoding",
     "extras", "signature", "thought_signature", "expires_at", "caller", "agent", "mime_type"}
)  # fmt: skip
"""Keys whose values are no content: what they tell is where a block belongs."""
_SEALED: Final = _STRUCTURE - {"extras", "signature", "thought_signature"}
"""As above, for an answer that has nothing but what its provider alone can read: thoughts of which a signature came."""
_SPOKEN: Final = ("audio", "image", "images", "tool_outputs")
_BESIDE: Final = (*_SPOKEN, "annotations", "citations")
"""Keys of `additional_kwargs` that hold content for which the message has no field."""
_BESIDE_TEXT: Final = ("annotations", "citations", "reference")
_TOLD_OF_END: Final = ("finish_message",)
"""Keys of `response_metadata` that hold words of the model, where there are no others."""
REASONING_BESIDE: Final = ("reasoning_content", "reasoning", "thinking", "tool_plan", "reasoning_details")
_DELTAS_BESIDE: Final = (*REASONING_BESIDE, "tool_calls", "function_call", "refusal", *_SPOKEN)
_NONE: Final[dict[str, Any]] = {}
_NO_CONTENT: Final = frozenset({"parsed", "tool_calls", "function_call"})
"""Keys of `additional_kwargs` that repeat what stands elsewhere; names with two underscores hold signatures."""


class Content(NamedTuple):
    """An answer's content, sorted."""

    text: str | Cut | Pieces = ""
    reasoning: str | Cut | Pieces = ""
    refusal: str | None = None
    others: tuple[Any, ...] = ()


def says_something(value: Any, depth: int = 0, structure: frozenset[str] = _STRUCTURE) -> bool:
    """Return whether a block, a delta or a part of one has any content: a role or an empty text is none."""
    if isinstance(value, (dict, list, tuple)):
        if depth >= _DEPTH:
            return bool(value)
        if isinstance(value, dict):
            return any(
                says_something(item, depth + 1, structure) for key, item in value.items() if key not in structure
            )
        return any(says_something(item, depth + 1, structure) for item in value)
    return len(value) > 0 if isinstance(value, (str, bytes, bytearray)) else value is not None and value is not False


def is_delta(token: Any, chunk: Any) -> bool:
    """Return whether a chunk of a stream brings content, reasoning or a tool call: not a role, a ping, an empty text.

    `token` and `chunk` are those of `on_llm_new_token`.
    """
    if token and (type(token) is str or says_something(token)):
        return True
    message = getattr(chunk, "message", None)
    if message is None:
        return bool(getattr(chunk, "text", None))
    fields = message.__dict__
    content = fields.get("content")
    return (
        (bool(content) and (isinstance(content, str) or says_something(content)))
        or says_something(fields.get("tool_call_chunks") or fields.get("tool_calls"))
        or any(
            says_something(value)
            for name, value in (fields.get("additional_kwargs") or _NONE).items()
            if name in _DELTAS_BESIDE
        )
    )


def begun_blocks(events: Iterable[Any], limit: int) -> list[dict[str, Any]]:
    """Return the blocks of a message as far as the events of a stream have brought them."""
    blocks: dict[Any, dict[str, Any]] = {}
    for event in events:
        if not isinstance(event, Mapping):
            continue
        content, delta = event.get("content"), event.get("delta")
        block = blocks.setdefault(event.get("index"), {})
        if isinstance(content, Mapping):  # of the beginning, or of the whole
            block.clear()
            block.update(content)
        elif isinstance(delta, Mapping):
            for name, value in (delta.get("fields") or delta).items():
                before = block.get(name)
                if name == "type":
                    block.setdefault(name, str(value).removesuffix("-delta"))
                elif "fields" in delta or not isinstance(before, str):
                    block[name] = value
                elif len(before) <= limit:
                    block[name] = before + value
    return list(blocks.values())


def is_event_with_content(event: Any) -> bool:
    """Return whether an `on_stream_event` brings content, reasoning or a tool call."""
    if not isinstance(event, Mapping):
        return False
    return says_something(event.get("delta") or event.get("content"))


def sort_content(content: Iterable[Any], limit: int, *, has_calls: bool) -> Content:
    """Return what content blocks say; those of tool calls are left out where the message itself has its calls."""
    visible: list[str] = []
    thinking: list[str] = []
    refusals: list[str] = []
    others: list[Any] = []
    for block in _unwrapped(content):
        if isinstance(block, str):
            visible.append(block)
            continue
        kind = block.get("type") if isinstance(block, dict) else ""
        if kind in _VISIBLE or (kind is None and isinstance(block.get("text"), str)):
            if isinstance(block.get("text"), str):
                visible.append(block["text"])
            thinking.extend(texts_of(block.get("reasoning")))  # v1 output of older Anthropic streams mixes the two
            others += [one for name in _BESIDE_TEXT for one in _listed(block.get(name))]
        elif kind in _REASONING:
            before = len(thinking)
            for part in _REASONING_PARTS:
                thinking.extend(texts_of(block.get(part)))
            if len(thinking) == before:  # redacted, or encrypted
                others.append(block)
        elif kind == "refusal" and isinstance(block.get("refusal"), str):
            refusals.append(block["refusal"])
        elif not (has_calls and kind in _CALLS):
            others.append(block)
    kept = kept_blocks(others, limit)
    if not (kept or has_calls or any(visible) or any(thinking) or any(refusals)):
        kept = kept_blocks(list(_unwrapped(content)), limit, _SEALED)
    return Content(join_texts(visible, limit), join_texts(thinking, limit), "".join(refusals) or None, kept)


def _unwrapped(content: Iterable[Any]) -> Iterator[Any]:
    """Yield the blocks; of what LangChain's standard knows not, the provider's own."""
    for block in islice(content, BLOCKS):
        if isinstance(block, dict) and block.get("type") == "non_standard" and isinstance(block.get("value"), dict):
            yield block["value"]
        else:
            yield block


def beside_content(extra: Mapping[str, Any], limit: int, *, is_all: bool) -> tuple[Any, ...]:
    """Return what `additional_kwargs` hold of an answer, as blocks; `is_all` if nothing else of it was found."""
    found: list[Any] = []
    for name, value in extra.items():
        if name not in _BESIDE and (not is_all or name in _NO_CONTENT or str(name).startswith("__")):
            continue
        if isinstance(value, list):
            found += value
        elif isinstance(value, dict):
            found.append({"type": name, **value})
        elif value is not None:
            found.append({"type": name, "data": value})
    return kept_blocks(found, limit)


def told_of_end(meta: Mapping[str, Any], limit: int) -> tuple[Any, ...]:
    """Return what a provider tells of an answer that has ended without content: Gemini's, a call that is none."""
    return kept_blocks([{"type": name, "text": meta[name]} for name in _TOLD_OF_END if meta.get(name)], limit)


def kept_blocks(blocks: list[Any], limit: int, structure: frozenset[str] = _STRUCTURE) -> tuple[Any, ...]:
    """Return bounded copies of the blocks that say something."""
    blocks = [block for block in blocks if says_something(block, 0, structure)]
    if not blocks:
        return ()
    room = SizeBudget(limit)
    kept = [bounded_copy(block, room) for block in blocks[:OTHERS]]
    if len(blocks) > OTHERS:
        kept.append(f"…[{len(blocks) - OTHERS} blocks cut]…")
    return tuple(kept)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def texts_of(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield every text in a string, a block with `text`, `summary` or `content`, or a list of such."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and depth < 4:
        for key in ("text", "reasoning_text", "summary", "content"):
            yield from texts_of(value.get(key), depth + 1)
    elif isinstance(value, list) and depth < 4:
        for item in islice(value, BLOCKS):
            yield from texts_of(item, depth + 1)
