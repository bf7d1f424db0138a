"""What a row says of a call, by the shapes in which LangChain and the providers' clients report it."""

from __future__ import annotations

import gc
import json
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, LLMResult

from llmctx.capture.payload.messages import answer_of, prompt_of_messages, prompt_of_text
from llmctx.capture.payload.token_usage import Stream
from llmctx.core.record import COLUMNS
from llmctx.delivery.payload_fields import fields_of
from llmctx.delivery.redact import Redactor
from tests.kit.answers import LIMIT, result, row

USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def shown(messages: list[BaseMessage], limit: int = LIMIT) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(fields_of(prompt=prompt_of_messages(messages, limit))["prompt_snapshot"])
    return found


def test_a_prompt_becomes_roles_and_contents() -> None:
    """Every kind of message, with the keys that belong to it."""
    call = {"name": "weather", "args": {"city": "Ulm"}, "id": "c1"}
    assert shown(
        [
            SystemMessage("be kind"),
            HumanMessage("hello", name="ann"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("rain", tool_call_id="c1", name="weather"),
            AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": "{}"}}),
            FunctionMessage("done", name="f"),
            ChatMessage("psst", role="critic"),
            AIMessageChunk("wet"),
        ]
    ) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"},
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "content": "done", "name": "f"},
        {"role": "critic", "content": "psst"},
        {"role": "assistant", "content": "wet"},
    ]


def test_a_long_conversation_keeps_its_first_and_latest_messages() -> None:
    """What was left out between them is said."""
    kept = shown([SystemMessage("rules"), *(HumanMessage(f"{n} " + "x" * 500) for n in range(1000))], 4096)
    assert kept[0]["content"] == "rules"
    assert "messages cut" in kept[1]["content"]
    assert kept[-1]["content"].startswith("999 ")


def test_a_huge_prompt_is_bounded_when_it_is_taken() -> None:
    """By characters, by messages and by blocks; nothing is kept of what exceeds them."""
    prompts: list[list[BaseMessage]] = [
        [HumanMessage("x" * 5_000_000)],
        [HumanMessage("x" * 50_000)] * 1000,
        [HumanMessage("x")] * 100_000,
        [HumanMessage([{"type": "text", "text": "x" * 100}] * 100_000)],  # type: ignore[list-item]
        [HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}])],
    ]
    for messages in prompts:
        kept = prompt_of_messages(messages, LIMIT)
        assert len(repr(kept)) < 8 * LIMIT
        assert len(fields_of(prompt=kept)["prompt_snapshot"].encode()) <= LIMIT


def test_a_few_texts_are_kept_whole_as_in_any_other_prompt() -> None:
    """The short way for prompts of a few texts keeps what the long way does, which a name takes."""
    for limit in (100, 5_000, LIMIT):
        for length in (10, 1023, 1024, limit // 4 - 1, limit // 4, limit - 16, limit, limit + 1):
            texts = [f"{number}{'x' * length}"[:length] for number in range(4)]
            plain: list[BaseMessage] = [HumanMessage(text) for text in texts]
            named: list[BaseMessage] = [HumanMessage(text, name="n") for text in texts]
            kept, long_way = prompt_of_messages(plain, limit), prompt_of_messages(named, limit)
            assert [text for _, text, _ in kept.messages] == [text for _, text, _ in long_way.messages]


def test_no_message_is_kept() -> None:
    """Neither of the prompt nor of the answer: they are the application's, to change and to let go."""
    messages: list[BaseMessage] = [HumanMessage([{"type": "text", "text": "a"}]), AIMessage("b" * 2000)]  # type: ignore[list-item]
    answered = result(AIMessage("c", tool_calls=[{"name": "f", "args": {"x": [1]}, "id": "1"}], usage_metadata=USAGE))
    prompt, answer = prompt_of_messages(messages, LIMIT), answer_of(answered, LIMIT)
    for kept in (prompt, answer):
        assert not any(isinstance(found, BaseMessage) for found in _reachable(kept))
    answered.generations[0][0].message.tool_calls[0]["args"]["x"].append(2)  # type: ignore[union-attr]
    messages[0].content[0]["text"] = "changed"  # type: ignore[index]
    fields = fields_of(prompt=prompt, answer=answer)
    assert '"x":[1]' in fields["response_snapshot"]
    assert "changed" not in fields["prompt_snapshot"]


def _reachable(start: object) -> list[object]:
    seen: dict[int, object] = {}
    todo: list[object] = [start]
    while todo:
        found = todo.pop()
        if id(found) not in seen and not isinstance(found, type):
            seen[id(found)] = found
            todo += gc.get_referents(found)
    return list(seen.values())


def test_nothing_that_is_handed_over_raises() -> None:
    """Payloads that are none: rows without content, and no exception in the caller."""
    strange: Any
    for strange in (None, 3, "text", [None], [object()], [[HumanMessage("x")]]):
        assert fields_of(prompt=prompt_of_messages(strange, LIMIT))["model"] == "unknown"
        assert fields_of(answer=answer_of(strange, LIMIT))["model"] == "unknown"
        fields_of(prompt=prompt_of_text(strange, LIMIT))
        Stream().feed(strange)
    assert set(fields_of()) <= set(COLUMNS)


def test_a_completion_models_prompt_is_one_user_message() -> None:
    """The same form as a chat's."""
    fields = fields_of(prompt=prompt_of_text("once upon", LIMIT))
    assert json.loads(fields["prompt_snapshot"]) == [{"role": "user", "content": "once upon"}]


def test_text_thinking_and_calls_of_content_blocks_are_told_apart() -> None:
    """The visible text and the reasoning have columns of their own."""
    content: list[Any] = [
        {"type": "thinking", "thinking": "hm", "signature": "sgn"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": ", well"}]},
        {"type": "reasoning_content", "reasoning_content": {"text": "!"}},
        {"type": "text", "text": "It is"},
        " four",
        {"type": "tool_use", "name": "f", "input": {}},
    ]
    fields = row(AIMessage(content, tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}]))
    assert json.loads(fields["reasoning_snapshot"]) == "hm, well!"
    assert json.loads(fields["response_snapshot"]) == {
        "role": "assistant",
        "content": "It is four",
        "tool_calls": [{"name": "f", "args": {"a": 1}, "id": "1"}],
    }


def test_what_begins_a_block_is_no_part_of_the_word_before() -> None:
    """Blocks are put together as they are; secrets are looked for in each of them, and across them."""
    key, half = "sk-proj-" + "aB3dE6gH9" * 5, "ann@exam"
    for kind, name in (("thinking", "thinking"), ("text", "text")):
        content: list[Any] = [
            {"type": kind, name: piece} for piece in ("id 11010519491231002X", f"{key} ", half, "ple.com")
        ]
        kept = "".join(str(text) for text in row(AIMessage(content), redactor=Redactor()).values())
        assert "id [redacted:resident_id][redacted:api_key] [redacted:email]" in kept
        assert key not in kept


def test_arguments_that_are_no_json_are_kept_as_they_came() -> None:
    """LangChain makes an empty dict of those of a stream that ran into its limit."""
    pieces: list[Any] = [
        {"name": "f", "args": '{"city": Ro', "id": "1", "index": 0},
        {"name": "g", "args": "{}", "id": "2", "index": 1},
    ]
    message = AIMessageChunk("", tool_call_chunks=pieces)
    answer = answer_of(result(message))
    assert [call["args"] for call in answer.choices[0].calls] == ['{"city": Ro', {}]


def test_other_choices_and_refusals_are_shown() -> None:
    """n > 1, and a model that will not."""
    fields = row(result(AIMessage("", additional_kwargs={"refusal": "no"}), AIMessage("second")))
    assert json.loads(fields["response_snapshot"]) == {
        "role": "assistant",
        "content": "",
        "refusal": "no",
        "other_choices": [{"content": "second"}],
    }


def test_reasoning_beside_the_content_is_reasoning() -> None:
    """Also beside a tool call, and where there are only its details."""
    call: Any = {"name": "f", "args": {}, "id": "1"}
    for more in (
        {"reasoning_content": "because"}, {"tool_plan": "because"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "because", "index": 0}]},
    ):  # fmt: skip
        message = AIMessage("", additional_kwargs=more, tool_calls=[call])
        fields = fields_of(answer=answer_of(LLMResult(generations=[[ChatGeneration(message=message)]])))
        assert (json.loads(fields["reasoning_snapshot"]), fields["tool_calls"]) == ("because", 1)


class BlockedReason(str, Enum):  # noqa: UP042  whose text is not its value
    """As google.genai has it."""

    PROHIBITED_CONTENT = "PROHIBITED_CONTENT"


def test_a_prompt_that_was_blocked_says_why() -> None:
    """Google answers it with no candidate, whose finish reason there could be."""
    feedback = {"prompt_feedback": {"block_reason": BlockedReason.PROHIBITED_CONTENT}}
    for meta, output in ((feedback, None), ({}, feedback)):
        generations = [[ChatGeneration(message=AIMessage("", response_metadata=meta))]]
        fields = fields_of(answer=answer_of(LLMResult(generations=generations, llm_output=output)))
        assert fields["finish_reason"] == "PROHIBITED_CONTENT"


@pytest.mark.parametrize(
    ("meta", "cost"),
    [
        ({"cost": 0.002, "cost_details": {"upstream_inference_cost": 0.0021}}, "0.002"),
        ({"cost": 0.0, "cost_details": {"upstream_inference_cost": 0.004}}, "0.004"),
        ({"cost": 0, "cost_details": {"upstream_inference_cost": None}}, "0"),
        ({"response_cost": 3.5e-06}, "0.0000035"),
    ],
)
def test_a_cost_that_the_client_keeps_is_the_cost(meta: dict[str, Any], cost: str) -> None:
    """ChatOpenRouter's, ChatLiteLLM's. What costs the gateway nothing is not free with a key of one's own."""
    generations = [[ChatGeneration(message=AIMessage("x", response_metadata=meta))]]
    fields = fields_of(answer=answer_of(LLMResult(generations=generations)))
    assert (fields["cost_usd"], fields["cost_source"]) == (Decimal(cost), "provider")


def test_what_is_billed_otherwise_is_a_tier() -> None:
    """Anthropic's fast mode too, where the answer came in it."""
    for usage, tier in (
        ({"service_tier": "standard", "speed": "fast"}, "fast"),
        ({"service_tier": "priority", "speed": None}, "priority"),
        ({"service_tier": "standard", "speed": "standard"}, "standard"),
    ):
        message = AIMessage("x", response_metadata={"usage": {"input_tokens": 3, "output_tokens": 1, **usage}})
        fields = fields_of(answer=answer_of(LLMResult(generations=[[ChatGeneration(message=message)]])))
        assert fields["service_tier"] == tier
