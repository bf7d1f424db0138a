"""What is particular about each provider: how it spells its token figures, and its name in the list of prices.

A new provider's shape is a name more in one of these tables. `usage.py` decides which figures to believe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


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

# The provider's own usage object, as OpenAI's kind, Anthropic and Ollama spell it: the first name that has a figure.
PROMPT: Final = ("prompt_tokens", "input_tokens", "prompt_eval_count")
COMPLETION: Final = ("completion_tokens", "output_tokens", "eval_count")
TOTAL: Final = ("total_tokens",)
INPUT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
OUTPUT_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
CACHED: Final = ("cached_tokens",)
CACHE_WRITTEN: Final = ("cache_write_tokens",)
REASONING: Final = ("reasoning_tokens", "thinking_tokens")


def raw_usage(meta: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the provider's own usage object from a message's metadata or `llm_output`, if its client has kept it."""
    raw = meta.get("token_usage") or meta.get("usage") or output.get("token_usage") or output.get("usage")
    if isinstance(raw, dict):
        return raw.copy()
    if "eval_count" in meta:  # Ollama's figures lie beside the rest
        return {name: meta.get(name) for name in ("prompt_eval_count", "eval_count")}
    return None
