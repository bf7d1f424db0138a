"""The append-only journal on local disk through which every record passes on its way to the database.

What is in it survives the death of the process: the start of each call (`Journal.start`, from the caller's thread,
microseconds) and its whole row (`Journal.append`, from the pipeline's). When a process has died, exactly one living
process recovers what it left (`Journal.recover`): rows that may not be stored yet are stored again, calls that never
ended become rows with status `lost`. Bounded in bytes, private to the user, harmless when the disk is full or broken.

The package knows files and `CallRecord`s, and neither the pipeline nor the destination: `frames.py` the format of a
file, `directory.py` where files lie and which processes are alive, `journal.py`, `record_files.py` and
`start_markers.py` the process's own files, `dead_journal.py` those of dead processes, `dead_letters.py` rows that the
destination refuses, `inspect.py` reports, `operations.py` the rest that commands do to them.
"""

from llmctx.delivery.journal.dead_journal import DeadJournal
from llmctx.delivery.journal.dead_letters import DeadLetter, DeadLetters
from llmctx.delivery.journal.frames import Damage, Frame, Kind, pack_record, unpack_record
from llmctx.delivery.journal.inspect import (
    JournalDirectory,
    Matches,
    ProcessJournal,
    inspect_directory,
    rows_in,
    search,
)
from llmctx.delivery.journal.journal import Journal
from llmctx.delivery.journal.operations import erase, read, recall_endpoint, remember_endpoint, request_rotation

__all__ = [
    "Damage",
    "DeadJournal",
    "DeadLetter",
    "DeadLetters",
    "Frame",
    "Journal",
    "JournalDirectory",
    "Kind",
    "Matches",
    "ProcessJournal",
    "erase",
    "inspect_directory",
    "pack_record",
    "read",
    "recall_endpoint",
    "remember_endpoint",
    "request_rotation",
    "rows_in",
    "search",
    "unpack_record",
]
