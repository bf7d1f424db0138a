"""Checks of every installation: the database, the table, the right to insert. The trial insert is rolled back."""

from __future__ import annotations

import asyncio

from llmctx.calllog import CallLog
from llmctx.core.errors import LlmctxError
from llmctx.core.record import CallRecord
from llmctx.core.text import plain
from llmctx.core.urls import shown_url
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.binding import bind
from llmctx.migrate import commands as migrate
from llmctx.ops import journals
from llmctx.ops.doctor import table_checks as table
from llmctx.ops.doctor.finding import Finding
from llmctx.settings import Settings, unknown_variables
from llmctx.storage.db_errors import classify


async def database(settings: Settings, state: migrate.State | LlmctxError) -> list[Finding]:
    """Check that rows can be written. `state` is what `migrate.state` returned or raised."""
    where = shown_url(settings.database_url)
    unknown = [
        Finding("settings", False, plain(sentence), "The setting that was meant is not set.", "Correct its name.", "")
        for sentence in unknown_variables()
    ]
    return [*unknown, *await _table(settings, state, where)]


async def _table(settings: Settings, state: migrate.State | LlmctxError, where: str) -> list[Finding]:
    if isinstance(state, LlmctxError):
        return [
            Finding(
                "database", False, str(state), "Rows wait in memory, and are lost when the process ends.",
                "Make the database reachable, or correct LLMCTX_DATABASE_URL.", where,
            )
        ]  # fmt: skip
    findings = [Finding("database", True, "reachable", where=where)]
    if not state.is_current:
        cause = f"at {state.current or 'no version'}, this llmctx wants {state.head}"
        findings.append(
            Finding("migration", False, cause, "Rows wait, or lack columns.", "llmctx migrate", settings.table)
        )
        return findings
    findings.append(Finding("migration", True, f"at head ({state.head})", where=settings.table))
    findings.append(await _trial_insert(settings))
    return [*findings, *await _journals(settings), *await table.table(settings)]


async def _journals(settings: Settings) -> list[Finding]:
    """Whose rows wait on this host, if any do."""
    found = await asyncio.to_thread(journals.waiting, settings)
    others = ", ".join(f"{count:,} for {name}" for name, count in found.others.items())
    findings = [Finding("other journals", True, f"rows wait on this host: {others}")] if others else []
    if found.left:
        cause = f"{found.left:,} calls wait on this host's disk that no running process will write"
        consequence = "They are not in the table until a process that records starts here."
        fix = "llmctx journal, and llmctx journal replay --yes"
        findings.append(Finding("journal", False, cause, consequence, fix, settings.table))
    elif found.ours:
        findings.append(Finding("journal", True, f"{found.ours:,} calls are on their way", where=settings.table))
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
        await destination.trial(_specimen())
    except Exception as problem:  # noqa: BLE001  any failure is the finding
        cause = f"{type(problem).__name__}: {problem}".splitlines()[0]
        fix = f"GRANT INSERT ON {settings.table} TO the application's role."
        if classify(problem).no_partition:
            fix = f"CREATE TABLE {settings.table}_default PARTITION OF {settings.table} DEFAULT;"
        return Finding("insert", False, cause, "No row can be written.", fix, settings.table)
    return Finding("insert", True, "a row can be inserted (tried, and rolled back)", where=settings.table)


def _specimen() -> CallRecord:
    sink = MemorySink()
    call_log = CallLog(sink=sink, capture="explicit", db_schema="")
    with call_log, bind(session_id="doctor", user_id="doctor"), call_log.record(model="canary"):
        pass
    return sink.records[0]
