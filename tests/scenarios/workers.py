"""Long-lived workers, threads and tasks, that are fed by a queue and work for everybody.

They are started before all requests, or lazily in somebody's request, which ends or stays open. An item is a bare
prompt, or brings its thread_id, or the config of its request. `carry=True` follows bare prompts through the queues of
the standard library and of anyio. What a team builds of a deque and a condition nobody can follow: there the items of
such a worker bring their ids, and bare ones come only where it has nobody's name to begin with.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, Literal, Protocol

import anyio
import anyio.to_thread
from langchain_core.runnables import RunnableConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.kit.support import Known, ProviderDown, User, wait_for
from tests.scenarios import Shape, enter, shape
from tests.scenarios.offcontext import CONFIG_SOURCES, of_a_wrapped_graph
from tests.scenarios.world import OURS, World, client, model, on

Item = Any
"""A bare prompt, or (prompt, thread_id), or (prompt, config). None sends the worker home."""

Start = Literal["before", "in_a_request", "in_an_open_request", "in_a_node"]
STARTS: tuple[Start, ...] = ("before", "in_a_request", "in_an_open_request")
OPEN = ("in_an_open_request", "in_a_node")
"""A worker that is started in a node has inherited LangChain's child config as well."""


def read(item: Item) -> tuple[str, RunnableConfig | None]:
    if isinstance(item, str):
        return item, None
    prompt, handed = item
    return prompt, {"configurable": {"thread_id": handed}} if isinstance(handed, str) else handed


def serve(item: Item) -> None:
    """The job of a worker thread. It may fail; the worker goes on."""
    prompt, config = read(item)
    with suppress(ProviderDown):
        if "[stream]" in prompt:
            list(model.stream(prompt, config))
        else:
            model.invoke(prompt, config)


async def aserve(item: Item) -> None:
    """The job of a worker task."""
    prompt, config = read(item)
    with suppress(ProviderDown):
        if "[stream]" in prompt:
            async for _ in model.astream(prompt, config):
                pass
        else:
            await model.ainvoke(prompt, config)


class Jobs(Protocol):
    """A queue: `put` from the loop, `get` in the worker; of a worker task it is awaited."""

    def put(self, item: Item, /) -> None: ...
    def get(self) -> Any: ...


class Prioritised(queue.PriorityQueue[Any]):
    """The last first."""

    numbers = count()

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        super().put((-next(self.numbers), item), block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        return super().get(block, timeout)[1]


class Unique(queue.Queue[Any]):
    """The well-known recipe of a queue without doubles: it keeps its items in its own way."""

    def _init(self, maxsize: int) -> None:
        self.items: list[Item] = []

    def _qsize(self) -> int:
        return len(self.items)

    def _put(self, item: Item) -> None:
        if item is None or item not in self.items:
            self.items.append(item)

    def _get(self) -> Item:
        return self.items.pop(0)


class Conditional:
    """A queue by hand."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.some = threading.Condition()

    def put(self, item: Item) -> None:
        with self.some:
            self.items.append(item)
            self.some.notify()

    def get(self) -> Item:
        with self.some:
            self.some.wait_for(lambda: len(self.items) > 0)
            return self.items.popleft()


class Asynchronous:
    """asyncio's queues, with the method names of the others."""

    def __init__(self, kind: type[asyncio.Queue[Any]] = asyncio.Queue) -> None:
        self.items = kind()
        self.get = self.items.get
        self.put = self.items.put_nowait


class AsynchronousPrioritised(Asynchronous):
    """The last first."""

    def __init__(self) -> None:
        super().__init__(asyncio.PriorityQueue)
        numbers = count()
        self.put = lambda item: self.items.put_nowait((-next(numbers), item))
        self.get = self._get

    async def _get(self) -> Item:
        return (await self.items.get())[1]


class Stream:
    """anyio's memory object streams."""

    def __init__(self) -> None:
        self.there, self.here = anyio.create_memory_object_stream[Any](100_000)

    def put(self, item: Item) -> None:
        self.there.send_nowait(item)

    async def get(self) -> Item:
        item = await self.here.receive()
        if item is None:
            self.there.close()
            self.here.close()
        return item


class Eventful:
    """An event and a list."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.some = asyncio.Event()

    def put(self, item: Item) -> None:
        self.items.append(item)
        self.some.set()

    async def get(self) -> Item:
        while not self.items:
            self.some.clear()
            await self.some.wait()
        return self.items.pop(0)


class WaitedFor(Asynchronous):
    """With a time limit; until Python 3.12 that is a task of its own."""

    async def get_in_time(self) -> Item:
        return await asyncio.wait_for(self.items.get(), 30)

    def __init__(self) -> None:
        super().__init__()
        self.get = self.get_in_time


class ReadInToThread:
    """A queue of the blocking kind, read by a task."""

    def __init__(self) -> None:
        self.items: queue.Queue[Item] = queue.Queue()
        self.put = self.items.put

    async def get(self) -> Item:
        return await asyncio.to_thread(self.items.get)


class ReadInExecutor(ReadInToThread):
    """The same, by way of an executor."""

    async def get(self) -> Item:
        return await asyncio.get_running_loop().run_in_executor(None, self.items.get)


THREAD_QUEUES: dict[str, Callable[[], Jobs]] = {
    "queue": queue.Queue,
    "priority_queue": Prioritised,
    "queue_of_its_own_making": Unique,
    "simple_queue": lambda: queue.SimpleQueue(),  # by its name at that moment, which carry=True replaces
    "condition": Conditional,
}
TASK_QUEUES: dict[str, Callable[[], Jobs]] = {
    "asyncio_queue": Asynchronous,
    "asyncio_priority_queue": AsynchronousPrioritised,
    "asyncio_queue_with_wait_for": WaitedFor,
    "queue_read_in_to_thread": ReadInToThread,
    "queue_read_in_an_executor": ReadInExecutor,
    "anyio_stream": Stream,
    "event": Eventful,
}
BY_HAND = ("condition", "event")
"""Nothing of Python's own, and nothing that anybody could follow."""
USUAL = ("queue", "asyncio_queue")


class Crew:
    """Workers of one kind. They count what they are given and what they have done."""

    inherits = False
    """Whether they have the context of whoever starts them."""

    def __init__(self, world: World, jobs: Jobs, size: int = 1) -> None:
        self.world, self.jobs, self.size = world, jobs, size
        self.given: list[Item] = []
        self.done: list[Item] = []

    def start(self) -> None:
        raise NotImplementedError

    def put(self, *items: Item) -> None:
        for item in items:
            self.given.append(item)
            self.jobs.put(item)

    async def idle(self) -> None:
        await wait_for(lambda: len(self.done) == len(self.given), "the workers")

    async def dismiss(self) -> None:
        for _ in range(self.size):
            self.jobs.put(None)


class Threads(Crew):
    """Worker threads, which inherit nothing."""

    threads: tuple[threading.Thread, ...] = ()

    def start(self) -> None:
        self.threads = tuple(threading.Thread(target=self.work, daemon=True) for _ in range(self.size))
        for thread in self.threads:
            thread.start()

    def work(self) -> None:
        while (item := self.jobs.get()) is not None:
            serve(item)
            self.done.append(item)

    async def dismiss(self) -> None:
        await super().dismiss()
        for thread in self.threads:
            await asyncio.to_thread(thread.join)


class Tasks(Crew):
    """Worker tasks."""

    inherits = True

    def start(self) -> None:
        for _ in range(self.size):
            self.world.detach(self.work())

    async def work(self) -> None:
        while (item := await self.jobs.get()) is not None:
            await aserve(item)
            self.done.append(item)


async def employ(crew: Crew, start: Start, give: Callable[[Crew, User], Awaitable[Any]]) -> None:
    """Start the crew when it is time, and let every user `give` it something to do in a request."""
    world, starter = crew.world, crew.world.users[0]
    started, finished, gave = asyncio.Event(), asyncio.Event(), count(1)

    async def starting(user: User) -> None:
        async def out(config: RunnableConfig) -> None:
            crew.start()

        if user is starter:
            if start == "in_a_node":
                await of_a_wrapped_graph(world, user, out)
            else:
                crew.start()
            started.set()

    async def endpoint(user: User) -> None:
        if start in OPEN:
            await starting(user)
        await started.wait()
        await give(crew, user)
        if next(gave) == len(world.users):
            await crew.idle()
            finished.set()
        if start in OPEN and user is starter:
            await finished.wait()

    if start == "before":
        await starting(starter)
    elif start == "in_a_request":
        await world.through(starting, rounds=1)
    await world.through(endpoint, rounds=1)
    await crew.dismiss()


Give = Callable[[Crew, User], Awaitable[None]]


def prompts(world: World, user: User | None, known: Known = "always") -> list[str]:
    """One that is answered, one that is streamed, one that fails."""
    return [
        world.prompt(user, known=known),
        world.prompt(user, text="[stream]", known=known),
        world.prompt(user, "error", known=known),
    ]


def bare(known: Known) -> Give:
    async def give(crew: Crew, user: User) -> None:
        crew.put(*prompts(crew.world, user, known))

    return give


async def nobody_can_know(crew: Crew, user: User) -> None:
    crew.put(*prompts(crew.world, None))


async def with_thread_ids(crew: Crew, user: User) -> None:
    await crew.world.graphs[True].ainvoke({"prompt": crew.world.prompt(user)}, on(user))
    crew.put(*((prompt, user.thread_id) for prompt in prompts(crew.world, user)))


async def with_configs(crew: Crew, user: User) -> None:
    async def out(config: RunnableConfig) -> None:
        crew.put(*((prompt, config) for prompt in prompts(crew.world, user)))

    source = CONFIG_SOURCES[crew.world.users.index(user) % len(CONFIG_SOURCES)]
    await source(crew.world, user, out)


async def with_ids(crew: Crew, user: User) -> None:
    await with_thread_ids(crew, user)
    await with_configs(crew, user)


def _worker(kind: type[Crew], jobs: Callable[[], Jobs], start: Start, give: Give, size: int = 1) -> Shape:
    async def drive(world: World) -> None:
        await employ(kind(world, jobs(), size), start, give)

    return drive


def _known(kind: type[Crew], start: Start) -> Known:
    """Who can know whose a bare prompt is. A task that a request has started takes all for that request's."""
    return "never" if kind.inherits and start != "before" else "carried"


for _kind, _queues in ((Threads, THREAD_QUEUES), (Tasks, TASK_QUEUES)):
    for _name, _jobs in _queues.items():
        _word = f"{_kind.__name__.lower()[:-1]}_on_{_name}"
        for _start in STARTS:
            if _name in BY_HAND and _start == "before":
                enter(f"{_word}_bare", _worker(_kind, _jobs, _start, nobody_can_know), family=__name__)
            elif _name not in BY_HAND and (_start != "in_a_request" or _name in USUAL):
                _bare = bare(_known(_kind, _start))
                enter(f"{_word}_started_{_start}_bare", _worker(_kind, _jobs, _start, _bare), family=__name__)
            if _name in USUAL or (_start == "in_an_open_request" and _name != "condition"):  # may be the request's own
                enter(f"{_word}_started_{_start}_with_ids", _worker(_kind, _jobs, _start, with_ids), family=__name__)

for _kind, _name in ((Threads, "queue"), (Tasks, "asyncio_queue"), (Tasks, "event")):
    _word, _jobs = f"{_kind.__name__.lower()[:-1]}_on_{_name}_started_in_a_node", (THREAD_QUEUES | TASK_QUEUES)[_name]
    enter(f"{_word}_with_ids", _worker(_kind, _jobs, "in_a_node", with_ids), family=__name__)
    if _name not in BY_HAND:
        enter(f"{_word}_bare", _worker(_kind, _jobs, "in_a_node", bare(_known(_kind, "in_a_node"))), family=__name__)

for _kind, _jobs in ((Threads, queue.Queue), (Tasks, Asynchronous)):
    for _start in STARTS[1:]:
        _give = bare(_known(_kind, _start))
        _word = f"four_{_kind.__name__.lower()}_started_{_start}"
        enter(_word, _worker(_kind, _jobs, _start, _give, 4), family=__name__)


@shape
async def workers_started_at_lifespan(world: World) -> None:
    """The usual place: a thread and a task, that live as long as the application."""
    crews = [Threads(world, queue.Queue()), Tasks(world, Asynchronous())]
    by_id = {user.user_id: user for user in world.users}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        for crew in crews:
            crew.start()
        yield
        for crew in crews:
            await crew.idle()
            await crew.dismiss()

    async def endpoint(request: Request) -> Response:
        user = by_id[request.headers["x-user"]]
        for crew in crews:
            await with_thread_ids(crew, user)
            await bare("carried")(crew, user)
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", endpoint)], middleware=[OURS], lifespan=lifespan)
    async with app.router.lifespan_context(app), client(app) as http:
        await world.each(lambda user: http.get("/", headers=user.headers))


@shape
async def a_thread_that_puts_into_the_loops_queue(world: World) -> None:
    """`call_soon_threadsafe`, out of `to_thread`: the worker is a task."""
    crew, loop = Tasks(world, Asynchronous()), asyncio.get_running_loop()

    async def give(crew: Crew, user: User) -> None:
        for item in prompts(world, user, "carried"):
            await asyncio.to_thread(loop.call_soon_threadsafe, crew.put, item)

    await employ(crew, "before", give)
