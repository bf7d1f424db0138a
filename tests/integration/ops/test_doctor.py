"""`llmctx doctor --app`: each known cause of missing ids is found in a small application, none in a well-made one."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctx import cli
from llmctx.capture import recorder
from llmctx.core.errors import ConfigError
from llmctx.identity.propagation import threads as carrying
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor import Finding, examine
from llmctx.settings import load

_numbers = itertools.count(1)

GRAPH = """
    from langchain_core.language_models.fake_chat_models import FakeListChatModel
    from langgraph.graph import START, MessagesState, StateGraph

    from llmctx.graph import wrap_graph

    model = FakeListChatModel(responses=["yes"])


    async def answer(state: MessagesState):
        raise AssertionError("doctor calls no node")


    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = wrap_graph(builder).compile()
"""

MAIN = """
    import asyncio
    import functools
    import queue
    import threading
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from contextlib import asynccontextmanager, contextmanager
    from contextvars import ContextVar, copy_context

    from fastapi import APIRouter, Depends, FastAPI, WebSocket
    from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
    from langchain_core.language_models.fake import FakeListLLM
    from langchain_core.language_models.fake_chat_models import FakeListChatModel
    from starlette.authentication import AuthenticationBackend
    from starlette.middleware.authentication import AuthenticationMiddleware
    from starlette.middleware.base import BaseHTTPMiddleware

    from llmctx import CallContext, amend, bind, carry, current, take_over
    from llmctx.calllog import CallLog
    from llmctx.middleware import ContextMiddleware
    from SHOP.graphs import graph, model

    CALL_LOG
    BEFORE


    def who(conn):
        return CallContext(user_id=conn.headers["x-user"], session_id="s")


    app = FastAPI(lifespan=call_log.lifespan)


    @app.post("/chat")
    async def chat(question: str):
        raise AssertionError("doctor calls no endpoint")


    AFTER
    MIDDLEWARE
"""
CALL_LOG = 'call_log = CallLog("sqlite+aiosqlite:///never.db")'
MIDDLEWARE = "app.add_middleware(ContextMiddleware, identify=who)"

Check = Callable[..., list[Finding]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Writes an application, examines it, and gives what was found to be wrong with it."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'llmctx.db'}"
    migrate.upgrade(load(database_url=url))
    before = set(sys.modules)

    def run(
        before: str = "",
        after: str = "",
        *,
        graphs: str = GRAPH,
        call_log: str = CALL_LOG,
        middleware: str = MIDDLEWARE,
        files: dict[str, str] | None = None,
        everything: bool = False,
    ) -> list[Finding]:
        shop = f"shop{next(_numbers)}"
        parts = {"BEFORE": before, "AFTER": after, "CALL_LOG": call_log, "MIDDLEWARE": middleware}
        main = textwrap.dedent(MAIN)
        for name, text in parts.items():
            main = main.replace(name, textwrap.dedent(text).strip(), 1)
        root = tmp_path / f"root_of_{shop}"
        for name, text in {"__init__": "", "main": main, "graphs": graphs, **(files or {})}.items():
            file = root / shop / f"{name}.py"
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(textwrap.dedent(text).replace("SHOP", shop), encoding="utf-8")
        monkeypatch.chdir(root)
        monkeypatch.syspath_prepend(root)
        findings = examine(load(database_url=url), app=f"{shop}.main:app")
        assert recorder.active == []
        assert not carrying.installed()
        return findings if everything else [finding for finding in findings if not finding.ok]

    yield run
    for name in set(sys.modules) - before:
        if name.startswith("shop"):
            del sys.modules[name]


def only(findings: list[Finding], name: str) -> Finding:
    """The one finding, which is called `name` and says what to do about it."""
    assert [finding.name for finding in findings] == [name], findings
    (finding,) = findings
    assert finding.cause
    assert finding.consequence
    assert finding.fix
    return finding


def line(finding: Finding) -> str:
    """The line of source that the finding points to."""
    assert finding.where is not None
    file, _, number = finding.where.split(",")[0].rpartition(":")
    return Path(file).read_text(encoding="utf-8").splitlines()[int(number) - 1].strip()


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


def test_no_middleware(check: Check) -> None:
    """Nobody says whose request it is."""
    finding = only(check(middleware=""), "middleware")
    assert line(finding).startswith("app = FastAPI(")


def test_a_middleware_around_a_part_only(check: Check) -> None:
    """Routes outside of a mounted application that has it are named."""
    after = """
        inner = FastAPI()
        inner.add_middleware(ContextMiddleware, identify=who)


        @inner.get("/inside")
        async def inside():
            return 1


        app.mount("/inner", inner)
    """
    finding = only(check(after=after, middleware=""), "middleware")
    assert "1 of 2 routes are outside of ContextMiddleware: /chat" in finding.cause


def test_a_middleware_put_around_by_hand_counts(check: Check) -> None:
    """`app = ContextMiddleware(FastAPI(), identify=who)` is as good."""
    assert check(middleware="app = ContextMiddleware(app, identify=who)") == []


BACKEND = """
    class Backend(AuthenticationBackend):
        async def authenticate(self, conn):
            raise AssertionError("doctor calls nothing")
"""


def test_identify_asks_for_a_user_before_there_is_one(check: Check) -> None:
    """Authentication runs further in, so identify finds nobody."""
    middleware = """
        def by_user(conn):
            return CallContext(user_id=conn.user.identity)


        app.add_middleware(AuthenticationMiddleware, backend=Backend())
        app.add_middleware(ContextMiddleware, identify=by_user)
    """
    finding = only(check(BACKEND, middleware=middleware), "middleware order")
    assert "AuthenticationMiddleware" in finding.cause


@pytest.mark.parametrize(
    "middleware",
    [
        "app.add_middleware(AuthenticationMiddleware, backend=Backend())\n" + MIDDLEWARE,
        "app.add_middleware(ContextMiddleware)\napp.add_middleware(AuthenticationMiddleware, backend=Backend())",
        "app.add_middleware(AuthenticationMiddleware, backend=Backend())\napp.add_middleware(ContextMiddleware)",
    ],
    ids=["identify reads a header", "authentication outside", "authentication inside, no identify"],
)
def test_orders_that_work_are_no_finding(check: Check, middleware: str) -> None:
    """An identify of one's own that reads headers needs no authentication; without one the user is looked up late."""
    assert check(BACKEND, middleware=middleware) == []


def test_neither_identify_nor_authentication(check: Check) -> None:
    """Every request would be anonymous."""
    only(check(middleware="app.add_middleware(ContextMiddleware)"), "identify")


def test_amend_in_a_dependency_is_as_good_as_identify(check: Check) -> None:
    """The user is learned late, but learned."""
    before = """
        async def patient(user: str):
            amend(user_id=user)
    """
    after = """
        @app.get("/later", dependencies=[Depends(patient)])
        async def later():
            return 1
    """
    assert check(before, after, middleware="app.add_middleware(ContextMiddleware)") == []


def test_bind_in_a_base_http_middleware_ends_too_early(check: Check) -> None:
    """call_next() returns when the answer begins."""
    before = """
        class Who(BaseHTTPMiddleware):
            async def dispatch(self, request, call_next):
                with bind(user_id=request.headers["x-user"]):
                    return await call_next(request)
    """
    finding = only(check(before, middleware=MIDDLEWARE + "\napp.add_middleware(Who)"), "BaseHTTPMiddleware")
    assert line(finding).startswith("with bind(")


def test_a_base_http_middleware_hears_nothing_from_further_in(check: Check) -> None:
    """A context variable that the endpoint sets is read in vain after call_next()."""
    before = """
        user = ContextVar("user", default=None)
    """
    middleware = """
        @app.middleware("http")
        async def audit(request, call_next):
            response = await call_next(request)
            print(user.get())
            return response
    """
    finding = only(check(before, middleware=f"{MIDDLEWARE}\n{textwrap.dedent(middleware)}"), "BaseHTTPMiddleware")
    assert "audit" in finding.cause
    assert line(finding) == "print(user.get())"


def test_a_call_log_that_is_never_started(check: Check) -> None:
    """It was made, and the lifespan is another."""
    only(check(call_log=CALL_LOG, after="app.router.lifespan_context = FastAPI().router.lifespan_context"), "handler")


def test_an_application_that_does_not_start(check: Check) -> None:
    """Its own error is the finding, and everything else is looked at all the same."""
    after = """
        @asynccontextmanager
        async def broken(app):
            raise RuntimeError("no such key")
            yield


        app.router.lifespan_context = broken
    """
    findings = check(after=after, middleware="")
    assert [finding.name for finding in findings] == ["start", "middleware"]
    assert "no such key" in findings[0].cause


def test_an_application_that_cannot_be_imported_is_a_matter_of_usage(check: Check) -> None:
    """Exit 2, with the reason."""
    with pytest.raises(ConfigError, match="no such key"):
        check(before="raise RuntimeError('no such key')")


BARE = GRAPH.replace("wrap_graph(builder)", "builder")


def test_a_graph_that_is_not_wrapped(check: Check) -> None:
    """A global of one of the application's modules."""
    finding = only(check(graphs=BARE), "graphs")
    assert line(finding) == "graph = builder.compile()"


CLINIC = """
    class Clinic:
        def __init__(self):
            self.graph = make()

        async def x(self):
            return 1


    app.get("/x")(Clinic().x)
"""


@pytest.mark.parametrize(
    "after",
    [
        "app.state.graph = make()",
        "def add(inner):\n    @app.get('/x')\n    async def x():\n        return inner\n\n\nadd(make())",
        CLINIC,
    ],
    ids=["app.state", "a closure", "an object with the endpoint"],
)
def test_graphs_are_found_where_applications_keep_them(check: Check, after: str) -> None:
    """app.state, closures of endpoints, and the objects whose methods they are."""
    graphs = BARE.replace("graph = builder.compile()", "graph = None\n    make = builder.compile")
    only(check("from SHOP.graphs import make", after, graphs=graphs), "graphs")


def test_a_node_that_is_wrapped_by_itself_is_enough(check: Check) -> None:
    """wrap_node is a choice, not an oversight."""
    graphs = BARE.replace('"answer", answer', '"answer", wrap_node(answer)').replace("wrap_graph", "wrap_node")
    assert check(graphs=graphs) == []


def test_a_subgraph_goes_with_its_graph(check: Check) -> None:
    """A compiled graph that is a node of a wrapped one needs no wrapping of its own."""
    more = """
    inner = builder.compile()
    outer = StateGraph(MessagesState)
    outer.add_node("inner", inner)
    outer.add_edge(START, "inner")
    wrapped = wrap_graph(outer.compile())
"""
    graphs = BARE.replace("graph = builder.compile()", "") + more
    assert check(graphs=graphs + "    graph = wrapped\n") == []


def test_ids_in_configurable_need_a_wrapped_graph(check: Check) -> None:
    """LangGraph tells callbacks the thread_id and nothing else of it."""
    before = """
        async def ask(user):
            await graph.ainvoke({}, {"configurable": {"thread_id": "t", "user_id": user}})
    """
    findings = check(before, graphs=BARE)
    assert [finding.name for finding in findings] == ["graphs", "configurable"]
    assert "configurable" in line(findings[1])


HANDLER = """
    class Recorder(AsyncCallbackHandler):
        async def on_llm_start(self, *args, **kwargs):
            pass


    recorder = Recorder()
"""


def test_a_handler_that_is_not_inline_misses_completion_models(check: Check) -> None:
    """LangChain loses their starts as soon as any other handler is inline."""
    finding = only(check(HANDLER + "    old = FakeListLLM(responses=['a'])\n"), "handlers")
    assert line(finding).startswith("class Recorder")


SUMMARISE = """
    pool = ThreadPoolExecutor(2)


    def summarise(text):
        return model.invoke(text)
"""
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


@pytest.mark.parametrize(
    "dependency",
    [
        "def patient(user: str):\n    USER.set(user)",
        "def remember(user):\n    USER.set(user)\n\n\ndef patient(user: str):\n    remember(user)",
        "def patient(user: str):\n    token = USER.set(user)\n    yield\n    USER.reset(token)",
        "def patient(user: str):\n    with bind(user_id=user):\n        yield",
        "class Patient:\n    def __call__(self, user: str):\n        USER.set(user)\n\n\npatient = Patient()",
    ],
    ids=["set", "by a helper", "with reset", "bind", "a callable object"],
)
def test_a_sync_dependency_sets_what_nobody_sees(check: Check, dependency: str) -> None:
    """FastAPI runs it in another thread, on a copy of the context."""
    before = f"USER = ContextVar('USER', default=None)\n\n\n{dependency}"
    after = """
        router = APIRouter()


        @router.post("/ask")
        async def ask(user=Depends(patient)):
            return 1


        app.include_router(router)
    """
    finding = only(check(before, after), "dependencies")
    assert "amend(" in finding.fix
    asynchronous = before.replace("def patient", "async def patient").replace("def __call__", "async def __call__")
    assert check(asynchronous, after) == []


def test_bind_across_a_yield(check: Check) -> None:
    """The consumer of an async generator would run in its scope."""
    before = """
        async def words(user, text):
            with bind(user_id=user):
                async for chunk in model.astream(text):
                    yield chunk
    """
    finding = only(check(before), "generators")
    assert line(finding) == "with bind(user_id=user):"


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
