"""The fake providers: LangChain models of which a test says what becomes of each prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult


def _no_time() -> float:
    return 0.0


def unobserved() -> None:
    """For `Reply.hang`, where no test waits for the call to hang."""


@dataclass(frozen=True)
class Reply:
    """What becomes of one prompt. `pause` tells the seconds before an answer, and before each word of a stream."""

    text: str
    words: Sequence[str] = ("one ", "two", " three")
    problem: BaseException | None = None
    """Raised instead of the answer, or after the words."""
    streams_problem: bool = True
    """Whether the words come before `problem`."""
    pause: Callable[[], float] = _no_time
    hang: Callable[[], object] | None = None
    """If set, an async call waits until it is cancelled; called when it begins to."""

    def result(self) -> ChatResult:
        self.fail()
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=self.text))])

    def fail(self) -> None:
        if self.problem is not None:
            raise self.problem

    async def wait(self) -> None:
        if self.hang is not None:
            self.hang()
            await asyncio.Event().wait()


class FakeChatModel(BaseChatModel):
    """A chat model with native ways to invoke, ainvoke, stream and astream."""

    model_name: str = "fake"

    @property
    def _llm_type(self) -> str:
        return self.model_name

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_model_name": self.model_name}

    def _reply(self, messages: list[BaseMessage], streamed: bool = False) -> Reply:
        raise NotImplementedError

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        reply = self._reply(messages)
        time.sleep(reply.pause())
        return reply.result()

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        reply = self._reply(messages)
        await asyncio.sleep(reply.pause())
        await reply.wait()
        return reply.result()

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages, streamed=True)
        if not reply.streams_problem:
            reply.fail()
        for word in reply.words:
            time.sleep(reply.pause())
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if run_manager:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        reply.fail()

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._reply(messages, streamed=True)
        if not reply.streams_problem:
            reply.fail()
        for word in reply.words:
            await asyncio.sleep(reply.pause())
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if run_manager:
                await run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
        reply.fail()
        await reply.wait()


class FakeLLM(BaseLLM):
    """A completion model, whose starts LangChain reports in another way."""

    @property
    def _llm_type(self) -> str:
        return "completer"

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        return LLMResult(generations=[[Generation(text=f"heard {prompt}")] for prompt in prompts])
