"""The dashboard as an ASGI application: which page a path is, who may see it, in which form, and what goes wrong.

Everything is a GET that reads. Without `authorize` there is no dashboard. Links are the path under which it is mounted
and nothing else: no host, no header of a proxy is believed.
"""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmctx.core.arguments import check_function, check_texts
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError, MigrationsPending
from llmctx.dashboard import rendering, responses
from llmctx.dashboard.access import Access, Authorize, find_access
from llmctx.dashboard.pages import AGGREGATES, FRAMES, PAGES, SHARED, SPANS, Answer, Ask, NotFound, SlowPage
from llmctx.dashboard.readers import Readers, grant_statements
from llmctx.dashboard.shared_answers import SharedAnswers
from llmctx.dashboard.view import LANGUAGES, InvalidView, PageView, parse
from llmctx.settings import Settings
from llmctx.storage.queries import InvalidCursor
from llmctx.storage.queries.usage import TooManyBuckets
from llmctx.storage.reader import QuestionTooLarge

if TYPE_CHECKING:
    from llmctx.calllog import CallLog

HOME: Final = "usage"
_SLOW_MS: Final = 1000
_REMEMBERED: Final = 20
_FORMS: Final = ("html", "json", "csv")
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors "
)
_ORIGINS: Final = re.compile(r"[!-+\--:<-~ ]+")
"""Of a policy: printable, and nothing that ends it."""
_A_YEAR: Final = "public, max-age=31536000, immutable"


class Dashboard:
    """The pages over a call log, to be mounted into the application that writes it.

        app.mount("/admin/llm", Dashboard(call_log, authorize=who_may))

    Args:
        call_log: whose table is shown; `LLMCTX_DASHBOARD_DATABASE_URL` names another way to it, such as a role that
            may only read.
        authorize: takes the request, and returns the `Access` of its reader, or None; a plain function or a coroutine
            function. It has no default: prompts are never shown by accident.
        login_url: where readers are sent of whom `authorize` knows nothing; None answers 403.
        base_url: where the dashboard is reached from outside, for `call_log.url(call_id)`.
        trace_url: a page of the team's tracer, with `{trace_id}` in it.
        frame_ancestors: origins that may embed the pages, as the content security policy spells them.

    Raises `ConfigError` without `authorize`.
    """

    def __init__(
        self,
        call_log: CallLog,
        *,
        authorize: Authorize | None = None,
        login_url: str | None = None,
        base_url: str | None = None,
        trace_url: str | None = None,
        frame_ancestors: str = "'none'",
    ) -> None:
        if authorize is None:
            raise ConfigError(
                "The dashboard shows what users said: pass authorize=, a function that takes the request and returns "
                "llmctx.dashboard.Access(name) for users who may look, and None for all others."
            )
        check_function("authorize", authorize)
        check_texts(login_url=login_url, base_url=base_url, trace_url=trace_url, frame_ancestors=frame_ancestors)
        if not _ORIGINS.fullmatch(frame_ancestors):
            raise ConfigError("frame_ancestors= holds what is no origin, such as https://app.example.org or 'self'.")
        if not isinstance(getattr(call_log, "settings", None), Settings):
            raise ConfigError(f"Dashboard() takes a CallLog, not {type(call_log).__name__}.")
        settings = call_log.settings
        if settings.dashboard_database_url is not None:
            settings = settings.model_copy(update={"database_url": settings.dashboard_database_url})
        self._call_log = call_log
        self._authorize = authorize
        self._login_url = login_url
        self._trace_url = trace_url
        self._settings = settings
        self._readers = Readers(settings)
        self._shared: SharedAnswers[tuple[PageView, Answer]] = SharedAnswers()
        self._slow: deque[SlowPage] = deque(maxlen=_REMEMBERED)
        call_log.when_closed(self.aclose)
        if base_url is not None:
            call_log.dashboard_url = base_url.rstrip("/")
        self._app = Starlette(
            routes=[
                Mount("/static", StaticFiles(directory=rendering.STATIC)),
                Route("/{path:path}", self._answer, methods=["GET"]),
            ],
            middleware=[
                Middleware(_Headers, policy=_POLICY + frame_ancestors),
                Middleware(GZipMiddleware, minimum_size=512),
            ],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def aclose(self) -> None:
        """Close the connections to the database; the next request makes new ones. `call_log.aclose()` does it too."""
        await self._shared.close()
        await self._readers.close()

    async def _answer(self, request: Request) -> Response:
        began = time.perf_counter()
        root = request.scope.get("root_path", "").rstrip("/")
        page, form = _page_of(request.path_params["path"])
        view = _plain_view(page, request)
        try:
            access = await find_access(self._authorize, request)
            if access is None:
                return self._refuse(request, form, view, root)
            view = parse(
                page, request.query_params.multi_items(), now=datetime.now(UTC), span=SPANS.get(page, ""),
                zone=request.cookies.get("llmctx_tz", "UTC"), lang=_language(request),
            )  # fmt: skip
            if form not in _FORMS or page not in PAGES:
                raise NotFound
            if form == "csv" and not access.export:
                raise HTTPException(403, "You may not export tables as CSV (Access(export=True)).")
            view, answer = await self._ask(page, form, view, access)
            took_ms = (time.perf_counter() - began) * 1000
            if took_ms > _SLOW_MS:
                self._slow.appendleft(SlowPage(page=page, at=view.now, ms=round(took_ms)))
            if form == "json":
                return responses.as_json(answer, view)
            if form == "csv":
                return responses.as_csv(answer, page)
            html = responses.as_html(
                page, answer, view, access, root=root, settings=self._settings, took_ms=took_ms,
                trace_url=self._trace_url, in_part=request.headers.get("hx-request") == "true",
            )  # fmt: skip
            return Response(html, media_type="text/html")
        except Exception as problem:  # noqa: BLE001  every failure has its page
            return self._failed(request, problem, form, view, root)

    async def _ask(self, page: str, form: str, view: PageView, access: Access) -> tuple[PageView, Answer]:
        """Return the answer, and the view at the time of the answer: another may have asked the same just before."""
        if "text" in view.conditions and not access.texts:
            raise HTTPException(403, "You may not search texts, because that reads them.")
        if page in FRAMES and form == "html" and view.query.get("lazy") != "0":
            return view, Answer(data=None)
        if page not in SHARED:
            return await self._read(page, view, access)
        asked = {name: text for name, text in view.query.items() if name != "lang"}
        question = (page, asked, view.zone.key, replace(access, name=""))
        then, answer = await self._shared.get(question, lambda: self._read(page, view, access))
        return replace(view, now=then.now, since=then.since, until=then.until), answer

    async def _read(self, page: str, view: PageView, access: Access) -> tuple[PageView, Answer]:
        async with self._readers.question(aggregate=page in AGGREGATES) as (connection, table):
            return view, await PAGES[page](Ask(connection, table, view, access, self._call_log, self._slow))

    def _refuse(self, request: Request, form: str, view: PageView, root: str) -> Response:
        if self._login_url is not None and form == "html":
            wanted = "/" + request.url.path.lstrip("/")  # "//host" would be another host
            if request.url.query:
                wanted += f"?{request.url.query}"  # which call, which days: the path alone is another page
            mark = "&" if "?" in self._login_url else "?"
            return RedirectResponse(f"{self._login_url}{mark}next={quote(wanted)}", 303)
        return responses.failure(403, "forbidden", "You may not see this page.", form, view, root)

    def _failed(self, request: Request, problem: Exception, form: str, view: PageView, root: str) -> Response:
        """Return the page that says what went wrong and what to do; it needs no database."""
        status, code, message = _explained(problem)
        if status == 500:
            diagnostics.count(
                "dashboard_failed", "the dashboard could not answer: %s", type(problem).__name__, exc=problem
            )
        elif status == 503 and isinstance(problem, ConfigError):
            diagnostics.count("dashboard_failed", "the dashboard could not answer: %s", message)
        ledger = self._call_log.stats() if status == 503 else None
        return responses.failure(
            status, code, message, form, view, root, ledger=ledger,
            grants=grant_statements(self._settings) if code == "no_rights" else None,
        )  # fmt: skip


class _Headers:
    """Set what every answer says to the browser."""

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self._app = app
        self._headers = {
            b"content-security-policy": policy.encode("latin-1"),
            b"referrer-policy": b"same-origin",
            b"x-content-type-options": b"nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_static = "/static/" in scope.get("path", "") and b"v=" in scope.get("query_string", b"")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                cached = is_static and message["status"] == 200
                control = _A_YEAR.encode() if cached else b"private, no-store"
                kept = [pair for pair in message["headers"] if pair[0].lower() != b"cache-control"]
                message = {**message, "headers": [*kept, *self._headers.items(), (b"cache-control", control)]}
            await send(message)

        await self._app(scope, receive, sending)


def _page_of(path: str) -> tuple[str, str]:
    name, dot, form = path.strip("/").rpartition(".")
    page, form = (name, form) if dot else (form, "html")
    return page or HOME, form


def _plain_view(page: str, request: Request) -> PageView:
    """Return a view without anything of the query, for pages that say that it is wrong."""
    return parse(page, (), now=datetime.now(UTC), zone=request.cookies.get("llmctx_tz", "UTC"), lang=_language(request))


def _language(request: Request) -> str:
    """Return the reader's language: of the query, of the cookie, or of the browser."""
    asked = (request.query_params.get("lang"), request.cookies.get("llmctx_lang"))
    accepted = (
        part.split(";")[0].strip()[:2].lower() for part in request.headers.get("accept-language", "").split(",")
    )
    return next((lang for lang in (*asked, *accepted) if lang in LANGUAGES), LANGUAGES[0])


def _explained(problem: Exception) -> tuple[int, str, str]:
    """Return status, code and words of what went wrong."""
    if isinstance(problem, InvalidView):
        return 400, f"invalid_{problem.name}"[:64], str(problem)
    if isinstance(problem, (InvalidCursor, TooManyBuckets)):
        return 400, "invalid_cursor" if isinstance(problem, InvalidCursor) else "too_many_buckets", str(problem)
    if isinstance(problem, NotFound):
        return 404, "not_found", "There is no such page, session, user or call, or you may not see it."
    if isinstance(problem, HTTPException):
        return problem.status_code, "forbidden" if problem.status_code == 403 else "refused", problem.detail
    if isinstance(problem, QuestionTooLarge):
        return 504, "too_slow", str(problem)
    if isinstance(problem, MigrationsPending):
        return 503, "no_table", str(problem)
    if isinstance(problem, DatabaseUnavailable):
        return 503, "database_away", str(problem)
    if isinstance(problem, LlmctxError):
        return 503, "no_rights" if "permission denied" in str(problem) else "refused", str(problem)
    return 500, "internal_error", "The page could not be rendered: see the application's log."
