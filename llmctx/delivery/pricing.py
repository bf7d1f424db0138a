"""The cost of a call in US dollars: by the team's own price file, or else by genai-prices (the extra `prices`).

A model without a price costs NULL, never 0; what a cache of LangChain's answered cost nothing. genai-prices takes half
a millisecond a call, so what it says of a model is remembered as a price for each kind of token, as long as the call
is small enough for no tier to begin, and for half an hour of the call's own time: some prices depend on the hour.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from llmctx.capture.payload.providers import PRICE_NAMES
from llmctx.core.bounded_read import read_text
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError, is_shortage
from llmctx.core.record import AUDIO_IN, AUDIO_OUT, CACHE_WRITTEN, CACHE_WRITTEN_1H, CallRecord, CostSource

_MOST_BYTES: Final = 16 << 20
_MILLION: Final = Decimal(1_000_000)
_NANO: Final = Decimal("0.000000001")
_NO_TIERS_BELOW: Final = 16_000  # tokens; the lowest tier of any model begins at 32,000
_REMEMBERED: Final = 10_000
_FIELDS: Final = {"model", "provider", "input", "output", "cached", "cache_write", "since", "service_tier", "note"}
_STANDARD: Final = frozenset({"default", "standard", "auto", "on_demand", "standard_only"})
_DISCOUNTED: Final = frozenset({"flex", "batch"})
_HALF_PRICE: Final = ("openai", "azure", "anthropic", "google")
"""Providers, as genai-prices names them, that bill `_DISCOUNTED` tiers at half of the price for every model."""


class Price(NamedTuple):
    """US dollars for one token of each kind, and where that stands."""

    input: Decimal
    output: Decimal
    cached: Decimal
    written: Decimal
    """Put into the provider's cache."""
    written_1h: Decimal
    """The same for an hour."""
    call: Decimal
    """For the call itself."""
    origin: CostSource


class Tokens(NamedTuple):
    """A call's tokens. `cached` were read from the provider's cache and `written` put there, `written_1h` of them for
    an hour: all of them are among `prompt`, as `audio_in` is; `audio_out` is among `completion`.
    """

    prompt: int | None
    completion: int | None
    cached: int | None = None
    written: int | None = None
    written_1h: int | None = None
    audio_in: int | None = None
    audio_out: int | None = None

    @classmethod
    def from_row(cls, figures: Mapping[str, Any], noted: Mapping[str, Any]) -> Tokens:
        """Return those of a row, from its columns and from its `attributes`, where anything may stand."""
        written = figures["cache_write_tokens"]
        return cls(
            figures["prompt_tokens"], figures["completion_tokens"], figures["cached_tokens"],
            _figure(noted.get(CACHE_WRITTEN)) if written is None else written,
            _figure(noted.get(CACHE_WRITTEN_1H)), _figure(noted.get(AUDIO_IN)), _figure(noted.get(AUDIO_OUT)),
        )  # fmt: skip

    def usable(self) -> Tokens | None:
        """Return figures that can be reckoned with; None where the price would be a guess."""
        prompt, completion = self.prompt, self.completion
        if prompt is None or completion is None or prompt < 0 or completion < 0:
            return None
        read = min(max(self.cached or 0, 0), prompt)
        written = min(max(self.written or 0, 0), prompt - read)
        hour = min(max(self.written_1h or 0, 0), written)
        return Tokens(
            prompt, completion, read, written, hour,
            min(max(self.audio_in or 0, 0), prompt), min(max(self.audio_out or 0, 0), completion),
        )  # fmt: skip


TOKEN_COLUMNS: Final = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens")
TOKEN_NOTES: Final = (CACHE_WRITTEN, CACHE_WRITTEN_1H, AUDIO_IN, AUDIO_OUT)
"""The keys that `Tokens.from_row` reads: columns of a row, and keys of its attributes."""


def _figure(noted: Any) -> int | None:
    return int(noted) if noted is not None and str(noted).isdecimal() and len(str(noted)) < 12 else None


def _tier(named: str | None) -> str:
    """Return a service tier that is billed otherwise than the usual one, else nothing."""
    tier = (named or "").lower().removeprefix("on_demand_")
    return "" if tier in _STANDARD else tier


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the price file."""

    model: str
    provider: str | None
    price: Price
    since: datetime | None
    tier: str

    def covers(self, model: str, provider: str | None, at: datetime, tier: str) -> bool:
        is_model = fnmatchcase(model.lower(), self.model.lower())
        is_provider = self.provider is None or (provider or "").lower() == self.provider.lower()
        return is_model and is_provider and (self.since is None or at >= self.since) and self.tier in (tier, "*")


def load_file(path: Path) -> list[_Line]:
    """Read a JSON list of objects with `model` (`*` stands for anything), `input` and `output` (USD a million tokens),
    and perhaps `cached`, `cache_write`, `provider`, `since`, `service_tier`. The first one that covers a call counts;
    of several dates, the newest. One without a tier is for calls of the usual one; `*` is for all.

    Raises `ConfigError`, naming the line's number.
    """
    try:
        told = json.loads(read_text(path, _MOST_BYTES), parse_float=Decimal, parse_int=Decimal)
    except OSError as problem:
        raise ConfigError(f"LLMCTX_PRICE_FILE {path}: {problem.strerror}.") from None
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"LLMCTX_PRICE_FILE {path} is not JSON: {problem}.") from None
    if not isinstance(told, list):
        raise ConfigError(
            f'LLMCTX_PRICE_FILE {path} must hold a list, [{{"model": "…", "input": 1.2, "output": 4.8}}].'
        )
    lines = [_line(one, f"LLMCTX_PRICE_FILE {path}, entry {number}") for number, one in enumerate(told, 1)]
    # stable: lines without a date keep their order, behind those that have begun later
    return sorted(lines, key=lambda line: -(line.since.timestamp() if line.since else 0))


def _line(entry: Any, origin: str) -> _Line:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
        raise ConfigError(f"{origin}: it must be an object with a `model`.")
    if strange := set(entry) - _FIELDS:
        raise ConfigError(
            f"{origin}: {', '.join(sorted(strange))} is unknown. Choose from {', '.join(sorted(_FIELDS))}."
        )
    per_token: dict[str, Decimal] = {}
    for name in ("input", "output", "cached", "cache_write"):
        value = entry.get(name, None if name == "output" else entry.get("input"))
        try:
            number = Decimal(value) if not isinstance(value, bool) else None
        except (InvalidOperation, TypeError, ValueError):
            number = None
        if number is None or not number.is_finite() or number < 0:
            raise ConfigError(f"{origin}: `{name}` must be US dollars per million tokens, not {value!r}.")
        per_token[name] = number / _MILLION
    try:
        since = None if entry.get("since") is None else datetime.fromisoformat(entry["since"])
    except (ValueError, TypeError):
        raise ConfigError(f"{origin}: `since` must be a date such as 2026-11-01.") from None
    since = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
    written = per_token["cache_write"]
    price = Price(
        per_token["input"], per_token["output"], per_token["cached"], written, written, Decimal(0),
        CostSource.PRICE_FILE,
    )  # fmt: skip
    return _Line(entry["model"], entry.get("provider"), price, since, _tier(str(entry.get("service_tier") or "")))


class Prices:
    """The prices of models. Belongs to one thread.

    Args:
        file: the team's own, which comes first. Raises `ConfigError` if it cannot be used.
    """

    def __init__(self, file: str | None = None) -> None:
        self._lines: Sequence[_Line] = [] if file is None else load_file(Path(file).expanduser())
        self._known: dict[tuple[str, str | None, str, int], Price | None] = {}

    @property
    def has_list(self) -> bool:
        """Return whether the list of the usual models' prices is installed."""
        return find_spec("genai_prices") is not None

    @cached_property
    def _snapshot(self) -> Any:
        """genai-prices' own data, as it was installed; None without the extra. Late: it takes a third of a second."""
        if not self.has_list:
            return None
        from genai_prices.data import providers
        from genai_prices.data_snapshot import DataSnapshot

        return DataSnapshot(providers=providers, from_auto_update=False)

    def add_cost(self, record: CallRecord) -> CallRecord:
        """Return `record` with what it cost and who says so, where that is known and does not stand there yet.

        Raises OSError where the list of prices cannot be loaded for want of descriptors, and nothing else.
        """
        try:
            if record.cost_usd is not None:
                record.cost_source = record.cost_source or CostSource.MANUAL.value
                return record
            figures = {name: getattr(record, name) for name in TOKEN_COLUMNS}
            record.cost_usd, source = self.cost(
                record.model, record.provider, record.created_at, Tokens.from_row(figures, record.attributes or {}),
                tier=record.service_tier, answered_by_cache=bool(record.cached),
            )  # fmt: skip
            record.cost_source = None if source is None else source.value
        except Exception as problem:  # the row is worth more than its price
            if is_shortage(problem):
                raise
            diagnostics.count("price_failed", "a call could not be priced", exc=problem)
        return record

    def cost(
        self,
        model: str | None,
        provider: str | None,
        at: datetime,
        tokens: Tokens,
        *,
        tier: str | None = None,
        answered_by_cache: bool = False,
    ) -> tuple[Decimal | None, CostSource | None]:
        """Return what that many tokens cost in a service tier, and who says so."""
        if answered_by_cache:
            return Decimal(0).quantize(_NANO), CostSource.CACHE
        used = tokens.usable()
        if used is None or not model or (price := self.price(model, provider, at, tier)) is None:
            return None, None
        prompt, completion, read, written, hour, *audio = (figure or 0 for figure in used)
        if price.origin is CostSource.PRICE_FILE or (max(prompt, completion) < _NO_TIERS_BELOW and not any(audio)):
            cost = price.call + (prompt - read - written) * price.input + read * price.cached
            cost += (written - hour) * price.written + hour * price.written_1h + completion * price.output
        else:
            found = self._calculated(model.removeprefix("models/"), provider, at, used, _tier(tier))
            if found is None:
                return None, None
            cost = found
        return cost.quantize(_NANO), price.origin

    def price(self, model: str | None, provider: str | None, at: datetime, tier: str | None = None) -> Price | None:
        """Return the price of a token of each kind in a small call; None for an unknown model or tier.

        A table that is not ours may have rows without a model.
        """
        if not model:
            return None
        model = model.removeprefix("models/")  # Google's spelling
        key = (model, provider, _tier(tier), int(at.timestamp()) // 1800)
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._look_up(model, provider, at, _tier(tier))
        return self._known[key]

    def _look_up(self, model: str, provider: str | None, at: datetime, tier: str) -> Price | None:
        own = next((line.price for line in self._lines if line.covers(model, provider, at, tier)), None)
        if own is not None:
            return own
        call = self._calculated(model, provider, at, Tokens(0, 0), tier)
        if call is None:
            return None
        kinds = (
            Tokens(1000, 0), Tokens(0, 1000), Tokens(1000, 0, cached=1000), Tokens(1000, 0, written=1000),
            Tokens(1000, 0, written=1000, written_1h=1000),
        )  # fmt: skip
        found = [self._calculated(model, provider, at, kind, tier) or Decimal(0) for kind in kinds]
        each = [(total - call) / 1000 for total in found]
        if not any(each):  # a price of nothing is an unknown price
            return None
        return Price(each[0], each[1], each[2], each[3], each[4], call, CostSource.PRICE_LIST)

    def _calculated(self, model: str, provider: str | None, at: datetime, used: Tokens, tier: str) -> Decimal | None:
        """Return what genai-prices says; None where it knows no price of the model in that tier."""
        if self._snapshot is None:
            return None
        from genai_prices import Usage

        figures = {
            "input_tokens": used.prompt, "output_tokens": used.completion, "cache_read_tokens": used.cached,
            "cache_write_tokens": used.written, "cache_write_1h_tokens": used.written_1h,
        }  # fmt: skip
        figures.update({"input_audio_tokens": used.audio_in} if used.audio_in else {})
        figures.update({"output_audio_tokens": used.audio_out} if used.audio_out else {})
        named = None if provider is None else PRICE_NAMES.get(provider.lower(), provider.lower())
        context, share = None, 1
        try:
            if tier:
                maker, known = self._snapshot.find_provider_model(model.lower(), None, named, None)
                context = {"processing": tier} if tier == "batch" else {"service_tier": tier, "speed": tier}
                if not any(one.when.items() <= context.items() for one in known.price_variants or ()):
                    if tier not in _DISCOUNTED or maker.id not in _HALF_PRICE:
                        return None
                    context, share = None, 2
            return Decimal(self._snapshot.calc(Usage(**figures), model, named, None, at, context).total_price) / share
        except (LookupError, ValueError, ArithmeticError):
            return None
