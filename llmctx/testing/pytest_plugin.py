"""The pytest plugin: the fixture `llm_calls`, and `--llmctx-strict`.

pytest loads this file in every test run of an environment that has llmctx, so it imports nothing but pytest, and does
nothing until a test asks for the fixture or the switch is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from llmctx.testing.captured import CapturedCalls

_OPTION: Final = "llmctx_strict"
_EXEMPT: Final = "llmctx_anonymous"


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "fail every test in which an LLM call is made without session or user, and say where"
    parser.getgroup("llmctx").addoption("--llmctx-strict", action="store_true", dest=_OPTION, help=what)
    parser.addini(_OPTION, what, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_EXEMPT}: LLM calls of this test may have no user, also with --llmctx-strict")


@pytest.fixture
def llm_calls() -> Iterator[CapturedCalls]:
    """Yield the LLM calls that the test makes: `llm_calls.records`, `llm_calls.assert_all_attributed()`."""
    with _captured() as calls:
        yield calls


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    config = item.config
    if not (config.getoption(_OPTION) or config.getini(_OPTION)) or item.get_closest_marker(_EXEMPT):
        return (yield)
    with _captured() as calls:
        result = yield
    missing = calls.unattributed
    if missing:
        from llmctx.testing.captured import failure_message

        pytest.fail(failure_message(missing, len(calls.records)), pytrace=False)
    return result


def _captured() -> CapturedCalls:
    with warnings.catch_warnings():  # what other libraries warn of while they load is not this test's fault
        warnings.simplefilter("ignore")
        from llmctx import calllog  # noqa: F401
        from llmctx.testing.captured import captured_calls
    return captured_calls()
