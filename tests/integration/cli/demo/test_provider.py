"""The demo's provider, asked by the real ChatOpenAI and ChatAnthropic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from llmctx.cli.demo.assistant import Service, prompt_of
from llmctx.cli.demo.processes import ChildProcess, clean_environment
from llmctx.cli.demo.provider import NO_HURRY
from llmctx.cli.demo.scenarios import MARKER

TRUTH = MARKER.format(patient="p-07", visit="v-07-2")
MODELS = ("openai", "anthropic")


def _provider(log: Path, *args: str) -> Iterator[str]:
    child = ChildProcess("the provider", "llmctx.cli.demo.provider", *args, log=log, env=clean_environment())
    try:
        yield f"http://127.0.0.1:{child.says(60)['port']}"
    finally:
        assert child.end(60) == 0


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The provider, a hundred times as fast as a real one."""
    yield from _provider(tmp_path_factory.mktemp("provider") / "log", "--speed", "100")


@pytest.fixture(scope="module")
def passing_on(provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A provider that passes requests on to a real service, here the other one."""
    yield from _provider(tmp_path_factory.mktemp("passing") / "log", "--upstream", f"{provider}/real/v1")


def model_of(provider: str, which: str, run: str = "test") -> BaseChatModel:
    service = Service(base_url=f"{provider}/{run}")
    return {"openai": service.openai, "anthropic": service.anthropic}[which]()


def log_of(provider: str, run: str) -> list[dict[str, Any]]:
    with httpx.Client(trust_env=False) as client:
        found: list[dict[str, Any]] = client.get(f"{provider}/{run}/log").json()
    return found


@tool
def find_slot(day: str, after: int) -> str:
    """Find free slots."""
    return f"{day}, {after}"


@pytest.mark.parametrize("which", MODELS)
def test_a_plain_answer_has_text_model_and_usage(provider: str, which: str) -> None:
    """Both wire forms carry everything that a row needs; what was said before counts as cached."""
    model = model_of(provider, which)
    prompt = prompt_of("pressure", f"Is 142/91 too high? {which} {TRUTH}")
    prompt[0] = SystemMessage(f"{prompt[0].text} ({which})")
    first, second = model.invoke(prompt), model.invoke(prompt)
    assert "142 over 91" in first.text
    assert isinstance(first, AIMessage)
    assert isinstance(second, AIMessage)
    assert first.usage_metadata is not None
    assert second.usage_metadata is not None
    assert first.usage_metadata["input_tokens"] > 20
    assert first.usage_metadata["output_tokens"] > 10
    assert first.usage_metadata["input_token_details"]["cache_read"] == 0
    assert second.usage_metadata["input_token_details"]["cache_read"] > 10
    assert second.usage_metadata["input_tokens"] == first.usage_metadata["input_tokens"]
    assert first.response_metadata["model_name"] in ("gpt-5-mini", "claude-haiku-4-5")


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("question", ["Is 142/91 too high?", "血压 142/91 高吗？"])
def test_a_streamed_answer_is_the_plain_one_in_pieces(provider: str, which: str, question: str) -> None:
    """Streams come in more than one piece, end with a reason, and report their usage."""
    model = model_of(provider, which)
    prompt = prompt_of("pressure", f"{question} {TRUTH}")
    plain = model.invoke(prompt)
    chunks = list(model.stream(prompt))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len([chunk for chunk in chunks if chunk.text]) > 3
    assert whole.text == plain.text
    assert isinstance(whole, AIMessageChunk)
    assert isinstance(plain, AIMessage)
    assert whole.usage_metadata is not None
    assert plain.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == plain.usage_metadata["output_tokens"]
    reason = whole.response_metadata.get("finish_reason") or whole.response_metadata.get("stop_reason")
    assert reason in ("stop", "end_turn")


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("which", MODELS)
def test_a_tool_is_called_once_and_its_result_is_answered(provider: str, which: str, streamed: bool) -> None:
    """An agent's loop ends: tools on offer are called, a tool's result is answered in words."""
    agent = model_of(provider, which).bind_tools([find_slot])
    prompt: list[BaseMessage] = [*prompt_of("appointment", f"Thursday please. {TRUTH}")]
    if streamed:
        pieces = list(agent.stream(prompt))
        called = pieces[0]
        for piece in pieces[1:]:
            called += piece  # type: ignore[assignment]  # chunks add up to a chunk
    else:
        called = agent.invoke(prompt)
    assert isinstance(called, AIMessage)
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("find_slot", {"day": "Thursday", "after": 1})
    said = AIMessage(called.content, tool_calls=called.tool_calls)
    answered = agent.invoke([*prompt, said, ToolMessage("10:40", tool_call_id=call["id"])])
    assert isinstance(answered, AIMessage)
    assert not answered.tool_calls
    assert "10:40" in answered.text


@pytest.mark.parametrize(
    ("which", "status", "code"),
    [
        ("openai", 400, "context_length_exceeded"),
        ("openai", 429, "rate_limit_exceeded"),
        ("openai", 500, "server_error"),
        ("anthropic", 400, "invalid_request_error"),
        ("anthropic", 429, "rate_limit_error"),
        ("anthropic", 500, "api_error"),
        ("anthropic", 529, "overloaded_error"),
    ],
)
def test_errors_have_the_provider_s_own_shape(provider: str, which: str, status: int, code: str) -> None:
    """The clients raise what they raise for the real service."""
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        model_of(provider, which).invoke(prompt_of("answer", f"Hello? [fault {which} {status}] {TRUTH}"))
    problem: Any = caught.value
    assert problem.status_code == status
    body = problem.body if which == "openai" else problem.body["error"]
    assert code in (body.get("code"), body["type"])


def test_the_log_knows_whose_call_it_really_was(provider: str) -> None:
    """Patient, visit and task come from the prompt; runs are kept apart; failed requests are in it."""
    openai_model, anthropic_model = (model_of(provider, which, "whose") for which in MODELS)
    openai_model.invoke(prompt_of("check ramipril", f"First [patient p-01, visit v-01-3]\nthen {TRUTH}"))
    list(anthropic_model.stream("Hello"))
    with pytest.raises(openai.RateLimitError):
        openai_model.invoke(prompt_of("answer", f"[fault openai 429] {TRUTH}"))
    first, second, third = log_of(provider, "whose")
    assert (first["patient"], first["visit"], first["task"]) == ("p-07", "v-07-2", "check ramipril")
    assert (second["api"], second["patient"], second["outcome"]) == ("anthropic", None, "complete")
    assert second["stream"]
    assert (third["status"], third["outcome"]) == (429, "error")


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_client_that_hangs_up_is_in_the_log(provider: str, which: str, streamed: bool) -> None:
    """A call is a call from its arrival on, and `seen` says when that was."""
    run = f"gone-{which}-{streamed}"
    model = model_of(provider, which, run)
    prompt = prompt_of("advice", f"{NO_HURRY} {TRUTH}")

    async def call() -> None:
        if streamed:
            async for _ in model.astream(prompt):
                pass
        else:
            await model.ainvoke(prompt)

    task = asyncio.create_task(call())
    async with httpx.AsyncClient(trust_env=False) as client:
        seen = await client.get(f"{provider}/{run}/seen", params={"visit": "v-07-2", "task": "advice"})
        assert seen.status_code == 200
        task.cancel()
        await asyncio.wait({task})
        await _until(lambda: [entry["outcome"] for entry in log_of(provider, run)] == ["gone"])


async def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_real_service_is_asked_through_the_log(provider: str, passing_on: str, streamed: bool) -> None:
    """With an upstream the answer is the upstream's, and the request is logged here all the same."""
    run = f"through-{streamed}"
    model = model_of(passing_on, "openai", run)
    prompt: list[BaseMessage] = [SystemMessage("Task: letter."), HumanMessage(f"Write. {TRUTH}")]
    said = "".join(chunk.text for chunk in model.stream(prompt)) if streamed else model.invoke(prompt).text
    assert said.startswith("Dear colleague")
    (entry,) = log_of(passing_on, run)
    assert (entry["patient"], entry["task"], entry["outcome"]) == ("p-07", "letter", "complete")
    assert log_of(provider, "real")[-1]["task"] == "letter"


def test_an_upstream_that_is_away_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """The client gets a 502 in OpenAI's form."""
    for address in _provider(tmp_path / "log", "--upstream", "http://127.0.0.1:9/v1"):
        with pytest.raises(openai.InternalServerError, match="ConnectError"):
            model_of(address, "openai").invoke("Hello")


def test_anthropic_is_really_asked_by_its_own_client(provider: str) -> None:
    """Guards the tests above: two clients, two wire forms."""
    assert isinstance(model_of(provider, "anthropic"), ChatAnthropic)
