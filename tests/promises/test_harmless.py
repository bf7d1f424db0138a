"""Whatever fails in llmctx, at whatever line: the application does not notice it.

`innocent.py` has the applications, `lines.py` what exactly is promised. `make test` takes a part of the lines;
`make faults ARGS="--only lines"` all of them.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.faults.innocent import APPLICATIONS, carried, contested
from tests.faults.kit import MODEL, Kit, surroundings
from tests.faults.lines import GUARDED_BY_HAND, Line, Lines
from tests.kit.support import kept_by

AT_ONCE: Final = 30  # lines of one application in `make test`
FUNCTIONS: Final = 8  # and functions
NOT_PLAIN: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Injected(BaseException):
    """Nobody catches this one."""


PROBLEMS: Final[tuple[type[BaseException], ...]] = (
    ValueError,
    Injected,
    MemoryError,
    RecursionError,
    asyncio.CancelledError,
    SystemExit,
    KeyboardInterrupt,
)


@dataclass
class Outcome:
    """All that can be noticed of a run."""

    told: Any = None
    before: Any = None
    after: Any = None
    complaints: list[str] = field(default_factory=list)
    """Of the event loop, of LangChain about its handlers, of Python about what nobody could be told."""


class _Complaints(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__()
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(record.getMessage())


def run(application: Callable[[Kit], Any], kit: Kit, lines: Lines | None = None) -> Outcome:
    outcome = Outcome()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, about: outcome.complaints.append(f"loop: {about['message']}"))
        outcome.before = surroundings()
        try:
            outcome.told = await application(kit)
        except BaseException as problem:
            outcome.told = f"raised {problem!r}"
        outcome.after = surroundings()

    listener = _Complaints(outcome.complaints)
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda about: outcome.complaints.append(f"unraisable: {about}")
    logging.getLogger("langchain_core").addHandler(listener)
    try:
        if lines is None:
            copy_context().run(asyncio.run, main())
        else:
            with lines.traced():
                copy_context().run(asyncio.run, main())
    except BaseException as problem:
        outcome.complaints.append(f"the loop ended: {problem!r}")
    finally:
        gc.collect(0)
        sys.unraisablehook = unraisable
        logging.getLogger("langchain_core").removeHandler(listener)
    return outcome


class Rows:
    """What has been recorded, in portions."""

    def __init__(self, call_log: CallLog, path: Path) -> None:
        self._call_log = call_log
        self._path = path
        self._seen = 0

    def new(self) -> list[tuple[str, str, str]]:
        """User, session and prompt of each row since the last time, as text. Open calls are given up first."""
        open_calls = self._call_log._recorder.open_calls
        for _ in range(3):  # the second one mends what was cut short, the third sees that there is nothing left
            open_calls.sweep(0.0)
        deadline = time.monotonic() + 30.0
        while self._call_log.flush(5.0) and time.monotonic() < deadline:  # its thread may have died, and starts again
            time.sleep(0.05)
        assert kept_by(open_calls) == []
        assert not open_calls._by_task  # the application's have all ended
        assert self._call_log.stats().balanced, self._call_log.stats()
        with sqlite3.connect(self._path) as database:
            found = database.execute(
                "select rowid, coalesce(user_id, ''), coalesce(session_id, ''), coalesce(prompt_snapshot, '') "
                "from biz_agent_llm_call_logs where rowid > ? order by rowid",
                (self._seen,),
            ).fetchall()
        database.close()
        self._seen = found[-1][0] if found else self._seen
        return [row[1:] for row in found]


@pytest.fixture
def call_log(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[CallLog]:
    """Not started yet: applications are to run without it first."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'calls.db'}"
    migrate.upgrade(load(database_url=url))
    made = CallLog(url, carry=request.node.callspec.params.get("application") in (carried, contested), linger_ms=1)
    yield made
    made.close()


def _strangers(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Rows that name somebody else than their prompt does, or the session of somebody else."""
    return [row for row in rows if row[2] and not all(f"of {who}:" in row[2] for who in _named(row))]


def _named(row: tuple[str, str, str]) -> Iterator[str]:
    user, session, _ = row
    if user:
        yield user
    if session.startswith("s-"):
        yield session.removeprefix("s-")


def _what_is_wrong(
    expected: Outcome, outcome: Outcome, usual: int, rows: list[tuple[str, str, str]], counted: int
) -> Iterator[str]:
    for name in ("told", "before", "after", "complaints"):
        if getattr(outcome, name) != getattr(expected, name):
            yield f"{name}: {getattr(outcome, name)!r}, not {getattr(expected, name)!r}"
    missing = usual - len(rows)
    if missing < 0 or missing > 1:
        yield f"{len(rows)} rows of {usual}"
    if missing and not counted:
        yield "a call has no row, and that is not counted"
    yield from (f"filed under somebody else: {row}" for row in _strangers(rows))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda application: application.__name__)
def test_a_failure_at_any_line_is_not_noticed(
    application: Callable[[Kit], Any], call_log: CallLog, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Whatever is raised there: the same answers, bytes, errors and contexts; a row or a count; a healthy next call."""
    expected = run(application, Kit(False))
    assert expected.complaints == []
    kit, rows = Kit(True, call_log.start()), Rows(call_log, tmp_path / "calls.db")
    survey = Lines()
    assert run(application, kit, survey) == expected
    usual = rows.new()
    assert _strangers(usual) == []
    choice = random.Random(application.__name__)
    again = Lines()  # what runs in one survey alone, such as the pipeline's rounds, may not come to be struck
    assert run(application, kit, again) == expected
    assert len(rows.new()) == len(usual)
    steady = survey.runs & again.runs
    points: list[tuple[Line, int]] = [(line, choice.randint(1, min(times, 50))) for line, times in steady.items()]
    every_line = bool(pytestconfig.getoption("--every-line"))
    if every_line:
        points = [(line, 1) for line in survey.runs] + points
    elif len(points) > AT_ONCE:
        points = choice.sample(points, AT_ONCE)
    wrong: list[str] = []
    struck = 0
    for number, (line, nth) in enumerate(points):
        kind = PROBLEMS[number % len(PROBLEMS)]
        noted = Counter(diagnostics.by_cause())
        lines = Lines(line, nth, lambda kind=kind: kind("injected"))  # type: ignore[misc]
        outcome = run(application, kit, lines)
        with bind(user_id="probe"):
            MODEL.invoke("of probe: hello")
        found = rows.new()
        probes = [row for row in found if "of probe:" in row[2]]
        if [row[0] for row in probes] != ["probe"]:
            wrong.append(f"{kind.__name__} at {line}: the next call came out as {probes}")
        struck += lines.raised
        counted = sum((Counter(diagnostics.by_cause()) - noted).values()) if lines.raised else 1
        others = [row for row in found if row not in probes]
        for what in _what_is_wrong(expected, outcome, len(usual), others, counted):
            wrong.append(f"{kind.__name__} at {line} run {nth}: {what}")
            print(wrong[-1])
    print(f"{len(survey.runs)} lines, {struck} of {len(points)} struck")
    assert struck > 0.8 * len(points)
    assert wrong == [], f"{len(wrong)} differences:\n" + "\n".join(wrong[:40])


def _raising() -> None:
    raise "what is raised"  # type: ignore[misc]  # noqa: B016  a constant that is exchanged


@contextmanager
def always_failing(code: CodeType, kind: type[BaseException]) -> Iterator[None]:
    """Every function that runs `code` raises at once, whoever calls it, as long as this lasts."""
    functions = [one for one in gc.get_referrers(code) if isinstance(one, FunctionType) and one.__code__ is code]
    consts = tuple(kind if const == "what is raised" else const for const in _raising.__code__.co_consts)
    flags = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) | _raising.__code__.co_flags
    failing = _raising.__code__.replace(
        co_consts=consts,
        co_name=code.co_name,
        co_filename=code.co_filename,
        co_freevars=code.co_freevars,
        co_argcount=code.co_argcount,
        co_posonlyargcount=code.co_posonlyargcount,
        co_kwonlyargcount=code.co_kwonlyargcount,
        co_varnames=code.co_varnames,
        co_nlocals=code.co_nlocals,
        co_flags=flags,
    )
    for function in functions:
        function.__code__ = failing
    try:
        yield
    finally:
        for function in functions:
            function.__code__ = code


# aiosqlite's thread, when the pipeline's loop dies over such a function: it is not the application's
@pytest.mark.filterwarnings("ignore:Exception in thread.*_connection_worker_thread")
@pytest.mark.filterwarnings("ignore:.*Worker._drain")
@pytest.mark.filterwarnings("ignore:Exception in thread llmctx-pipeline")  # where its main function is what fails
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda application: application.__name__)
def test_a_function_that_always_fails_is_not_noticed(
    application: Callable[[Kit], Any], call_log: CallLog, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Not once, but for as long as a mistake is in it: the application is unharmed; afterwards all is as before."""
    expected = run(application, Kit(False))
    kit, rows = Kit(True, call_log.start()), Rows(call_log, tmp_path / "calls.db")
    survey = Lines()
    run(application, kit, survey)
    usual = rows.new()
    plain = [code for code in survey.codes if not code.co_flags & NOT_PLAIN and not code.co_name.startswith("<")]
    plain = [code for code in plain if code.co_qualname not in GUARDED_BY_HAND]
    if not pytestconfig.getoption("--every-line"):
        plain = random.Random(application.__name__).sample(plain, min(FUNCTIONS, len(plain)))
    wrong: list[str] = []
    for number, code in enumerate(plain):
        kind = PROBLEMS[number % len(PROBLEMS)]
        noted = Counter(diagnostics.by_cause())
        with always_failing(code, kind):
            outcome = run(application, kit)
        found = rows.new()
        counted = sum((Counter(diagnostics.by_cause()) - noted).values())
        problems = list(_what_is_wrong(expected, outcome, len(found), found, 1))
        if len(found) > len(usual) or (len(found) < len(usual) and not counted):
            problems.append(f"{len(found)} rows of {len(usual)}")
        wrong += [f"{kind.__name__} in {code.co_filename} {code.co_qualname}: {what}" for what in problems]
    assert run(application, kit) == expected
    assert len(rows.new()) == len(usual)
    assert wrong == [], f"{len(wrong)} differences:\n" + "\n".join(wrong[:40])
