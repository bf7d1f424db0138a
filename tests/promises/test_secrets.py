"""What must not be kept is nowhere: not in rows, journals, dead letters or the log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from tests.kit.rows import rows_of
from tests.kit.support import Talker, wait_until

model = Talker()


CANARIES = {
    "api_key": "sk-proj-Zx81kQpLmN02vBtYrEwQaSdFgHjKlZxC",
    "token": "ghp_0123456789abcdefghijABCDEFGHIJ456789",
    "email": "patient.zero@example-clinic.org",
    "card": "4111 1111 1111 1111",
    "phone": "13812345678",
    "password": "postgres://app:hunter2Swordfish@db/app",
    "iban": "DE89370400440532013000",
}


SECRETS = [*(secret for kind, secret in CANARIES.items() if kind != "password"), "hunter2Swordfish"]


class ProviderFails(Exception):
    """An error that quotes what it was sent."""


def _leak(call_log: CallLog) -> None:
    text = ", ".join(CANARIES.values())
    with bind(user_id="u", session_id="s", attributes={"url": f"https://x/?key={CANARIES['api_key']}", "note": text}):
        model.invoke(text, {"tags": [CANARIES["email"]]})
        with call_log.record(model="m", prompt=text) as call:
            call.set(response=text, reasoning=text, attributes={"more": text})
        with pytest.raises(ProviderFails), call_log.record(model="m", prompt=text):
            raise ProviderFails(f"POST https://x/v1?key={CANARIES['api_key']} failed: {text}")
        diagnostics.count("canary", "while reading %s", text, exc=ProviderFails(text))


def _everything(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("content", ["redacted", "none"])
def test_no_secret_is_found_anywhere(
    content: str, database: str, nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the rows, not in the journal, not in the quarantine, not in the log."""
    diagnostics.reset()
    folder = Path(os.environ["LLMCTX_JOURNAL_DIR"])
    with caplog.at_level(logging.DEBUG, "llmctx"):
        with CallLog(nowhere, content=content, shutdown_timeout_s=0.2) as call_log:
            _leak(call_log)
            call_log.flush(0.2)
            journal = _everything(folder)
        with CallLog(database, content=content) as call_log:
            _leak(call_log)
            assert call_log.flush(60) == 0
    rows = rows_of(database)
    assert len(rows) == 3
    assert (b"[redacted:" in journal, len(journal) > 500) == (True, True)
    for secret in SECRETS:
        assert secret.encode() not in journal
        assert secret not in caplog.text
        for row in rows:
            assert secret not in json.dumps([str(value) for value in row], ensure_ascii=False)
    assert {row.user_id for row in rows} == {"u"}
    assert all((row.prompt_snapshot is None) == (content == "none") for row in rows)


def test_the_quarantine_holds_no_secret(database: str) -> None:
    """A row that the database refuses is kept as it would have been stored."""
    with CallLog(database) as call_log:
        with bind(user_id="u", session_id="s"), call_log.record(model="m", prompt=", ".join(CANARIES.values())):
            pass
        assert call_log.flush(60) == 0
        sink: Any = call_log._worker.sink
        (row,) = rows_of(database)
        from llmctx.core.record import CallRecord

        record = CallRecord(
            call_id=row.call_id, created_at=row.created_at, model="m", prompt_snapshot=row.prompt_snapshot
        )
        assert sink._keep_rejected(record, "22021", "for the test")
    found = _everything(Path(os.environ["LLMCTX_JOURNAL_DIR"]))
    assert b"[redacted:" in found
    assert not [secret for secret in SECRETS if secret.encode() in found]


def test_full_content_is_full(database: str) -> None:
    """Who wants all of it gets all of it."""
    with CallLog(database, content="full") as call_log:
        _leak(call_log)
        assert call_log.flush(60) == 0
    assert all(secret in str(rows_of(database)[0].prompt_snapshot) for secret in SECRETS)


@pytest.mark.parametrize("problem", ["raises", "returns nothing", "hangs"])
def test_a_redaction_that_fails_costs_the_texts_and_no_row(
    problem: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The row says so, its identity is as it should be, and nothing of the texts is anywhere."""
    diagnostics.reset()
    stuck = threading.Event()

    def own(text: str) -> str:
        if problem == "raises":
            raise ValueError(text)
        if problem == "hangs":
            stuck.wait()
        return None  # type: ignore[return-value]

    with (
        caplog.at_level(logging.DEBUG, "llmctx"),
        CallLog(database, redact_functions=[own]) as call_log,
        bind(user_id="u", session_id="s", attributes={"a": "swordfish"}),
    ):
        model.invoke("swordfish")
        with pytest.raises(ProviderFails), call_log.record(model="m", prompt="swordfish") as call:
            call.set(attributes={"b": "swordfish"})
            raise ProviderFails("swordfish")
        assert call_log.flush(60) == 0
        kept = _everything(Path(os.environ["LLMCTX_JOURNAL_DIR"]))
        stuck.set()
    rows = rows_of(database)
    assert [(row.user_id, row.session_id, row.status, row.error_code) for row in rows] == [
        ("u", "s", "ok", None),
        ("u", "s", "error", "ProviderFails"),
    ]
    assert all("withheld" in str(row.attributes) for row in rows)
    assert "swordfish" not in str([list(row) for row in rows])
    assert b"swordfish" not in kept
    assert "swordfish" not in caplog.text


def test_a_redaction_that_calls_a_model(database: str) -> None:
    """Each of its calls is a row as well, without texts, and leads to no further one."""

    def own(text: str) -> str:
        with bind(attributes={"by": "own"}):
            Talker().invoke("is there a secret in it?")
        return text

    with CallLog(database, redact_functions=[own]) as call_log:
        with bind(user_id="u", session_id="s"):
            Talker().invoke("hello")
        wait_until(lambda: call_log.flush(60) == 0 and call_log.stats().waiting == 0, "all rows")
        stats = call_log.stats()
    rows = rows_of(database)
    assert (len(rows), stats.balanced) == (stats.written, True)
    (asked,) = [row for row in rows if row.user_id == "u"]
    assert "hello" in asked.prompt_snapshot
    assert all("made by a redaction function" in str(row.attributes) for row in rows if row is not asked)
    assert not [row for row in rows if row is not asked and row.prompt_snapshot is not None]


def test_a_kind_that_does_not_exist_is_a_config_error() -> None:
    """At once, and it says which there are."""
    from llmctx.core.errors import ConfigError

    with pytest.raises(ConfigError, match="email"):
        CallLog("sqlite:///x.db", redact="emial")
    with pytest.raises(ConfigError, match="redaction pattern 'own' cannot be used"):
        CallLog("sqlite:///x.db", redact_patterns={"own": "(a"})


async def test_the_teams_own_pattern(database: str) -> None:
    """Its name stands in the placeholder."""
    async with CallLog(database, redact=["email"], redact_patterns={"patient": r"P-\d{6}"}):
        await model.ainvoke("P-123456 wrote from a@b.org, 13812345678")
    (row,) = await asyncio.to_thread(rows_of, database)
    assert "[redacted:patient] wrote from [redacted:email], 13812345678" in row.prompt_snapshot
