"""What `doctor` says where no row can be inserted: what is wrong by the database's own words, and what mends that."""

from __future__ import annotations

import asyncio

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor.install_checks import database, state_of
from llmctx.settings import load
from tests.kit.rows import do

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
