"""One answer in its three forms: HTML, JSON for programs, CSV to take away."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response

from llmctx.core.csv_text import csv_line
from llmctx.core.jsonable import to_jsonable
from llmctx.core.text import escape_controls
from llmctx.dashboard.formats import bucket_in, short_id, time_in
from llmctx.dashboard.rendering import render, static_versions

if TYPE_CHECKING:
    from llmctx.dashboard.access import Access
    from llmctx.dashboard.pages import Answer
    from llmctx.dashboard.view import PageView
    from llmctx.delivery.ledger import Stats
    from llmctx.settings import Settings

VERSION: Final = 1
_JSON: Final = "application/json"


def as_json(answer: Answer, view: PageView) -> Response:
    """Return the answer for programs: numbers as numbers, money as decimal strings, times as ISO 8601 in UTC."""
    window = {"since": view.since, "until": view.until, "tz": view.zone.key}
    body = {
        "v": VERSION, "data": to_jsonable(answer.data, exact=True), "next": answer.next, "previous": answer.previous,
        "window": to_jsonable(window, exact=True), "count": answer.count, "as_of": answer.as_of or view.now.isoformat(),
        "source": answer.source, "hidden": list(answer.hidden),
    }  # fmt: skip
    return Response(_dump(body), media_type=_JSON)


def as_csv(answer: Answer, page: str) -> Response:
    """Return the main table as CSV; what a spreadsheet would take for a formula is text."""
    rows: Sequence[Mapping[str, Any]] = to_jsonable(answer.rows, exact=True)
    lines = [csv_line(rows[0]), *(csv_line(map(_cell, row.values())) for row in rows)] if rows else []
    headers = {"content-disposition": f'attachment; filename="llmctx-{page.replace("/", "-")}.csv"'}
    return Response("".join(lines), media_type="text/csv", headers=headers)


def as_html(
    page: str, answer: Answer, view: PageView, access: Access, *, root: str, settings: Settings, took_ms: float,
    trace_url: str | None, in_part: bool,
) -> str:  # fmt: skip
    """Return the page, or with `in_part` only its main part, which htmx puts into the page that is there."""
    return render(
        f"{page}.html", view.lang, page=page, answer=answer, data=answer.data, access=access, trace_url=trace_url,
        settings=settings, took_ms=took_ms, in_part=in_part, **_common(view, root, short=access.ids == "short"),
    )  # fmt: skip


def failure(
    status: int, code: str, message: str, form: str, view: PageView, root: str, *, ledger: Stats | None = None,
    grants: str | None = None,
) -> Response:  # fmt: skip
    """Return what went wrong, in the form that was asked for."""
    if form in ("json", "csv"):
        body = {"v": VERSION, "error": {"code": code, "message": message, "fix": grants}}
        return Response(_dump(body), status, media_type=_JSON)
    html = render(
        "failure.html", view.lang, page=view.page, status=status, code=code, message=message, ledger=ledger,
        grants=grants, in_part=False, **_common(view, root, short=False),
    )  # fmt: skip
    return Response(html, status, media_type="text/html")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _common(view: PageView, root: str, *, short: bool) -> dict[str, Any]:
    versions = static_versions()
    return {
        "view": view,
        "url": _links(view, root),
        "static": lambda name: f"{root}/static/{name}?v={versions[name]}",
        "time": time_in(view),
        "moment": bucket_in(view),
        "shown_id": short_id if short else escape_controls,
    }


def _links(view: PageView, root: str) -> Callable[..., str]:
    return lambda page=None, /, **changes: root + view.url(page, **changes)


def _dump(body: Any) -> bytes:
    try:
        return orjson.dumps(body, default=str)
    except TypeError:  # numbers of more than 64 bits, halves of characters
        return json.dumps(body, default=str).encode()
