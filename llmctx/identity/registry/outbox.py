"""News for the other processes that have not been sent yet: in memory, bounded, from any thread.

A registration waits as the scope it is of, not as the identity it had: who is behind it may become known meanwhile.
One that was told before its user or session was known is told again when they are (`amended`).
"""

from __future__ import annotations

import time
from collections import OrderedDict  # its oldest goes in one step; a dict looks for it among the gone
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from llmctx.core.diagnostics import diagnostics
from llmctx.core.locks import RecoverableLock
from llmctx.identity.scope import CallContext, Scope

LIMIT: Final = 10_000
Claims = OrderedDict[tuple[str, str | None], tuple[Scope, float]]


class News(NamedTuple):
    """`scope` uses the thread, or runs the task."""

    scope: Scope
    thread_id: str | None
    task: str | None
    before: CallContext | None = None
    """What was told of it already."""

    @property
    def key(self) -> tuple[str | None, str | None, str | None, str | None]:
        """Return the key of which only the newest needs to be told."""
        who = self.scope.identity
        return self.thread_id, self.task, who.user_id, who.session_id


class Outbox:
    """Registrations, claims, and whom to forget."""

    def __init__(self) -> None:
        # For steps in memory; never held while Redis is waited for. Reentrant: the garbage collector may end a stream
        # in the middle of one.
        self._lock = RecoverableLock()
        self._news: OrderedDict[tuple[str | None, ...], News] = OrderedDict()
        self._claims: Claims = OrderedDict()
        self._unsettled: OrderedDict[tuple[str, Scope], CallContext] = OrderedDict()
        """Told without user or session, and may still be amended -> what was told."""
        self._forgotten: dict[tuple[str | None, str | None], None] = {}
        self.has_dropped = False
        """Some were dropped untold: what this process knows of threads is to be told again."""

    def __len__(self) -> int:
        return len(self._news) + len(self._forgotten)

    @property
    def is_empty(self) -> bool:
        return not (self._news or self._claims or self._forgotten)

    def add(self, news: News) -> None:
        with self._lock:
            if len(self._news) >= LIMIT:
                diagnostics.count("registry_full", "too many registrations wait for Redis: the oldest are sent later")
                self._news.popitem(last=False)
                self.has_dropped = True
            self._news[news.key] = news

    def take_oldest(self, most: int) -> list[tuple[News, CallContext]]:
        """Return the oldest news, each with who it is of by now."""
        with self._lock:
            oldest = [self._news.pop(key) for key in list(islice(self._news, most))]
            return [(news, news.scope.identity) for news in oldest]

    def put_back(self, untold: Sequence[tuple[News, CallContext]]) -> None:
        """Put back what could not be sent. What is to be forgotten meanwhile, or has no room any more, goes."""
        with self._lock:
            waiting: OrderedDict[tuple[str | None, ...], News] = OrderedDict()
            self.has_dropped = self.has_dropped or len(untold) > LIMIT - len(self._news)
            for news, who in untold[: max(0, LIMIT - len(self._news))]:
                if (news.thread_id, None) not in self._forgotten and (None, who.user_id) not in self._forgotten:
                    waiting[news.key] = news
            waiting.update(self._news)
            self._news = waiting

    def mark_sent(self, news: Sequence[tuple[News, CallContext]]) -> None:
        with self._lock:
            for one, who in news:
                if one.thread_id is not None and None in (who.user_id, who.session_id):
                    if len(self._unsettled) >= LIMIT:
                        self._unsettled.popitem(last=False)
                    self._unsettled[one.thread_id, one.scope] = who

    def mark_amended(self) -> None:
        """Let those be told again of whom more is known by now."""
        with self._lock:
            for (thread_id, scope), before in list(self._unsettled.items()):
                who = scope.identity
                changed = (who.user_id, who.session_id) != (before.user_id, before.session_id)
                if changed or not scope.is_open:
                    del self._unsettled[thread_id, scope]
                if changed:
                    self.add(News(scope, thread_id, None, before))

    # -- claims -----------------------------------------------------------------------------------------------------

    def claim(self, scope: Scope, thread_id: str, task: str | None) -> None:
        with self._lock:
            if len(self._claims) >= LIMIT:
                self._claims.popitem(last=False)
            self._claims[thread_id, task] = (scope, time.monotonic())

    def claims(self, born_before: float, threads: Sequence[str]) -> Claims:
        """Return the claims that are old enough, or of these threads."""
        with self._lock:
            ripe = [item for item in self._claims.items() if item[1][1] <= born_before or item[0][0] in threads]
            return OrderedDict(ripe)

    def settle_claims(self, claims: Claims) -> None:
        with self._lock:
            for key, claim in claims.items():
                if self._claims.get(key) is claim:
                    del self._claims[key]

    # -- forgetting -------------------------------------------------------------------------------------------------

    def withdraw(self, thread_id: str | None, user_id: str | None) -> None:
        """Tell nothing of these."""

        def is_meant(thread: str | None, scope: Scope) -> bool:
            by_thread = thread_id is not None and thread == thread_id
            return by_thread or (user_id is not None and scope.identity.user_id == user_id)

        with self._lock:
            for key, news in list(self._news.items()):
                if is_meant(news.thread_id, news.scope):
                    del self._news[key]
            for claimed, (scope, _) in list(self._claims.items()):
                if is_meant(claimed[0], scope):
                    del self._claims[claimed]
            for told in list(self._unsettled):
                if is_meant(*told):
                    del self._unsettled[told]

    def forget(self, thread_id: str | None, user_id: str | None) -> None:
        with self._lock:
            if thread_id is not None:
                self._forgotten[thread_id, None] = None
            if user_id is not None:
                self._forgotten[None, user_id] = None

    @property
    def to_forget(self) -> list[tuple[str | None, str | None]]:
        with self._lock:
            return list(self._forgotten)

    def on_forgotten(self, done: Sequence[tuple[str | None, str | None]]) -> None:
        with self._lock:
            for one in done:
                self._forgotten.pop(one, None)
