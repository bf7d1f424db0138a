"""The shared registry in Redis: names of keys, what stands in them, and how it is proved ours.

A thread is a text with a line for each user and session: no process overwrites another's. A task is one such line. An
index for each user names the keys in which that user stands, so that all of it can be forgotten at once. Names hold
hashes, for ids may be long or hostile; lines hold ids and times, nothing else. The times are those of the Redis server:
clocks of hosts differ. With a hand-over key each line bears a signature over its key and content, and a line without
one is as if it were not there: others may write to the same Redis. No text is read beyond `LONGEST`.

A thread also has a mark, which outlives it and tells whether the same user comes back or another one uses it. A line
`*` says that others have used the thread, or run the task, of whom no line is left.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from llmctx.core.diagnostics import diagnostics
from llmctx.identity import handover
from llmctx.identity.registry.base import ELSEWHERE, Entry
from llmctx.identity.registry.fingerprints import KEEP_S
from llmctx.identity.registry.outbox import News
from llmctx.identity.scope import EMPTY, CallContext, Scope

_OF_A_THREAD: Final = ("user_id", "session_id", "conversation_id")
_OF_A_TASK: Final = (*_OF_A_THREAD, "trace_id", "agent_key")

LONGEST: Final = 65_536
"""Bytes. A text that is longer is none of ours: a thread has few lines, and ids are short."""
OTHERS: Final = "*"
_HASH_BYTES: Final = 16
_SALT: Final = b"llmctx.identity.registry.1"

Put = tuple[list[str], list[Any]]
"""The keys and arguments of a script."""


class ThreadUses(NamedTuple):
    """The answer of Redis about a thread: who has used it, the newest last, and whether others may have."""

    identities: tuple[CallContext, ...] = ()
    unclear: bool = False


class Layout:
    """Names and lines under one prefix, as one process writes them."""

    def __init__(self, prefix: str, process: str, *, ttl_s: float, task_ttl_s: float, parties: int) -> None:
        self._prefix = prefix
        self._own = f"-{process}"
        self._ttl_s = ttl_s
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._task_ttl_ms = max(1, int(task_ttl_s * 1000))
        self._mark_ms = int(max(KEEP_S, 2 * ttl_s) * 1000)
        self._parties = parties
        self.process, self.gap, self.evicted = (f"{prefix}{name}" for name in (f"p:{process}", "gap", "evicted"))

    def thread(self, thread_id: str) -> str:
        return f"{self._prefix}t:{_hash(thread_id)}"

    def task(self, task: str) -> str:
        return f"{self._prefix}k:{_hash(task)}"

    def mark(self, thread_id: str) -> str:
        return f"{self._prefix}m:{_hash(thread_id)}"

    def index(self, user_id: str) -> str:
        return f"{self._prefix}u:{_hash(user_id)}"

    def is_entry(self, key: bytes) -> bool:
        """Return whether `key` is the name of a thread or a task."""
        start = self._prefix.encode()
        return len(key) == len(start) + 2 + 2 * _HASH_BYTES and key[: len(start) + 2] in (start + b"t:", start + b"k:")

    def write_commands(self, news: News, who: CallContext, *, unclear: bool = False) -> Iterator[Put]:
        """Yield what files `who` under the thread and the task, instead of what the scope was before it was amended.

        `unclear` says that others have used the thread of whom nothing else is known here any more.
        """
        scope, thread_id, task, before = news
        index = [] if who.user_id is None else [self.index(who.user_id)]
        field = self._field(scope, who)
        if thread_id is not None:
            drop = "" if before is None or before.user_id is not None else self._field(scope, before)
            key = self.thread(thread_id)
            line, others = _line(key, field, who, _OF_A_THREAD), _line(key, OTHERS, EMPTY, ())
            limits = [self._ttl_ms, self._parties, LONGEST]
            marks = " ".join(_marks(key, who.user_id or f"\0{who.session_id}"))
            told = ["" if drop == field else drop, int(unclear), self._mark_ms, marks]
            yield [key, self.mark(thread_id), *index], [line, others, *limits, *told]
        if task is not None and who:
            key = self.task(task)
            line, others = _line(key, field, who, _OF_A_TASK), _line(key, OTHERS, EMPTY, ())
            yield [key, key, *index], [line, others, self._task_ttl_ms, 0, LONGEST, "", 0, 0, ""]

    def remove_user(self, key: str, user_id: str) -> Put:
        """Return what takes a user out of a thread or task, and out of the index of that user."""
        return [key, self.index(user_id)], [_hash(user_id), _line(key, OTHERS, EMPTY, ()), LONGEST]

    def parse_uses(self, now: float, thread_id: str, value: object) -> ThreadUses:
        """Return who stands in the value of a thread; `now` in seconds, by the clock of the server.

        Without those whom this process has told of as unknown users: it knows better itself who they are by now.
        """
        key, oldest = self.thread(thread_id), (now - self._ttl_s) * 1000
        lines = self._lines(key, value)
        if lines is None:
            return ThreadUses((), True)
        said = [(float(at), field, who) for at, field, who in lines if not field.startswith(self._own)]
        fresh = {who.user_id for at, _, who in said if at > oldest}
        # sessions of a user age, users do not: the key lives for as long as one of them uses the thread
        kept = [who for at, field, who in said if field != OTHERS and (at > oldest or who.user_id not in fresh)]
        return ThreadUses(tuple(kept), any(field == OTHERS for _, field, _ in said))

    def heard_task(self, task: str, value: object) -> Entry | None:
        """Return what stands in the value of a task."""
        lines = self._lines(self.task(task), value)
        if not lines:
            return None
        _, field, who = lines[-1]
        return Entry(who, field == OTHERS, 0, ELSEWHERE) if who or field == OTHERS else None

    def _lines(self, key: str, value: object) -> list[tuple[str, str, CallContext]] | None:
        """Return the lines of a value that are ours; None if there is a value that cannot be ours."""
        if value is None:
            return []
        if not isinstance(value, bytes) or len(value) > LONGEST:
            diagnostics.count("registry_key_taken", "a key of the registry is in use for something else in Redis")
            return None
        return [one for line in value.split(b"\n") if line and (one := _read(key, line)) is not None]

    def _field(self, scope: Scope, who: CallContext) -> str:
        """Return the field of a user and session; without a user, of the scope: it may be another's, or not."""
        session = "" if who.session_id is None else _hash(who.session_id)
        return f"{_hash(who.user_id)}:{session}" if who.user_id is not None else f"{self._own}.{scope.serial}:{session}"


def identity_of(text: object) -> CallContext:
    """Return the ids in a line; an empty identity if there are none."""
    try:
        ids = orjson.loads(text)  # type: ignore[arg-type]  # whatever it is
        return CallContext(**{name: ids[name] for name in _OF_A_TASK if isinstance(ids.get(name), str)})
    except Exception:  # noqa: BLE001  another application may have written it
        return EMPTY


def _line(key: str, field: str, who: CallContext, names: Sequence[str]) -> bytes:
    """Return `field signature ids`, which stands behind the time in a value."""
    ids = orjson.dumps({name: value for name in names if (value := getattr(who, name)) is not None})
    secrets = handover.keys()
    signature = _signature(secrets[0], key, field.encode(), ids) if secrets else b"-"
    return b" ".join((field.encode(), signature, ids))


def _read(key: str, line: bytes) -> tuple[str, str, CallContext] | None:
    """Return the time, the field and the identity of a line; None if it is not proved to be ours."""
    try:
        at, field, signature, ids = line.split(b" ", 3)
        secrets = handover.keys()
        if at.isdigit() and (
            not secrets or any(hmac.compare_digest(signature, _signature(one, key, field, ids)) for one in secrets)
        ):
            return at.decode(), field.decode("ascii"), identity_of(ids)
    except ValueError:
        pass
    diagnostics.count("registry_entry_refused", "an entry in Redis has a foreign signature: ignored")
    return None


def _marks(key: str, owner: str) -> Iterator[str]:
    """Yield what stands for `owner` in the mark of a thread: no id can be read from it."""
    for secret in handover.keys() or [""]:
        yield _signature(secret, key, b"mark", owner.encode("utf-8", "surrogatepass")).decode()


def _signature(secret: str, key: str, field: bytes, ids: bytes) -> bytes:
    said = b"\0".join((_SALT, key.encode("utf-8", "surrogatepass"), field, ids))
    return hmac.digest(secret.encode("utf-8", "surrogatepass"), said, "sha256").hex()[:32].encode()


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
