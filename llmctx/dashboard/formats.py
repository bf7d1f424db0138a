"""How values are written on a page. What is unknown is a dash, never a zero."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from llmctx.dashboard.view import PageView

DASH: Final = "—"
HIDDEN: Final = "••••"
_KEY: Final = secrets.token_bytes(16)
_SHORTEST: Final = 8


def count(value: Any) -> str:
    """Return a whole number with separators: 12,480."""
    return DASH if value is None else f"{int(value):,}"


def money(value: Any) -> str:
    """Return US dollars: $12.48; of less than a cent three digits that count."""
    if value is None:
        return DASH
    amount = Decimal(value)
    if amount == 0:
        return "$0"
    if abs(amount) < Decimal("0.01"):
        return f"${amount:.3g}" if abs(amount) >= Decimal("0.0001") else f"${float(amount):.1e}"
    return f"${amount:,.2f}"


def duration(value: Any) -> str:
    """Return milliseconds, or the time between two times, as a reader says them: 840 ms, 12.5 s, 3 min."""
    if value is None:
        return DASH
    ms = value / timedelta(milliseconds=1) if isinstance(value, timedelta) else float(value)
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 120_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms / 60_000:,.0f} min" if ms < 7_200_000 else f"{ms / 3_600_000:,.1f} h"


def percent(part: Any, whole: Any) -> str:
    """Return `part` of `whole` in percent; never 100 where something is missing, nor 0 where something is there."""
    if part is None or not whole:
        return DASH
    share = 100.0 * float(part) / float(whole)
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %" if share % 1 else f"{share:.0f} %"


def json_text(value: Any) -> str:
    """Return `value` as JSON that is read, letters of every script as themselves."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def shell_word(value: str) -> str:
    """Return `value` as one word of a command to copy, in quotes where a shell would read more than its letters."""
    return shlex.quote(value)


def short_id(value: str) -> str:
    """Return an id that cannot be read from the screen, and is still told from others: its ends and a keyed hash."""
    mark = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=2).hexdigest()
    ends = f"{value[:2]}…{value[-2:]}" if len(value) >= _SHORTEST else "…"
    return f"{ends}·{mark}"


def time_in(view: PageView) -> Callable[[datetime | None], str]:
    """Return the function that writes a time in the zone of `view`: 2026-11-29 10:15:03."""

    def write(value: datetime | None) -> str:
        if value is None:
            return DASH
        try:
            local = value.astimezone(view.zone)
        except OverflowError:  # the first and the last day of the calendar, which stand for "never" in many tables
            local = value
        return f"{local:%Y-%m-%d %H:%M:%S}"

    return write


def bucket_in(view: PageView) -> Callable[[datetime], str]:
    """Return the function that writes when a bucket begins: a day where the day begins with it, else with the hour.

    Where clocks are put forward at midnight, that day begins at one.
    """

    def write(value: datetime) -> str:
        local = value.astimezone(view.zone)
        begins = (value - timedelta(seconds=1)).astimezone(view.zone).date() != local.date()
        return f"{local:%Y-%m-%d}" if begins else f"{local:%m-%d %H:%M}"

    return write
