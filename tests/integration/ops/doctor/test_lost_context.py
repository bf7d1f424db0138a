"""Work that leaves its scope behind is found, with the line."""

from __future__ import annotations

import textwrap

import pytest

from llmctx.ops.doctor import Finding
from tests.kit.shop import CALL_LOG, SUMMARISE, Check, line, only

GIVEN_AWAY = {
    "executors": [
        "asyncio.get_running_loop().run_in_executor(None, summarise, text)",
        "asyncio.get_running_loop().run_in_executor(pool, lambda: summarise(text))",
        "asyncio.get_running_loop().run_in_executor(None, functools.partial(summarise, text))",
        "pool.submit(summarise, text)",
        "pool.submit(model.invoke, text)",
        "list(pool.map(summarise, [text]))",
        "ThreadPoolExecutor().submit(summarise, text)",
    ],
    "threads": [
        "threading.Thread(target=summarise, args=(text,)).start()",
        "threading.Timer(1, summarise, [text]).start()",
    ],
    "process pools": ["ProcessPoolExecutor().submit(summarise, text)"],
    "processes": ["__import__('multiprocessing') and multiprocessing.Process(target=summarise, args=(text,))"],
}


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, codes in GIVEN_AWAY.items() for code in codes])
def test_work_that_is_given_away_without_its_scope(check: Check, name: str, code: str) -> None:
    """In whatever spelling, with the line where it happens; and nothing where the scope goes along."""
    before = f"{SUMMARISE}\n\n    async def run(text):\n        import multiprocessing\n        return {code}\n"
    finding = only(check(before), name)
    assert line(finding) == f"return {code}"
    if name != "processes":
        assert check(before, call_log=CALL_LOG.replace(")", ", carry=True)")) == []


def test_a_thread_of_a_class_of_its_own(check: Check) -> None:
    """`run` is what it does."""
    before = """
        class Worker(threading.Thread):
            def run(self):
                self.summarise()

            def summarise(self):
                model.invoke("text")
    """
    only(check(before), "threads")


def test_a_helper_counts_if_it_is_given_calls(check: Check) -> None:
    """`run_sync(fn)` is as good as what it is given."""
    helper = """
        async def run_sync(fn, *args):
            return await asyncio.get_running_loop().run_in_executor(None, fn, *args)


        async def use(text):
            return await run_sync(FN, text)
    """
    only(check(textwrap.dedent(SUMMARISE) + textwrap.dedent(helper).replace("FN", "summarise")), "executors")
    assert check(textwrap.dedent(SUMMARISE) + textwrap.dedent(helper).replace("FN", "len")) == []


WORK = """
    jobs = asyncio.Queue()


    async def work():
        while True:
            text = await jobs.get()
            await model.ainvoke(text)


    def ensure():
        asyncio.create_task(work())
"""


def test_a_worker_that_a_request_starts(check: Check) -> None:
    """It would be in that request's scope for good."""
    after = """
        @app.post("/job")
        async def job(text: str):
            ensure()
            await jobs.put(text)
    """
    finding = only(check(WORK, after), "workers")
    assert "carry=True" in finding.fix
    assert line(finding) == "asyncio.create_task(work())"
    assert check(WORK, after, call_log=CALL_LOG.replace(")", ", carry=True)")) == []


def test_a_worker_that_the_lifespan_starts(check: Check) -> None:
    """It has no scope at all."""
    only(check(WORK, "on_start = ensure"), "queues")


JOBS = {
    "celery": "from celery import Celery\n\nit = Celery()\n\n\n@it.task(bind=True)\ndef letter(self, text):\n    MODEL",
    "shared": "from celery import shared_task\n\n\n@shared_task\ndef letter(text):\n    MODEL",
    "dramatiq": "import dramatiq\n\n\n@dramatiq.actor\ndef letter(text):\n    MODEL",
    "rq": "import rq\n\n\ndef letter(text):\n    MODEL\n\n\ndef send(q):\n    q.enqueue(letter, 'text')",
    "arq": "async def letter(ctx, text):\n    MODEL\n\n\nclass WorkerSettings:\n    functions = [letter]",
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_jobs_of_other_processes_have_to_take_over(check: Check, job: str) -> None:
    """Also in files that the application itself never imports."""
    head = "from SHOP.graphs import model\n"
    finding = only(check(files={"worker": head + job.replace("MODEL", "model.invoke(text)")}), "jobs")
    assert line(finding).startswith(("@", "def letter", "async def letter"))
    done = "with take_over(text):\n        model.invoke(text)"
    head += "from llmctx import take_over\n"
    assert check(files={"worker": head + job.replace("MODEL", done)}) == []


def remarks(findings: list[Finding]) -> dict[str, str]:
    """What could not be told, by the names of the checks."""
    asked = ("other processes", "hand-over key")
    return {finding.name: finding.cause for finding in findings if finding.unknown and finding.name in asked}


def test_a_worker_without_a_call_log_is_no_all_clear(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs take their identity over, and have no row; and without a key no token is made at all."""
    head = "from SHOP.graphs import model\nfrom llmctx import take_over\nfrom llmctx.calllog import CallLog\n\n\n"
    job = "async def letter(ctx, text, identity):\n    with take_over(identity):\n        model.invoke(text)\n\n\n"
    worker = f"{head}{job}class WorkerSettings:\n    functions = [letter]\n"
    monkeypatch.delenv("LLMCTX_HANDOVER_KEY", raising=False)
    found = remarks(check(files={"worker": worker}, everything=True))
    assert "letter (arq)" in found["other processes"]
    assert "worker.py:7" in found["hand-over key"]
    monkeypatch.setenv("LLMCTX_HANDOVER_KEY", "k" * 32)
    other = "from llmctx.calllog import CallLog\ncall_log = CallLog()\n"
    assert "other processes" in remarks(check(files={"worker": worker, "unlike": other}, everything=True))
    starter = f"{other}from SHOP import worker\n"
    assert remarks(check(files={"worker": worker, "starter": starter}, everything=True)) == {}
    started = f"{worker}\n    async def on_startup(ctx):\n        ctx['log'] = CallLog().start()\n"
    assert remarks(check(files={"worker": started}, everything=True)) == {}


def test_a_tool_of_an_mcp_server_is_of_another_process(check: Check) -> None:
    """Its model's calls have no row there, unless the server starts a call log."""
    head = "from mcp.server.fastmcp import FastMCP\nfrom SHOP.graphs import model\n\nserver = FastMCP()\n\n\n"
    tool = "@server.tool()\nasync def letter(text: str):\n    return await model.ainvoke(text)\n"
    found = check(files={"letters": head + tool}, everything=True)
    assert "letter (mcp)" in remarks(found)["other processes"]
    lifespan = "from llmctx.calllog import CallLog\ncall_log = CallLog()\n"
    assert remarks(check(files={"letters": lifespan + head + tool}, everything=True)) == {}


def test_a_job_that_a_scheduler_runs(check: Check) -> None:
    """It runs in no request: without bind() there is no scope, also with carry=True."""
    scheduler = """
        class Scheduler:
            def add_job(self, job, trigger):
                pass


        Scheduler().add_job(summarise, "cron")
    """
    before = textwrap.dedent(SUMMARISE) + textwrap.dedent(scheduler)
    imported = {"plans": "import apscheduler\n"}
    finding = only(check(before, files=imported), "scheduled jobs")
    assert line(finding).startswith("def summarise")
    assert "bind(" in finding.fix
    assert [one.name for one in check(before, files=imported, call_log=CALL_LOG.replace(")", ", carry=True)"))] == [
        "scheduled jobs"
    ]
