"""Every recorded exchange, through the real LangChain client, becomes the row that its recording says.

`langchain_differs.json` beside the recordings lists where LangChain's own report falls short. There a row may say
the truth or nothing; a multiple or an invented figure is wrong everywhere.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.record import COLUMNS, CONTRADICTORY
from llmctx.delivery.memory_sink import MemorySink

pytestmark = [
    # the clients warn about recordings that their models do not quite fit, and leave connections open
    pytest.mark.filterwarnings("ignore"),
    # they also keep connections for the next client of the same address, so all of them live in one loop
    pytest.mark.asyncio(loop_scope="module"),
    # dozens of calls in one test, and AWS's client alone takes half a second to be made
    pytest.mark.timeout(400),
]

Exchange = dict[str, Any]
Row = dict[str, Any]

LIMIT = 1_000_000  # nothing is cut, texts are compared whole
JSON_APIS = (
    "anthropic.messages",
    "bedrock.converse",
    "google.gemini",
    "ollama.chat",
    "openai.chat",
    "openai.completions",
    "openai.responses",
)
STREAM_APIS = ("anthropic.messages", "google.gemini", "openai.chat", "openai.completions", "openai.responses")
GROUPS = [(api, mode) for api in JSON_APIS for mode in ("invoke", "ainvoke")] + [
    (api, mode) for api in STREAM_APIS for mode in ("stream", "astream")
]
FIGURES = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


@pytest.fixture(scope="module")
def call_log() -> Iterator[CallLog]:
    """A call log that hears everything, as in an application, and keeps the rows in memory."""
    with CallLog(sink=MemorySink(), snapshot_bytes=LIMIT, linger_ms=0, content="full") as started:
        yield started


@pytest.fixture(scope="session")
def clients(recorded: Path) -> Iterator[Any]:
    """The module that builds LangChain clients for exchanges."""
    sys.path.insert(0, str(recorded / "replay"))
    try:
        yield importlib.import_module("clients")
    finally:
        sys.path.remove(str(recorded / "replay"))


@pytest.fixture(scope="module", autouse=True)
def no_connection_is_left() -> Iterator[None]:
    """The clients close nothing: have it collected here, where their warnings are ignored."""
    yield
    for name in ("langchain_openai.chat_models._client_utils", "langchain_anthropic._client_utils"):
        module = sys.modules.get(name)
        for kept in vars(module).values() if module is not None else ():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()
    gc.collect()


@pytest.fixture(scope="session")
def exchanges(recorded: Path) -> list[Exchange]:
    return _lines(recorded / "data" / "exchanges.jsonl")


@pytest.fixture(scope="session")
def differs(recorded: Path) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = json.loads(
        (recorded / "data" / "langchain_differs.json").read_text("utf-8")
    )
    return found


@pytest.mark.parametrize(("api", "mode"), GROUPS, ids=lambda part: part)
async def test_a_recorded_exchange_becomes_its_row(
    api: str, mode: str, exchanges: list[Exchange], differs: Any, clients: Any, replay_server: str, call_log: CallLog
) -> None:
    """Model, tokens, finish reason, tool calls, text, reasoning and error are those of the recording.

    No row contradicts itself: where the provider's figures do, one is NULL, and noted.
    """
    wrong: list[str] = []
    for exchange in _of(exchanges, api, mode):
        row = await _call(exchange, mode, clients, replay_server, call_log)
        excused = set(differs.get(exchange["id"], {}).get(mode, []))
        wrong += [f"{exchange['id']} {mode}: {what}" for what in _mismatches(exchange, row, excused)]
    assert not wrong, f"{len(wrong)} mismatches\n" + "\n".join(wrong)


@pytest.mark.parametrize("maker", ["azure", "deepseek", "groq", "mistral"])
async def test_the_makers_own_clients_give_the_same_rows(
    maker: str, exchanges: list[Exchange], clients: Any, replay_server: str, call_log: CallLog
) -> None:
    """What was recorded from a maker comes out alike when it is read by the maker's own client."""
    wrong: list[str] = []
    for exchange in exchanges:
        if exchange["provider"] == maker and exchange["api"] == "openai.chat":
            mode = "stream" if exchange["stream"] else "invoke"
            row = await _call(exchange, mode, clients, replay_server, call_log, kind=maker)
            # ChatMistralAI drops the details of usage: from streams altogether
            excused = {"cached_tokens"} if maker == "mistral" and exchange["stream"] else set()
            wrong += [f"{exchange['id']} {mode}: {what}" for what in _mismatches(exchange, row, excused)]
    assert not wrong, f"{len(wrong)} mismatches\n" + "\n".join(wrong)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_an_answer_that_langchain_cannot_read_is_an_error(
    mode: str, recorded: Path, clients: Any, replay_server: str, call_log: CallLog
) -> None:
    """The provider answered and was paid, the application got an exception or nothing: the row has an error."""
    for exchange in _lines(recorded / "data" / "unparsable.jsonl"):
        row = await _call(exchange, mode, clients, replay_server, call_log)
        assert row["error_code"], exchange["id"]
        assert row["error_message"], exchange["id"]
        assert row["model"] != "unknown", exchange["id"]
        assert json.loads(row["prompt_snapshot"]), exchange["id"]


def _lines(path: Path) -> list[Exchange]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def _of(exchanges: list[Exchange], api: str, mode: str) -> list[Exchange]:
    return [e for e in exchanges if e["api"] == api and e["stream"] == mode.endswith("stream")]


async def _call(exchange: Exchange, mode: str, clients: Any, base: str, call_log: CallLog, *, kind: str = "") -> Row:
    """Run one exchange as an application would, and return what was recorded of it."""
    client = clients.client_of(exchange, base, kind)
    given: Any = clients.messages_of(exchange)
    if exchange["api"] == "openai.completions":
        given = given[0].content
    extras, raised = clients.extras_of(exchange), False
    with bind(session_id=exchange["id"], user_id=mode):
        try:
            if mode == "invoke":
                await asyncio.to_thread(client.invoke, given, **extras)
            elif mode == "ainvoke":
                await client.ainvoke(given, **extras)
            elif mode == "stream":
                await asyncio.to_thread(lambda: list(client.stream(given, **extras)))
            else:
                async for _ in client.astream(given, **extras):
                    pass
        except Exception:
            raised = True
    await call_log.aflush(60)
    sink = call_log._sink
    assert isinstance(sink, MemorySink)
    rows, sink.records = sink.records, []
    assert [(row.session_id, row.user_id) for row in rows] == [(exchange["id"], mode)]
    assert not raised or rows[0].status == "error", exchange["id"]
    return {column: getattr(rows[0], column) for column in COLUMNS}


def _mismatches(exchange: Exchange, row: Row, excused: set[str]) -> Iterator[str]:
    """Each column in which `row` is not what the recording says."""
    expect = exchange["expect"]
    if exchange["response"]["status"] >= 300 or expect["error_message"]:
        wanted = expect["error_code"] or expect["error_type"]
        if not row.get("error_code") or (wanted is not None and row["error_code"] != str(wanted)):
            yield f"error_code: expected {wanted!r}, got {row.get('error_code')!r}"
        if row["error_message"] != expect["error_message"]:
            yield f"error_message: expected {expect['error_message']!r}, got {row['error_message']!r}"
        return
    if row["error_code"] is not None or row["status"] != "ok":
        yield f"error: {row['error_code']} {row['error_message']}"
        return
    if row["model"] not in _models(exchange):
        yield f"model: expected one of {_models(exchange)}, got {row['model']!r}"
    yield from _wrong_figures(exchange, row, excused)
    if row["finish_reason"] != (expect["finish_reason"] or None):
        yield f"finish_reason: expected {expect['finish_reason']!r}, got {row['finish_reason']!r}"
    if row["tool_calls"] != expect["tool_calls"]:
        yield f"tool_calls: expected {expect['tool_calls']}, got {row['tool_calls']}"
    yield from _wrong_texts(expect, row, excused)


def _models(exchange: Exchange) -> set[str]:
    """What the row may say: the answer's own name, or the request's where LangChain keeps the answer's to itself."""
    expect, sent = exchange["expect"], exchange["request"]
    if exchange["api"] == "bedrock.converse":  # the body names none
        return {sent["path"].split("/model/")[1].rsplit("/", 1)[0].replace("%3A", ":")}
    names = {expect["model"]}
    # Completion clients report the request's name. On streams of chat completions the answer's is read off the chunk
    # that has a finish reason, so there is none without it.
    if exchange["api"] == "openai.completions" or (exchange["stream"] and expect["finish_reason"] is None):
        names.add(sent["json"]["model"])
    return names


def _wrong_figures(exchange: Exchange, row: Row, excused: set[str]) -> Iterator[str]:
    expect = exchange["expect"]
    contradictory = (row["attributes"] or {}).get(CONTRADICTORY, {})
    for column in FIGURES:
        wanted, got = expect[column], row[column]
        if column == "cached_tokens" and wanted is None:  # Mistral's, in older answers, of which `expect` does not know
            wanted = (expect["usage_raw"] or {}).get("num_cached_tokens")
        if got == wanted or (got is None and contradictory.get(column) == wanted):
            continue
        unknown = column in excused or ("prompt_tokens" in excused and column == "cached_tokens")
        # ChatBedrockConverse says 0 also where the service says nothing: a 0 of its is not believed.
        unknown |= column == "cached_tokens" and wanted == 0 and exchange["api"] == "bedrock.converse"
        if got is None and unknown:
            continue
        yield f"{column}: expected {wanted}, got {got}"
    prompt, completion, total, cached, reasoning = (row[column] for column in FIGURES)
    written = row["cache_write_tokens"]
    if None not in (prompt, completion, total) and prompt + completion != total:
        yield f"{prompt} prompt tokens and {completion} completion tokens are not {total}"
    if prompt is not None and (cached or 0) + (written or 0) > prompt:
        yield f"{cached} tokens from the cache and {written} put there are more than {prompt} prompt tokens"
    if completion is not None and (reasoning or 0) > completion:
        yield f"{reasoning} reasoning tokens are more than {completion} completion tokens"
    missing = all(row[column] is None for column in FIGURES)
    if not row["usage_source"].startswith("missing:" if missing else "provider"):
        yield f"usage_source: {row['usage_source']}"


def _wrong_texts(expect: dict[str, Any], row: Row, excused: set[str]) -> Iterator[str]:
    shown = json.loads(row["response_snapshot"])
    if shown["content"] != expect["text"] and "text" not in excused:
        yield f"text: expected {expect['text']!r}, got {shown['content']!r}"
    if shown.get("refusal") != (expect["refusal"] or None):
        yield f"refusal: expected {expect['refusal']!r}, got {shown.get('refusal')!r}"
    reasoning = json.loads(row["reasoning_snapshot"]) if row["reasoning_snapshot"] else ""
    lost = "reasoning lost" in excused and not reasoning
    if expect["reasoning"] and reasoning.strip() != expect["reasoning"].strip() and not lost:
        yield f"reasoning: expected {expect['reasoning']!r}, got {reasoning!r}"
    if not json.loads(row["prompt_snapshot"]):
        yield "prompt: nothing kept"
