"""A journal of one test, and what is left of it after its process."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import uuid_utils

from llmctx.core.record import CallRecord
from llmctx.delivery.journal import Journal

WHO = {"session_id": "s", "user_id": "u", "model": "m"}


def record(**fields: Any) -> CallRecord:
    given: dict[str, Any] = {"model": "m", "user_id": "u", "session_id": "s", "success": True, "status": "ok"}
    given |= {"call_id": UUID(int=uuid_utils.uuid7().int), "created_at": datetime.now(UTC)}
    return CallRecord(**{**given, **fields})


def die(journal: Journal) -> None:
    """What a kill leaves: the files, and nobody who holds the lock. The journal does nothing any more."""
    journal._leave_to_parent()


def taken(journal: Journal, finish: bool = True) -> tuple[list[CallRecord], list[CallRecord]]:
    """Records and lost calls of all dead journals."""
    records: list[CallRecord] = []
    lost: list[CallRecord] = []
    for adopted in journal.recover():
        with adopted:
            records += adopted.records()
            lost += adopted.lost_calls()
            if finish:
                adopted.finish()
    return records, lost


def new_id() -> bytes:
    return uuid_utils.uuid7().bytes


def files(journal: Journal, what: str) -> list[Path]:
    return sorted((journal.directory / journal.name).glob(f"{what}-*"))
