"""PostgreSQL's own programs, as a database's owner uses them; they come with the wheel that serves the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sqlalchemy import make_url

from llmctx.cli.demo.postgres import programs


def _run(program: str, url: str, *arguments: str, given: str | None = None) -> str:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    command = [str(_folder() / program), "-d", plain, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _folder() -> Path:
    return programs()


def psql(url: str, script: str) -> str:
    """What `script` says; the first statement that fails ends it."""
    return _run("psql", url, "-q", "-At", "-v", "ON_ERROR_STOP=1", given=script)


def dumped(url: str) -> list[str]:
    """The whole schema, statement by statement, without our note of its version."""
    said = _run("pg_dump", url, "--schema-only", "--no-owner", "-T", "*.*alembic_version*")
    lines = [line for line in said.splitlines() if line and not line.startswith(("--", "\\", "SET ", "SELECT "))]
    return [one for one in "\n".join(lines).split(";\n") if "SET (pg_attver=" not in one]  # some servers' own notes


def has_lz4(url: str) -> bool:
    """PostgreSQL can be built without it; then texts are compressed as before."""
    asked = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    return psql(url, asked).strip() == "t"
