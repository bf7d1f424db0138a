"""Every start is noted, whichever thread makes the call, and none raises."""

from __future__ import annotations

import threading
import time

from llmctx.delivery.journal import Damage, Journal, read
from tests.kit.journals import WHO, files, new_id


def test_starts_from_many_threads_are_all_noted_while_files_change(journal: Journal) -> None:
    """None goes missing, none is torn, and the callers' descriptor never leads elsewhere."""
    ids: list[bytes] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            call_id = new_id()
            assert journal.start(call_id, 1.0, WHO)
            ids.append(call_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 1.0
    while time.monotonic() < until or len(ids) <= 1000:
        journal._markers.rewrite()
    stop.set()
    for thread in threads:
        thread.join()
    damage = Damage()
    noted = {found.payload[:16] for path in files(journal, "starts") for found in read(path, damage)}
    assert noted >= set(ids)
    assert damage.places == 0
    journal.mark_done(ids)


def test_a_start_never_raises(journal: Journal) -> None:
    """Whatever it is given."""
    assert journal.start(new_id(), 1.0, {"model": "\ud800", "n": 10**400})
    assert journal.start(b"short", 1.0, WHO) is True
    assert journal.start("no bytes", 1.0, WHO) is False  # type: ignore[arg-type]
    journal.mark_done(list(journal._markers._open))
    journal.close()
    assert journal.start(new_id(), 1.0, WHO) is False
