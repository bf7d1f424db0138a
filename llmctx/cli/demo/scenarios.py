"""The ways in which an LLM call leaves its request, as the clinic offers and the load uses them.

A visit's id ends in the number of its way, so that each call, and each row by its prompt, can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmctx.cli.demo.provider import NO_HURRY

MARKER: Final = "[patient {patient}, visit {visit}]"


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a call leaves its request."""

    key: str
    title: str
    path: str
    """The endpoint that receives the patient's question."""
    tasks: tuple[str, ...]
    """The calls that go this way; a visit's other calls (to find the intent, say) are plain nodes of the graph."""
    question: str
    desk: str = ""
    """One of the clinic's agents; empty where the assistant is to find out."""
    act: str = "post"
    """The client's action: post, stream, hang_up, stop, resume, talk (websocket), or work (graph, then job)."""


WAYS: Final = (
    Way("endpoint", "awaited in an async endpoint", "/direct", ("answer",), "When are you open?"),
    Way("sync_endpoint", "def endpoint, in the thread pool", "/sync", ("answer",), "Do you have parking?"),
    Way("node", "async node of a LangGraph graph", "/graph",
        ("intent", "advice", "clarify", "appointment"), "May I go for a walk today?"),
    Way("sync_node", "sync node in an async graph", "/graph",
        ("pressure",), "我今天早上的血压是 142/91，需要担心吗？", desk="pressure"),
    Way("tool", "tool of an agent that calls a model", "/graph",
        ("rank",), "I need an appointment, in the morning please.", desk="appointment"),
    Way("send", "fan-out with Send, three branches", "/graph",
        ("check",), "May I take all three tablets together?", desk="medication"),
    Way("gather", "fan-out with asyncio.gather, two calls", "/gather",
        ("answer", "advice"), "When is the pharmacy open?"),
    Way("batch", "batch of two prompts", "/batch", ("answer", "advice"), "How do I reach you at night?"),
    Way("resume", "interrupt, resumed in a later request", "/graph",
        ("advice",), "It is about my mother.", act="resume"),
    Way("stream", "streamed after the endpoint returned", "/stream", ("advice",), "失眠怎么办？", act="stream"),
    Way("background", "background task", "/background", ("summary",), "Do you take walk-ins?"),
    Way("fire_and_forget", "create_task that outlives the request", "/later",
        ("summary",), "Can I get a copy of my file?"),
    Way("executor", "run_in_executor, config passed on", "/graph",
        ("opinion",), "I would like a second opinion.", desk="opinion"),
    Way("own_loop", "thread with own loop, config passed on", "/graph",
        ("laboratory",), "What do my blood test values mean?", desk="laboratory"),
    Way("worker_thread", "worker thread that knows the thread_id only", "/letter/thread",
        ("letter",), "How long should I sleep?", desk="advice", act="work"),
    Way("lazy_worker", "worker task, started by the first request", "/letter/task",
        ("letter",), "Headache after sport, is that normal?", desk="advice", act="work"),
    Way("websocket", "turn on a websocket", "/chat", ("answer",), "Is the practice open on Saturday?", act="talk"),
    Way("hang_up", "client hangs up while a node waits", "/graph/stream",
        ("advice",), f"May I go for a walk with a fever? {NO_HURRY}", act="hang_up"),
    Way("stop", "task.cancel(): the patient presses stop", "/stoppable",
        ("advice",), f"Tell me about sleep, in detail. {NO_HURRY}", act="stop"),
    Way("error", "provider answers 429, the call raises", "/direct", ("answer",), "Are you there? [fault openai 429]"),
    Way("fallback", "with_fallbacks: first one fails", "/fallback",
        ("answer",), "Which vaccinations do I need? [fault anthropic 529]"),
)  # fmt: skip
"""In the order in which the report prints them."""

VISITS: Final = 240
"""About so many visits show everything, and take seconds."""

BY_KEY: Final[Mapping[str, Way]] = {way.key: way for way in WAYS}


def ways_of(number: int, users: int) -> list[Way]:
    """Return the ways of the patient with this number: all of them, or an equal share where there are many patients."""
    each = max(12, min(len(WAYS), VISITS // users))
    return [WAYS[(number * each + step) % len(WAYS)] for step in range(each)]


def visit_id(patient: str, way: Way) -> str:
    """Return the id of a visit: `v-07-2` for `p-07` on the second way."""
    return f"v-{patient.removeprefix('p-')}-{WAYS.index(way) + 1}"


def way_of(visit: str, task: str | None) -> Way:
    """Return the way of a call, by its visit and its task."""
    way = WAYS[int(visit.rpartition("-")[2]) - 1]
    return way if (task or "").split(" ")[0] in way.tasks else BY_KEY["node"]


def question(patient: str, way: Way) -> str:
    """Return what the patient says, with the marker from which the provider alone reads whose call it is."""
    return f"{way.question} {MARKER.format(patient=patient, visit=visit_id(patient, way))}"
