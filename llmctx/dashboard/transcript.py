"""A session as a conversation: of each call only what is new since the calls before it.

A chat's prompt repeats the whole history. What a call adds are the messages behind the longest beginning that it
shares with an earlier prompt and its answer. Snapshots may be cut, or be no list of messages: then the text is shown
as it is.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmctx.dashboard.formats import json_text

_REMEMBERED: Final = 8
"""Prompts of a session that are compared: agents that take turns have a history each."""
_FIRST_WORDS: Final = 80
_ROLES: Final = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it is shown."""

    role: str
    text: str
    extra: tuple[tuple[str, str], ...] = ()
    """What is folded away, by its name: tool calls, reasoning, blocks that are no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One call of a session."""

    row: Mapping[str, Any]
    system: Message | None
    """The system prompt, where it is not the one shown before."""
    prompt: Sequence[Message]
    answer: Sequence[Message]
    reasoning: str = ""
    repeated: int = 0
    """Messages of the prompt that earlier turns show."""


@dataclass(slots=True)
class _Seen:
    histories: deque[list[Message]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    system: Message | None = None


def turns(rows: Iterable[Mapping[str, Any]]) -> list[Turn]:
    """Return the calls of a session, oldest first, each with what is new in it."""
    seen = _Seen()
    return [_turn(row, seen) for row in rows]


def _turn(row: Mapping[str, Any], seen: _Seen) -> Turn:
    prompt, answer = messages(row.get("prompt_snapshot")), messages(row.get("response_snapshot"), role="assistant")
    system = prompt[0] if prompt and prompt[0].role == "system" else None
    said = prompt[1:] if system is not None else prompt
    shared = max((_shared(said, history) for history in seen.histories), default=0)
    shown_system = system if system != seen.system else None
    seen.system = system or seen.system
    seen.histories.append([*said, *answer])
    new = said[shared:] or said[-1:]
    return Turn(
        row=row, system=shown_system, prompt=new, answer=answer, reasoning=_plain(row.get("reasoning_snapshot")),
        repeated=len(said) - len(new),
    )  # fmt: skip


def _shared(prompt: Sequence[Message], history: Sequence[Message]) -> int:
    """Return how many messages at the beginning of `prompt` `history` has, as its beginning or as its end.

    Some applications send the whole history with each call, others the last messages of it.
    """
    said, before = _keys(prompt), _keys(history)
    count = 0
    for one, other in zip(said, before, strict=False):
        if one != other:
            break
        count += 1
    sizes = range(min(len(said), len(before)), count, -1)
    overlaps = (size for size in sizes if before[-1] == said[size - 1] and before[-size:] == said[:size])
    return next(overlaps, count)


def _keys(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(one.role, one.text) for one in messages]


def first_words(prompt: str) -> str:
    """Return how the user began, on one line; what there is of a prompt that was cut, or is no list of messages."""
    said = [one.text for one in messages(prompt) if one.role == "user" and one.text] or [prompt]
    line = " ".join(said[0].split())
    return line if len(line) <= _FIRST_WORDS else line[: _FIRST_WORDS - 1] + "…"


def messages(snapshot: Any, *, role: str = "user") -> list[Message]:
    """Return the messages of a snapshot; one of `role` with its text where it is no list of messages."""
    if not snapshot:
        return []
    try:
        value = json.loads(snapshot)
    except (ValueError, RecursionError):
        return [Message(role, str(snapshot))]
    listed = value if isinstance(value, list) else [value]
    if listed and all(isinstance(one, dict) and "content" in one for one in listed):
        return [_message(one, role) for one in listed]
    return [Message(role, value if isinstance(value, str) else _json(value))]


def _message(value: Mapping[str, Any], role: str) -> Message:
    said = str(value.get("role") or value.get("type") or role)
    text, extra = _content(value["content"])
    rest = {key: one for key, one in value.items() if key not in {"role", "type", "content"} and one}
    return Message(_ROLES.get(said, said), text, (*extra, *((key, _json(one)) for key, one in rest.items())))


def _content(content: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the text of a message's content, and its blocks that are none."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        return "" if content is None else _json(content), ()
    texts: list[str] = []
    extra: list[tuple[str, str]] = []
    for block in content:
        if isinstance(block, str):
            texts.append(block)
        elif isinstance(block, dict) and isinstance(block.get("text"), str):
            texts.append(block["text"])
        else:
            name = str(block.get("type", "block")) if isinstance(block, dict) else "block"
            extra.append((name, _json(block)))
    return "\n".join(texts), tuple(extra)


def _plain(snapshot: Any) -> str:
    return "\n".join(message.text for message in messages(snapshot))


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)
