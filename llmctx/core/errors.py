"""The exception tree. Each docstring is the default message and ends with the remedy.

They are assigned: `python -OO` leaves out the others.

    LlmctxError
    ├── ConfigError            (also a ValueError)
    ├── DatabaseUnavailable
    ├── MigrationsPending
    ├── NotACallLog
    ├── JournalUnavailable
    └── InvalidToken

They reach code that calls llmctx on purpose (constructors, the command line, migrations). Nothing here is
ever raised into a host application from a callback, a middleware or a graph: there, trouble is counted
and logged (`diagnostics.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final


class LlmctxError(Exception):
    __doc__ = "Something went wrong in llmctx. See the log for details."

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class ConfigError(LlmctxError, ValueError):
    __doc__ = "A setting has a value that llmctx cannot use. Correct the setting that the message names."


class DatabaseUnavailable(LlmctxError):
    __doc__ = "The database cannot be reached. Check that it runs and that LLMCTX_DATABASE_URL points to it."


class MigrationsPending(LlmctxError):
    __doc__ = "The call log table is missing or behind this version. Run `llmctx migrate`."


class NotACallLog(LlmctxError):
    __doc__ = "A table of that name exists but is not a call log. Choose another name with LLMCTX_TABLE."


class JournalUnavailable(LlmctxError):
    __doc__ = "The journal's directory cannot be used. Set LLMCTX_JOURNAL_DIR to one that this user may write."


class InvalidToken(LlmctxError):
    __doc__ = "The token was not signed with our key. Use the same LLMCTX_HANDOVER_KEY in every process."


_KEY_BYTES: Final = 16


class TemporarilyUnavailable(LlmctxError):
    """It cannot be done now, for a reason that passes."""


_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_shortage(problem: BaseException) -> bool:
    """Return whether no descriptor or no memory is left to this process, or to the machine: that says nothing of a
    file, and passes.
    """
    return isinstance(problem, OSError) and problem.errno in _SHORTAGES


def check_keys(keys: Sequence[str]) -> None:
    """Raise `ConfigError` if one of the hand-over keys can be guessed."""
    if any(len(key.encode("utf-8", "surrogatepass")) < _KEY_BYTES for key in keys):
        raise ConfigError(
            "LLMCTX_HANDOVER_KEY is too short: a key of fewer than 16 bytes can be guessed. "
            "Make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`."
        )
