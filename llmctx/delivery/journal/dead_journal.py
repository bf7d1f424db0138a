"""The journal of a dead process, which is recovered by exactly one living process.

The process that gets the lock of a directory whose own process has died reads all of its files before deciding
anything: only a call of which no file knows more than its start is lost, neither there nor in another journal of the
same process. The directory goes when everything in it is stored (`finish`); a process that dies before that leaves it
to the next one. So a row may be stored twice, which is harmless: its key, call_id and created_at, comes from the
journal each time. A frame that is whole and makes no sense costs itself alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint
from llmctx.core.process import Forkable, ForkStage, fork_lock
from llmctx.core.record import SPECS, CallRecord, Status
from llmctx.core.text import counted
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal import owner as owners
from llmctx.delivery.journal.frames import (
    ID_BYTES,
    Damage,
    Frame,
    Kind,
    Start,
    columns_of,
    frame,
    frames_in,
    ids_of,
    record_of,
    start_of,
    unpack_record,
    with_columns,
)
from llmctx.delivery.journal.owner import Owner
from llmctx.storage.sanitize import clean

Accepts = Callable[[Endpoint, bool], bool]
"""Called with where a dead journal's rows are to go, and whether it lies in the own directory."""
_NOWHERE: Final = Endpoint()
_OF_THE_MARKER: Final = frozenset(spec.name for spec in SPECS if spec.marked)


class DeadJournal:
    """The journal of one dead process. Locked until `finish` or `release`; leaving the `with` block releases it.

    for dead in journal.recover():
        with dead:
            if all of dead.rows() are stored:
                dead.finish()
    """

    def __init__(
        self, name: str, root: int, folder: int, lock: int, endpoint: Endpoint = _NOWHERE, roots: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        """Where its rows are to go, as far as its process knew."""
        self._root, self._folder, self._lock = root, folder, lock
        self._roots = roots or (root,)  # where its process may have begun another journal
        self._held = True
        self.damage = Damage()
        """What could not be read."""
        self.clean = False
        """Whether the process had closed its journal."""
        self._starts: dict[bytes, Start] = {}
        self._recorded: set[bytes] = set()
        self._done: set[bytes] = set()
        _held.add(self)

    def __len__(self) -> int:
        return len(self._recorded - self._done) + len(self._lost_ids())

    def rows(self) -> Iterator[CallRecord]:
        """Yield every row that must still be stored: records that are not done, then the calls that are lost."""
        yield from self.records()
        yield from self.lost_calls()

    def records(self) -> Iterator[CallRecord]:
        """Yield records that are not known to be stored, each once; read as they are asked for."""
        yielded: set[bytes] = set()
        for name in directories.names_in(self._folder):
            for found in frames_in(directories.read_file(name, self._folder)):
                call_id = found.payload[:ID_BYTES]
                if found.kind == Kind.RECORD and call_id not in self._done and call_id not in yielded:
                    try:
                        # it may be of another version of llmctx
                        record = clean(unpack_record(found.payload))
                    except Exception as problem:  # noqa: BLE001  whole, and yet no record: of a version to come?
                        self._recorded.discard(call_id)  # its start may still be told
                        diagnostics.count(
                            "journal_damaged", "a journal contains a record that cannot be read", exc=problem
                        )
                        continue
                    self._recorded.add(call_id)
                    yielded.add(call_id)
                    yield record

    def lost_calls(self) -> Iterator[CallRecord]:
        """Yield rows of the calls that were open when the process died: identity and model, status `lost`."""
        open_ids = self._lost_ids()
        elsewhere = self._known_elsewhere() if open_ids else set()
        for call_id in open_ids:
            if call_id in elsewhere:
                continue
            start = self._starts[call_id]
            fields = {name: value for name, value in start.fields.items() if name in _OF_THE_MARKER}
            for more in (fields, {}):
                try:
                    record = clean(record_of(more | _born(start)))
                except Exception as problem:  # noqa: BLE001  as above
                    diagnostics.count("journal_damaged", "a journal contains a start that cannot be read", exc=problem)
                else:
                    yield record
                    break

    def _known_elsewhere(self) -> set[bytes]:
        """Return the calls that have records in other journals of the same process, or are done there."""
        process = self.name.rpartition("-")[0] + "-"
        known: set[bytes] = set()
        for root in self._roots:
            for name in directories.process_directories_in(root):
                if name == self.name or not name.startswith(process):
                    continue
                try:
                    folder = directories.open_inside(name, root)
                except OSError as problem:
                    directories.pass_on_shortage(problem)
                    continue
                try:
                    for file in directories.names_in(folder):
                        for found in frames_in(directories.read_file(file, folder)):
                            if found.kind == Kind.RECORD:
                                known.add(found.payload[:ID_BYTES])
                            elif found.kind == Kind.DONE:
                                known.update(ids_of(found.payload))
                finally:
                    os.close(folder)
        return known

    def finish(self) -> None:
        """Remove the directory: everything is stored."""
        if self._held:
            directories.clear(self.name, self._folder, self._root)
            self.release()

    def release(self) -> None:
        """Leave it to the next process that asks."""
        if self._held:
            self._held = False
            os.close(self._lock)
            os.close(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def scan(self) -> None:
        """Read what is there: to be called before anything else."""
        for name in directories.names_in(self._folder):
            for found in frames_in(directories.read_file(name, self._folder), self.damage):
                if found.kind == Kind.RECORD:
                    self._recorded.add(found.payload[:ID_BYTES])
                elif found.kind == Kind.DONE:
                    self._done.update(ids_of(found.payload))
                elif found.kind == Kind.END:
                    self.clean = True
                elif found.kind == Kind.START:
                    try:
                        start = start_of(found.payload)
                    except ValueError:
                        self.damage.places += 1
                    else:
                        self._starts[start.call_id] = start
        if self.damage.places:
            diagnostics.count(
                "journal_damaged",
                "%s (%s) of a dead process's journal could not be read",
                counted(self.damage.places, "place"),
                counted(self.damage.bytes, "byte"),
            )

    def _lost_ids(self) -> list[bytes]:
        return [call_id for call_id in self._starts if call_id not in self._recorded and call_id not in self._done]


_held: Final = Forkable(ForkStage.DEAD_JOURNAL, DeadJournal.release)
"""A child shares its parent's locks: what the parent recovers would be held until both have died."""


def _born(start: Start) -> dict[str, Any]:
    # as `row.py` makes created_at of the same number
    created = datetime.fromtimestamp(start.created_s, UTC)
    return {
        "call_id": str(UUID(bytes=start.call_id)),
        "created_at": created.isoformat(),
        "status": Status.LOST.value,
        "success": False,
        "error_code": "process_lost",
        "error_message": "the process ended before the call did",
    }


def recover(root: int, accepts: Accepts | None = None, elsewhere: Sequence[Path] = ()) -> Iterator[DeadJournal]:
    """Yield every journal whose process has died and that no other process has locked: those in `root`, then those in
    the directories `elsewhere` that can be opened. Close `root`.
    """
    with open_dead_journals(root, accepts, elsewhere) as found:
        for dead in found:
            try:
                yield dead
            finally:
                dead.release()


@contextlib.contextmanager
def open_dead_journals(
    root: int, accepts: Accepts | None = None, elsewhere: Sequence[Path] = ()
) -> Iterator[Iterator[DeadJournal]]:
    """Open what `recover` yields, for the caller to release before the end of the block: several at a time."""
    with _opened(root, elsewhere) as roots:
        yield _scanned(_dead_in(roots, accepts))


def has_orphans(root: int, elsewhere: Sequence[Path] = ()) -> bool:
    """Return whether `recover` would yield anything, of which nothing is read. Close `root`."""
    with _opened(root, elsewhere) as roots:
        for dead in _dead_in(roots):
            dead.release()
            return True
    return False


@contextlib.contextmanager
def _opened(root: int, elsewhere: Sequence[Path]) -> Iterator[list[int]]:
    roots = [root]
    try:
        for path in elsewhere:
            with contextlib.suppress(OSError):
                roots.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW))
        yield roots
    finally:
        for one in roots:
            os.close(one)


def _dead_in(roots: list[int], accepts: Accepts | None = None) -> Iterator[DeadJournal]:
    for one in roots:
        for name, folder in directories.folders_in(one):
            dead = _take(name, one, folder, roots, accepts)
            if dead is None:
                os.close(folder)
            else:
                yield dead


def _scanned(journals: Iterator[DeadJournal]) -> Iterator[DeadJournal]:
    for dead in journals:
        try:
            dead.scan()
        except BaseException:
            dead.release()
            raise
        yield dead


def _take(name: str, root: int, folder: int, roots: Sequence[int], accepts: Accepts | None) -> DeadJournal | None:
    """Return a journal, locked, if its process has died and it is accepted."""
    with fork_lock:
        lock = None
        try:
            lock = directories.lock(folder)
            if lock is None:
                return None
            owner = owners.read(folder) or Owner()
            if (accepts is None or accepts(owner.endpoint, root == roots[0])) and not owners.is_alive(
                name, folder, owner
            ):
                return DeadJournal(name, root, folder, lock, owner.endpoint, roots)
        except OSError as problem:
            diagnostics.count("journal_failed", "a journal cannot be read at the moment: %s", problem)
        if lock is not None:
            os.close(lock)
        return None


Keep = Callable[[dict[str, Any]], "bool | dict[str, Any]"]
"""Called with the columns of a row. Returns whether the row stays, or the columns to keep instead."""


def erase(root: int, keep: Keep, of: Callable[[Endpoint], bool]) -> tuple[int, int]:
    """Remove the frames of dead processes for whose columns `keep` returns False, or change them; only of such
    processes as wrote for a place for which `of` returns True.

    Return for how many, and how many journals belong to living processes, which write theirs themselves.
    """
    removed = living = 0
    for name, folder in directories.folders_in(root):
        if not of((owners.read(folder) or Owner()).endpoint):
            os.close(folder)
            continue
        lock = None
        try:
            if (lock := directories.lock(folder)) is None or owners.is_alive(name, folder):
                living += 1
                continue
            for file in directories.names_in(folder):
                if file != directories.LOCK:
                    removed += rewrite(file, folder, keep)
        finally:
            os.close(folder)
            if lock is not None:
                os.close(lock)
    return removed, living


def rewrite(name: str, folder: int, keep: Keep, of: Callable[[Frame], bool] = lambda found: True) -> int:
    """Leave out of a file what `keep` does not want, in one step. Return how many frames have gone, or changed."""
    touched = 0
    kept: list[bytes] = []
    for found in frames_in(directories.read_file(name, folder)):
        columns = columns_of(found) if of(found) else None
        wanted = True if columns is None else keep(columns)
        if wanted is not True:
            touched += 1
        if isinstance(wanted, dict):
            kept.append(frame(found.kind, with_columns(found, wanted)))
        elif wanted:
            kept.append(frame(found.kind, found.payload))
    if touched:
        directories.replace(name, folder, b"".join(kept))
    return touched
