"""Tables of the providers: how each spells its token figures, and its name in the list of prices.

A new provider's shape is a name more in one of these tables. `token_usage.py` decides which figures to believe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeGuard


class Provider(NamedTuple):
    """One provider, by the beginning of the names that LangChain's clients give it (`ls_provider`, `model_provider`).

    Attributes:
        names: Its names in LangChain that mean `prices`.
        prices: Its name in genai-prices, where that is another.
        sums: Its client turns running totals into differences, or sends each figure once: the sum over the chunks of a
            stream is right, even where the differences look like totals, or are negative.
        empty_zeros: Its client writes a 0 for cached tokens where the service is silent, so a 0 says nothing.
    """

    prefix: str
    names: tuple[str, ...] = ()
    prices: str | None = None
    sums: bool = False
    empty_zeros: bool = False


PROVIDERS: Final = (
    Provider("google", ("google_genai", "google_vertexai"), "google", sums=True, empty_zeros=True),
    Provider("vertex", ("vertexai",), "google", sums=True, empty_zeros=True),
    Provider("gemini", ("gemini",), "google"),
    Provider("anthropic", sums=True),
    Provider("bedrock", ("bedrock", "bedrock_converse"), "aws", empty_zeros=True),
    Provider("amazon", ("amazon_bedrock",), "aws", empty_zeros=True),
    Provider("azure", ("azure_openai", "azure_ai"), "azure"),
    Provider("mistral", ("mistralai",), "mistral"),
    Provider("xai", ("xai",), "x-ai"),
    Provider("fireworks", ("fireworks_ai",), "fireworks"),
    Provider("together", ("together_ai",), "together"),
    Provider("zhipu", ("zhipu",), "zhipuai"),
    Provider("moonshot", ("moonshot",), "moonshotai"),
)
SUMS: Final = tuple(one.prefix for one in PROVIDERS if one.sums)
EMPTY_ZEROS: Final = tuple(one.prefix for one in PROVIDERS if one.empty_zeros)
PRICE_NAMES: Final[Mapping[str, str]] = {name: one.prices for one in PROVIDERS if one.prices for name in one.names}

# The provider's own usage object, as each spells it: the first name that has a figure.
PROMPT: Final = (
    "prompt_tokens", "input_tokens", "prompt_eval_count", "inputTokens", "promptTokenCount", "prompt_token_count",
    "input_token_count", "promptTokens", "PromptTokens", "inputTokenCount",
)  # fmt: skip
COMPLETION: Final = (
    "completion_tokens", "output_tokens", "eval_count", "outputTokens", "candidatesTokenCount",
    "candidates_token_count", "generated_token_count", "completionTokens", "CompletionTokens",
    "outputTokenCount",
)  # fmt: skip
TOTAL: Final = ("total_tokens", "totalTokens", "totalTokenCount", "total_token_count", "TotalTokens")
PLAIN: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
INPUT_DETAILS: Final = (
    "prompt_tokens_details", "input_tokens_details", "prompt_token_details", "promptTokensDetails",
)  # fmt: skip
OUTPUT_DETAILS: Final = (
    "completion_tokens_details", "output_tokens_details", "candidates_tokens_details", "completionTokensDetails",
)  # fmt: skip
AUDIO: Final = ("audio_tokens", "audioTokens")
MODALITY: Final = ("token_count", "tokenCount")
"""Gemini's details are a list, one entry a modality."""
CACHED: Final = ("cached_tokens", "cachedTokens")
CACHED_WHOLE: Final = (
    "prompt_cache_hit_tokens", "cachedContentTokenCount", "cached_content_token_count", "num_cached_tokens",
    "prompt_eval_cached_count",
)  # fmt: skip
"""Beside the details, of what is counted in the prompt."""
CACHE_WRITTEN: Final = ("cache_write_tokens", "cache_creation_tokens")
LIFETIMES: Final = ("cache_creation", "cache_creation_token_details")
"""Where tokens put into a cache are counted by how long they are kept: beside, and among the details."""
REASONING: Final = ("reasoning_tokens", "thinking_tokens", "reasoningTokens")
READ_BESIDE: Final = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
WRITTEN_BESIDE: Final = ("cache_creation_input_tokens", "cacheWriteInputTokens", "cacheWriteInputTokenCount")
"""Where the prompt is called `BESIDE_PROMPT`, these are no part of it."""
BESIDE_PROMPT: Final = ("input_tokens", "inputTokens", "inputTokenCount")
THOUGHTS_BESIDE: Final = ("thoughtsTokenCount", "thoughts_token_count")
TOOLS_BESIDE: Final = ("toolUsePromptTokenCount", "tool_use_prompt_token_count")
"""Gemini's: no part of the output, and of the prompt."""

_OWN_IDS: Final = ("run-", "lc_run-", "lc_")
"""How ids begin that LangChain gives to messages."""
_COST_HEADER: Final = "x-litellm-response-cost"
_TICKS_PER_USD: Final = 10**10
_OLLAMAS: Final = ("prompt_eval_count", "prompt_eval_cached_count", "eval_count")
_PLAIN: Final = frozenset(PLAIN)
# The names by which the functions below begin: most answers have none of them.
_TIERS: Final = frozenset({"service_tier", "serviceTier", "traffic_type"})
_COSTS: Final = frozenset({"cost", "is_byok", "cost_in_usd_ticks", "estimated_cost"})
_COSTS_BESIDE: Final = frozenset({"cost", "response_cost", "_hidden_params", "headers"})


def raw_usage(
    meta: Mapping[str, Any], output: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return the provider's own usage object from a message's metadata, `llm_output` or `additional_kwargs`, if its
    client has kept it.
    """
    for place in (meta, output, extra) if extra else (meta, output):
        raw = place.get("token_usage") or place.get("usage") or place.get("usage_metadata")  # the last is Vertex'
        if raw is None and place is extra:
            raw = extra.get("token_count")  # Cohere's
        elif (dump := getattr(raw, "model_dump", None)) is not None:  # LiteLLM's
            raw = dump()
        if isinstance(raw, dict):
            return raw.copy()
    if isinstance(metrics := meta.get("amazon-bedrock-invocationMetrics"), dict):
        return metrics.copy()
    if "eval_count" in meta:  # Ollama's figures lie beside the rest
        return {name: meta.get(name) for name in _OLLAMAS}
    for place in (meta, output):  # and so do some others'
        if not _PLAIN.isdisjoint(place):
            return {name: place.get(name) for name in PLAIN}
    return None


def response_id(meta: Mapping[str, Any], output: Mapping[str, Any], message_id: Any) -> Any:
    """Return the id under which the provider, or a gateway before it, knows the answer."""
    found = meta.get("id") or output.get("id")
    if found is None and isinstance(message_id, str) and not message_id.startswith(_OWN_IDS):
        found = message_id
    if found is None and isinstance(request := meta.get("ResponseMetadata"), dict):  # AWS
        found = request.get("RequestId")
    return meta.get("request_id") if found is None else found  # DashScope's, Baidu's


def service_tier(meta: Mapping[str, Any], output: Mapping[str, Any], raw: Mapping[str, Any] | None) -> Any:
    """Return the tier in which the provider says that it has served the call; Anthropic's fast mode is one."""
    if raw is not None and raw.get("speed") == "fast":
        return "fast"
    for place in (meta, output, raw or {}):
        if _TIERS.isdisjoint(place):
            continue
        found = place.get("service_tier") or place.get("serviceTier") or place.get("traffic_type")
        if isinstance(found, dict):  # Bedrock
            found = found.get("type")
        if found:
            return found
    return None


def reported_cost(meta: Mapping[str, Any], output: Mapping[str, Any], raw: Mapping[str, Any] | None) -> Any:
    """Return what the provider or a gateway says that the call has cost, in US dollars; None if it says nothing."""
    usage = raw or {}
    if _COSTS.isdisjoint(usage) and _COSTS_BESIDE.isdisjoint(meta) and _COSTS_BESIDE.isdisjoint(output):
        return None
    cost = usage.get("cost")
    if isinstance(cost, dict):  # Perplexity
        cost = cost.get("total_cost")
    elif usage.get("is_byok"):
        cost = _with_upstream(cost, usage.get("cost_details"))
    if cost is None and _is_number(ticks := usage.get("cost_in_usd_ticks")):  # xAI
        return ticks / _TICKS_PER_USD
    if cost is None:
        cost = usage.get("estimated_cost")  # DeepInfra
    for place in (meta, output):
        hidden, headers = place.get("_hidden_params"), place.get("headers")
        if cost is None:
            cost = place.get("cost") if _is_number(place.get("cost")) else place.get("response_cost")
            if cost == 0 and place.get("cost_details"):  # the client keeps no more than these of it
                cost = _with_upstream(0, place["cost_details"]) or 0
        if cost is None and isinstance(hidden, dict):  # LiteLLM
            cost = hidden.get("response_cost")
        if cost is None and isinstance(headers, Mapping):
            cost = headers.get(_COST_HEADER)
    return cost


def _with_upstream(fee: Any, details: Any) -> float | None:
    """Return what a call through OpenRouter costs with a key of one's own: its fee, and what the provider is paid."""
    upstream = details.get("upstream_inference_cost") if isinstance(details, dict) else None
    fee = fee or 0
    return fee + upstream if _is_number(upstream) and _is_number(fee) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
