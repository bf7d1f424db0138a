"""What waits to be made into rows is bounded in bytes: first texts are let go, then the newest calls."""

from __future__ import annotations

from uuid import uuid4

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from llmctx.capture.open_calls import OpenCall
from llmctx.capture.payload.messages import answer_of, prompt_of_messages
from llmctx.delivery.call_queue import FEW, CallQueue
from llmctx.identity.candidates import Candidates
from llmctx.identity.resolution import UNDECIDED

KIB = 1024


def call(size: int) -> OpenCall:
    made = OpenCall(uuid4(), Candidates(), UNDECIDED)
    made.prompt = prompt_of_messages([HumanMessage("x" * size)])
    made.answer = answer_of(LLMResult(generations=[[ChatGeneration(message=AIMessage("y" * size))]]))
    return made


def texts(inbox: CallQueue) -> int:
    return sum(str(one.prompt).count("x") + str(one.answer).count("y") for one in inbox)


def test_a_few_calls_are_left_alone() -> None:
    """However long they are."""
    inbox = CallQueue(64 * KIB)
    for _ in range(FEW):
        inbox.put(call(30 * KIB))
    assert not inbox.without_texts
    assert not inbox.is_overloaded


def test_texts_go_before_calls() -> None:
    """Beyond what is allowed calls lose their texts, and none is refused."""
    inbox = CallQueue(4096 * KIB)
    for _ in range(500):
        inbox.put(call(10 * KIB))
    assert len(inbox) == 500
    assert inbox.is_overloaded
    assert texts(inbox) < 2 * 4096 * KIB
    bare = [one for one in inbox if inbox.is_without_texts(one)]
    assert all(one.prompt is None for one in bare)
    assert 200 < len(bare) < 480
    assert not inbox.without_texts


def test_the_newest_are_refused_and_told_of() -> None:
    """When even without texts there are too many."""
    inbox = CallQueue(512 * KIB)
    calls = [call(10) for _ in range(1000)]
    for one in calls:
        inbox.put(one)
    assert 100 < len(inbox) < 200
    assert list(inbox) == calls[: len(inbox)]
    assert all(one.delivered for one in calls)
    told: list[bytes] = []
    assert inbox.drain_refused(told.extend) == 1000 - len(inbox)
    assert told == [one.call_id.bytes for one in calls[len(inbox) :]]
    assert not inbox.refused_calls


def test_it_recovers() -> None:
    """With room again texts are kept again."""
    inbox = CallQueue(512 * KIB)
    for _ in range(200):
        inbox.put(call(20 * KIB))
    assert inbox.is_overloaded
    while inbox:
        inbox.is_without_texts(inbox.popleft())
    for _ in range(100):
        inbox.put(call(100))
    assert not inbox.is_overloaded
    assert inbox[-1].prompt is not None
