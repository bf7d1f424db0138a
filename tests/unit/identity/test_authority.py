"""What data may say: ids that can be used, and no user beside the one whom the server knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from langchain_core.runnables import RunnableConfig, ensure_config

from llmctx.core.diagnostics import diagnostics
from llmctx.identity.authority import SAME_NAMES, data_id, data_ids, is_refused
from llmctx.identity.call_context import CallContext
from llmctx.identity.platform import RUNTIME, has_platform_user
from tests.kit.requests import model, request
from tests.kit.trust import recorded

ID = UUID("6f1c7d9e-2b44-4a55-9f0e-0c9d5e3f2a11")


@pytest.mark.parametrize(("value", "expected"), [("u1", "u1"), (7, "7"), (ID, str(ID)), (None, None), ("", None)])
def test_texts_numbers_and_uuids_are_ids(value: object, expected: str | None) -> None:
    assert data_id(value) == expected


@pytest.mark.parametrize("value", [True, 1.5, b"u", ["u"], {"id": "u"}, object(), "\0", "x" * 10_000])
def test_anything_else_is_as_if_it_were_not_there_and_is_counted(value: object) -> None:
    before = diagnostics.counts.get("ids_refused", 0)
    assert data_id(value) is None
    assert diagnostics.counts["ids_refused"] == before + 1


def test_an_object_that_raises_at_a_look_costs_its_own_id_alone() -> None:
    class Hostile(dict[str, object]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]  # as an application may
            if key == "session_id":
                raise RuntimeError
            return super().get(key, default)

    assert data_ids(Hostile(user_id="u", session_id="s"), SAME_NAMES) == CallContext(user_id="u")


def test_data_name_no_other_user_than_the_server() -> None:
    assert is_refused(CallContext(user_id="victim"), ["alice"])
    assert is_refused(CallContext(user_id="victim"), [])
    assert not is_refused(CallContext(user_id="alice"), ["alice"])
    assert not is_refused(CallContext(session_id="s"), ["alice"])


def test_a_runtime_that_raises_at_a_look_authenticates_no_user() -> None:
    class Hostile:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError

    before = diagnostics.counts.get("ids_refused", 0)
    assert not has_platform_user({RUNTIME: Hostile()})
    assert diagnostics.counts["ids_refused"] == before + 1


def fail(*_: object) -> Any:
    raise RuntimeError


class HostileText(str):
    __slots__ = ()
    __str__ = __len__ = __bool__ = __eq__ = isprintable = __getitem__ = fail  # type: ignore[assignment]
    __hash__ = str.__hash__


class HostileNumber(int):
    __str__ = fail  # type: ignore[assignment]


class Liar:
    __class__ = str  # type: ignore[assignment]


class Unreadable:
    __class__ = property(fail)  # type: ignore[assignment]


@pytest.mark.parametrize("place", ["metadata", "configurable"])
@pytest.mark.parametrize("make", [HostileText, HostileNumber, Liar, Unreadable, lambda: 10**5000])
async def test_an_object_in_the_place_of_a_text_costs_a_row_nothing(make: Callable[[], object], place: str) -> None:
    keys = ("thread_id", "langgraph_checkpoint_ns", "langgraph_node", "lc_agent_name", "graph_id", "user_id")
    sent = 0
    with recorded() as sink:
        for key in keys:
            config: RunnableConfig = {place: {key: make()}}  # type: ignore[misc]
            try:
                ensure_config(config)
            except RuntimeError:  # LangChain itself reads it, before 1.3: no call comes of it
                continue
            sent += 1
            await request("alice", lambda config=config: model.ainvoke("hello", config))  # type: ignore[misc]
    assert [(row.user_id, "hello" in str(row.prompt_snapshot)) for row in sink.records] == [("alice", True)] * sent
