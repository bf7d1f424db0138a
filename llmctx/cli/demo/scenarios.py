"""The ways in which an LLM call leaves its request: what the clinic offers, and what the demo drives.

A visit's id ends in the number of its way, so that each call, and each row by its prompt, can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmctx.cli.demo.provider import NO_HURRY

MARKER: Final = "[patient {patient}, visit {visit}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way out."""

    key: str
    title: str
    question: str
    path: str
    """The endpoint that the patient's question goes to."""
    tasks: tuple[str, ...]
    """The calls that go this way; a visit's other calls (recognising the intent, say) are plain nodes of the graph."""
    desk: str = ""
    """Which of the clinic's agents, if it is not for the assistant to find out."""
    act: str = "post"
    """What the client does: post, stream, hang_up, stop, resume, talk (on a websocket), or work: the graph first, then
    a job for a worker."""


WAYS: Final = (
    Way(
        key="endpoint",
        title="awaited in an async endpoint",
        question="When are you open?",
        path="/direct",
        tasks=("answer",),
    ),
    Way(
        key="sync_endpoint",
        title="def endpoint, in the thread pool",
        question="Do you have parking?",
        path="/sync",
        tasks=("answer",),
    ),
    Way(
        key="node",
        title="async node of a LangGraph graph",
        question="May I go for a walk today?",
        path="/graph",
        tasks=("intent", "advice", "clarify", "appointment"),
    ),
    Way(
        key="sync_node",
        title="sync node in an async graph",
        question="我今天早上的血压是 142/91，需要担心吗？",
        path="/graph",
        desk="pressure",
        tasks=("pressure",),
    ),
    Way(
        key="tool",
        title="tool of an agent that calls a model",
        question="I need an appointment, in the morning please.",
        path="/graph",
        desk="appointment",
        tasks=("rank",),
    ),
    Way(
        key="send",
        title="fan-out with Send, three branches",
        question="May I take all three tablets together?",
        path="/graph",
        desk="medication",
        tasks=("check",),
    ),
    Way(
        key="gather",
        title="fan-out with asyncio.gather, two calls",
        question="When is the pharmacy open?",
        path="/gather",
        tasks=("answer", "advice"),
    ),
    Way(
        key="batch",
        title="batch of two prompts",
        question="How do I reach you at night?",
        path="/batch",
        tasks=("answer", "advice"),
    ),
    Way(
        key="resume",
        title="interrupt, resumed in a later request",
        question="It is about my mother.",
        path="/graph",
        tasks=("advice",),
        act="resume",
    ),
    Way(
        key="stream",
        title="streamed after the endpoint returned",
        question="失眠怎么办？",
        path="/stream",
        tasks=("advice",),
        act="stream",
    ),
    Way(
        key="background",
        title="background task",
        question="Do you take walk-ins?",
        path="/background",
        tasks=("summary",),
    ),
    Way(
        key="fire_and_forget",
        title="create_task that outlives the request",
        question="Can I get a copy of my file?",
        path="/later",
        tasks=("summary",),
    ),
    Way(
        key="executor",
        title="run_in_executor, config passed on",
        question="I would like a second opinion.",
        path="/graph",
        desk="opinion",
        tasks=("opinion",),
    ),
    Way(
        key="own_loop",
        title="thread with own loop, config passed on",
        question="What do my blood test values mean?",
        path="/graph",
        desk="laboratory",
        tasks=("laboratory",),
    ),
    Way(
        key="worker_thread",
        title="worker thread that knows the thread_id only",
        question="How long should I sleep?",
        path="/letter/thread",
        desk="advice",
        tasks=("letter",),
        act="work",
    ),
    Way(
        key="lazy_worker",
        title="worker task, started by the first request",
        question="Headache after sport, is that normal?",
        path="/letter/task",
        desk="advice",
        tasks=("letter",),
        act="work",
    ),
    Way(
        key="websocket",
        title="turn on a websocket",
        question="Is the practice open on Saturday?",
        path="/chat",
        tasks=("answer",),
        act="talk",
    ),
    Way(
        key="hang_up",
        title="client hangs up while a node waits",
        question=f"May I go for a walk with a fever? {NO_HURRY}",
        path="/graph/stream",
        tasks=("advice",),
        act="hang_up",
    ),
    Way(
        key="stop",
        title="task.cancel(): the patient presses stop",
        question=f"Tell me about sleep, in detail. {NO_HURRY}",
        path="/stoppable",
        tasks=("advice",),
        act="stop",
    ),
    Way(
        key="error",
        title="provider answers 429, the call raises",
        question="Are you there? [fault openai 429]",
        path="/direct",
        tasks=("answer",),
    ),
    Way(
        key="fallback",
        title="with_fallbacks: first one fails",
        question="Which vaccinations do I need? [fault anthropic 529]",
        path="/fallback",
        tasks=("answer",),
    ),
)
"""In the order in which they are printed."""

VISITS: Final = 240
"""About so many visits are enough to show it all, and take seconds."""

BY_KEY: Final[Mapping[str, Way]] = {way.key: way for way in WAYS}


def ways_of(number: int, users: int) -> list[Way]:
    """The ways of the patient with this number: all of them, or where there are many patients an equal share."""
    each = max(12, min(len(WAYS), VISITS // users))
    return [WAYS[(number * each + step) % len(WAYS)] for step in range(each)]


def visit_id(patient: str, way: Way) -> str:
    """`p-07` on the second way: `v-07-2`."""
    return f"v-{patient.removeprefix('p-')}-{WAYS.index(way) + 1}"


def way_of(visit: str, task: str | None) -> Way:
    """The way of a call, by its visit and its task."""
    way = WAYS[int(visit.rpartition("-")[2]) - 1]
    return way if (task or "").split(" ")[0] in way.tasks else BY_KEY["node"]


def question(patient: str, way: Way) -> str:
    """What the patient says: with the marker from which the provider, and nobody else, takes the truth."""
    return f"{way.question} {MARKER.format(patient=patient, visit=visit_id(patient, way))}"
