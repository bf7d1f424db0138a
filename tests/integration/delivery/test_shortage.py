"""No descriptor is left to a process: what is open goes on being used, and what needs another one waits for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.kit.rows import execute, rows_of

BEGINS = """
import contextlib, json, os, random, resource, sys, time
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from llmctx import bind
from llmctx.calllog import CallLog

def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, call_log.stats()
        take_all()
        time.sleep(0.01)

held, lasts = [], False

def take_all():  # again and again: those of a connection that has ended are left as well
    with contextlib.suppress(OSError):
        while lasts:
            held.append(os.open(os.devnull, os.O_RDONLY))

@contextlib.contextmanager
def none_left():
    global lasts
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 128), hard))
    lasts = True
    take_all()
    try:
        yield
    finally:
        lasts = False
        while held:
            os.close(held.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

def call(text):
    with bind(user_id="u", session_id="s"):
        model.invoke(text)

def asks(what):  # of the test
    print(what, flush=True)
    sys.stdin.readline()

model = FakeListChatModel(responses=["yes"])
model.invoke("what LangChain loads late")
call_log = CallLog(sys.argv[1], journal_bytes=2**20)
"""
ENDS = """
assert call_log.flush(60) == 0
stats = call_log.stats()
call_log.close()
print(json.dumps({"written": stats.written, "dropped": stats.dropped, "quarantined": stats.quarantined}), flush=True)
"""

UNDER_WAY = (
    BEGINS
    + """
call_log.start()
call("first")
wait_until(lambda: call_log.stats().written == 1)
with none_left():
    call_log._worker.sink._destination._look_again_at = 0.0
    call("über allem \u4e2d\u6587 \u263a" * 50)  # of which more modules take care than of ASCII
    wait_until(lambda: call_log.stats().written == 2)
    call("refused")
    wait_until(lambda: "row_waits" in call_log.stats().incidents)
    asks("cut")
    wait_until(lambda: call_log._worker.sink._destination._connection.is_open is False)
    for number in range(40):  # so much that the journal would begin new files
        call(f"{number} " + "".join(random.choices("abcdefgh ", k=8000)))
    wait_until(lambda: "journal_failed" in call_log.stats().incidents)
    call("+49 30 901820")
    wait_until(lambda: call_log._worker.pipeline._short_at)
"""
    + ENDS
)
AT_START = (
    BEGINS
    + """
with none_left():
    call_log.start()
    for number in range(3):
        call(f"{number} \u4e2d\u6587")
    wait_until(lambda: "pipeline_died" in call_log.stats().incidents)
"""
    + ENDS
)


def _run(program: str, url: str, *, when_asked: str) -> dict[str, int]:
    """Run `program`, and execute a statement when it asks for that. Return the figures that it prints."""
    with subprocess.Popen(
        [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() != "cut":
                return {**json.loads(line)}
            execute(url, when_asked)
            process.stdin.write("\n")
            process.stdin.flush()
    pytest.fail(f"it ended with {process.returncode}")


def test_while_no_descriptor_is_left_nothing_is_lost(own: str) -> None:
    """A connection that works is used, a file that is open grows, a row that is refused waits until it can be kept."""
    table = "biz_agent_llm_call_logs"
    execute(own, f"ALTER TABLE {table} ADD CHECK (prompt_snapshot::text NOT LIKE '%refused%')")
    name = "llmctx%"
    ends = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '{name}'"
    figures = _run(UNDER_WAY, own, when_asked=ends)
    assert figures == {"written": 43, "dropped": 0, "quarantined": 1}
    prompts = [json.dumps(row.prompt_snapshot) for row in rows_of(own)]
    assert len(prompts) == 43
    assert sum(len(prompt) > 8000 for prompt in prompts) == 40
    assert any("[redacted:phone]" in prompt for prompt in prompts)
    assert {row.user_id for row in rows_of(own)} == {"u"}


def test_a_process_that_begins_without_descriptors(database: str) -> None:
    """Its calls wait in memory until the pipeline can begin."""
    assert _run(AT_START, database, when_asked="") == {"written": 3, "dropped": 0, "quarantined": 0}
    assert sum("\u4e2d\u6587" in str(row.prompt_snapshot) for row in rows_of(database)) == 3
