"""`llmctx doctor --app`: each known cause of missing ids is found in a small application, none in a well-made one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctx import cli
from llmctx.core.errors import ConfigError
from tests.kit.shop import GRAPH, SUMMARISE, Check

WELL_MADE = (
    """
    pool = ThreadPoolExecutor(2)
    jobs = queue.Queue()
    request_id = ContextVar("request_id", default=None)


    class Tracer(AsyncCallbackHandler):
        async def on_llm_start(self, *args, **kwargs):
            pass


    module_level = FakeListChatModel(responses=["yes"], callbacks=[Tracer()])


    def summarise(text):
        return model.invoke(text)


    def resize(image):
        return image[:10]


    def work():
        while True:
            user, text = jobs.get()
            with bind(user_id=user):
                summarise(text)


    async def follow(items: asyncio.Queue):
        while True:
            state, config = await items.get()
            await graph.ainvoke(state, config)


    def report(settings={}):
        while True:
            resize(settings.get("metrics"))


    @contextmanager
    def nightly():
        with bind(user_id="nightly"):
            yield


    async def on_pool(fn, *args):
        return await asyncio.get_running_loop().run_in_executor(pool, fn, *args)


    async def many(text):
        loop = asyncio.get_running_loop()
        context = copy_context()
        await loop.run_in_executor(None, carry(summarise), text)
        await loop.run_in_executor(None, functools.partial(carry(summarise), text))
        await loop.run_in_executor(None, context.run, summarise, text)
        config = {"callbacks": []}
        await loop.run_in_executor(None, model.invoke, text, config)
        await loop.run_in_executor(None, functools.partial(model.invoke, config=config), text)
        threading.Thread(target=lambda: model.invoke(text, config)).start()
        await on_pool(resize, text)
        await on_pool(carry(summarise), text)
        carried = carry(summarise)
        pool.submit(carried, text)
        list(pool.map(resize, [text]))
        threading.Thread(target=carry(summarise), args=(text,)).start()
        threading.Thread(target=report, daemon=True).start()
        await asyncio.to_thread(summarise, text)
        return await asyncio.create_task(model.ainvoke(text))


    class Timing(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            request_id.set("x")
            response = await call_next(request)
            response.headers["x-id"] = request_id.get()
            return response


    def patient(user: str):
        amend(user_id=user)
        return user


    async def visit(session: str):
        request_id.set(session)
        with bind(session_id=session):
            yield session
    """,
    """
    router = APIRouter(prefix="/v1", dependencies=[Depends(visit)])


    @router.post("/graph")
    async def run(question: str, user=Depends(patient)):
        await graph.ainvoke({}, {"configurable": {"user_id": user}})


    @router.websocket("/talk")
    async def talk(socket: WebSocket):
        await asyncio.create_task(follow(asyncio.Queue()))


    app.include_router(router)
    app.mount("/sub", FastAPI())
    app.add_middleware(Timing)
    """,
)


WORKER = """
    import rq
    from celery import shared_task

    from llmctx import take_over
    from SHOP.main import summarise


    @shared_task
    def letter(text, token):
        with take_over(token):
            return summarise(text)


    @shared_task
    def clean_up():
        return None


    class WorkerSettings:
        functions = [letter]
"""


def test_a_well_made_application_gets_no_finding(check: Check) -> None:
    """Everything that can go wrong, done right: executors, threads, workers, jobs, dependencies, middleware."""
    assert check(*WELL_MADE, files={"worker": WORKER}) == []


def test_what_is_right_is_said_too(check: Check) -> None:
    """A clean bill of health names what was looked at."""
    said = {finding.name: finding.cause for finding in check(*WELL_MADE, everything=True)}
    assert said["middleware"] == "ContextMiddleware is around all 3 routes"
    assert said["canary requests"].startswith("5 of 5 calls")
    assert said["graphs"].endswith("graphs.graph: wrapped")
    assert said["source"].startswith("3 files read")


def test_an_application_that_cannot_be_imported_is_a_matter_of_usage(check: Check) -> None:
    """Exit 2, with the reason."""
    with pytest.raises(ConfigError, match="no such key"):
        check(before="raise RuntimeError('no such key')")


BARE = GRAPH.replace("wrap_graph(builder)", "builder")


def test_it_fits_into_80_columns_and_answers_with_its_exit_code(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cause, consequence, fix and place of each; exit 1."""
    monkeypatch.setenv("COLUMNS", "80")
    before = f"{SUMMARISE}\n\n    def run(text):\n        return pool.submit(summarise, text)\n"
    assert len(check(before, graphs=BARE, middleware="")) == 3
    (shop,) = (path.parent.name for path in tmp_path.glob("*/*/main.py"))
    code = cli.run(
        ["--database-url", f"sqlite+aiosqlite:///{tmp_path / 'llmctx.db'}", "doctor", "--app", f"{shop}.main:app"]
    )
    shown = capsys.readouterr()
    assert code == 1
    assert shown.out.count("wrong ") == 3
    assert shown.out.count("      do    ") == 3
    assert [text for text in shown.out.splitlines() if len(text) > 80] == []
    assert "3 of" in shown.err
