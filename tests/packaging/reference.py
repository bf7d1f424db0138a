"""Write the generated pages of docs/reference anew: `make reference`; with `--check`, only compare them.

Settings come from `Settings`, commands from their own help, columns from `CallRecord`, errors and reasons from the
modules that hold their texts: a page that could be forgotten is not written by hand.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from typer.main import get_command

from llmctx.cli import app
from llmctx.core import errors
from llmctx.core.columns import ColumnKind, ColumnSpec
from llmctx.core.record import SPECS
from llmctx.identity.reasons import REASONS, REMEDIES, SOURCES, STATUSES
from llmctx.settings import PREFIX, Settings
from llmctx.storage.queries.token_gaps import REMEDIES as NO_TOKENS
from llmctx.telemetry.metrics import MEASURES

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs/reference"
_WIDTH: Final = 100
_GENERATED: Final = "<!-- made by `make reference`: do not edit -->\n"

_TYPES: Final = {
    ColumnKind.ID: "text", ColumnKind.TEXT: "text", ColumnKind.SNAPSHOT: "text", ColumnKind.COUNT: "integer",
    ColumnKind.NUMBER: "double precision", ColumnKind.MONEY: "numeric(18, 9)", ColumnKind.FLAG: "boolean",
    ColumnKind.TIME: "timestamptz", ColumnKind.UUID: "uuid", ColumnKind.JSON: "jsonb",
}  # fmt: skip

MEANINGS: Final = {
    "call_id": "The call, made by llmctx. With `created_at` it is the key under which a row is stored once.",
    "created_at": "When the call started.",
    "model": "As the answer names it (`gpt-4o-2024-08-06`); where there is no answer, as it was asked for.",
    "trace_id": "The request's trace: yours, OpenTelemetry's where it is loaded, or a new one.",
    "session_id": "Whose session.",
    "conversation_id": "Your conversation, if you name one.",
    "user_id": "Whose call.",
    "agent_key": "The agent: its name, or that of the graph or node.",
    "temperature": "As the call was made.",
    "top_p": "As the call was made.",
    "max_tokens": "As the call was made.",
    "prompt_tokens": "Tokens of the prompt, cached ones included.",
    "completion_tokens": "Tokens of the answer, reasoning included.",
    "total_tokens": "Both.",
    "latency_ms": "From start to end.",
    "success": "Whether it ended well; `status` says more.",
    "error_code": "The class of the exception, or the provider's code.",
    "error_message": "What it said, redacted.",
    "prompt_snapshot": "The messages, as JSON text, redacted and bounded.",
    "response_snapshot": "The answer, as JSON text, redacted and bounded.",
    "finished_at": "When the call ended.",
    "thread_id": "LangGraph's thread.",
    "node": "LangGraph's node.",
    "provider": "The provider, as LangChain names it.",
    "run_id": "LangChain's run.",
    "parent_run_id": "The run around it.",
    "status": "`ok`, `error`, `cancelled`, `abandoned` or `lost`; [what each means](errors.md#status).",
    "identity_source": "Which source was believed; [the list](errors.md#identity-source).",
    "identity_reason": "Why an id is missing, or what is odd; [the list](errors.md#identity-reason).",
    "usage_source": "The source of the tokens, or why there are none; [the list](errors.md#usage-source).",
    "finish_reason": "Why the answer ended: `stop`, `length`, `tool_calls`, …",
    "reasoning_snapshot": "The reasoning that the answer shows.",
    "cached_tokens": "Those of the prompt that the provider read from its cache.",
    "reasoning_tokens": "Those of the answer that were reasoning.",
    "ttft_ms": "Until the first content of a stream.",
    "tool_calls": "How many tools the answer calls.",
    "cost_usd": "US dollars; NULL where the price is not known, never an invented 0.",
    "streamed": "Whether the answer was streamed.",
    "cached": "Whether LangChain's cache answered.",
    "response_model": "The model that the answer names.",
    "response_id": "The answer's id at the provider.",
    "service_tier": "The tier in which the provider served it.",
    "cache_write_tokens": "Those of the prompt that were written to the provider's cache.",
    "span_id": "OpenTelemetry's span around the call; with `LLMCTX_OTEL_SPANS=on`, the call's own.",
    "cost_source": "Who says what it cost: `provider`, `price file`, `genai-prices`, `cache` or `manual`.",
    "attributes": "Everything else: tags, metadata, evidence. Keys that begin with `llmctx_` are ours.",
}


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join([f"| {head} |", "|" + "---|" * len(rows[0]), *(f"| {line} |" for line in body)]) + "\n"


def _page(title: str, introduction: str, *parts: str) -> str:
    return "\n".join([f"# {title}\n", _GENERATED, introduction + "\n", *parts])


def _field_docs() -> dict[str, str]:
    """Return the sentence below each field of `Settings`, as its source has it."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    name = ""
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and name:
            docs[name] = inspect.cleandoc(str(statement.value.value))
            name = ""
    return docs


def _values(annotation: Any) -> str:
    if get_origin(annotation) is None:
        return "" if annotation is str else f"{getattr(annotation, '__name__', annotation)}"
    words = [repr(one).strip("'") for one in get_args(annotation) if one is not type(None)]
    if all(isinstance(one, str) for one in get_args(annotation)):
        return ", ".join(f"`{one}`" for one in words)
    plain = [one for one in get_args(annotation) if one not in (type(None), str)]
    return ", ".join(one.__name__ for one in plain) if get_origin(annotation) is not dict else "JSON object"


def _default(name: str) -> str:
    value = Settings.model_fields[name].get_default(call_default_factory=True)
    if value is None or value == {}:
        return ""
    return f"`{'on' if value is True else 'off' if value is False else value}`"


def settings() -> str:
    """Return the page of the settings."""
    docs = _field_docs()
    rows = [
        (f"`{PREFIX}{name.upper()}`", _default(name), _values(field.annotation), " ".join(docs[name].split()))
        for name, field in Settings.model_fields.items()
    ]
    return _page(
        "Settings",
        "An environment variable, or an argument of `CallLog` with the same name in lower case and without the prefix: "
        "`LLMCTX_LINGER_MS=20` is `CallLog(linger_ms=20)`, and the argument wins. A value that cannot be used is a "
        "`ConfigError` at start that names its key. An unknown variable is named in the log, with the "
        "nearest one.",
        _table(("variable", "default", "values", "meaning"), *rows),
    )


def _commands(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Yield the full name of `command` and of each below it, and what it prints with `--help`."""
    context = command.make_context(
        name, [], parent=parent, resilient_parsing=True, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    yield context.command_path, "\n".join(line.rstrip() for line in str(command.get_help(context)).splitlines())
    for sub in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _commands(command.get_command(context, sub), sub, context)


def cli() -> str:
    """Return the page of the commands: what each prints with `--help`."""
    parts = [f"## {name}\n\n```text\n{text}\n```\n" for name, text in _commands(get_command(app), "llmctx")]
    return _page(
        "Command line",
        'Needs `pip install "llmctx[cli]"`. Data goes to stdout, messages to stderr; `--json` prints one JSON '
        "document. Commands that change rows only show what they would do until `--yes`, and can be interrupted and "
        "run again.\n\n"
        "Exit codes: 0 fine, 1 a finding, 2 wrong usage or settings, 3 no database, 130 interrupted.",
        *parts,
    )


def table() -> str:
    """Return the page of the table."""
    rows = [(f"`{spec.name}`", _TYPES[spec.kind], _notes(spec), MEANINGS[spec.name]) for spec in SPECS]
    return _page(
        "The table",
        "`biz_agent_llm_call_logs` (`LLMCTX_TABLE`), in the order of its columns, with PostgreSQL's types. An adopted "
        "table keeps the types that it has. *Added* columns are those that `llmctx migrate` adds to a table that it "
        "adopts; every one of them may be NULL. *Personal* columns are emptied by `llmctx erase --blank`; "
        "`llmctx erase` deletes the row.",
        _table(("column", "type", "", "meaning"), *rows),
    )


def _notes(spec: ColumnSpec) -> str:
    words = (("never NULL", spec.required), ("added", spec.added), ("personal", spec.personal))
    return ", ".join(word for word, holds in words if holds)


def _tree() -> Iterator[tuple[str, str]]:
    for name, one in vars(errors).items():
        if isinstance(one, type) and issubclass(one, errors.LlmctxError):
            yield f"`{name}`", " ".join((one.__doc__ or "").split())


def _causes() -> Iterator[tuple[str, str]]:
    """Yield each cause that `diagnostics.count` is given as a literal, with the words that the log shows."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "llmctx").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "diagnostics.count" and len(node.args) > 1:
                cause, message = node.args[:2]
                if isinstance(cause, ast.Constant) and isinstance(message, ast.Constant):
                    found.setdefault(cause.value, []).append(re.sub(r"%[sdr]", "…", message.value).replace("%%", "%"))
    for cause, messages in sorted(found.items()):
        yield f"`{cause}`", "; or: ".join(dict.fromkeys(messages))


def messages() -> str:
    """Return the page of errors, statuses and reasons."""
    reasons = [(f"`{code}`", one.text, one.remedy) for code, one in REASONS.items()]
    tokens = [("`provider`", "The provider reported them.")]
    tokens += [(f"`{code}`" if code else "NULL", f"These calls {text}") for code, text in NO_TOKENS.items()]
    return _page(
        "Errors and reasons",
        "What llmctx prints, raises, counts and writes into rows.",
        "## Exceptions\n\nThey reach only code that calls llmctx on purpose: constructors, commands, migrations. None "
        "is raised out of a callback, a middleware or a graph.\n",
        _table(("exception", "means"), *_tree()),
        "## status {#status}\n",
        _table(("`status`", "means"), *((f"`{code}`", text) for code, text in STATUSES.items())),
        "## identity_source {#identity-source}\n",
        _table(("`identity_source`", "means"), *((f"`{code}`", text) for code, text in SOURCES.items())),
        "## identity_reason {#identity-reason}\n",
        _table(("`identity_reason`", "means", "remedy"), *reasons),
        "The remedies, as `llmctx coverage` prints them:\n",
        _table(("remedy", ""), *REMEDIES.items()),
        "## usage_source {#usage-source}\n",
        _table(("`usage_source`", "means"), *tokens),
        "## What the log says {#incidents}\n\nOne line a minute for each cause, by the logger `llmctx`;\n"
        "`call_log.stats().incidents` counts each of them by this name.\n",
        _table(("cause", "the line, with … for what differs"), *_causes()),
    )


def metrics() -> str:
    """Return the page of the metrics."""
    rows = [
        (f"`{one.name}`", f"`{one.otel_name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.text)
        for one in MEASURES
    ]
    return _page(
        "Metrics",
        "As [Prometheus](../look/prometheus.md) and [OpenTelemetry](../look/opentelemetry.md) name them. A label is "
        "empty where the row has NULL.",
        _table(("In Prometheus", "In OpenTelemetry", "Kind", "Labels", "Meaning"), *rows),
    )


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings, "cli.md": cli, "table.md": table, "errors.md": messages, "metrics.md": metrics,
}  # fmt: skip


def main() -> int:
    """Write the pages, or say which of them are behind. Return 1 if one is."""
    behind = []
    for name, make in PAGES.items():
        text, file = make(), FOLDER / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            behind.append(name)
            if "--check" not in sys.argv:
                file.write_text(text, encoding="utf-8")
    if behind and "--check" in sys.argv:
        print(f"docs/reference is behind the code ({', '.join(behind)}): run `make reference`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
