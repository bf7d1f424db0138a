"""The demo from end to end: start the processes, apply the load, read the rows, compare, clean up.

The two runs go side by side, each in its own process: the same load at the same time, and half the wait.

Everything that is started is on the exit stack before it is used, so that every way out ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from llmctx.cli.demo.compare import Comparison, Row, compare, read_rows
from llmctx.cli.demo.load import drive
from llmctx.cli.demo.postgres import make_directory
from llmctx.cli.demo.processes import ChildProcess, clean_environment, uninterrupted
from llmctx.cli.demo.scenarios import ways_of
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate.commands import upgrade
from llmctx.settings import Settings

RUNS: Final = {"before": "textbook_llm_call_logs", "after": DEFAULT_TABLE}
"""Run -> the table that it fills."""
START_S: Final = 90.0
USERS: Final = 20
REAL_USERS: Final = 3
"""Patients where each call costs money."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealService:
    """A real service in place of the demo's provider."""

    key: str = field(repr=False)
    base_url: str
    model: str

    @classmethod
    def from_environment(cls) -> RealService | None:
        """Return the service of OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL; None without a key."""
        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            return None
        base_url = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        return cls(key=key, base_url=base_url, model=os.environ.get("OPENAI_MODEL") or "gpt-4o-mini")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The data of the report."""

    users: int
    service: str
    database_url: str
    directory: Path
    problem: str | None
    """Why SQLite is used; None for PostgreSQL."""
    comparisons: Mapping[str, Comparison]
    rows: Mapping[str, list[Row]]
    ledger: Mapping[str, Any]
    seconds: float
    process_id: int | None
    """PostgreSQL's, to stop it after `--keep`."""


class Progress:
    """The progress on stderr: a moving line on a terminal, one line per stage elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status = self._console.status("") if self._console.is_terminal else None

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        with self._status or contextlib.nullcontext():
            yield self

    def stage(self, text: str) -> None:
        if self._status is None:
            self._console.print(f"{text} ...", highlight=False)
        else:
            self._status.update(f"{text} ...")

    def line(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def counter(self, text: str, total: int) -> Callable[[], None]:
        """Start a stage of `total` steps, and return the function that counts one."""
        self.stage(text)
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if self._status is not None:
                self._status.update(f"{text} ... {done}/{total}")

        return step


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """The running processes: the provider, and a clinic and a database for each run."""

    keeper: ChildProcess
    home: Mapping[str, Any]
    provider: str
    urls: Mapping[str, str]
    clinics: ChildProcess
    addresses: Mapping[str, str]
    secret: str


def perform(*, users: int | None, speed: float, keep: bool, progress: Progress) -> Outcome:
    """Run the demo. Whatever happens, nothing is left running, unless `keep` and all went well."""
    started = time.monotonic()
    real = RealService.from_environment()
    if users is None:
        users = REAL_USERS if real else USERS
    with contextlib.ExitStack() as stack:
        running = _start(stack, speed, real, keep, progress)
        step = progress.counter(
            f"{users} patients at once, in two clinics side by side", 2 * users * len(ways_of(1, users))
        )
        asyncio.run(_drive_both(running, users, step))
        progress.stage("comparing the rows with the provider's log")
        running.clinics.close()
        ledgers = _each(running.clinics, "ledger")
        rows = {run: asyncio.run(read_rows(running.urls[run], table)) for run, table in RUNS.items()}
        with httpx.Client(trust_env=False, verify=False) as client:
            logs = {run: client.get(f"{running.provider}/{run}/log").raise_for_status().json() for run in RUNS}
        if keep:
            running.keeper.tell("keep")
        return Outcome(
            users=users,
            service=real.base_url if real else "a provider of our own on loopback",
            database_url=running.urls["after"],
            directory=Path(running.home["directory"]),
            problem=running.home["problem"],
            comparisons={run: compare(logs[run], rows[run]) for run in RUNS},
            rows=rows,
            ledger=ledgers["after"],
            seconds=time.monotonic() - started,
            process_id=running.home["pid"],
        )


def remove(outcome: Outcome) -> None:
    """Stop the database that was kept, and remove its directory."""
    if outcome.process_id is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(outcome.process_id, signal.SIGINT)
            deadline = time.monotonic() + START_S
            while time.monotonic() < deadline:
                os.kill(outcome.process_id, 0)  # raises when it has ended: it is no child of this process
                time.sleep(0.05)
    shutil.rmtree(outcome.directory, ignore_errors=True)


def _start(
    stack: contextlib.ExitStack, speed: float, real: RealService | None, keep: bool, progress: Progress
) -> _Running:
    """Start everything, as much as possible at once: importing the clients' libraries takes the longest."""
    progress.stage("starting PostgreSQL, an LLM provider and the clinics")
    with uninterrupted():
        directory = make_directory()
        keeper = _child(stack, "PostgreSQL", "llmctx.cli.demo.postgres", str(directory), tidies=True)
    journals = str(directory / "journal")  # apart from the user's own applications
    clinics = _child(
        stack, "the clinic", "llmctx.cli.demo.app", log=directory / "clinic.log", LLMCTX_JOURNAL_DIR=journals
    )
    upstream = ("--upstream", real.base_url) if real else ()
    provider = _child(stack, "the provider", "llmctx.cli.demo.provider", "--speed", str(speed), *upstream)
    home = keeper.says(START_S)
    if home["problem"]:
        progress.line(f"PostgreSQL does not start here ({home['problem']}): using SQLite instead.")
    if keep:
        stack.enter_context(_files_kept_on_failure(keeper, directory, progress))
    # SQLite has one writer at a time, and the two runs must not wait for each other: a file for each
    urls = {run: home["url"] or f"sqlite+aiosqlite:///{directory / run}.db" for run in RUNS}
    address = f"http://127.0.0.1:{provider.says(START_S)['port']}"
    secret = secrets.token_hex(16)
    model = {"model": real.model, "key": real.key} if real else {"model": None, "key": None}
    clinics.tell(json.dumps({**urls, "provider": address, "secret": secret, **model}))
    upgrade(Settings(database_url=urls["after"]))
    addresses = {run: f"http://127.0.0.1:{port}" for run, port in _each(clinics, "port").items()}
    return _Running(
        keeper=keeper, home=home, provider=address, urls=urls, clinics=clinics, addresses=addresses, secret=secret
    )


def _each(clinics: ChildProcess, fact: str) -> dict[str, Any]:
    """Return `fact` of each clinic, as they report it in any order."""
    lines = [clinics.says(START_S) for _ in RUNS]
    return {line["name"]: line[fact] for line in lines}


def _child(
    stack: contextlib.ExitStack,
    name: str,
    module: str,
    *args: str,
    log: Path | None = None,
    tidies: bool = False,
    **environment: str,
) -> ChildProcess:
    with uninterrupted():  # a child that is not yet on the stack would outlive a Ctrl-C
        child = ChildProcess(name, module, *args, env={**clean_environment(), **environment}, log=log)
        stack.callback(child.end, 2 * START_S if tidies else 15, tidies=tidies)
    return child


async def _drive_both(running: _Running, users: int, step: Callable[[], None]) -> None:
    """Send the same patients with the same questions in the same order to both clinics."""
    async with asyncio.TaskGroup() as both:
        for run, address in running.addresses.items():
            both.create_task(drive(address, f"{running.provider}/{run}", users, running.secret, step=step))


@contextlib.contextmanager
def _files_kept_on_failure(keeper: ChildProcess, directory: Path, progress: Progress) -> Iterator[None]:
    try:
        yield
    except Exception:
        keeper.tell("keep files")
        progress.line(f"The logs are kept in {directory}")
        raise
