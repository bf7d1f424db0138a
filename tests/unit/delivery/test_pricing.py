"""What a call cost: right to the nano-dollar, or NULL."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage, calc_price

from llmctx.core.errors import ConfigError
from llmctx.delivery.pricing import Prices, Tokens

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def cost(prices: Prices, model: str, provider: str | None, prompt: Any, completion: Any, **more: Any) -> Decimal | None:
    at, cache, tier = more.pop("at", AT), more.pop("answered_by_cache", False), more.pop("tier", None)
    tokens = Tokens(prompt, completion, **more)
    return prices.cost(model, provider, at, tokens, tier=tier, answered_by_cache=cache)[0]


@pytest.mark.parametrize(
    ("model", "provider", "theirs"),
    [
        ("gpt-4o-mini-2024-07-18", "openai", "openai"),
        ("claude-sonnet-4-5-20250929", "anthropic", "anthropic"),
        ("gemini-2.5-pro", "google_genai", "google"),
        ("deepseek-chat", "deepseek", "deepseek"),
        ("mistral-large-latest", "mistralai", "mistral"),
    ],
)
@pytest.mark.parametrize(
    "tokens",
    [
        (0, 0, 0, 0, 0), (7, 3, 0, 0, 0), (15_999, 999, 5000, 0, 0), (40_000, 20_000, 0, 0, 0), (250_000, 9, 7, 0, 0),
        (15_000, 20, 4000, 3000, 0), (15_000, 20, 4000, 3000, 1000), (40_000, 20, 0, 40_000, 40_000),
        (250_000, 9, 7, 100_000, 5),
    ],
)  # fmt: skip
def test_remembered_prices_are_those_of_genai_prices(
    model: str, provider: str, theirs: str, tokens: tuple[int, int, int, int, int]
) -> None:
    """Small calls, tiers, tokens read from the cache or put there, and LangChain's names of providers."""
    prompt, completion, cached, written, hour = tokens
    usage = Usage(
        input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached, cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )  # fmt: skip
    expected = calc_price(usage, model, provider_id=theirs, genai_request_timestamp=AT).total_price
    found = cost(Prices(), model, provider, prompt, completion, cached=cached, written=written, written_1h=hour)
    assert found is not None
    assert abs(found - expected) <= Decimal("0.000000001")


@pytest.mark.parametrize(
    ("model", "provider", "prompt", "completion"),
    [("my-own", "openai", 1, 1), ("llama3", "ollama", 1, 1), ("gpt-4o", "openai", None, 1),
     ("gpt-4o", "openai", 1, None), ("", None, 1, 1), ("unknown", None, 1, 1)],
)  # fmt: skip
def test_what_is_not_known_costs_null(model: str, provider: str | None, prompt: Any, completion: Any) -> None:
    """Never 0."""
    assert cost(Prices(), model, provider, prompt, completion) is None


def test_a_tier_is_billed_at_its_own_rate() -> None:
    """As the list has it, else at half price where all of a provider's models are; NULL for what has no price."""
    usage = Usage(input_tokens=1000, output_tokens=100)

    def listed(model: str, **context: str) -> Decimal:
        found = calc_price(usage, model, provider_id="openai", genai_request_timestamp=AT, price_context=context)
        return Decimal(found.total_price)

    def ours(model: str, provider: str, tier: str | None) -> Decimal | None:
        return cost(Prices(), model, provider, 1000, 100, tier=tier)

    for tier in (None, "default", "auto", "standard", "ON_DEMAND"):
        assert ours("gpt-5", "openai", tier) == listed("gpt-5")
    for tier in ("flex", "priority"):
        assert ours("gpt-5", "openai", tier) == listed("gpt-5", service_tier=tier) != listed("gpt-5")
    assert ours("gpt-4o", "openai", "flex") == listed("gpt-4o") / 2
    assert ours("claude-3-5-haiku-20241022", "anthropic", "batch") is not None
    assert ours("gpt-4o", "openai", "scale") is None
    assert ours("claude-opus-4-8", "anthropic", "fast") == 2 * (ours("claude-opus-4-8", "anthropic", "standard") or 0)
    assert ours("claude-3-5-haiku-20241022", "anthropic", "fast") is None
    assert ours("models/gemini-2.5-pro", "google_genai", None) == ours("gemini-2.5-pro", "google_genai", None)


def test_sound_is_billed_at_its_own_rate() -> None:
    """Where the list has one."""
    usage = Usage(input_tokens=1000, output_tokens=100, input_audio_tokens=500, output_audio_tokens=50)
    expected = calc_price(usage, "gpt-audio", provider_id="openai", genai_request_timestamp=AT).total_price
    found = cost(Prices(), "gpt-audio", "openai", 1000, 100, audio_in=500, audio_out=50)
    assert found == expected != cost(Prices(), "gpt-audio", "openai", 1000, 100)


def test_a_price_file_may_name_tiers(tmp_path: Path) -> None:
    """A line without one is for the usual tier, `*` is for all."""
    file = [
        {"model": "own-1", "input": 1, "output": 1},
        {"model": "own-1", "input": 3, "output": 3, "service_tier": "priority"},
        {"model": "own-2", "input": 1, "output": 1, "service_tier": "*"},
    ]
    prices = Prices(written(tmp_path / "prices.json", file))
    found = [cost(prices, "own-1", None, 1_000_000, 0, tier=tier) for tier in (None, "default", "priority", "flex")]
    assert found == [1, 1, 3, None]
    assert cost(prices, "own-2", None, 1_000_000, 0, tier="flex") == 1


def test_what_a_cache_answered_cost_nothing() -> None:
    """LangChain's own cache: nothing was sent."""
    assert cost(Prices(), "gpt-4o", "openai", 1000, 10, answered_by_cache=True) == 0


def written(path: Path, value: Any) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


def test_the_teams_own_prices_come_first(tmp_path: Path) -> None:
    """By name or pattern, by provider, from a date on."""
    file = [
        {"model": "qwen-*", "input": 0.4, "output": 1.2, "cached": 0.1},
        {"model": "own-*", "input": 1, "output": 1, "cache_write": 1.25},
        {"model": "gpt-4o", "provider": "azure", "input": 1, "output": 2, "since": "2026-01-01"},
        {"model": "gpt-4o", "provider": "azure", "input": 3, "output": 4, "since": "2026-06-01"},
    ]
    prices = Prices(written(tmp_path / "prices.json", file))
    assert cost(prices, "Qwen-Max", None, 1_000_000, 100_000, cached=500_000) == Decimal("0.37")
    assert cost(prices, "own-1", None, 2_000_000, 0, written=1_000_000) == Decimal("2.25")
    assert cost(prices, "qwen-max", None, 1_000_000, 0, written=1_000_000) == Decimal("0.4")
    assert cost(prices, "gpt-4o", "azure", 1_000_000, 0) == 3
    assert cost(prices, "gpt-4o", "azure", 1_000_000, 0, at=AT - timedelta(days=200)) == 1
    assert cost(prices, "gpt-4o", "openai", 1000, 100) == Decimal("0.0035")


@pytest.mark.parametrize(
    ("value", "said"),
    [("{", "is not JSON"), ({}, "a list"), ([1], "entry 1"), ([{"model": "m", "input": "x", "output": 1}], "`input`"),
     ([{"model": "m", "input": 1}], "`output`"), ([{"model": "m", "input": -1, "output": 1}], "`input`"),
     ([{"model": "m", "input": 1, "output": 1, "inputs": 2}], "inputs"),
     ([{"model": "m", "input": 1, "output": 1, "since": "soon"}], "`since`")],
)  # fmt: skip
def test_a_wrong_price_file_is_refused(tmp_path: Path, value: Any, said: str) -> None:
    """The error names the entry."""
    with pytest.raises(ConfigError, match=said):
        Prices(written(tmp_path / "prices.json", value))
    with pytest.raises(ConfigError, match="No such file"):
        Prices(str(tmp_path / "missing.json"))
