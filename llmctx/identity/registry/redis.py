"""The registry of several processes: what one has learned of a thread, another can use.

It is a `MemoryRegistry` with a Redis behind it. `put`, `get` and `forget` touch memory alone, in microseconds. The
pipeline tells Redis what is new here, every 50 ms, and asks it in batches before it makes rows of calls that need it.
Redis away, slow or flushed means that this process knows what it has seen itself, and NULL with a reason otherwise:
each exchange has a deadline, and after a failed one Redis is left alone for a while. What the parties of a thread
say together is judged as in memory, wherever they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from cachebox import TTLCache

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.process import Forkable, ForkStage
from llmctx.core.urls import shown_url
from llmctx.identity.registry.base import ELSEWHERE, Entry
from llmctx.identity.registry.memory import PARTIES, MemoryRegistry, judge, task_lineage
from llmctx.identity.registry.outbox import Claims, News, Outbox
from llmctx.identity.registry.redis_keys import FORGET, Layout, Put, commands, identity_of
from llmctx.identity.scope import CallContext, Scope

if TYPE_CHECKING:
    from redis.asyncio import Redis

_BATCH: Final = 200  # registrations told in one round trip: a few ms
_FLUSH_S: Final = 0.05
_SETTLE_S: Final = 0.15  # after this, three flushes, others have told what they knew
_HEARD_S: Final = 60.0  # an answer is used for so long, where Redis is not asked again
_CONNECT_S: Final = 2.0


class RedisRegistry:
    """Registry for several processes (`SharedRegistry`).

        call_log = CallLog(registry=RedisRegistry("redis://cache:6379/0"))

    Args:
        url: redis://, rediss:// or unix://, as redis-py takes it.
        prefix: of every key. Applications that share a Redis and not their users need different ones.
        entries: how many threads, and how many tasks, this process remembers at most.
        ttl_s: seconds after which a use of a thread is forgotten, here and in Redis.
        task_ttl_s: the same for tasks in Redis, of which there are many; at most `ttl_s`.
        timeout_s: longest time for one exchange with Redis.
        backoff_s: how long Redis is left alone after a failure, at first and at most.

    Raises `ConfigError` if the url cannot be used, or the package `redis` is missing. A Redis that is away is no error.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "llmctx:",
        entries: int = 100_000,
        ttl_s: float = 86_400.0,
        task_ttl_s: float = 3600.0,
        timeout_s: float = 0.25,
        backoff_s: tuple[float, float] = (1.0, 30.0),
    ) -> None:
        check_url(url)
        self._url = url
        self._prefix = prefix
        self._ttl_s = ttl_s
        self._task_ttl_s = min(task_ttl_s, ttl_s)
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._local = MemoryRegistry(entries=entries, ttl_s=ttl_s)
        heard_s = min(_HEARD_S, ttl_s)
        self._heard: TTLCache[str, tuple[CallContext, ...]] = TTLCache(entries, heard_s)
        self._heard_tasks: TTLCache[str, CallContext] = TTLCache(entries, heard_s)
        # A thread in constant use is told anew this often, so that it neither expires nor stays flushed.
        self._told: TTLCache[str, tuple[Scope, str | None, str | None]] = TTLCache(entries, min(60.0, ttl_s / 4))
        self.on_news: Callable[[], None] | None = None
        """Told of a registration while no pipeline runs, in a forked child."""
        self._begin()
        _all.add(self)

    def __repr__(self) -> str:
        return f"<RedisRegistry {shown_url(self._url)} {self._prefix}>"

    def __len__(self) -> int:
        return len(self._local)

    def _begin(self) -> None:
        """What belongs to one process alone, and is never inherited."""
        self._layout = Layout(
            self._prefix, os.urandom(6).hex(), ttl_s=self._ttl_s, task_ttl_s=self._task_ttl_s, parties=PARTIES + 1
        )
        self._outbox = Outbox()
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Event | None = None
        self._idle = False
        self._failures = 0
        self._rest_until = 0.0
        self._told.clear()

    def _begin_in_child(self) -> None:
        """In a forked child: a process of its own, with connections of its own. What waits is the parent's to tell."""
        _inherited.append(self._links)
        self._begin()

    # -- any thread: memory alone -----------------------------------------------------------------------------------

    def put(self, scope: Scope, *, thread_id: str | None = None, task: str | None = None) -> None:
        self._local.put(scope, thread_id=thread_id, task=task)
        if thread_id is not None:
            user_id, session_id = scope.identity.user_id, scope.identity.session_id
            told = self._told.get(thread_id)
            known = user_id is not None and session_id is not None
            if told is None or told[1] != user_id or told[2] != session_id or not (known or told[0] is scope):
                self._told[thread_id] = (scope, user_id, session_id)
            elif task is None:
                return
            else:
                thread_id = None
        self._outbox.add(News(scope, thread_id, task))
        self._wake()

    def get(self, *, thread_id: str | None = None, task: str | None = None) -> Entry | None:
        if task is not None:
            found = self._local.get(task=task)
            if found is not None:
                return found
            for name in task_lineage(task):
                identity = self._heard_tasks.get(name)
                if identity is not None:
                    return Entry(identity, False, 0, ELSEWHERE)
        if thread_id is None:
            return None
        heard: tuple[CallContext, ...] | None = self._heard.get(thread_id)
        if not heard:
            return self._local.get(thread_id=thread_id)
        mine, first, last = self._local.parties(thread_id)
        known = {(who.user_id, who.session_id) for who in mine}
        others = [who for who in heard if (who.user_id, who.session_id) not in known]
        # When it was that others used it cannot be told in numbers of this process: before and after any scope of it.
        return judge([*others, *mine], 0, ELSEWHERE) if others else judge(mine, first, last)

    def forget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        """As in memory, at once; the pipeline then tells Redis. To be certain of that, await `aforget`.

        What other processes hold in their memory is theirs, until it expires.
        """
        gone = self._forget_here(thread_id, user_id)
        self._outbox.forget(thread_id, user_id)
        self._wake()
        return gone

    def _forget_here(self, thread_id: str | None, user_id: str | None) -> int:
        gone = self._local.forget(thread_id=thread_id, user_id=user_id)
        self._outbox.withdraw(thread_id, user_id)
        for cache in (self._told, self._heard, self._heard_tasks):
            cache.clear()
        return gone

    def claim(self, scope: Scope, *, thread_id: str, task: str | None = None) -> None:
        self._outbox.claim(scope, thread_id, task)
        self._wake()

    def _wake(self) -> None:
        loop, work = self._loop, self._work
        if loop is None or work is None:
            if self.on_news is not None:
                self.on_news()
        elif self._idle:
            self._idle = False
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                loop.call_soon_threadsafe(work.set)

    # -- the pipeline's loop ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        # polled: the pipeline of another call log does the work, in another thread, and may end
        while self._loop not in (None, loop):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        work = self._work = asyncio.Event()
        self._loop = loop
        try:
            await self._talk(timeout_s=_CONNECT_S)
            while True:
                self._idle = True
                if self._outbox.is_empty:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(work.wait(), 0.5)
                self._idle = False
                work.clear()
                await asyncio.sleep(max(_FLUSH_S, self._rest_until - time.monotonic()))
                self._outbox.amended()
                if self._failures or not self._outbox.is_empty:
                    while await self._talk(timeout_s=_CONNECT_S if self._failures else None) and self._outbox:
                        pass
        finally:
            self._loop = self._work = None

    async def exchange(self, *, threads: Collection[str] = (), tasks: Collection[str] = (), since: float = 0.0) -> bool:
        if self._resting:
            return False
        threads = list(threads)
        claims = self._outbox.claims(0.0, threads).values()
        wait = max([since, *(born for _, born in claims)]) + _SETTLE_S - time.monotonic()
        if wait > 0:
            await asyncio.sleep(min(wait, _SETTLE_S))
        return await self._talk(threads, tasks)

    async def publish(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        self._outbox.amended()
        if link := self._links.get(asyncio.get_running_loop()):
            with contextlib.suppress(TimeoutError):  # what `run` is telling right now is not in the outbox
                await asyncio.wait_for(link.lock.acquire(), timeout_s)
                link.lock.release()
        while self._outbox and not self._resting and (left := deadline - time.monotonic()) > 0:
            await self._talk(timeout_s=min(left, 1.0))
        return len(self._outbox)

    async def aclose(self) -> None:
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.drop()

    async def aforget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        """Forget, here and in Redis; return how many went from there. From any loop. Raises what redis-py raises."""
        self._forget_here(thread_id, user_id)
        link = _Link(self._url)
        try:
            return await self._forget_there(link.client(_CONNECT_S), [(thread_id, None), (None, user_id)])
        finally:
            await link.drop()

    @property
    def _resting(self) -> bool:
        return time.monotonic() < self._rest_until

    async def _talk(
        self, threads: Collection[str] = (), tasks: Collection[str] = (), *, timeout_s: float | None = None
    ) -> bool:
        """Tell what is new, and ask, in one round trip; False if that failed. Here alone Redis is met."""
        if self._resting:
            return False
        link = self._links.setdefault(asyncio.get_running_loop(), _Link(self._url))
        timeout_s = timeout_s or self._timeout_s
        outbox = self._outbox
        news: list[tuple[News, CallContext]] = []
        mine = False
        try:
            async with asyncio.timeout(timeout_s), link.lock:
                mine = True
                news = outbox.take(_BATCH)
                claims = outbox.claims(time.monotonic() - _SETTLE_S, list(threads))
                asked = list({*threads, *(thread_id for thread_id, _ in claims)})
                names = list(dict.fromkeys(name for task in tasks for name in task_lineage(task)))
                forgotten = outbox.to_forget
                if forgotten:
                    await self._forget_there(link.client(timeout_s), forgotten)
                puts = [put for new, who in news for put in self._layout.puts(new, who)]
                reads = [("HGETALL", self._layout.thread(thread_id)) for thread_id in asked]
                reads += [("GET", self._layout.task(name)) for name in names]
                now, *answers = await link.round_trip(puts, reads, timeout_s)
        except BaseException as problem:
            outbox.put_back(news)
            if mine:  # else somebody else's exchange takes its time, and will say how it went
                await link.drop()
            if not isinstance(problem, Exception):
                raise
            if mine:
                self._failed(problem)
            return False
        self._failures = 0
        outbox.forgot(forgotten)
        outbox.told(news)
        self._hear(now, asked, names, answers)
        self._settle(claims)
        return True

    def _hear(self, now: Any, threads: Sequence[str], tasks: Sequence[str], answers: Sequence[Any]) -> None:
        for thread_id, fields in zip(threads, answers, strict=False):
            self._heard[thread_id] = self._layout.parties(now, fields) if isinstance(fields, dict) else ()
        for task, value in zip(tasks, answers[len(threads) :], strict=True):
            if identity := identity_of(value):
                self._heard_tasks[task] = identity
            else:
                self._heard_tasks.pop(task, None)

    def _settle(self, claims: Claims) -> None:
        """Register who has claimed a thread of which nobody else knows. The other claims go."""
        self._outbox.settled(claims)
        for (thread_id, task), (scope, _) in claims.items():
            known = self.get(thread_id=thread_id)
            user_id = scope.identity.user_id
            if known is None or (user_id is not None and known.identity.user_id == user_id):
                self.put(scope, thread_id=thread_id, task=task)

    def _failed(self, problem: Exception) -> None:
        first, longest = self._backoff_s
        self._rest_until = time.monotonic() + min(longest, first * 2 ** min(self._failures, 10))
        self._failures += 1
        what = "no answer in time" if isinstance(problem, TimeoutError) else f"{type(problem).__name__}: {problem}"
        diagnostics.count(
            "registry_away", "%s does not answer (%s): calls keep what this process knows", shown_url(self._url), what
        )

    async def _forget_there(self, client: Redis, whom: Sequence[tuple[str | None, str | None]]) -> int:
        gone = 0
        for thread_id, user_id in whom:
            if thread_id is not None:
                gone += int(await client.delete(self._layout.thread(thread_id)))
            while user_id is not None:
                call: Any = client.eval(FORGET, 1, self._layout.index(user_id))
                looked_at, removed = await call
                gone += int(removed)
                if not looked_at:
                    break
        return gone


class _Link:
    """The connection of one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis | None = None
        self._is_proven = False
        self.lock = asyncio.Lock()

    def client(self, timeout_s: float) -> Redis:
        if self._client is None:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            self._client = Redis.from_url(
                self._url, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), client_name="llmctx"
            )
        return self._client

    async def round_trip(self, puts: Sequence[Put], reads: Sequence[tuple[str, str]], timeout_s: float) -> list[Any]:
        """Return the server's time, and the answers to `reads`. A key of another kind answers with an exception."""
        while True:
            pipe = self.client(timeout_s).pipeline(transaction=False)
            for command in commands(puts, reads):
                pipe.execute_command(*command)
            try:
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            except (OSError, EOFError, _driver().ConnectionError):
                if not self._is_proven:
                    raise
                await self.drop()  # idle for long, it may be gone while Redis is as well as ever: once more
                continue
            for answer in answers:
                if isinstance(answer, Exception):
                    if "WRONGTYPE" not in str(answer):  # loading, full, read-only, refused
                        raise answer
                    diagnostics.count(
                        "registry_key_taken", "a key of the registry is in use for something else in Redis"
                    )
            self._is_proven = True
            return answers[len(puts) :]

    async def drop(self) -> None:
        """Close it, in whatever state: an answer that comes too late must not be taken for the next one."""
        client, self._client, self._is_proven = self._client, None, False
        if client is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.aclose(), 0.1)


def _driver() -> Any:
    import redis.asyncio  # late: a third of a second, and an extra

    return redis


def check_url(url: str) -> None:
    """Raise `ConfigError` unless redis-py is there and takes `url`."""
    if importlib.util.find_spec("redis") is None:
        raise ConfigError('LLMCTX_REGISTRY_URL needs the package redis: pip install "llmctx[redis]".')
    try:
        _driver().asyncio.connection.parse_url(url)
    except ValueError:
        what = "Write redis://user:password@host:6379/0, rediss://… or unix:///path"
        raise ConfigError(f"LLMCTX_REGISTRY_URL is not the URL of a Redis. {what}.") from None


_all: Final = Forkable(ForkStage.SHARED_REGISTRY, RedisRegistry._begin_in_child)
_inherited: Final[list[object]] = []
"""Connections of the parent, kept: collecting one would take it out of the selector, which is the parent's too."""
