"""The clinic's web application: FastAPI, bearer tokens, one endpoint for each way in which a call leaves its request.

The code is the same for both runs of the demo; `record_before` and `record_after` are all the difference. The latter
is what a team adds for llmctx: three lines.

    python -m llmctx.cli.demo.app      and one JSON line on stdin: databases, provider, secret
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from anthropic import AnthropicError
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command
from openai import OpenAIError
from pydantic import BaseModel
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request

from llmctx.cli.demo.assistant import Assistant, Service, Visit, prompt_of, text_of
from llmctx.cli.demo.processes import read_line, say
from llmctx.cli.demo.serve import serve
from llmctx.cli.demo.tokens import patient_of
from llmctx.identity.scope import CallContext

logger = logging.getLogger("clinic")

# -- authentication -----------------------------------------------------------------------------------------------


class Patient(SimpleUser):
    """An authenticated user; starlette leaves its identity to subclasses."""

    @property
    def identity(self) -> str:
        return self.username


class BearerTokens(AuthenticationBackend):
    """Accepts tokens with our signature, for requests and websockets."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Patient] | None:
        scheme, _, token = conn.headers.get("authorization", "").partition(" ")
        patient = patient_of(token, self.secret) if scheme.lower() == "bearer" else None
        return None if patient is None else (AuthCredentials(["patient"]), Patient(patient))


async def own_visit(connection: HTTPConnection) -> str:
    """Return the visit that the request is about; it must be the patient's own."""
    if not connection.user.is_authenticated:
        raise HTTPException(401, "sign in first")
    visit = connection.headers.get("x-visit", "")
    if not visit.startswith(f"v-{connection.user.identity.removeprefix('p-')}-"):
        raise HTTPException(403, "this is not your visit")
    return visit


VisitId = Annotated[str, Depends(own_visit)]


def who(conn: HTTPConnection) -> CallContext | None:
    """Return the identity for llmctx: the signed-in patient, and the visit."""
    if not conn.user.is_authenticated:
        return None
    return CallContext(user_id=conn.user.identity, session_id=conn.headers.get("x-visit"))


# -- the only difference between the two runs ---------------------------------------------------------------------


@dataclass
class RecordedApp:
    """An application with its recorder."""

    app: FastAPI
    graph: CompiledStateGraph[Any]
    callbacks: list[Any]
    ledger: Callable[[], dict[str, Any]]


def record_before(url: str, builder: StateGraph[Any]) -> RecordedApp:
    """Set up the naive handler, which is passed on in every config."""
    from llmctx.cli.demo.naive_handler import NaiveRecorder

    recorder = NaiveRecorder(url)
    app = FastAPI(lifespan=recorder.lifespan)
    app.middleware("http")(recorder.remember)
    graph = builder.compile(checkpointer=InMemorySaver())
    return RecordedApp(app, graph, [recorder.handler], dict)


def record_after(url: str, builder: StateGraph[Any]) -> RecordedApp:
    """Set up llmctx."""
    from llmctx.calllog import CallLog  # late: the other run must not load it
    from llmctx.graph import wrap_graph
    from llmctx.middleware import ContextMiddleware

    call_log = CallLog(url)
    app = FastAPI(lifespan=call_log.lifespan)
    app.add_middleware(ContextMiddleware, identify=who)
    graph = wrap_graph(builder).compile(checkpointer=InMemorySaver())
    return RecordedApp(app, graph, [], lambda: _numbers(call_log.stats()))


def _numbers(stats: Any) -> dict[str, Any]:
    """Return the ledger as JSON."""
    values = ((field.name, getattr(stats, field.name)) for field in fields(stats))
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values}


# -- the application ----------------------------------------------------------------------------------------------


class Question(BaseModel):
    """The body of a request."""

    question: str
    desk: str = ""
    """The agent that the patient chose from the menu; empty where the assistant is to find out."""

    def visit(self) -> Visit:
        return {"question": self.question, "intent": self.desk}


class Clinic:
    """State that the endpoints share: the graph, and jobs that outlive their request."""

    def __init__(self, assistant: Assistant, recorded: RecordedApp) -> None:
        self.assistant = assistant
        self.graph = recorded.graph
        self.callbacks = recorded.callbacks
        self.letters = self._letter_chain()
        self.running: dict[str, asyncio.Task[str]] = {}
        self.detached: set[asyncio.Task[None]] = set()  # asyncio itself keeps no task alive
        self.thread_jobs: queue.Queue[str | None] = queue.Queue()
        self.task_jobs: asyncio.Queue[str] = asyncio.Queue()
        self.worker: asyncio.Task[None] | None = None
        threading.Thread(target=self._work_in_a_thread, name="letters", daemon=True).start()

    def config(self, thread_id: str | None = None) -> RunnableConfig:
        """Return the config of a call: the recorder's callbacks, if it has any, and the thread."""
        config: RunnableConfig = {"callbacks": list(self.callbacks)}
        if thread_id is not None:
            config["configurable"] = {"thread_id": thread_id}
        return config

    async def say(self, task: str, question: str) -> str:
        """Call a model once, outside of the graph."""
        return text_of(await self.assistant.openai.ainvoke(prompt_of(task, question), self.config()))

    def _letter_chain(self) -> Runnable[str, str]:
        prompt: Runnable[str, Any] = RunnableLambda(lambda question: prompt_of("letter", question))
        return prompt | self.assistant.openai | RunnableLambda(text_of)

    def question_of(self, visit: str) -> str:
        """Return what the patient said in a visit, from the checkpoint: a worker has nothing but the thread_id."""
        return str(self.graph.get_state(self.config(visit)).values["question"])

    def _work_in_a_thread(self) -> None:
        """Run a worker that is as old as the process and never saw a request."""
        while (visit := self.thread_jobs.get()) is not None:
            try:
                self.letters.invoke(self.question_of(visit), self.config(visit))
            except Exception:
                logger.exception("no letter for %s", visit)
            finally:
                self.thread_jobs.task_done()

    async def work_in_a_task(self) -> None:
        """Run a worker that the first request starts, and that keeps the context of that request."""
        while True:
            visit = await self.task_jobs.get()
            try:
                await self.graph.ainvoke({"question": self.question_of(visit), "intent": "letter"}, self.config(visit))
            except Exception:
                logger.exception("no letter for %s", visit)
            finally:
                self.task_jobs.task_done()

    async def idle(self) -> None:
        """Wait until no job is left."""
        while self.detached:
            await asyncio.wait(self.detached)
        await asyncio.to_thread(self.thread_jobs.join)
        await self.task_jobs.join()


def add_plain_endpoints(app: FastAPI, clinic: Clinic) -> None:
    """Add the endpoints that call models without the graph."""
    openai = clinic.assistant.openai

    @app.post("/direct")
    async def direct(body: Question, visit: VisitId) -> str:
        return await clinic.say("answer", body.question)

    @app.post("/sync")
    def sync(body: Question, visit: VisitId) -> str:
        return text_of(openai.invoke(prompt_of("answer", body.question), clinic.config()))

    @app.post("/gather")
    async def gather(body: Question, visit: VisitId) -> list[str]:
        return await asyncio.gather(*(clinic.say(task, body.question) for task in ("answer", "advice")))

    @app.post("/batch")
    async def batch(body: Question, visit: VisitId) -> list[str]:
        prompts: list[Any] = [prompt_of(task, body.question) for task in ("answer", "advice")]
        return [text_of(answer) for answer in await clinic.assistant.anthropic.abatch(prompts, clinic.config())]

    @app.post("/fallback")
    async def fallback(body: Question, visit: VisitId) -> str:
        model = clinic.assistant.anthropic.with_fallbacks([openai])
        return text_of(await model.ainvoke(prompt_of("answer", body.question), clinic.config()))

    @app.post("/stream")
    async def stream(body: Question, visit: VisitId) -> StreamingResponse:
        async def words() -> AsyncIterator[str]:
            async for chunk in openai.astream(prompt_of("advice", body.question), clinic.config()):
                yield f"data: {json.dumps(text_of(chunk))}\n\n"

        return StreamingResponse(words(), media_type="text/event-stream")

    @app.websocket("/chat")
    async def chat(socket: WebSocket, visit: VisitId) -> None:
        await socket.accept()
        async for question in socket.iter_text():
            await socket.send_text(await clinic.say("answer", question))


def add_jobs(app: FastAPI, clinic: Clinic) -> None:
    """Add the endpoints whose calls outlive their request, or are cut off."""

    @app.post("/background")
    async def background(body: Question, visit: VisitId, tasks: BackgroundTasks) -> str:
        tasks.add_task(clinic.say, "summary", body.question)
        return "We will put a note into your file."

    @app.post("/later")
    async def later(body: Question, visit: VisitId) -> str:
        async def summarise() -> None:
            await asyncio.sleep(0.1)  # the request has ended by now
            await clinic.say("summary", body.question)

        task = asyncio.create_task(summarise())
        clinic.detached.add(task)
        task.add_done_callback(clinic.detached.discard)
        return "You will hear from us."

    @app.post("/stoppable")
    async def stoppable(body: Question, visit: VisitId) -> str:
        task = clinic.running[visit] = asyncio.create_task(clinic.say("advice", body.question))
        try:
            return await task
        except asyncio.CancelledError:
            return "Stopped."
        finally:
            clinic.running.pop(visit, None)

    @app.post("/stop")
    async def stop(visit: VisitId) -> bool:
        task = clinic.running.get(visit)
        return task is not None and task.cancel()

    @app.post("/letter/thread", status_code=202)
    async def letter_by_thread(visit: VisitId) -> None:
        clinic.thread_jobs.put(visit)

    @app.post("/letter/task", status_code=202)
    async def letter_by_task(visit: VisitId) -> None:
        clinic.task_jobs.put_nowait(visit)

    @app.get("/idle")
    async def idle() -> None:
        await clinic.idle()


def add_graph_endpoints(app: FastAPI, clinic: Clinic) -> None:
    """Add the endpoints that run the assistant's graph."""

    @app.post("/graph")
    async def run(body: Question, visit: VisitId) -> str:
        if clinic.worker is None:
            clinic.worker = asyncio.create_task(clinic.work_in_a_task())
        state = await clinic.graph.ainvoke(body.visit(), clinic.config(visit))
        return str(state["answer"])

    @app.post("/graph/resume")
    async def resume(body: Question, visit: VisitId) -> str:
        config = clinic.config(visit)
        if clinic.graph.get_state(config).next:
            await clinic.graph.ainvoke(Command(resume=body.question), config)
        return str(clinic.graph.get_state(config).values.get("answer", ""))

    @app.post("/graph/stream")
    async def stream(body: Question, visit: VisitId) -> StreamingResponse:
        async def steps() -> AsyncIterator[str]:
            async for step in clinic.graph.astream(body.visit(), clinic.config(visit), stream_mode="updates"):
                yield f"data: {json.dumps(list(step))}\n\n"

        return StreamingResponse(steps(), media_type="text/event-stream")


async def provider_failed(request: Request, problem: Exception) -> JSONResponse:
    """Answer 502 for a provider's error, and keep the connection."""
    return JSONResponse({"detail": f"the assistant is not available: {type(problem).__name__}"}, 502)


def make(run: str, database: str, service: Service, secret: str) -> tuple[FastAPI, Callable[[], dict[str, Any]]]:
    """Return the application and its ledger, for run "before" or "after"."""
    assistant = Assistant(service)
    record = {"before": record_before, "after": record_after}[run]
    recorded = record(database, assistant.graph())
    app = recorded.app
    clinic = Clinic(assistant, recorded)
    add_plain_endpoints(app, clinic)
    add_jobs(app, clinic)
    add_graph_endpoints(app, clinic)
    for error in (AnthropicError, OpenAIError):
        app.add_exception_handler(error, provider_failed)
    # Added last, so outermost: both recorders must see who has signed in.
    app.add_middleware(AuthenticationMiddleware, backend=BearerTokens(secret))
    return app, recorded.ledger


def serve_clinic(run: str, options: Mapping[str, Any]) -> None:
    """Serve one of the two clinics until the parent exits, then report its ledger."""
    service = Service(base_url=f"{options['provider']}/{run}")
    if options["model"]:
        service = replace(service, openai_model=options["model"], anthropic_model=None, key=options["key"])
    try:
        app, ledger = make(run, options[run], service, options["secret"])
        serve(app, run)
        say(name=run, ledger=ledger())
    except Exception as problem:
        say(name=run, failed=str(problem) or type(problem).__name__)
        raise


def main() -> None:
    """Serve both clinics, each in its own process, forked after the imports, which take longer than everything else."""
    told = read_line()
    # Hundreds of thousands of objects of the clients' modules live as long as the process: looking through them again
    # and again would take a quarter of its time.
    gc.collect()
    gc.freeze()
    if (other := os.fork()) == 0:
        code = 1
        try:
            serve_clinic("before", told)
            code = 0
        finally:
            os._exit(code)
    try:
        serve_clinic("after", told)
    finally:
        os.waitpid(other, 0)


if __name__ == "__main__":
    main()
