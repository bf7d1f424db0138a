"""A session reads as a conversation: each message once."""

from __future__ import annotations

import json
from typing import Any

from llmctx.dashboard.transcript import Message, messages, turns

SYSTEM = {"role": "system", "content": "Be brief."}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(prompt: list[dict[str, Any]], answer: Any) -> dict[str, Any]:
    return {"prompt_snapshot": json.dumps(prompt), "response_snapshot": json.dumps(answer)}


def test_each_message_is_shown_once() -> None:
    """The history that a chat's prompt repeats is left out, the system prompt shown until it changes."""
    one, two = said("human", "one"), said("human", "two")
    first = said("ai", "first")
    shown = turns([call([SYSTEM, one], first), call([SYSTEM, one, first, two], said("ai", "second"))])
    assert [[m.text for m in turn.prompt] for turn in shown] == [["one"], ["two"]]
    assert [[m.text for m in turn.answer] for turn in shown] == [["first"], ["second"]]
    assert [turn.system is not None for turn in shown] == [True, False]
    assert shown[1].repeated == 2
    changed = turns([call([SYSTEM, one], first), call([said("system", "Be kind."), one, first, two], first)])
    assert changed[1].system == Message("system", "Be kind.")


def test_applications_that_send_only_the_last_messages() -> None:
    """What the end of the history and the beginning of the prompt share is not repeated."""
    history = [said("human", str(n)) for n in range(6)]
    shown = turns([call(history, said("ai", "a")), call([*history[3:], said("ai", "a"), said("human", "new")], "b")])
    assert [m.text for m in shown[1].prompt] == ["new"]


def test_agents_that_take_turns_have_a_history_each() -> None:
    """A prompt is compared with the last few, not only with the one before."""
    first, second = [said("human", "a")], [said("human", "b")]
    rows = [call(first, "x"), call(second, "y"), call([*first, said("assistant", "x"), said("human", "c")], "z")]
    assert [m.text for m in turns(rows)[2].prompt] == ["c"]


def test_a_prompt_that_was_asked_again_is_still_seen() -> None:
    """Of a retry the last message stands there, rather than nothing."""
    same = call([said("human", "again?")], None)
    assert [[m.text for m in turn.prompt] for turn in turns([same, same])] == [["again?"], ["again?"]]


def test_snapshots_of_every_kind() -> None:
    """Blocks that are no text are folded away, what was cut or is no list of messages stands as it is."""
    blocks = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": "<png, 48 kB>"}, "and"]
    (one,) = messages(json.dumps([said("user", blocks)]))
    assert one.text == "see\nand"
    assert [name for name, _ in one.extra] == ["image_url"]
    (tool,) = messages(json.dumps(said("ai", "", tool_calls=[{"name": "find"}])), role="assistant")
    assert (tool.role, tool.text, tool.extra[0][0]) == ("assistant", "", "tool_calls")
    assert messages('[{"role": "user", "cont') == [Message("user", '[{"role": "user", "cont')]
    assert messages('"plain"', role="assistant") == [Message("assistant", "plain")]
    assert messages("[" * 100_000)[0].text.startswith("[[")
    assert messages(None) == messages("") == []
