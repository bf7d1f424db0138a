"""`llmctx ui`: the dashboard on this machine, for users who have the address that it prints."""

from __future__ import annotations

import re
import secrets
import socket
import sys
import webbrowser
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qsl, urlencode

import typer

from llmctx.cli import output
from llmctx.cli.options import query, settings_of
from llmctx.core.errors import ConfigError, LlmctxError

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Receive, Scope, Send

    from llmctx.calllog import CallLog
    from llmctx.dashboard import Access

DEFAULT_PORT: Final = 8787
_LOOPBACK: Final = "127.0.0.1"
_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.ASCII | re.IGNORECASE)
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'", "cache-control": "no-store", "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}  # fmt: skip
"""Of the answers that are no page; nothing may keep the address with the token."""


def ui(
    ctx: typer.Context,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 chooses a free one.")] = DEFAULT_PORT,
    *,
    texts: Annotated[bool, typer.Option("--texts", help="Show prompts and responses.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    grants: Annotated[
        bool, typer.Option("--grants", help="Print the SQL that lets a role read the table, and exit.")
    ] = False,
) -> None:
    """Show sessions, users, costs, errors and coverage in the browser, on this machine only."""
    from llmctx.calllog import CallLog
    from llmctx.dashboard.readers import grant_statements

    settings = settings_of(ctx)
    if grants:
        output.show(grant_statements(settings))
        return
    query(ctx, _nothing)  # a table that cannot be read is an error here, rather than on each page
    serve(CallLog(ctx.find_root().obj), port=port, texts=texts, open_browser=open_browser)


async def _nothing(connection: AsyncConnection, table: Table) -> None:
    pass


def serve(call_log: CallLog, *, port: int, texts: bool, open_browser: bool = False) -> None:
    """Serve the dashboard of `call_log` on loopback until Ctrl-C, and print its address.

    Raises `LlmctxError` where the port is taken, `ConfigError` without the extra.
    """
    try:
        import uvicorn

        from llmctx.dashboard import Access, Dashboard
    except ImportError:
        raise ConfigError('The dashboard needs uvicorn and jinja2: pip install "llmctx[ui]"') from None
    try:
        bound = socket.create_server((_LOOPBACK, port))
    except OSError as problem:
        raise LlmctxError(f"Port {port} cannot be used ({problem.strerror}). Choose another one with --port.") from None
    token = secrets.token_urlsafe(24)
    access = Access("llmctx ui", texts=texts, export=True)
    app = LocalOnly(Dashboard(call_log, authorize=lambda connection: _known(connection, token, access)), token)
    address = f"http://{_LOOPBACK}:{bound.getsockname()[1]}/?{urlencode({'token': token})}"
    output.show(address)
    sys.stdout.flush()
    output.say("Ctrl-C ends it. Anyone who has this address can read the table.")
    if open_browser:
        webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", server_header=False)
    with suppress(KeyboardInterrupt):  # it has ended as it should
        uvicorn.Server(config).run(sockets=[bound])


def _known(connection: HTTPConnection, token: str, access: Access) -> Access | None:
    given = connection.cookies.get(_cookie(connection.scope), "")
    return access if secrets.compare_digest(given.encode(), token.encode()) else None


def _cookie(scope: Scope) -> str:
    """Return the name of the cookie: browsers do not keep those of two ports apart."""
    return f"llmctx_token_{(scope.get('server') or (_LOOPBACK, DEFAULT_PORT))[1]}"


class LocalOnly:
    """Answer only this machine's browsers, and turn the token of the first address into a cookie.

    The name in `Host` is checked, for a page of another site may have its own name resolve to 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "http":
            return
        request = Request(scope)
        if not _HOST.fullmatch(request.headers.get("host", "")):
            await PlainTextResponse("This is not an address of llmctx ui.", 421, _HEADERS)(scope, receive, send)
            return
        query = parse_qsl(request.url.query, keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        if given is None:
            await self._app(scope, receive, send)
        elif secrets.compare_digest(given.encode(), self._token.encode()):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + request.url.path.lstrip("/")  # "//host" would be another host
            answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303, _HEADERS)
            answer.set_cookie(_cookie(scope), self._token, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, send)
        else:
            await PlainTextResponse("That token belongs to another `llmctx ui`.", 403, _HEADERS)(scope, receive, send)
