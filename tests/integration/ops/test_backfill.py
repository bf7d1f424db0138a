"""Old rows get their ids where the truth can be known: none is wrong, and every one can be taken back."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from llmctx import cli
from llmctx.core.record import DEFAULT_TABLE
from llmctx.ops.backfill import backfill, undo
from llmctx.settings import load
from tests.kit import older
from tests.kit.rows import do, nobody, query, record, store, who


async def test_each_rule_fills_its_rows_and_says_so(any_database: str, tmp_path: Path) -> None:
    """Trace, thread, conversation, session; a rehearsal changes nothing; the way back leads all the way."""
    settings = load(database_url=any_database)
    rows = {
        "trace": nobody(trace_id="tr"),
        "thread": nobody(thread_id="th"),
        "conversation": nobody(conversation_id="co"),
        "session": nobody(session_id="s-1", identity_reason="partial"),
    }
    ada = record(user_id="ada", session_id="s-1", trace_id="tr", thread_id="th", conversation_id="co")
    others = [
        nobody(), nobody(session_id="   "), record(user_id="", session_id="s-2"), nobody(session_id="s-2"),
        record(user_id="bob", session_id="   "),
    ]  # fmt: skip
    await store(settings, ada, *rows.values(), *others)
    undo_file = tmp_path / "undo.jsonl"

    planned = await backfill(settings, undo_file=undo_file)
    assert planned.filled == {"trace": 1, "thread": 1, "conversation": 1, "session": 1}
    assert not undo_file.exists()
    assert await who(settings, rows["trace"]) == (None, None, "none", "no_scope")

    done = await backfill(settings, do=True, undo_file=undo_file)
    assert (done.filled, done.users, done.sessions) == (planned.filled, 4, 3)
    assert {name for name, samples in done.samples.items() if samples[0].user_id == "ada"} == set(rows)
    for rule, row in rows.items():
        assert await who(settings, row) == ("ada", "s-1", f"backfill:{rule}", None)
    for row in others[:2]:
        assert (await who(settings, row))[0] is None
    assert undo_file.stat().st_mode & 0o777 == 0o600

    again = await backfill(settings, do=True, undo_file=tmp_path / "second.jsonl")
    assert not again.filled
    assert not (tmp_path / "second.jsonl").exists()
    assert await undo(settings, undo_file) == 4
    assert await undo(settings, undo_file, do=True) == 4
    assert await who(settings, rows["session"]) == (None, "s-1", "none", "partial")
    assert await undo(settings, undo_file, do=True) == 0


async def test_nothing_is_concluded_from_conclusions(any_database: str, tmp_path: Path) -> None:
    """A -> trace -> session -> thread: only the first step is certain, also in the second run."""
    settings = load(database_url=any_database)
    first = nobody(trace_id="t", session_id="s")
    second = nobody(session_id="s", thread_id="h")
    third = nobody(thread_id="h")
    await store(settings, record(user_id="ada", session_id=None, trace_id="t"), first, second, third)
    for run in range(3):
        await backfill(settings, do=True, undo_file=tmp_path / f"{run}.jsonl")
    assert (await who(settings, first))[0] == "ada"
    assert (await who(settings, second))[0] is None
    assert (await who(settings, third))[0] is None


async def test_no_row_is_wrong_whatever_the_tables_hold(database: str, tmp_path: Path) -> None:
    """Two thousand calls of whom the truth is known, with shared sessions, taken over threads and crowds."""
    settings = load(database_url=database)
    chance = random.Random(5)
    truth: dict[str, tuple[str, str]] = {}
    rows = []
    for number in range(2000):
        user = f"u{chance.randrange(60)}"
        session = "default" if chance.random() < 0.05 else f"s-{user}-{chance.randrange(3)}"
        session = f"s-group-{chance.randrange(4)}" if chance.random() < 0.1 else session
        trace = f"t-{number // 2}"
        if number % 2:  # the second call of a request belongs to the first one's user
            user, session = truth[rows[-1].call_id.hex]
        knows_user, knows_session = chance.random() < 0.7, chance.random() < 0.7
        one = record(
            user_id=user if knows_user else None,
            session_id=session if knows_session else None,
            trace_id=trace if chance.random() < 0.8 else None,
            thread_id=f"h-{session}" if chance.random() < 0.5 else None,
        )
        truth[one.call_id.hex] = (user, session)
        rows.append(one)
    await store(settings, *rows)
    gaps = sum((one.user_id is None) + (one.session_id is None) for one in rows)
    report = await backfill(settings, do=True, undo_file=tmp_path / "undo")
    found = await query(database, f"SELECT call_id, user_id, session_id FROM {DEFAULT_TABLE}")
    wrong = [
        row for row in found for got, true in zip(row[1:], truth[row[0].hex], strict=True) if got not in (None, true)
    ]
    # A session or thread of several may have one known user: that is the rule's own doubt, and no more than that.
    shared = {pair for pair in truth.values() if pair[1].startswith(("s-group", "default"))}
    assert [row for row in wrong if truth[row[0].hex] not in shared] == []
    filled = report.users + report.sessions
    assert filled > 0.5 * gaps


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_tables_that_were_there_before(empty_database: str, tmp_path: Path, shape: older.Shape) -> None:
    """Numbered users stay numbers; a mapping that names a text there fills nothing; no column says by which rule."""
    rows = [
        older.row(shape, 1, trace_id="t-1"),
        older.row(shape, 2, user_id=None, session_id=None, trace_id="t-1"),
        older.row(shape, 3, user_id=None, session_id="s-other"),
    ]
    await do(empty_database, *older.made(shape), *rows)
    settings = load(database_url=empty_database)
    mapping = tmp_path / "map.csv"
    mapping.write_text("session_id,user_id\ns-other,grace\n,nobody\n", encoding="utf-8")
    report = await backfill(settings, do=True, csv=mapping, undo_file=tmp_path / "undo")
    expected = {"trace": 1} if shape == "numbered" else {"trace": 1, "mapping": 1}
    assert report.filled == expected
    assert any("identity_source" in note for note in report.notes)
    found = await query(empty_database, f"SELECT user_id::text, session_id FROM {DEFAULT_TABLE} ORDER BY call_id")
    assert found[1] == ("7", "s-7")
    assert found[2][0] == (None if shape == "numbered" else "grace")
    assert await undo(settings, tmp_path / "undo", do=True) == len(expected)


def test_on_the_command_line(
    any_database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and samples by rule, in eighty columns; the command that takes it back is named."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    long = "u-" + "x" * 60
    asyncio.run(
        store(load(database_url=any_database), record(user_id=long, session_id="s-1"), nobody(session_id="s-1"))
    )

    def llmctx(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.run(["--database-url", any_database, "backfill", *arguments]), *capsys.readouterr()

    code, out, err = llmctx()
    assert (code, "session" in out, "--yes" in err) == (0, True, True)
    assert max(map(len, out.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == [tmp_path / "llmctx.db"] * (not any_database.startswith("postgresql"))
    assert llmctx("--rule", "guess")[0] == 2
    assert llmctx("--map", "missing.csv")[0] == 2
    code, out, err = llmctx("--yes")
    command = err.strip().rpartition("llmctx ")[2].split()
    assert command[:2] == ["backfill", "--undo"]
    assert llmctx(*command[1:])[0] == 0
    assert json.loads(llmctx("--json")[1])["filled"] == {"session": 1}
    assert llmctx("--undo", "missing.jsonl")[0] == 2
