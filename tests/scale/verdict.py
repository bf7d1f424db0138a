"""The judge's figures: each row that was made is in the table, once, with its user, and the ledgers add up."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_USERS: Final = 97


def user_of(session: str) -> str:
    """Return the user whose session this is."""
    return f"u{zlib.crc32(session.encode()) % _USERS}"


@dataclass(slots=True)
class Verdict:
    """What is wrong, and what was counted."""

    made: int = 0
    rows: int = 0
    distinct: int = 0
    missing: int = 0
    unknown: int = 0
    wrong: int = 0
    """Rows of another user than the one whose session it was."""
    left_on_broker: int = 0
    exit_codes: list[int] = field(default_factory=list)
    repeats: int = 0
    ledgers: int = 0
    """Of processes that lived to the end."""
    ledgers_off: list[str] = field(default_factory=list)
    connections: int = 0
    """The most that llmctx held at the database at once, where they were counted."""
    most_connections: int | None = None
    """That it may hold, where that matters."""
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def findings(self) -> list[str]:
        """Return what is wrong, each in a sentence."""
        found = [f"{self.missing} rows are missing"] if self.missing else []
        found += [f"{self.rows - self.distinct} rows are double"] if self.rows != self.distinct else []
        found += [f"{self.unknown} rows were never made"] if self.unknown else []
        found += [f"{self.wrong} rows have the wrong user"] if self.wrong else []
        found += [f"{self.left_on_broker} frames are left on the broker"] if self.left_on_broker else []
        found += [f"a process ended with {code}" for code in self.exit_codes if code]
        if self.most_connections is not None and self.connections > self.most_connections:
            found.append(f"{self.connections} connections were held")
        return found + self.ledgers_off

    def count(self, made: set[str], stored: list[tuple[str, str]], *, has_users: bool) -> None:
        """Hold the rows, an id and a user each, against the ids that were made."""
        ids = [one for one, _ in stored]
        found = set(ids)
        self.made, self.rows, self.distinct = len(made), len(ids), len(found)
        self.missing, self.unknown = len(made - found), len(found - made)
        self.wrong = sum(user != user_of(session) for session, user in stored) if has_users else 0

    def add_up(self, made: Iterable[str], book: Path) -> None:
        """Hold the ledgers of processes that lived to the end against what they had made by the book."""
        calls = Counter(name.rpartition(":")[0] for name in made)
        if not book.exists():
            return
        for line in book.read_text().splitlines():
            ledger = json.loads(line)
            self.ledgers += 1
            parts = sum(ledger[name] for name in ("written", "waiting", "quarantined", "dropped"))
            lost = ledger["waiting"] or ledger["quarantined"] or ledger["dropped"]
            if not calls[ledger["process"]] == ledger["made"] == ledger["started"] == parts or lost:
                self.ledgers_off.append(f"a ledger is off: {line}, {calls[ledger['process']]} stand in the book")

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        held = f", {self.connections} connections at most" if self.connections else ""
        return (
            f"made {self.made:,}, rows {self.rows:,}, distinct {self.distinct:,}, missing {self.missing}, "
            f"wrong {self.wrong}, {self.ledgers} ledgers of which {len(self.ledgers_off)} are off{held}; "
            f"judged in {self.seconds:.1f} s; {self.faults.total()} faults: {faults}"
        )
