"""Token figures are the provider's own, or unknown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, GenerationChunk, LLMResult
from openai.types import CompletionUsage

from llmctx.capture.payload.messages import answer_of
from llmctx.capture.payload.token_usage import Stream
from llmctx.delivery.payload_fields import fields_of, tokens_of

USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def result(message: BaseMessage) -> LLMResult:
    return LLMResult(generations=[[ChatGeneration(message=message)]])


def row(message: BaseMessage, *, stream: Stream | None = None, **more: Any) -> dict[str, Any]:
    return fields_of(answer=answer_of(result(message)), stream=stream, **more)


def streamed(*usages: tuple[int, ...] | None, provider: str = "openai") -> dict[str, Any]:
    """The row of a stream whose chunks report (input, output, total) tokens, added up as LangChain does."""
    stream, total = Stream(), AIMessageChunk("")
    for said in usages:
        usage: Any = said and dict(zip(USAGE, said if len(said) > 2 else (*said, sum(said)), strict=True))
        chunk = ChatGenerationChunk(message=AIMessageChunk("x", usage_metadata=usage))
        stream.feed(chunk)
        total += chunk.message
    return row(total, stream=stream, metadata={"ls_provider": provider})


def figures(fields: dict[str, Any]) -> tuple[Any, ...]:
    return fields["prompt_tokens"], fields["completion_tokens"], fields["total_tokens"]


@pytest.mark.parametrize(
    ("given", "provider", "expected"),
    [
        ([None, None, (10, 5)], "openai", (10, 5, 15)),
        ([(10, 0), None, (0, 5)], "openai", (10, 5, 15)),
        ([(10, 1), (0, 1), (0, 1)], "custom", (10, 3, 13)),  # LangChain's contract: what is new
        ([(10, 0), (10, 1), (10, 2), (10, 2)], "openai", (10, 2, 12)),  # running totals
        ([(10, 5), (10, 5)], "openai", (10, 5, 15)),  # the same said twice
        ([(10, 5), (10, 2)], "openai", (10, None, None)),  # the prompt is certain, the rest is not
        ([(10, 5), (14, 7)], "openai", (None, None, None)),  # totals, or two prompts: nobody can know
        ([(10, 1), (0, 2, 12), (0, 3, 13)], "watsonx", (10, 3, 13)),  # totals, of which the first alone has the prompt
        ([(10, 5), (14, 7)], "google_genai", (24, 12, 36)),  # their client reports differences
        ([(165, 0), (-2, 13)], "google_genai", (163, 13, 176)),
        ([(0, 7)], "anthropic", (None, 7, None)),  # older streams repeat no input: a 0 is invented
        ([(0, 0)], "google_genai", (None, None, None)),
        ([None], "openai", (None, None, None)),
    ],
)
def test_a_streams_tokens_are_true_or_unknown(given: list[Any], provider: str, expected: tuple[Any, ...]) -> None:
    """Never a multiple, never an invented 0."""
    fields = streamed(*given, provider=provider)
    assert figures(fields) == expected
    unknown = "missing:uncertain" if any(given) and (0, 0) not in given else "missing:stream"
    assert fields["usage_source"] == (unknown if expected == (None, None, None) else "provider")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 1000), st.lists(st.integers(0, 50), min_size=2, max_size=20))
def test_running_totals_are_never_multiplied(prompt: int, growth: list[int]) -> None:
    """Whatever the steps, the last total is the truth."""
    totals = [sum(growth[: n + 1]) for n in range(len(growth))]
    assert figures(streamed(*((prompt, total) for total in totals))) == (prompt, totals[-1], prompt + totals[-1])


def test_details_are_read_under_every_name() -> None:
    """Service tiers give them a prefix; what LangChain dropped is read from the provider's own object."""
    tiers: Any = {
        **USAGE,
        "input_token_details": {"priority_cache_read": 4, "priority": 6},
        "output_token_details": {"priority_reasoning": 3},
    }
    fields = row(AIMessage("x", usage_metadata=tiers))
    assert (fields["cached_tokens"], fields["reasoning_tokens"]) == (4, 3)
    own = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 7}}
    kept = row(AIMessage("x", usage_metadata=USAGE, response_metadata={"token_usage": own}))
    assert (kept["cached_tokens"], kept["reasoning_tokens"]) == (7, None)
    alone = row(AIMessage("x", response_metadata={"eval_count": 9, "prompt_eval_count": None}))
    assert figures(alone) == (None, 9, None)


def test_thoughts_that_langchain_drops_are_read_from_the_providers_object() -> None:
    """Vertex: its client leaves them out of the output, and out of the details."""
    usage: Any = {"input_tokens": 41, "output_tokens": 5, "total_tokens": 389}
    raw = {"prompt_token_count": 41, "candidates_token_count": 5, "thoughts_token_count": 343, "total_token_count": 389}
    fields = row(AIMessage("x", usage_metadata=usage, response_metadata={"usage_metadata": raw}))
    assert (*figures(fields), fields["reasoning_tokens"]) == (41, 348, 389, 343)


def test_a_gateways_figures_of_its_cache_are_read() -> None:
    """LiteLLM's proxy has a 0 where OpenAI has the figure, and Anthropic's own figures beside."""
    usage: Any = {**USAGE, "input_tokens": 4818, "total_tokens": 4823, "input_token_details": {"cache_read": 0}}
    raw = {
        "prompt_tokens": 4818, "completion_tokens": 5, "total_tokens": 4823, "cache_read_input_tokens": 10,
        "prompt_tokens_details": {
            "cached_tokens": 0, "cache_creation_tokens": 4803,
            "cache_creation_token_details": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 4803},
        },
    }  # fmt: skip
    for metadata in (usage, None):
        fields = row(AIMessage("x", usage_metadata=metadata, response_metadata={"token_usage": raw}))
        assert (*figures(fields), fields["cached_tokens"]) == (4818, 5, 4823, 10)
        assert (fields["cache_write_tokens"], fields["attributes"]) == (4803, {"llmctx_cache_written_1h": 4803})


def test_a_zero_counts_where_the_provider_says_it() -> None:
    """And nowhere else."""
    zero: Any = {"input_tokens": 0, "output_tokens": 5, "total_tokens": 5}
    said = {"token_usage": {"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 5}}
    assert figures(row(AIMessage("x", usage_metadata=zero, response_metadata=said))) == (0, 5, 5)
    assert figures(row(AIMessage("x", usage_metadata=zero))) == (None, 5, None)
    details: Any = {**USAGE, "input_token_details": {"cache_read": 0}}
    assert row(AIMessage("x", usage_metadata=details), metadata={"ls_provider": "openai"})["cached_tokens"] == 0
    for client in ("google_genai", "bedrock_converse", "amazon_bedrock"):
        assert row(AIMessage("x", usage_metadata=details), metadata={"ls_provider": client})["cached_tokens"] is None


def test_a_service_that_counts_nothing_has_said_nothing() -> None:
    """A prompt is never empty: what is 0 altogether is a gateway's that does not count."""
    zeros: Any = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    said = {"token_usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    for metadata, raw in ((zeros, said), (zeros, {}), (None, said)):
        fields = row(AIMessage("x", usage_metadata=metadata, response_metadata=raw))
        assert (*figures(fields), fields["usage_source"]) == (None, None, None, "missing:provider")


def test_tokens_written_to_the_cache_are_known_to_the_price() -> None:
    """Those that are kept for an hour cost more still, and have no column."""
    details: Any = {
        **USAGE,
        "input_token_details": {"cache_creation": 0, "ephemeral_5m_input_tokens": 4, "cache_read": 0},
    }
    usage = tokens_of(answer_of(result(AIMessage("x", usage_metadata=details))))
    assert (usage.cache_written, usage.cached) == (4, 0)
    details["input_token_details"]["ephemeral_1h_input_tokens"] = 2
    fields = row(AIMessage("x", usage_metadata=details), tags=["mine"])
    assert fields["cache_write_tokens"] == 6
    assert fields["attributes"] == {"tags": ["mine"], "llmctx_cache_written_1h": 2}
    assert row(AIMessage("x", usage_metadata=USAGE))["attributes"] is None


def test_a_completion_stream_has_no_usage() -> None:
    """And its chunks are no trouble."""
    stream = Stream()
    stream.feed(GenerationChunk(text="x"))
    stream.feed(None)
    assert stream.last is None


def test_details_that_langchain_did_not_add_up_are_added_up() -> None:
    """`stream_events(version="v3")` keeps the details of the last chunk only."""
    stream = Stream()
    for reasoning in (30, 7, 0):
        usage: Any = {**USAGE, "output_token_details": {"reasoning": reasoning}}
        stream.feed(ChatGenerationChunk(message=AIMessageChunk("x", usage_metadata=usage)))
    last: Any = {"input_tokens": 30, "output_tokens": 45, "total_tokens": 75, "output_token_details": {"reasoning": 0}}
    fields = row(AIMessage("x", usage_metadata=last), stream=stream, metadata={"ls_provider": "google_genai"})
    assert fields["reasoning_tokens"] == 37


@pytest.mark.parametrize(
    ("given", "expected", "noted"),
    [
        # prompt, completion, total, cached, written, reasoning
        ((20, 198, 623, None, None, 405), (20, 603, 623, None, None, 405), {}),  # Vertex: thoughts beside
        ((409, 8, 553, 192, None, 136), (409, 144, 553, 192, None, 136), {}),  # xAI
        ((10, 5, 47, 30, 2, None), (42, 5, 47, 30, 2, None), {}),  # a cache beside
        ((10, 5, 53, 30, 2, 6), (42, 11, 53, 30, 2, 6), {}),  # both
        ((10, 5, 15, 7, None, 4), (10, 5, 15, 7, None, 4), {}),
        ((35, 12, 109, None, None, None), (35, None, 109, None, None, None), {"completion_tokens": 12}),
        ((10, 5, 9, None, None, None), (10, 5, None, None, None, None), {"total_tokens": 9}),
        ((9900, 20, 5020, 4900, 0, None), (5000, 20, 5020, 4900, 0, None), {}),  # a cache counted twice
        ((10, 16, 18, None, None, 8), (10, 8, 18, None, None, 8), {}),  # thoughts counted twice
        ((10, 5, 9, 6, None, None), (10, 5, None, 6, None, None), {"total_tokens": 9}),  # no part of it is twice in it
        ((29, 6, 35, 157, None, 0), (29, 6, 35, None, None, 0), {"cached_tokens": 157}),
        ((10, 5, 15, 6, 6, None), (10, 5, 15, None, None, None), {"cached_tokens": 6, "cache_write_tokens": 6}),
        ((10, 5, 15, None, None, 9), (10, 5, 15, None, None, None), {"reasoning_tokens": 9}),
        ((-1, 5, 4, None, None, None), (None, 5, None, None, None, None), {"total_tokens": 4}),
        ((10, 5, 0, None, None, None), (10, 5, 15, None, None, None), {}),  # a total that was not sent
        ((0, 5, 15, None, None, None), (None, 5, 15, None, None, None), {}),  # a prompt that was not
    ],
)
def test_figures_do_not_contradict_each_other(given: Any, expected: Any, noted: dict[str, int]) -> None:
    """What makes up the total is added; what no addition explains is NULL, and noted."""
    prompt, completion, total, cached, written, reasoning = given
    inside = {"cache_read": cached, "cache_creation": written}
    usage: Any = {
        "input_tokens": prompt, "output_tokens": completion, "total_tokens": total,
        "input_token_details": {name: figure for name, figure in inside.items() if figure is not None},
        "output_token_details": {} if reasoning is None else {"reasoning": reasoning},
    }  # fmt: skip
    fields = row(AIMessage("x", usage_metadata=usage))
    columns = (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cached_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
    )
    assert tuple(fields[name] for name in columns) == expected
    assert (fields["attributes"] or {}).get("llmctx_contradictory", {}) == noted


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, (9, 4, 13)),
        ({"input_tokens": 3, "cache_read_input_tokens": 6, "output_tokens": 4}, (9, 4, 13)),
        ({"input_tokens": 3, "cache_creation_input_tokens": 6, "output_tokens": 4}, (9, 4, 13)),
        ({"prompt_tokens": 9, "cache_read_input_tokens": 4, "completion_tokens": 4, "total_tokens": 13}, (9, 4, 13)),
        ({"inputTokens": 2, "cacheReadInputTokens": 7, "outputTokens": 4, "totalTokens": 13}, (9, 4, 13)),
        ({"promptTokenCount": 7, "toolUsePromptTokenCount": 2, "candidatesTokenCount": 1, "thoughtsTokenCount": 3},
         (9, 4, 13)),
        ({"input_token_count": 9, "generated_token_count": 4}, (9, 4, 13)),  # watsonx
        ({"promptTokens": 9, "completionTokens": 4, "totalTokens": 13}, (9, 4, 13)),  # Oracle
        ({"PromptTokens": 9, "CompletionTokens": 4, "TotalTokens": 13}, (9, 4, 13)),  # Hunyuan
        ({"total_tokens": 13}, (None, None, 13)),  # older MiniMax
    ],
)  # fmt: skip
def test_a_providers_own_usage_is_read_where_langchain_has_none(raw: Any, expected: tuple[int, ...]) -> None:
    """With what each of them counts beside, and wherever clients put it."""
    assert figures(row(AIMessage("x", response_metadata={"usage": raw}))) == expected
    assert figures(row(AIMessage("x", additional_kwargs={"token_count": raw}))) == expected


def test_a_usage_object_is_read() -> None:
    """LiteLLM's client hands on its own, and Kimi's service has cached tokens beside, not among details."""
    usage = CompletionUsage.model_validate(
        {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "cached_tokens": 6}
    )
    fields = fields_of(
        answer=answer_of(LLMResult(generations=result(AIMessage("x")).generations, llm_output={"token_usage": usage}))
    )
    assert (*figures(fields), fields["cached_tokens"]) == (9, 4, 13, 6)


def test_figures_are_read_where_they_lie_bare() -> None:
    """Among the metadata, or as the whole output; Bedrock's metrics, Ollama's with what it has cached."""
    bare = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    assert figures(row(AIMessage("x", response_metadata=bare))) == (9, 4, 13)
    generations = result(AIMessage("x")).generations
    assert figures(fields_of(answer=answer_of(LLMResult(generations=generations, llm_output=bare)))) == (9, 4, 13)
    metrics = {"inputTokenCount": 2, "cacheReadInputTokenCount": 7, "outputTokenCount": 4}
    fields = row(AIMessage("x", response_metadata={"amazon-bedrock-invocationMetrics": metrics}))
    assert (*figures(fields), fields["cached_tokens"]) == (9, 4, 13, 7)
    ollama = {"prompt_eval_count": 9, "prompt_eval_cached_count": 6, "eval_count": 4}
    fields = row(AIMessage("x", response_metadata=ollama))
    assert (*figures(fields), fields["cached_tokens"]) == (9, 4, 13, 6)


class Details:
    """Of an SDK, which its client hands on as they are."""

    def __init__(self, **figures: int) -> None:
        self.__dict__ = figures


def test_details_are_read_in_every_form() -> None:
    """Objects; Gemini's lists, one entry a modality; names with capitals. None of them costs the row."""
    plain = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    read, thought = Details(cached_tokens=6), Details(reasoning_tokens=2)
    for raw in (
        {**plain, "prompt_token_details": read, "completion_tokens_details": thought},
        {**plain, "promptTokensDetails": {"cachedTokens": 6}, "completionTokensDetails": {"reasoningTokens": 2}},
        {**plain, "num_cached_tokens": 6, "completion_tokens_details": {"reasoning_tokens": 2}},
    ):  # fmt: skip
        fields = row(AIMessage("x", response_metadata={"token_usage": raw}))
        assert (*figures(fields), fields["cached_tokens"], fields["reasoning_tokens"]) == (9, 4, 13, 6, 2)
    spoken = [{"modality": "TEXT", "token_count": 6}, {"modality": "AUDIO", "token_count": 3}]
    gemini = {"prompt_token_count": 9, "candidates_token_count": 4, "total_token_count": 13,
              "prompt_tokens_details": spoken, "candidates_tokens_details": [{"modality": 1}]}  # fmt: skip
    usage: Any = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    for metadata in (usage, None):
        fields = row(AIMessage("x", usage_metadata=metadata, response_metadata={"usage_metadata": gemini}))
        assert (*figures(fields), fields["attributes"]) == (9, 4, 13, {"llmctx_audio_in": 3})


def test_the_providers_own_figures_settle_a_contradiction() -> None:
    """Databricks' client counts a cache twice; an older one of Vertex leaves it out."""
    twice: Any = {**USAGE, "input_tokens": 9900, "output_tokens": 20, "total_tokens": 5020,
                  "input_token_details": {"cache_read": 4900}}  # fmt: skip
    said = {"prompt_tokens": 5000, "completion_tokens": 20, "total_tokens": 5020}
    fields = row(AIMessage("x", usage_metadata=twice, response_metadata={"usage": said}))
    assert (*figures(fields), fields["cached_tokens"], fields["attributes"]) == (5000, 20, 5020, 4900, None)
    raw = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 0}
    fields = row(AIMessage("x", usage_metadata=USAGE, response_metadata={"usage": raw}))  # type: ignore[arg-type]
    assert (*figures(fields), fields["cached_tokens"]) == (100, 5, 105, 90)


def test_a_providers_figures_that_were_added_up_over_chunks_are_not_known() -> None:
    """LangChain merges metadata by addition: running totals become what nobody has counted. Said once, they hold."""
    said = [{"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n} for n in (1, 2, 3)]
    for kept, expected, source in (
        (said, (None, None, None), "missing:uncertain"),
        (said[-1:], (10, 3, 13), "provider"),
    ):
        total = AIMessageChunk("")
        for usage in kept:
            total += AIMessageChunk("x", response_metadata={"token_usage": usage})
        fields = row(total, stream=Stream())
        assert (figures(fields), fields["usage_source"]) == (expected, source)


def test_what_compaction_has_used_is_part_of_the_call() -> None:
    """Anthropic bills it, and counts it beside; what else it lists is in its figures already."""
    compaction = {"type": "compaction", "input_tokens": 500, "output_tokens": 200, "cache_read_input_tokens": 9000}
    raw = {"input_tokens": 10, "output_tokens": 5, "iterations": [compaction, {"type": "message", "input_tokens": 10}]}
    usage: Any = {**USAGE, "input_token_details": {"cache_read": 0, "cache_creation": 0}}
    fields = row(AIMessage("x", usage_metadata=usage, response_metadata={"usage": raw}))
    assert (*figures(fields), fields["cached_tokens"]) == (9510, 205, 9715, 9000)


def test_sound_is_no_more_than_the_whole() -> None:
    """As with every part."""
    usage: Any = {**USAGE, "input_token_details": {"audio": 50}, "output_token_details": {"audio": 4}}
    fields = row(AIMessage("x", usage_metadata=usage))
    assert fields["attributes"] == {"llmctx_audio_out": 4, "llmctx_contradictory": {"llmctx_audio_in": 50}}
