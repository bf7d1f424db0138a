"""Calls that have ended, on their way into the pipeline: a deque, and bounded.

Appending is all that a caller's thread does, as long as few wait. Where many do, because calls come faster than they
can be made into rows or because the disk has hung up, what they weigh is estimated from a sample now and then. Beyond
the limit a call goes without its texts, and its row says so; where even that is too much, the newest is refused, and
counted.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from llmctx.capture.open_calls import OpenCall
from llmctx.capture.payload.messages import UnreadAnswer
from llmctx.core.diagnostics import diagnostics

LEAST_BYTES: Final = 4 * 1024 * 1024
"""Less is no use: a second of a busy application."""
FEW: Final = 64
_SAMPLE: Final = 16
_LOOK_EVERY: Final = 64  # calls, while many wait
_BARE_BYTES: Final = 4096  # a call without its texts, with all that belongs to it
_PIECES: Final = 64  # of one call that are weighed


class CallQueue(deque[OpenCall]):
    """`put` may be called by any thread; calls are taken from the left, by one."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._limit = limit_bytes
        self._most = max(FEW, self._limit // _BARE_BYTES)
        self._looks = 0
        self.is_overloaded = False
        """What waits weighs too much."""
        self.without_texts: set[OpenCall] = set()
        """Those of which the texts were let go."""
        self.refused_calls: deque[OpenCall] = deque()
        """The pipeline counts them."""

    @property
    def is_nearly_full(self) -> bool:
        """Return whether calls will soon be refused."""
        return len(self) > self._most * 3 // 4

    def put(self, call: OpenCall) -> None:
        """Take `call`, or refuse it. Either way it is `delivered`."""
        if len(self) < FEW:
            if self.is_overloaded:
                self.is_overloaded = False
            # on one line, so that no failure comes between: what has been delivered must not be delivered again
            call.delivered = self.append(call) is None  # type: ignore[func-returns-value]  # None it is
            return
        self._looks += 1
        if self._looks % _LOOK_EVERY == 0:
            self._look()
        if len(self) < self._most:
            if self.is_overloaded:
                self.strip(call)
            call.delivered = self.append(call) is None  # type: ignore[func-returns-value]
        else:
            diagnostics.count("calls_refused", "%d calls wait for the pipeline: the newest are lost", len(self))
            call.delivered = self.refused_calls.append(call) is None  # type: ignore[func-returns-value]

    def drain_refused(self, forget: Callable[[list[bytes]], None]) -> int:
        """Take the refused ones out, and tell `forget` that no rows will come. Return how many there were."""
        if not self.refused_calls:
            return 0
        gone = [self.refused_calls.popleft() for _ in range(len(self.refused_calls))]
        forget([call.call_id.bytes for call in gone])
        return len(gone)

    def is_without_texts(self, call: OpenCall) -> bool:
        """Return whether the texts of `call` were let go. It is asked once."""
        if call not in self.without_texts:
            return False
        self.without_texts.discard(call)
        return True

    def _look(self) -> None:
        count = len(self)
        weights = []
        for at in range(0, count, max(1, count // _SAMPLE)):
            try:
                weights.append(_weight(self[at]))
            except IndexError:  # the pipeline has taken some meanwhile
                break
        self.is_overloaded = bool(weights) and sum(weights) / len(weights) * count > self._limit

    def strip(self, call: OpenCall) -> None:
        """Let go of the texts of `call`. Its row says so."""
        self.without_texts.add(call)
        call.prompt = None
        answer = call.answer.read() if isinstance(call.answer, UnreadAnswer) else call.answer
        if answer is not None:
            choices = [one._replace(text="", reasoning="", refusal=None, calls=()) for one in answer.choices]
            call.answer = answer._replace(choices=tuple(choices))
        diagnostics.count(
            "snapshots_dropped", "calls arrive faster than they can be processed: rows are stored without texts"
        )


def _weight(call: OpenCall) -> int:
    """About how many bytes the texts of `call` hold."""
    weight = _BARE_BYTES
    todo: list[object] = [call.prompt, call.answer]
    for _ in range(_PIECES):
        if not todo:
            break
        piece = todo.pop()
        if isinstance(piece, (str, bytes)):
            weight += sys.getsizeof(piece)
        elif isinstance(piece, (tuple, list)):
            todo += piece
        elif isinstance(piece, dict):
            todo += piece.values()
    return weight
