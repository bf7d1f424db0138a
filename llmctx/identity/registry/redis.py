"""The registry of several processes: what one has learned of a thread, another can use.

It is a `MemoryRegistry` with a Redis behind it. `put`, `get` and `forget` touch memory alone, in microseconds. The
pipeline tells Redis what is new here, every 50 ms, and asks it in batches before it makes rows of calls that need it.
Redis away, slow or flushed means that this process knows what it has seen itself, and NULL with a reason otherwise:
each exchange has a deadline, and after a failed one Redis is left alone for a while. What the parties of a thread
say together is judged as in memory, wherever they were.

Each process leaves a mark in Redis that it looks at in each exchange, once a second at least. Where that is gone or
old (flushed, restarted, a replica that lagged behind), or Redis has evicted keys, every process tells again what it
knows; until all have had time to, Redis counts as away. What only processes knew that have ended since is lost then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

from cachebox import TTLCache

from llmctx.core.diagnostics import diagnostics
from llmctx.core.process import Forkable, ForkStage
from llmctx.core.threads import wait_at_most
from llmctx.core.urls import shown_url
from llmctx.identity.registry.base import ELSEWHERE, Entry
from llmctx.identity.registry.fingerprints import Fingerprints
from llmctx.identity.registry.memory import PARTIES, MemoryRegistry, Uses, merge_uses, task_lineage
from llmctx.identity.registry.outbox import Claims, News, Outbox
from llmctx.identity.registry.redis_connection import RedisConnection, check_url
from llmctx.identity.registry.redis_heartbeat import Heartbeat
from llmctx.identity.registry.redis_keys import LONGEST, Layout, Put, ThreadUses
from llmctx.identity.registry.redis_scripts import LIST, PUT, STRIP, calls
from llmctx.identity.scope import EMPTY, CallContext, Scope

_BATCH: Final = 200  # registrations told in one round trip: a few ms
_FLUSH_S: Final = 0.05
_SETTLE_S: Final = 0.15  # after this, three flushes, others have told what they knew
_HEARD_S: Final = 60.0  # an answer is used for so long, where Redis is not asked again
_CONNECT_S: Final = 2.0
_FORGET_ROUNDS: Final = 20


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
        self._heard: TTLCache[str, ThreadUses] = TTLCache(entries, heard_s)
        self._heard_tasks: TTLCache[str, Entry] = TTLCache(entries, heard_s)
        self._heard_of = Fingerprints(entries)
        # A thread in constant use is told anew this often, so that it neither expires nor stays flushed.
        self._told: TTLCache[str, tuple[Scope, str | None, str | None]] = TTLCache(entries, min(60.0, ttl_s / 4))
        self.on_news: Callable[[], None] | None = None
        """Told of a registration while no pipeline runs, in a forked child."""
        self._begin()
        _all.add(self)

    def __repr__(self) -> str:
        return f"<RedisRegistry {shown_url(self._url)} {self._prefix}>"

    @property
    def address(self) -> tuple[str, str]:
        return self._url, self._prefix

    def __len__(self) -> int:
        return len(self._local)

    def _begin(self) -> None:
        """Make what belongs to one process alone, and is never inherited."""
        self._layout = Layout(
            self._prefix, os.urandom(6).hex(), ttl_s=self._ttl_s, task_ttl_s=self._task_ttl_s, parties=PARTIES + 1
        )
        self._outbox = Outbox()
        self._links: dict[asyncio.AbstractEventLoop, RedisConnection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Event | None = None
        self._idle = False
        self._failures = 0
        self._rest_until = 0.0
        self._heartbeat = Heartbeat(self._layout, longest_gap_s=self._ttl_s)
        self._untold: list[str] = []
        """Threads to tell again, for Redis may have lost them."""
        self._told.clear()

    def _begin_in_child(self) -> None:
        """Begin anew in a forked child: with connections of its own. What waits is the parent's to publish."""
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
                entry: Entry | None = self._heard_tasks.get(name)
                if entry is not None:
                    return entry
        return None if thread_id is None else self._judged(thread_id, self._heard.get(thread_id))

    def _judged(self, thread_id: str, heard: ThreadUses | None) -> Entry | None:
        """Return what this process and `heard` say together, unless Redis may know more, or has said more before."""
        entry = self._judged_now(thread_id, heard)
        if entry is None or not (self._heartbeat.has_gap or self._had_others(thread_id, entry.identity)):
            return entry
        return Entry(EMPTY, entry.shared, entry.first, entry.last)

    def _had_others(self, thread_id: str, who: CallContext) -> bool:
        """Return whether another user was known before, here or in Redis, who may be known no more."""
        user_id = who.user_id
        return user_id is not None and (
            self._heard_of.had_others(thread_id, user_id) or self._local.had_others(thread_id, user_id)
        )

    def _judged_now(self, thread_id: str, heard: ThreadUses | None) -> Entry | None:
        mine = self._local.uses(thread_id)
        if not heard:
            return merge_uses(mine)
        known = {(who.user_id, who.session_id) for who in mine.identities}
        others = [who for who in heard.identities if (who.user_id, who.session_id) not in known]
        if not others and not heard.unclear:
            return merge_uses(mine)
        # When it was that others used it cannot be told in numbers of this process: before and after any scope of it.
        return merge_uses(Uses([*others, *mine.identities], 0, ELSEWHERE, mine.unclear or heard.unclear))

    def forget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        """Forget at once, as in memory; the pipeline then tells Redis. To be certain of that, await `aforget`.

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
                    await wait_at_most(work, 0.5)
                self._idle = False
                work.clear()
                await asyncio.sleep(max(_FLUSH_S, self._rest_until - time.monotonic()))
                self._outbox.mark_amended()
                if self._heartbeat.is_due or self._failures or not self._outbox.is_empty or self._untold:
                    while await self._talk(timeout_s=_CONNECT_S if self._failures else None) and self._has_news:
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
        return await self._talk(threads, tasks) and not self._heartbeat.has_gap

    async def publish(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        self._outbox.mark_amended()
        if link := self._links.get(asyncio.get_running_loop()):
            with contextlib.suppress(TimeoutError):  # what `run` is telling right now is not in the outbox
                await asyncio.wait_for(link.lock.acquire(), timeout_s)
                link.lock.release()
        while self._has_news and not self._resting and (left := deadline - time.monotonic()) > 0:
            await self._talk(timeout_s=min(left, 1.0))
        return len(self._outbox)

    async def aclose(self) -> None:
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.drop()

    async def aforget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        """Forget, here and in Redis; return how many went from there. From any loop. Raises what redis-py raises."""
        self._forget_here(thread_id, user_id)
        link = RedisConnection(self._url)
        try:
            gone, done = 0, False
            while not done:
                more, done = await self._forget_there(link, (thread_id, user_id), _CONNECT_S)
                gone += more
            return gone
        finally:
            await link.drop()

    @property
    def _resting(self) -> bool:
        return time.monotonic() < self._rest_until

    @property
    def _has_news(self) -> bool:
        return bool(self._outbox) or bool(self._untold)

    async def _talk(
        self, threads: Collection[str] = (), tasks: Collection[str] = (), *, timeout_s: float | None = None
    ) -> bool:
        """Tell what is new, and ask, in one round trip; False if that failed. Here alone Redis is met."""
        if self._resting:
            return False
        link = self._links.setdefault(asyncio.get_running_loop(), RedisConnection(self._url))
        timeout_s = timeout_s or self._timeout_s
        outbox = self._outbox
        news: list[tuple[News, CallContext]] = []
        mine = False
        try:
            async with asyncio.timeout(timeout_s), link.lock:
                mine = True
                news = outbox.take_oldest(_BATCH)
                again = self._untold[-(_BATCH - len(news)) :] if len(news) < _BATCH else []
                claims = outbox.claims(time.monotonic() - _SETTLE_S, list(threads))
                asked = list({*threads, *(thread_id for thread_id, _ in claims)})
                names = list(dict.fromkeys(name for task in tasks for name in task_lineage(task)))
                forgotten = [one for one in outbox.to_forget if (await self._forget_there(link, one, timeout_s))[1]]
                number, beat = self._heartbeat.command(
                    is_telling=bool(self._untold), knows_all=not self._local.has_evicted
                )
                puts = list(self._puts(news, again))
                reads = [*map(self._layout.thread, asked), *map(self._layout.task, names)]
                commands = [beat, *calls(PUT, puts), *(("GETRANGE", key, 0, LONGEST) for key in reads)]
                answers = await link.round_trip(commands, timeout_s)
                if isinstance(answers[0], Exception):
                    raise answers[0]
        except BaseException as problem:
            outbox.put_back(news)
            if mine:  # else another thread's exchange takes its time, and will say how it went
                await link.drop()
            if not isinstance(problem, Exception):
                raise
            if mine:
                self._failed(problem)
            return False
        self._failures = 0
        outbox.on_forgotten(forgotten)
        outbox.mark_sent(news)
        del self._untold[len(self._untold) - len(again) :]
        now, lost = self._heartbeat.receive(number, answers[0])
        if lost is not None:
            diagnostics.count("registry_lost", "%s %s: everything is sent again", shown_url(self._url), lost)
        if lost is not None or outbox.has_dropped:
            outbox.has_dropped, self._untold = False, self._local.threads()
        if not self._heartbeat.has_gap:
            self._hear(now, asked, names, answers[1 + len(puts) :])
            self._settle(claims)
        return True

    def _puts(self, news: Sequence[tuple[News, CallContext]], again: Sequence[str]) -> Iterator[Put]:
        told_again = [(News(scope, one, None), scope.identity) for one in again for scope in self._local.scopes(one)]
        for new, who in (*news, *told_again):
            one = new.thread_id
            unclear = one is not None and (self._local.uses(one).unclear or self._had_others(one, who))
            yield from self._layout.write_commands(new, who, unclear=unclear)

    def _hear(self, now: float, threads: Sequence[str], tasks: Sequence[str], answers: Sequence[Any]) -> None:
        for thread_id, value in zip(threads, answers, strict=False):
            heard = self._heard[thread_id] = self._layout.parse_uses(now, thread_id, value)
            entry = self._judged_now(thread_id, heard)
            if entry is not None and (entry.shared or entry.identity.user_id is not None):
                self._heard_of.record(thread_id, entry.identity.user_id)
        for task, value in zip(tasks, answers[len(threads) :], strict=True):
            entry = self._layout.heard_task(task, value)
            if entry is not None:
                self._heard_tasks[task] = entry
            else:
                self._heard_tasks.pop(task, None)

    def _settle(self, claims: Claims) -> None:
        """Register who has claimed a thread that no other process knows. The other claims go."""
        self._outbox.settle_claims(claims)
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

    async def _forget_there(
        self, link: RedisConnection, whom: tuple[str | None, str | None], timeout_s: float
    ) -> tuple[int, bool]:
        """Forget a thread, or a user, of whom a round takes at most 500 keys. Return how many there were, and whether
        that is all.
        """
        thread_id, user_id = whom
        gone = 0
        if thread_id is not None:
            gone += sum(await link.round_trip([("UNLINK", self._layout.thread(thread_id))], timeout_s))
        if user_id is None:
            return gone, True
        index, length = self._layout.index(user_id), len(self._layout.thread(""))
        for _ in range(_FORGET_ROUNDS):
            ((looked_at, names),) = await link.round_trip([("EVAL", LIST, 1, index, length)], timeout_s)
            ours = [name.decode() for name in names if self._layout.is_entry(name)]
            foreign = [("ZREM", index, name) for name in names if not self._layout.is_entry(name)]
            commands = [*calls(STRIP, [self._layout.remove_user(name, user_id) for name in ours]), *foreign]
            if commands:
                gone += sum((await link.round_trip(commands, timeout_s))[: len(ours)])
            if not looked_at:
                return gone, True
        return gone, False


_all: Final = Forkable(ForkStage.SHARED_REGISTRY, RedisRegistry._begin_in_child)
_inherited: Final[list[object]] = []
"""Connections of the parent, kept: collecting one would take it out of the selector, which is the parent's too."""
