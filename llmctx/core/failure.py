"""The meaning of a destination's exception for the rows that wait: who is to blame, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["reconnect", "transient", "config", "poison"]


@dataclass(slots=True, frozen=True)
class Failure:
    """The meaning of an exception that a database, a broker or another destination raised."""

    kind: Kind
    """- *reconnect*: the connection is of no use. Reset it, wait, try again.
    - *transient*: the place is busy or full. Wait with back-off, try again.
    - *config*: the place is not set up right. Keep the rows, log it loudly, try again.
    - *poison*: seems to follow the row."""
    code: str
    """A short code: an SQLSTATE, an HTTP status, the name of an exception."""
    text: str
    """The words of the error. They may quote the row: not logged where `kind` is poison."""
    name: str = ""
    """What was refused, without a word of the row's."""
    is_deferrable: bool = False
    """The place has no room for this row yet: it waits aside, and the others pass."""
    remedy: str = ""
    """What to do about it, for logs; empty where only the destination's own remedy is known."""

    @property
    def is_outage(self) -> bool:
        """Return whether it says nothing about the rows, nor about how the place is set up."""
        return self.kind in ("reconnect", "transient")

    @property
    def shown(self) -> str:
        """Return it as a text for logs."""
        return f"{self.name if self.kind == 'poison' else self.text} [{self.code}]"
