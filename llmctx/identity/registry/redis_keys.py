"""What the shared registry looks like in Redis: names of keys, what stands in them, and the two scripts.

A thread is a hash with a field for each user and session: nobody overwrites anybody. A task is a plain key. An index
for each user names the keys in which he stands, so that he can be forgotten at once. Names hold hashes, for ids may be
long or hostile; values hold ids and times, nothing else. The times are those of the Redis server: clocks of hosts
differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from llmctx.identity.registry.outbox import News
from llmctx.identity.scope import EMPTY, CallContext, Scope

_OF_A_THREAD: Final = ("user_id", "session_id", "conversation_id")
_OF_A_TASK: Final = (*_OF_A_THREAD, "trace_id", "agent_key")

# KEYS: the key, and the index of the user's keys, if there is a user. ARGV: field ("" for a task), value, milliseconds
# to live, most fields, a field to drop or "". Over the limit a field goes whose user has another one, the oldest first:
# a thread that several have used stays one that several have used.
PUT: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local field, ttl = ARGV[1], tonumber(ARGV[3])
local function user_of(name) return string.match(name, '^%-') or string.match(name, '^[^:]*') end
if field == '' then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ttl)
else
  if ARGV[5] ~= '' then redis.call('HDEL', KEYS[1], ARGV[5]) end
  redis.call('HSET', KEYS[1], field, string.format('%.0f', now) .. ' ' .. ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ttl)
  for _ = tonumber(ARGV[4]) + 1, redis.call('HLEN', KEYS[1]) do
    local all, count = redis.call('HGETALL', KEYS[1]), {}
    for i = 1, #all, 2 do
      count[user_of(all[i])] = (count[user_of(all[i])] or 0) + 1
    end
    local victim, oldest, twice = nil, 0, false
    for i = 1, #all, 2 do
      local last = tonumber(string.match(all[i + 1], '^%d+')) or 0
      local more = count[user_of(all[i])] > 1
      if all[i] ~= field and (not victim or (more and not twice) or (more == twice and last < oldest)) then
        victim, oldest, twice = all[i], last, more
      end
    end
    redis.call('HDEL', KEYS[1], victim)
  end
end
if KEYS[2] then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + ttl), KEYS[1])
  if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
end
return 1
"""
PUT_SHA: Final = hashlib.sha1(PUT.encode(), usedforsecurity=False).hexdigest()

# KEYS: the index of a user's keys. Removes some of them; answers how many it has looked at, and how many were there.
FORGET: Final = """
local keys = redis.call('ZRANGE', KEYS[1], 0, 499)
if #keys == 0 then return {0, 0} end
local gone = redis.call('DEL', unpack(keys))
redis.call('ZREM', KEYS[1], unpack(keys))
return {#keys, gone}
"""

Put = tuple[list[str], list[Any]]
"""The keys and arguments of `PUT`."""


class Layout:
    """Names and values under one prefix, as one process writes them."""

    def __init__(self, prefix: str, process: str, *, ttl_s: float, task_ttl_s: float, parties: int) -> None:
        self._prefix = prefix
        self._own = f"-{process}"
        self._ttl_s = ttl_s
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._task_ttl_ms = max(1, int(task_ttl_s * 1000))
        self._parties = parties

    def thread(self, thread_id: str) -> str:
        return f"{self._prefix}t:{_hash(thread_id)}"

    def task(self, task: str) -> str:
        return f"{self._prefix}k:{_hash(task)}"

    def index(self, user_id: str) -> str:
        return f"{self._prefix}u:{_hash(user_id)}"

    def puts(self, news: News, who: CallContext) -> Iterator[Put]:
        """Yield what files `who` under the thread and the task, instead of what the scope was before it was amended."""
        scope, thread_id, task, before = news
        index = [] if who.user_id is None else [self.index(who.user_id)]
        if thread_id is not None:
            drop = "" if before is None or before.user_id is not None else self._field(scope, before)
            field = self._field(scope, who)
            arguments = [field, _value(who, _OF_A_THREAD), self._ttl_ms, self._parties, "" if drop == field else drop]
            yield [self.thread(thread_id), *index], arguments
        if task is not None and who:
            yield [self.task(task), *index], ["", _value(who, _OF_A_TASK), self._task_ttl_ms, 0, ""]

    def parties(self, now: Sequence[int], fields: Mapping[bytes, bytes]) -> tuple[CallContext, ...]:
        """Return who stands in the hash of a thread and has not expired, the newest last.

        Without those whom this process has told of as nobody in particular: it knows better itself who they are by now.
        """
        oldest = (now[0] - self._ttl_s) * 1000 + now[1] / 1000
        found = []
        for field, value in fields.items():
            at, _, text = value.partition(b" ")
            if at.isdigit() and float(at) > oldest and not field.decode("ascii", "replace").startswith(self._own):
                found.append((float(at), identity_of(text)))
        found.sort(key=lambda one: one[0])
        return tuple(identity for _, identity in found)

    def _field(self, scope: Scope, who: CallContext) -> str:
        """One per user and session. Of somebody unknown, one per scope: he may be the same as another, or not."""
        session = "" if who.session_id is None else _hash(who.session_id)
        return f"{_hash(who.user_id)}:{session}" if who.user_id is not None else f"{self._own}.{scope.serial}:{session}"


def commands(puts: Sequence[Put], reads: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
    """One round trip: the puts, the time of the server, the reads."""
    for number, (keys, arguments) in enumerate(puts):
        # The first brings the script along, for Redis may have been flushed of it.
        script = ("EVAL", PUT) if number == 0 else ("EVALSHA", PUT_SHA)
        yield *script, len(keys), *keys, *arguments
    yield ("TIME",)
    yield from reads


def identity_of(text: object) -> CallContext:
    """Return what stands in a value; an empty identity if it is not one of ours."""
    try:
        ids = orjson.loads(text)  # type: ignore[arg-type]  # whatever it is
        return CallContext(**{name: ids[name] for name in _OF_A_TASK if isinstance(ids.get(name), str)})
    except Exception:  # noqa: BLE001  it may be anybody's
        return EMPTY


def _value(who: CallContext, names: Sequence[str]) -> bytes:
    return orjson.dumps({name: value for name in names if (value := getattr(who, name)) is not None})


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
