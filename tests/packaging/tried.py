"""What `make build` does with the wheel in an environment that holds nothing else: `python -I tried.py EXTRAS`.

Run in an empty folder. Bare: the table, a call, its row. With `cli`: the same by commands. With `all`: the dashboard,
page for page. With `demo`: the demo.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

SCRIPT = """
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from llmctx import bind
from llmctx.calllog import CallLog

call_log = CallLog()
call_log.migrate()
with call_log, bind(user_id="u-1", session_id="s-1"):
    FakeListChatModel(responses=["Good day."]).invoke("Hello")
assert call_log.stats().balanced, call_log.stats()
"""


def llmctx(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-I", "-m", "llmctx", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout or done.stderr


def call() -> None:
    """One call, and its row as the database has it."""
    subprocess.run([sys.executable, "-I", "-c", SCRIPT], check=True)
    with sqlite3.connect("llmctx.db") as database:
        rows = database.execute("SELECT user_id, session_id, status FROM biz_agent_llm_call_logs").fetchall()
    assert rows == [("u-1", "s-1", "ok")], rows


def commands() -> None:
    """The row by the command line."""
    assert json.loads(llmctx("migrate", "check", "--json"))["table"] == "ours"
    (row,) = json.loads(llmctx("calls", "--json"))
    assert (row["user_id"], row["status"]) == ("u-1", "ok")
    assert "100.00 %" in llmctx("coverage", "--fail-under", "100")


def dashboard() -> None:
    """The pages of `llmctx ui`, their JSON, and every file that a page names."""
    command = [sys.executable, "-I", "-m", "llmctx", "ui", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
            root = address.partition("/?")[0]

            def get(url: str) -> Any:
                with opener.open(url) as answer:
                    return answer.read().decode(errors="replace")

            page = get(address)
            for file in set(re.findall(r'(?:src|href)="(/[^"]*static/[^"]+)"', page)):
                assert get(f"{re.match('http://[^/]+', root)[0]}{file}"), file  # type: ignore[index]  # it matched
            for name in ("sessions", "users", "calls", "errors", "coverage", "health"):
                assert "<html" in get(f"{root}/{name}?lang=zh")
                assert json.loads(get(f"{root}/{name}.json"))["v"] == 1
        finally:
            server.terminate()


def main(extras: str) -> None:
    os.environ.pop("LLMCTX_DATABASE_URL", None)
    chosen = set(filter(None, extras.split(",")))
    assert not list(Path().glob("*"))
    call()
    if not chosen:
        assert 'pip install "llmctx[cli]"' in llmctx("calls", code=1)
    else:
        commands()
    if "all" in chosen:
        dashboard()
    if "demo" in chosen:
        assert json.loads(llmctx("demo", "--json", "--users", "3"))
    print(f"fine: {sys.version.split()[0]} [{extras}]")


if __name__ == "__main__":
    main(sys.argv[1])
