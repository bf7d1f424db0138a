"""The clinic's assistant: a LangGraph router with its agents. It does not know how it is recorded.

    START ─> intent, unless the patient has chosen from the menu
    intent ─> clarify ─> wait (for the patient) ─> advice
           ├> appointment <─> tools (find_slot, which calls a model)
           ├> pressure                                        a sync node
           ├> medication ─> check x 3 (Send) ─> advise
           ├> opinion                                         in an executor
           ├> laboratory                                      in a thread with a loop of its own
           └> advice

A visit is a thread: its id is LangGraph's thread_id. What the patient has said, with the marker that tells whose
visit it is, stays in the state and goes into each prompt; that is how the provider knows the truth.
"""

from __future__ import annotations

import asyncio
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Final

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState, ToolNode, tools_condition
from langgraph.types import Send, interrupt
from openai import DefaultAsyncHttpxClient
from pydantic import SecretStr
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from llmctx.cli.demo.answers import INTENTS

MEDICINES: Final = ("metformin", "ramipril", "simvastatin")

_INSTRUCTIONS: Final = {
    "intent": f"Answer with one word: {', '.join(INTENTS)} or unclear.",
    "answer": "Answer the patient's question about the practice in two sentences.",
    "clarify": "Ask the patient one question back.",
    "advice": "Give one piece of everyday advice, and say when to come in.",
    "appointment": "Find an appointment with the tool find_slot, then confirm it.",
    "rank": "Order the free slots by how well they suit the patient.",
    "pressure": "Comment on the reading in two sentences.",
    "check": "Does this medicine go together with the others on the list?",
    "opinion": "Give a second opinion on the findings.",
    "laboratory": "Explain the laboratory values.",
    "summary": "Sum up the conversation for the patient's file in one line.",
    "letter": "Write two sentences to the patient's general practitioner.",
}


class Visit(TypedDict, total=False):
    """The state of a visit."""

    question: str
    intent: str
    medicine: str
    findings: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]
    answer: str


def prompt_of(task: str, question: str) -> list[AnyMessage]:
    """Return the prompt for a task: the role, the instructions, and what the patient said."""
    instructions = _INSTRUCTIONS[task.split()[0]]
    system = (
        f"You are the assistant of a small clinic. Be brief and kind; never diagnose.\nTask: {task}. {instructions}"
    )
    return [SystemMessage(system), HumanMessage(question)]


def text_of(message: Any) -> str:
    """Return a message's text, whichever provider it came from."""
    return str(message.text)


@dataclass(frozen=True, kw_only=True)
class Service:
    """Base URL, key and names of the models."""

    base_url: str
    openai_model: str = "gpt-5-mini"
    anthropic_model: str | None = "claude-haiku-4-5"
    """None: everything goes through ChatOpenAI, for a real service of which only that key is known."""
    key: str = "demo"

    def openai(self, client: DefaultAsyncHttpxClient | None = None) -> ChatOpenAI:
        """Return a real client, without retries: the demo counts requests."""
        return ChatOpenAI(
            model=self.openai_model,
            base_url=f"{self.base_url}/v1",
            api_key=SecretStr(self.key),
            max_retries=0,
            timeout=60,
            stream_usage=True,
            http_async_client=client,
        )

    def anthropic(self) -> BaseChatModel:
        """Return the other provider's client, if there is one."""
        if self.anthropic_model is None:
            return self.openai()
        return ChatAnthropic(
            model_name=self.anthropic_model,
            base_url=self.base_url,
            api_key=SecretStr(self.key),
            max_retries=0,
            timeout=60,
            stop=None,
        )


class Assistant:
    """The nodes, each an ordinary method, and their graph."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.openai = service.openai()
        self.anthropic = service.anthropic()
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="clinic")
        self.tools: list[BaseTool] = [self._find_slot()]

    def graph(self) -> StateGraph[Visit]:
        """Return the builder, not yet compiled, as `wrap_graph` takes it."""
        graph = StateGraph(Visit)
        nodes: list[Any] = [self.intent, self.clarify, self.wait, self.advice, self.appointment, self.pressure]
        nodes += [self.medication, self.check, self.advise, self.opinion, self.laboratory, self.letter]
        for node in nodes:
            graph.add_node(node.__name__, node)
        graph.add_node("tools", ToolNode(self.tools))
        graph.add_conditional_edges(START, _first, ["intent", *INTENTS, "letter"])
        graph.add_conditional_edges("intent", _by_intent, [*INTENTS, "clarify"])
        graph.add_edge("clarify", "wait")
        graph.add_edge("wait", "advice")
        graph.add_conditional_edges("appointment", tools_condition)
        graph.add_edge("tools", "appointment")
        graph.add_conditional_edges("medication", _each_medicine, ["check"])
        graph.add_edge("check", "advise")
        for last in ("advice", "pressure", "advise", "opinion", "laboratory", "letter"):
            graph.add_edge(last, END)
        return graph

    async def intent(self, visit: Visit) -> Visit:
        said = await self.openai.ainvoke(prompt_of("intent", visit["question"]))
        word = text_of(said).strip(" .").lower()
        return {"intent": word if word in INTENTS else "clarify"}

    async def clarify(self, visit: Visit) -> Visit:
        return {"answer": text_of(await self.anthropic.ainvoke(prompt_of("clarify", visit["question"])))}

    async def wait(self, visit: Visit) -> Visit:
        more = interrupt(visit["answer"])  # the patient answers in a later request
        return {"question": f"{visit['question']}\n{more}"}

    async def advice(self, visit: Visit) -> Visit:
        return {"answer": text_of(await self.openai.ainvoke(prompt_of("advice", visit["question"])))}

    async def appointment(self, visit: Visit) -> Visit:
        system, question = prompt_of("appointment", visit["question"])
        first = [] if visit.get("messages") else [question]
        agent = self.anthropic.bind_tools(self.tools)
        said = await agent.ainvoke([system, *visit.get("messages", []), *first])
        return {"messages": [*first, said], "answer": text_of(said)}

    def _find_slot(self) -> BaseTool:
        @tool
        async def find_slot(day: str, visit: Annotated[Visit, InjectedState]) -> str:
            """Find the free slots of a day, those that suit the patient best first."""
            question = f"{visit['question']}\nFree on {day}: 10:40, 15:20; on Friday: 9:15."
            return text_of(await self.openai.ainvoke(prompt_of("rank", question)))

        return find_slot

    def pressure(self, visit: Visit) -> Visit:
        return {"answer": text_of(self.openai.invoke(prompt_of("pressure", visit["question"])))}

    async def medication(self, visit: Visit) -> Visit:
        return {"findings": []}

    async def check(self, visit: Visit) -> Visit:
        said = await self.anthropic.ainvoke(prompt_of(f"check {visit['medicine']}", visit["question"]))
        return {"findings": [f"{visit['medicine']}: {text_of(said)}"]}

    async def advise(self, visit: Visit) -> Visit:
        return {"answer": "\n".join(visit["findings"])}

    async def opinion(self, visit: Visit, config: RunnableConfig) -> Visit:
        loop = asyncio.get_running_loop()  # run_in_executor, unlike to_thread, takes no context along
        messages = prompt_of("opinion", visit["question"])
        said = await loop.run_in_executor(self.pool, self.openai.invoke, messages, config)
        return {"answer": text_of(said)}

    async def laboratory(self, visit: Visit, config: RunnableConfig) -> Visit:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str] = loop.create_future()

        async def explain() -> str:
            # Clients stay with the loop that first used them, so this one gets its own. It talks to loopback, where
            # loading certificates would take longer than the call.
            async with DefaultAsyncHttpxClient(verify=False) as client:
                model = self.service.openai(client)
                return text_of(await model.ainvoke(prompt_of("laboratory", visit["question"]), config))

        def run_in_thread() -> None:
            try:
                loop.call_soon_threadsafe(done.set_result, asyncio.run(explain()))
            except Exception as problem:  # noqa: BLE001  passed on to the waiting node
                loop.call_soon_threadsafe(done.set_exception, problem)

        threading.Thread(target=run_in_thread, daemon=True).start()
        return {"answer": await done}

    async def letter(self, visit: Visit) -> Visit:
        return {"answer": text_of(await self.openai.ainvoke(prompt_of("letter", visit["question"])))}


def _first(visit: Visit) -> str:
    return visit.get("intent") or "intent"


def _by_intent(visit: Visit) -> str:
    return visit["intent"]


def _each_medicine(visit: Visit) -> list[Send]:
    return [Send("check", {"question": visit["question"], "medicine": medicine}) for medicine in MEDICINES]
