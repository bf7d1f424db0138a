"""Checks of every installation: the database, the table, the right to insert. The trial insert is rolled back."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Final

from llmctx.calllog import CallLog
from llmctx.core.errors import DatabaseUnavailable, LlmctxError
from llmctx.core.failure import Failure
from llmctx.core.record import CallRecord
from llmctx.core.text import counted, escape_controls
from llmctx.core.urls import shown_url
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.binding import bind
from llmctx.migrate import commands as migrate
from llmctx.migrate.state import not_a_call_log
from llmctx.ops import journals
from llmctx.ops.doctor import table_checks as table
from llmctx.ops.doctor.finding import Finding
from llmctx.settings import Settings, unknown_variables
from llmctx.storage.db_errors import classify

_ROOM: Final = 65_536
"""Bytes that must fit where a journal is to be written."""


async def database(settings: Settings, state: migrate.State | LlmctxError) -> list[Finding]:
    """Check that rows can be written. `state` is what `migrate.state` returned or raised."""
    where = shown_url(settings.database_url)
    unknown = [
        Finding(
            "settings",
            False,
            escape_controls(sentence),
            "The intended setting is not set.",
            "Correct its name.",
            "",
        )
        for sentence in unknown_variables()
    ]
    return [*unknown, *await _table(settings, state, where), *await asyncio.to_thread(journal_directory, settings)]


async def _table(settings: Settings, state: migrate.State | LlmctxError, where: str) -> list[Finding]:
    if isinstance(state, LlmctxError):
        fix = "What it says."
        if isinstance(state, DatabaseUnavailable):
            fix = "Make the database reachable, or correct LLMCTX_DATABASE_URL."
        return [Finding("database", False, str(state), _wait(settings), fix, where), *await _journals(settings)]
    findings = [Finding("database", True, "reachable", where=where)]
    if not state.is_current:
        cause = f"at {state.current or 'no version'}, this llmctx wants {state.head}"
        if state.table == "missing":
            cause = "the table is missing"
        elif state.current == state.head:
            cause = f"at head ({state.head}), and not whole: {state.problem or '; '.join(state.lacks)}"
        fix = "llmctx migrate, which shows what it would do to a table that is there; llmctx migrate --yes does it."
        if state.table == "foreign":
            cause = str(not_a_call_log(settings, state))
            fix = "What it says; llmctx migrate takes the table then, or makes the one of LLMCTX_TABLE."
        findings.append(Finding("migration", False, cause, "Rows wait, or lack columns.", fix, settings.table))
        return [*findings, *await _journals(settings)]
    findings.append(Finding("migration", True, f"at head ({state.head})", where=settings.table))
    findings.append(await _trial_insert(settings))
    return [*findings, *await _journals(settings), *await table.table(settings)]


def _wait(settings: Settings) -> str:
    """Return what becomes of rows while the database is away."""
    if settings.durability == "memory":
        return "Rows wait in memory, and are lost when the process ends."
    return "Rows wait in the journals, on disk, and are written when it is back."


def journal_directory(settings: Settings) -> list[Finding]:
    """Check that a journal can be written, by a file that is removed again."""
    if settings.durability == "memory":
        return []
    problem: OSError | None = None
    for directory in settings.journal_directories:
        place = next(one for one in (directory, *directory.parents) if one.exists())
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(bytes(_ROOM))
                file.flush()
        except OSError as refusal:
            problem = problem or refusal
        else:
            return []
    cause = "no directory was found for it" if problem is None else str(problem.strerror or problem)
    return [
        Finding(
            "journal directory", False, f"the journal cannot be written: {cause}",
            "Rows wait in memory alone while the database does not take them, and are lost when the process ends.",
            "Free space on its disk, or set LLMCTX_JOURNAL_DIR to a directory that this user may write.",
            str(next(iter(settings.journal_directories), settings.journal_dir or "")),
        )
    ]  # fmt: skip


async def _journals(settings: Settings) -> list[Finding]:
    """Return whose rows wait on this host, if any do."""
    found = await asyncio.to_thread(journals.count_waiting, settings)
    others = ", ".join(f"{count:,} for {name}" for name, count in found.for_other_databases.items())
    findings = [Finding("other journals", True, f"rows wait on this host: {others}")] if others else []
    if found.for_no_process:
        calls = counted(found.for_no_process, "call waits", "calls wait")
        cause = f"{calls} on this host's disk that no running process will write"
        consequence = "They are not in the table until a process that records starts here."
        fix = "llmctx journal, and llmctx journal replay --yes"
        findings.append(Finding("journal", False, cause, consequence, fix, settings.table))
    elif found.for_this_database:
        findings.append(
            Finding("journal", True, f"{counted(found.for_this_database, 'call')} on the way", where=settings.table)
        )
    return findings


def trust(settings: Settings) -> list[Finding]:
    """Say what `trust_config` means where it is on."""
    if not settings.trust_config:
        return []
    cause = (
        "on: a user whom callers name in config, state or context counts before the one whom your server has "
        "authenticated. Right where all callers are services of your own; anywhere else a client can be any user"
    )
    return [Finding("trust_config", True, cause, where="LLMCTX_TRUST_CONFIG")]


def state_of(settings: Settings) -> migrate.State | LlmctxError:
    """Return the state of the table, or why it cannot be read."""
    try:
        return migrate.state(settings)
    except LlmctxError as problem:
        return problem


async def _trial_insert(settings: Settings) -> Finding:
    """Insert a row as the writer does, and roll it back."""
    destination = SqlDestination(settings)
    try:
        await destination.try_insert(_specimen())
    except Exception as problem:  # noqa: BLE001  any failure is the finding
        cause = f"{type(problem).__name__}: {problem}".splitlines()[0]
        failure = classify(problem)
        consequence = "Rows wait until it accepts them again." if failure.is_outage else "No row can be written."
        return Finding("insert", False, cause, consequence, _insert_fix(failure, settings), settings.table)
    return Finding("insert", True, "a row can be inserted (tried, and rolled back)", where=settings.table)


def _insert_fix(failure: Failure, settings: Settings) -> str:
    """Return what lets the database take rows again, by what its refusal means."""
    if failure.is_deferrable:
        return f"CREATE TABLE {settings.table}_default PARTITION OF {settings.table} DEFAULT;"
    fixes = (fix for starts, fix in _INSERT_FIXES.items() if failure.code.startswith(starts))
    return next(fixes, _OTHER_INSERT_FIXES[failure.kind]).format(table=settings.table)


_INSERT_FIXES: Final = {
    "42501": "GRANT INSERT ON {table} TO the application's role.",
    "42P01": "llmctx migrate",
    "42703": "llmctx migrate",
    "25006": "Let LLMCTX_DATABASE_URL point to the primary: this server may only be read.",
    "53100": "Free space on the disk of the server that reports it.",
    "53300": "Give the server more connections, or put a pooler in front of it.",
}
"""What to do, by SQLSTATE."""
_OTHER_INSERT_FIXES: Final = {
    "reconnect": "Make sure that every server of the database runs, and can be reached from the one that "
    "LLMCTX_DATABASE_URL names.",
    "transient": "Find out what keeps the database busy: until then rows are retried.",
    "config": "Correct the table, the role or LLMCTX_DATABASE_URL as the database's message says.",
    "poison": "Let the constraints and triggers of {table} accept this row, which is like those of calls.",
}
"""What to do, by the kind of a failure."""


def _specimen() -> CallRecord:
    sink = MemorySink()
    call_log = CallLog(sink=sink, capture="explicit", db_schema="")
    with call_log, bind(session_id="doctor", user_id="doctor"), call_log.record(model="canary"):
        pass
    return sink.records[0]
