"""What `doctor` says where no row can be inserted: what is wrong by the database's own words, and what mends that."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from pathlib import Path

from llmctx.calllog import CallLog
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor.finding import Finding
from llmctx.ops.doctor.install_checks import database, journal_directory, state_of
from llmctx.settings import Settings, load
from tests.kit.rows import do
from tests.kit.small_disk import SmallDisk

RAISES = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION USING ERRCODE = '{}', MESSAGE = '{}'; END $$
"""
REFUSALS = {
    # recorded from Citus 13.2.2, a worker of which was stopped
    ("08006", "connection to the remote node postgres@127.0.0.1:9702 failed with the following error"): "every server",
    ("57P03", "the database system is starting up"): "every server",
    ("25006", "cannot execute INSERT in a read-only transaction"): "primary",
    ("53100", "could not extend file: No space left on device"): "disk",
    ("55P03", "canceling statement due to lock timeout"): "busy",
    ("42501", "permission denied for table"): f"GRANT INSERT ON {DEFAULT_TABLE}",
    ("23514", "new row violates a check constraint"): "constraints and triggers",
}


async def test_each_refusal_of_the_trial_row_has_its_own_cure(empty_database: str) -> None:
    """A right is granted where one lacks: not where a server is away, or a disk full."""
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings)
    trigger = f"CREATE TRIGGER refuse BEFORE INSERT ON {DEFAULT_TABLE} FOR EACH ROW EXECUTE FUNCTION refuse()"
    await do(empty_database, RAISES.format("P0001", ""), trigger)
    state = await asyncio.to_thread(state_of, settings)
    for (code, words), cure in REFUSALS.items():
        await do(empty_database, RAISES.format(code, words))
        (finding,) = [one for one in await database(settings, state) if one.name == "insert"]
        assert not finding.ok
        assert words in finding.cause
        assert cure in finding.fix, finding
        assert ("GRANT" in finding.fix) is (code == "42501")


async def test_it_says_where_rows_wait_while_the_database_is_away(nowhere: str, tmp_path: Path) -> None:
    """In the journals, and how many; in memory only where that was chosen."""
    settings = load(database_url=nowhere, journal_dir=str(tmp_path))
    with CallLog(nowhere, journal_dir=str(tmp_path), shutdown_timeout_s=0.1) as call_log:
        for _ in range(3):
            with call_log.record(model="m"):
                pass
    away, journal = await database(settings, await asyncio.to_thread(state_of, settings))
    assert away.consequence.startswith("Rows wait in the journals")
    assert journal.cause.startswith("3 calls wait on this host's disk")
    settings = load(database_url=nowhere, journal_dir=str(tmp_path), durability="memory")
    away, *_ = await database(settings, await asyncio.to_thread(state_of, settings))
    assert away.consequence.startswith("Rows wait in memory, and are lost")


async def test_it_says_what_the_table_lacks(any_empty_database: str) -> None:
    """Where there is none, and where a column was dropped after the migration."""
    settings = load(database_url=any_empty_database)
    for lacking, made in (("the table is missing", False), ("latency_ms", True)):
        if made:
            await asyncio.to_thread(migrate.upgrade, settings)
            await do(any_empty_database, f"ALTER TABLE {DEFAULT_TABLE} DROP COLUMN latency_ms")
        state = await asyncio.to_thread(state_of, settings)
        found = await database(settings, state)
        if made and not settings.is_postgresql:
            continue  # whose tables are not looked at again once they are at head
        (finding,) = [one for one in found if one.name == "migration"]
        assert lacking in finding.cause


async def test_a_journal_that_cannot_be_written_is_found(any_database: str, tmp_path: Path) -> None:
    """A file is where its directory should be, or its disk is full."""
    (tmp_path / "file").write_text("")
    await _found(any_database, tmp_path / "file")
    try:
        disk = SmallDisk(tmp_path / "disk", 1)
    except OSError:  # no right to mount one: what a limit refuses stands for it
        _found_under_a_limit(any_database, tmp_path)
        return
    try:
        disk.fill()
        settings = await _found(any_database, disk.folder)
        disk.free()
        assert all(one.ok for one in await database(settings, await asyncio.to_thread(state_of, settings)))
        assert not [one for one in disk.folder.iterdir() if one.is_file()]
    finally:
        disk.remove()


async def _found(url: str, place: Path) -> Settings:
    settings = load(database_url=url, journal_dir=str(place))
    found = await database(settings, await asyncio.to_thread(state_of, settings))
    _judge([one for one in found if not one.ok])
    return settings


def _found_under_a_limit(url: str, place: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        found = journal_directory(load(database_url=url, journal_dir=str(place)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _judge(found)


def _judge(found: Sequence[Finding]) -> None:
    (finding,) = found
    assert finding.name == "journal directory"
    assert "lost when the process ends" in finding.consequence
