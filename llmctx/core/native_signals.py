"""What the system itself does on a signal, below Python's handlers.

`signal.signal` puts Python's own function there, and so removes whatever a library has put before it which calls that
in turn: `faulthandler.register(SIGTERM, chain=True)`, a native library's.
"""

from __future__ import annotations

from typing import Any, Final

_BYTES: Final = 1024  # more than `struct sigaction` has anywhere


def native_action(number: int) -> Any:
    """Return what the system does on a signal, for `restore_native_action` alone; None where that cannot be told."""
    return _sigaction(number, None)


def restore_native_action(number: int, action: Any) -> None:
    """Have the system do what it did; nothing for None."""
    if action is not None:
        _sigaction(number, action)


def _sigaction(number: int, new: Any) -> Any:
    try:
        import ctypes  # not every Python has it

        call = ctypes.PyDLL(None).sigaction  # which keeps the interpreter to itself: no other thread runs meanwhile
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    before = ctypes.create_string_buffer(_BYTES)
    return before if call(int(number), new, before) == 0 else None
