"""`ColumnSpec`: a column's kind, and who fills, marks, shows or erases it.

The columns themselves are declared as the fields of `CallRecord`, in `record.py`: a new one is a line there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ColumnKind(StrEnum):
    """The kind of a column's values: decides the type in the table, how it is cleaned, and the journal's spelling."""

    ID = "id"  # text that tells users, sessions, … apart: never cut without a mark made of the whole
    TEXT = "text"
    SNAPSHOT = "snapshot"  # what was said, as JSON text
    COUNT = "count"  # a 32-bit integer
    NUMBER = "number"  # a double
    MONEY = "money"  # US dollars, numeric(18, 9)
    FLAG = "flag"
    TIME = "time"  # aware, in UTC
    UUID = "uuid"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """One column of the table, as it is declared in `CallRecord`.

    Attributes:
        required: It is never NULL, and a table without it is not a call log.
        added: llmctx adds it to a table that it adopts; the others are there already, in most of them.
        personal: `erase --blank` empties it.
        link: Rows that share its value belong together: a session, a thread, …
        marked: The journal's start marker carries it, so that a call keeps it when its process dies.
        minted: llmctx sets it, and nothing else does: not even `CallLog.record`.
        filter: The field of `Filters`, and the option of the command line, that selects rows by it.
        group: Where `llmctx show` lists it: what, tokens, usage, run or who, where all ids are; None has no line there.
        limit: Characters of a text.
    """

    name: str = ""
    kind: ColumnKind
    required: bool = False
    added: bool = False
    personal: bool = False
    link: bool = False
    marked: bool = False
    minted: bool = False
    filter: str | None = None
    group: str | None = "what"
    limit: int = 1024
