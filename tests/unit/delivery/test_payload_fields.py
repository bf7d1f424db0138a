"""What a row says of an answer, by the shapes in which LangChain and the providers' clients report it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
)
from langchain_core.outputs import Generation, LLMResult

from llmctx.capture.payload.failures import failure_of
from llmctx.capture.payload.messages import Answer, prompt_of_text
from llmctx.delivery.payload_fields import fields_of
from tests.kit.answers import LIMIT, result, row

USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


@pytest.mark.parametrize(
    "extra",
    [
        {"reasoning_content": "because"},
        {"reasoning": {"summary": [{"type": "summary_text", "text": "because"}]}},
        {"thinking": {"text": "because"}},
    ],
)
def test_reasoning_beside_the_content_is_found(extra: dict[str, Any]) -> None:
    """DeepSeek, Groq and Ollama; OpenAI's older form; Bedrock's older form."""
    assert json.loads(row(AIMessage("so", additional_kwargs=extra))["reasoning_snapshot"]) == "because"


def test_tool_calls_are_counted_with_the_invalid_and_without_the_old_form() -> None:
    """An invalid call was made, too; OpenAI's old single-call form is shown, and is no tool call."""
    call = {"name": "f", "args": {}, "id": "1"}
    broken = {"name": "g", "args": "{", "id": "2", "error": "not JSON"}
    old = {"function_call": {"name": "f", "arguments": "{}"}}
    both = row(AIMessage("", tool_calls=[call], invalid_tool_calls=[broken]))
    assert both["tool_calls"] == 2
    assert json.loads(both["response_snapshot"])["tool_calls"][1]["error"] == "not JSON"
    assert row(AIMessage("", additional_kwargs=old))["tool_calls"] == 0
    assert json.loads(row(AIMessage("", additional_kwargs=old))["response_snapshot"])["tool_calls"][0]["name"] == "f"
    assert row(AIMessage("", tool_calls=[call], additional_kwargs=old))["tool_calls"] == 1
    assert row(AIMessage(""))["tool_calls"] == 0
    assert fields_of()["tool_calls"] is None


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        ({"finish_reason": "stop"}, "stop"),
        ({"stop_reason": "end_turn"}, "end_turn"),
        ({"stopReason": "max_tokens"}, "max_tokens"),
        ({"done_reason": "length"}, "length"),
        ({"status": "completed"}, "completed"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "max_output_tokens"),
        ({"finish_reason": "stopstop"}, "stop"),
        ({"finish_reason": "tool_callstool_callstool_calls"}, "tool_calls"),
        ({"finish_reason": ""}, None),
        ({}, None),
    ],
)
def test_the_finish_reason_is_the_providers_word(meta: dict[str, Any], word: str | None) -> None:
    """Wherever its client puts it, and once."""
    assert row(AIMessage("x", response_metadata=meta))["finish_reason"] == word


@pytest.mark.parametrize(
    ("meta", "params", "metadata", "model"),
    [
        ({"model_name": "gpt-4o-2024"}, {"model": "gpt-4o"}, {"ls_model_name": "gpt-4o"}, "gpt-4o-2024"),
        ({"model_name": "gpt-4ogpt-4o"}, {"model": "gpt-4o"}, {}, "gpt-4o"),
        ({"model_name": "deepdeep"}, {"model": "deepdeep"}, {}, "deepdeep"),
        ({}, {"model": "a"}, {"ls_model_name": "b"}, "b"),
        ({}, {"model": "models/gemini"}, {}, "gemini"),
        ({}, {"azure_deployment": "ours"}, {}, "ours"),
        ({"model": "llama"}, {}, {}, "llama"),
        ({"model_name": 3}, {"model": None}, {}, "unknown"),
    ],
)
def test_the_model_is_named_by_the_answer_else_by_the_request(
    meta: dict[str, Any], params: dict[str, Any], metadata: dict[str, Any], model: str
) -> None:
    """Never NULL, and undoubled unless it was asked for like that."""
    assert row(AIMessage("x", response_metadata=meta), params=params, metadata=metadata)["model"] == model


def test_a_completion_models_answer_has_its_figures_in_llm_output() -> None:
    """The only place where they are."""
    output = {"token_usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, "model_name": "davinci"}
    given = LLMResult(
        generations=[[Generation(text="a", generation_info={"finish_reason": "stop"})]], llm_output=output
    )
    fields = row(given)
    assert (fields["prompt_tokens"], fields["completion_tokens"], fields["total_tokens"]) == (3, 4, 7)
    assert (fields["model"], fields["finish_reason"]) == ("davinci", "stop")
    assert json.loads(fields["response_snapshot"])["content"] == "a"


def test_parameters_have_many_spellings() -> None:
    """They end up in the same columns."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "max_tokens_to_sample"):
        assert fields_of(params={name: 7})["max_tokens"] == 7
    assert fields_of(params={"options": {"num_predict": 7}})["max_tokens"] == 7
    assert fields_of(metadata={"ls_max_tokens": 7, "ls_temperature": 0})["max_tokens"] == 7
    assert fields_of(metadata={"ls_temperature": 0})["temperature"] == 0.0
    assert fields_of(params={"temperature": 0.5, "top_p": 1})["top_p"] == 1.0
    hostile = fields_of(params={"temperature": float("nan"), "top_p": "hot", "max_tokens": 10**20})
    assert (hostile["temperature"], hostile["top_p"], hostile["max_tokens"]) == (None, None, None)


def test_node_agent_and_tags_come_from_the_metadata() -> None:
    """The agent's name is used before the node's; LangChain's own tags are left out."""
    given = {"langgraph_node": "plan", "lc_agent_name": "planner", "ls_provider": "openai"}
    fields = fields_of(metadata=given, tags=["seq:step:1", "team:blue"])
    assert (fields["node"], fields["agent_key"], fields["provider"]) == ("plan", "planner", "openai")
    assert fields["attributes"] == {"tags": ["team:blue"]}
    assert fields_of(metadata={"langgraph_node": "plan"})["agent_key"] == "plan"
    assert fields_of(tags=["seq:step:1"])["attributes"] is None


def test_without_content_no_text_is_shown() -> None:
    """Figures stay, words go."""
    fields = row(AIMessage("secret", usage_metadata=USAGE), prompt=prompt_of_text("secret", LIMIT), content="none")
    assert fields["prompt_tokens"] == 10
    assert "secret" not in repr(fields)


def test_langchains_cache_is_recognised() -> None:
    """The second of two equal calls cost nothing."""
    seen: list[bool] = []

    class Watcher(BaseCallbackHandler):
        run_inline = True

        def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
            seen.append(row(response)["cached"])

    model = GenericFakeChatModel(messages=iter(["one", "two"]), cache=InMemoryCache(), callbacks=[Watcher()])
    assert model.invoke("hi").content == model.invoke("hi").content == "one"
    assert seen == [False, True]


def test_a_completion_model_from_the_cache_is_no_call_at_all() -> None:
    """LangChain reports no start for it; this pins what the columns rely on."""
    starts: list[Any] = []

    class Watcher(BaseCallbackHandler):
        run_inline = True

        def on_llm_start(self, *given: Any, **kwargs: Any) -> None:
            starts.append(given)

    model = FakeListLLM(responses=["one", "two"], cache=InMemoryCache(), callbacks=[Watcher()])
    assert model.invoke("hi") == model.invoke("hi")
    assert len(starts) == 1


def test_an_answer_in_which_the_client_found_nothing_is_an_error() -> None:
    """Gemini's client returns an empty message for what it cannot read; a model that says nothing does not."""
    assert row(result("", info={}))["error_code"] == "empty_answer"
    assert "error_code" not in row(result(""))
    assert "error_code" not in row(result(AIMessage("", response_metadata={"finish_reason": "STOP"}), info={}))


def test_the_part_of_an_answer_that_came_before_the_failure_is_kept() -> None:
    """And where none came, nothing is made up."""
    failure = failure_of(TimeoutError("gone"))
    assert '"half"' in row("half", failure=failure)["response_snapshot"]
    assert "response_snapshot" not in row("", failure=failure)
    assert fields_of(answer=Answer(), failure=failure)["cached"] is None
