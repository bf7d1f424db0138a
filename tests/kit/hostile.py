"""Command lines that nobody should type, for every verb and option of the command line; and rows to show with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

import typer

from llmctx import cli

TEXTS: Final = (
    "", " ", "\udc80", "\ud800x", "a" * 10_000, "x'; DROP TABLE t; --", "%s%n%", "=1+1", "\x1b[31mred\x07",
    "\u202eevil", "-1", "NaN", "inf", "1e999", "0", "1", "0.5", "99999999999999999999", "٣", "１", "1_0", "999999w",
    "0s", "-5m", "7d", "2h", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-02-30", "2026-13-01T00:00",
    "24:00", "2026-W01-1", "/", "/nonexistent/x/y", "/dev/full", "/dev/null", "..", "x" * 300 + ".csv", "a/b\n c.csv",
    "日本🙂", "[bold]x[/]", "*", "{}", "[" * 20_000, "null", "true", "user", "day", "csv", "sqlite", "module:app", ":",
    "llmctx:nothing", "os:path", "SELECT 1", "DROP TABLE x", "SELECT NULL AS user_id, NULL AS session_id",
    "SELECT session_id, user_id FROM nothing",
)  # fmt: skip
IDS: Final = (
    "=HYPERLINK(1)", "\x1b[2J\x1b]0;owned\x07", "", " ", "@x", "\u202eevil\u2028", "a,b;c\"d'e\nf\tg", "-1+1", "＝1",
)  # fmt: skip
SETTINGS: Final = {
    "DATABASE_URL": (
        "sqlite:////tmp/a%00b.db", "sqlite://", "postgres://a:b@c@d:1:2/x", "[", "sqlite:////" + "x" * 5000, "sqlite:////",
    ),
    "TABLE": ("", "a b", "x" * 200, "\udc80"), "DB_SCHEMA": ("x", "\x1b"), "REDACT": (",", " ", "nonsense", "\x1b"),
    "REDACT_PATTERNS": ("[", "{}", "[1]", '{"a": 1}', '{"a": "("}', "[" * 20_000, '{"a": "(x+)+$"}'),
    "PRICE_FILE": ("/", "/none", "\udc80"), "JOURNAL_DIR": ("/dev/null", "/proc/x", "\udc80", "x" * 5000),
    "RETAIN_DAYS": ("0", "-1", "9" * 30, "NaN"), "BATCH_ROWS": ("0", "1e3", "٣", " "), "CARRY": ("maybe",),
    "CONNECT_TIMEOUT_S": ("nan", "inf", "-1", "1e400"), "HANDOVER_KEY": ("", "x", "\udc80"),
    "REGISTRY_URL": ("redis://:p@w@127.0.0.1:1", "x", "unix://", "redis://h:99999"),
}  # fmt: skip
_LEFT_OUT: Final = ("demo", "ship", "ui")
"""The first runs for a minute, the others until Ctrl-C."""


def _verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    yield path, command.params
    for name, inner in getattr(command, "commands", {}).items():
        if name not in _LEFT_OUT:
            yield from _verbs(inner, (*path, name))


VERBS: Final = [(path, params) for path, params in _verbs(typer.main.get_command(cli.app)) if path]


def each_option(rng: random.Random) -> Iterator[list[str]]:
    """Yield a value for each option and argument of each verb, and each verb alone."""
    for path, params in VERBS:
        yield list(path)
        for param in params:
            yield [*path, *_given(param, rng)]


def at_random(rng: random.Random) -> Iterator[list[str]]:
    """Yield verbs with several of their options, without end."""
    while True:
        path, params = rng.choice(VERBS)
        some = rng.sample(params, min(len(params), rng.randint(0, 4)))
        yield [*path, *(part for param in some for part in _given(param, rng))]


def _given(param: Any, rng: random.Random) -> list[str]:
    if param.name in ("follow", "help"):
        return []
    if param.param_type_name == "argument":
        return ["--", rng.choice(TEXTS)]
    if getattr(param, "is_flag", False):
        return [rng.choice(param.opts)]
    value = "0" if param.name == "wait" else rng.choice(TEXTS)
    return [f"{max(param.opts, key=len)}={value}"] if rng.random() < 0.9 else [param.opts[0], value]
