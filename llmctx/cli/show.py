"""`llmctx show`: one call in full, and why it belongs to this user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from llmctx.cli import output
from llmctx.cli.options import Json, query
from llmctx.cli.output import text_of, time_of
from llmctx.core.columns import ColumnKind
from llmctx.core.record import SNAPSHOTS, SPECS
from llmctx.core.text import capitalize, escape_controls
from llmctx.identity import reasons as explain
from llmctx.identity.explanation import KEY

_ALWAYS: Final = ("user_id", "session_id")
_FIRST: Final = ("user_id", "session_id", "conversation_id", "thread_id", "model", "provider")
"""Shown before the others of their group; the order of the others is the table's."""


def _group(name: str) -> tuple[str, ...]:
    shown = [spec for spec in SPECS if spec.kind is not ColumnKind.SNAPSHOT]
    names = [spec.name for spec in shown if name == ("who" if spec.kind is ColumnKind.ID else spec.group)]
    return tuple(sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)))


_WHO: Final = _group("who")
_WHAT: Final = (*_group("what"), *_group("tokens"), *_group("usage"), *_group("run"))
_KINDS: Final = {spec.name: spec.kind for spec in SPECS}
_TITLES: Final = {"response": "answer"}
_MADE: Final = {"route": "route", "where": "made at"}


def show(
    ctx: typer.Context,
    call_id: Annotated[
        str, typer.Argument(metavar="CALL_ID", help="Its id, the beginning of its id, or the form that `calls` prints.")
    ],
    json: Json = False,
) -> None:
    """Show one call in full, and why it belongs to this user."""
    from llmctx.storage import queries

    row = query(ctx, lambda connection, table: queries.call(connection, table, call_id))
    if json:
        output.show_json(_as_json(row))
    else:
        show_call(row)


def show_call(row: Mapping[str, Any]) -> None:
    """Print `row` in full. NULL columns are left out, apart from user and session."""
    status = row["status"] or ("ok" if row["success"] else "error")
    output.show(Text.assemble(("call ", "dim"), (str(row["call_id"]), "bold")))
    after = "" if row["latency_ms"] is None else f" after {row['latency_ms']:,} ms"
    first = "" if row["ttft_ms"] is None else f" (first token after {row['ttft_ms']:,} ms)"
    output.paragraph(f"{time_of(row['created_at'])} UTC, {status}{after}{first}", style="" if status == "ok" else "red")
    _heading("who")
    _fields(row, _WHO)
    evidence, attributes = _split_attributes(row)
    if attributes:
        _field("attributes", json.dumps(attributes, ensure_ascii=False))
    for name, title in _MADE.items():
        if evidence.get(name):
            _field(title, str(evidence[name]))
    _heading("why")
    for sentence in explain.explain(row):
        output.paragraph(sentence, lead="  ")
    if not evidence and explain.was_plain(row):
        output.paragraph(explain.ALONE, lead="  ")
    codes = [str(code) for code in (row["identity_source"], row["identity_reason"]) if code]
    if codes:
        output.show(Text(f"  ({escape_controls(', '.join(codes))})", "dim"))
    _show_sources(explain.candidate_outcomes(row, evidence))
    _heading("what")
    _fields(row, _WHAT)
    if status != "ok":
        _heading("what went wrong")
        _field("status", f"{status}: {explain.STATUSES.get(status, '')}")
        _fields(row, ("error_code", "error_message"))
    for column in sorted(SNAPSHOTS, key=lambda name: name == "response_snapshot"):  # the answer comes last
        if row[column]:
            title = column.removesuffix("_snapshot")
            _heading(_TITLES.get(title, title))
            output.block(readable(row[column]))


def _split_attributes(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return what llmctx noted of how the identity was found, and the team's own attributes."""
    attributes = dict(row["attributes"] or {})
    evidence = attributes.get(KEY)
    if not isinstance(evidence, Mapping):
        return {}, attributes
    del attributes[KEY]
    return evidence, attributes


def _as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` in full, with the reasons, for programs."""
    evidence, attributes = _split_attributes(row)
    made = {name: evidence.get(name) for name in _MADE}
    outcomes = explain.candidate_outcomes(row, evidence)
    return {**row, "attributes": attributes or None, **made, "why": explain.explain(row), "witnesses": outcomes}


def _show_sources(outcomes: Sequence[explain.CandidateOutcome]) -> None:
    """Print a line for each source of identity: the ids it gave, and what became of them."""
    if not outcomes:
        return
    output.show()
    for one in outcomes:
        ids = [f"{name} {value}" for name, value in (("user", one.user_id), ("session", one.session_id)) if value]
        words = f"{', '.join(ids) or 'no user'}. {capitalize(one.verdict)}."
        output.paragraph(words, lead=f"  {escape_controls(one.source):<10}", style="bold" if one.believed else "")


def _heading(title: str) -> None:
    output.show()
    output.show(Text(title, "bold"))


def _fields(row: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if row[name] is not None or name in _ALWAYS:
            _field(name, _shown(row[name], _KINDS.get(name)))


def _shown(value: Any, kind: ColumnKind | None) -> str:
    if value is not None and kind is ColumnKind.NUMBER:
        return f"{float(value):g}"  # a host's numeric(4,2) as a number, not as money
    return json.dumps(value, ensure_ascii=False) if kind is ColumnKind.JSON else text_of(value)


def _field(name: str, value: str) -> None:
    output.paragraph(value, lead=f"  {name:<18}", style="bold red" if value == output.NULL else "")


def readable(snapshot: str) -> str:
    """Format a snapshot for reading: messages as `role: text`, other JSON indented, anything else as it is."""
    try:
        value = json.loads(snapshot)
    except (ValueError, RecursionError):
        return snapshot
    if isinstance(value, list) and value and all(isinstance(item, dict) and "content" in item for item in value):
        return "\n".join(map(_message, value))
    if isinstance(value, dict) and "content" in value:
        return _message(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def _message(message: Mapping[str, Any]) -> str:
    content = message["content"]
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2)
    role = message.get("role") or message.get("type")
    rest = {key: value for key, value in message.items() if key not in {"role", "type", "content"} and value}
    more = "\n" + json.dumps(rest, ensure_ascii=False, indent=2) if rest else ""
    return (f"{role}: {text}" if role else text) + more
