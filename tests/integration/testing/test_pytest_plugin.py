"""The pytest plugin as the test suite of an application meets it: the fixture, the switch, and silence otherwise."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import bind, hand_over, take_over
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink, first_words
from llmctx.identity import handover
from llmctx.testing.captured import captured_calls

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.filterwarnings("default")

APP = """
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    model = FakeListChatModel(responses=["yes"])


    def summarise(text):
        return model.invoke(text)


    async def answer(text):
        return await model.ainvoke(text)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """An application, `shop`, and the suite of its tests, in processes of their own."""
    pytester.makepyfile(shop=textwrap.dedent(APP))
    return pytester


# by its entry point in an installation; by name here, where there may be an older one
OPTIONS = ("-p", "no:llmctx", "-p", "llmctx.testing.pytest_plugin", "-p", "no:cacheprovider", "-W", "error")
OPTIONS = (*OPTIONS, "-o", "asyncio_default_fixture_loop_scope=function")


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess(*OPTIONS, *arguments, timeout=100)


def test_the_fixture_collects_what_the_test_calls(suite: pytest.Pytester) -> None:
    """Sync and async tests, threads included; what one test calls is not the next one's."""
    suite.makepyfile(
        """
        import threading
        import pytest
        from llmctx import bind
        from shop import answer, summarise

        def test_sync(llm_calls):
            with bind(session_id="s", user_id="u"):
                summarise("May I go for a walk?")
            assert [(r.session_id, r.user_id) for r in llm_calls.records] == [("s", "u")]
            llm_calls.assert_all_attributed()

        @pytest.mark.asyncio
        async def test_async(llm_calls):
            with bind(session_id="s", user_id="u"):
                await answer("May I go for a walk?")
            thread = threading.Thread(target=summarise, args=("Nobody's.",))
            thread.start()
            thread.join()
            assert [r.user_id for r in llm_calls.records] == ["u", None]
            assert len(llm_calls.unattributed) == 1

        @pytest.fixture
        async def asked():
            with bind(session_id="s", user_id="u"):
                await answer("From a fixture.")

        @pytest.mark.asyncio
        async def test_with_an_async_fixture(llm_calls, asked):
            llm_calls.assert_all_attributed()

        def test_nothing(llm_calls):
            assert llm_calls.records == []
            with pytest.raises(AssertionError, match="no LLM call was made"):
                llm_calls.assert_all_attributed()
        """
    )
    run(suite, "-o", "asyncio_mode=auto").assert_outcomes(passed=4)


def test_the_complaint_says_where_why_and_what(suite: pytest.Pytester) -> None:
    """One paragraph for each call without identity, and not a traceback through our code."""
    suite.makepyfile(
        """
        from llmctx import bind
        from shop import summarise

        def test_it(llm_calls):
            with bind(session_id="s", user_id="u"):
                summarise("This one is hers.")
            with bind(user_id="u"):
                summarise("No visit.")
            summarise("Please summarise the visit of yesterday, in the words of the patient, with all the figures")
            llm_calls.assert_all_attributed()
        """
    )
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*2 of 3 LLM calls without identity*",
            "*  shop.py:7",
            "*    session_id missing: partial",
            '*    prompt: "No visit."',
            "*  shop.py:7",
            "*    session_id and user_id missing: no_scope",
            "*    There was no scope, no thread_id*",
            '*    prompt: "Please summarise the visit of yesterday*…"',
        ]
    )
    result.stdout.no_fnmatch_line("*testing.py*")


STRICT = """
    import asyncio
    import pytest
    from llmctx import bind
    from shop import answer, summarise

    def test_bare():
        summarise("Whose am I?")

    def test_bound():
        with bind(session_id="s", user_id="u"):
            summarise("Hers.")

    def test_without_calls():
        assert True

    def test_failing():
        summarise("Before it fails.")
        assert 1 == 2, "its own failure"

    @pytest.mark.asyncio
    async def test_async():
        await answer("Whose am I?")

    @pytest.mark.llmctx_anonymous
    def test_on_purpose():
        summarise("Nobody's, and that is right.")
"""


@pytest.mark.parametrize("by", ["--llmctx-strict", "ini"])
def test_strict_fails_each_test_with_a_call_of_nobodys(suite: pytest.Pytester, by: str) -> None:
    """By option or ini; a failure of the test's own comes first, and a marker says that it is on purpose."""
    suite.makepyfile(test_it=textwrap.dedent(STRICT))
    if by == "ini":
        suite.makeini("[pytest]\nllmctx_strict = true\n")
    result = run(suite, "--strict-markers", *([] if by == "ini" else [by]))
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(
        ["FAILED test_it.py::test_bare - *1 of 1 LLM calls without identity*", "FAILED test_it.py::test_async*"]
    )
    result.stdout.fnmatch_lines(["*  shop.py:7*", "*its own failure*", "*  shop.py:11*"])


def test_a_suite_that_never_uses_it_does_not_notice(suite: pytest.Pytester) -> None:
    """Nothing is imported, started or recorded; with warnings as errors, and another plugin's event loop."""
    suite.makepyfile(
        """
        import asyncio
        import sys
        import pytest

        HEAVY = {"langchain_core", "langgraph", "sqlalchemy", "starlette", "llmctx.calllog", "llmctx.testing.captured"}

        def test_nothing_heavy():
            assert not HEAVY & set(sys.modules)

        @pytest.mark.asyncio
        async def test_async():
            await asyncio.sleep(0)

        def test_last():
            assert not HEAVY & set(sys.modules)
        """
    )
    run(suite).assert_outcomes(passed=3)


def test_the_application_has_its_own_call_log_besides(suite: pytest.Pytester) -> None:
    """What the application starts itself is heard and written as ever, and its keys for jobs stay."""
    suite.makepyfile(
        """
        from llmctx import bind, hand_over, take_over
        from llmctx.calllog import CallLog
        from llmctx.testing import MemorySink, captured_calls
        from shop import summarise

        def test_both(llm_calls):
            sink = MemorySink()
            with CallLog(sink=sink, handover_key="a-secret-of-16-bytes"), bind(session_id="s", user_id="u"):
                summarise("One")
                with captured_calls() as inner:
                    summarise("Two")
                token = hand_over()
            assert len(inner.records) == 1
            assert len(sink.records) == 2
            assert len(llm_calls.records) == 2
            llm_calls.assert_all_attributed()
        """
    )
    run(suite, "--llmctx-strict").assert_outcomes(passed=1)


def test_several_workers_at_once(suite: pytest.Pytester) -> None:
    """As pytest-xdist runs them: processes in one folder, at the same time, each with a part of the tests."""
    suite.makepyfile(test_it=textwrap.dedent(STRICT))
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--llmctx-strict", "-q", "-k"]
    workers = [
        subprocess.Popen([*command, part], cwd=suite.path, stdout=subprocess.PIPE, text=True)
        for part in ("bare or bound", "async or purpose")
    ]
    for said in [worker.communicate(timeout=100)[0] for worker in workers]:
        assert "1 failed, 1 passed, 4 deselected" in said
        assert "1 of 1 LLM calls without identity" in said
    assert not list(suite.path.glob("*.db*"))


def test_it_is_loaded_by_its_entry_point() -> None:
    """Whoever has llmctx has the plugin, without a line in conftest.py."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["entry-points"]["pytest11"] == {"llmctx": "llmctx.testing.pytest_plugin"}


async def test_captured_calls_is_a_block_of_either_kind() -> None:
    """`with` and `async with`; after its end the calls are still there, and later ones are not."""
    model = FakeListChatModel(responses=["yes"])
    async with captured_calls() as calls:
        with bind(session_id="s", user_id="u"):
            await asyncio.gather(*(model.ainvoke(f"{n}") for n in range(5)))
        assert len(calls.records) == 5
    with captured_calls() as others:
        await model.ainvoke("6")
    assert len(calls.records) == 5
    calls.assert_all_attributed()
    with pytest.raises(AssertionError, match=r"test_pytest_plugin\.py:\d+"):
        others.assert_all_attributed()


def test_captured_calls_takes_the_settings_of_a_call_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the environment for the application does not keep it from hearing."""
    monkeypatch.setenv("LLMCTX_CAPTURE", "explicit")
    monkeypatch.setenv("LLMCTX_CONTENT", "none")
    monkeypatch.setenv("LLMCTX_DATABASE_URL", "postgresql://u:p@nowhere.invalid/d")
    with captured_calls() as calls:
        FakeListChatModel(responses=["yes"]).invoke("hello")
    assert [first_words(record.prompt_snapshot) for record in calls.records] == ["hello"]
    with captured_calls(content="none") as calls:
        FakeListChatModel(responses=["yes"]).invoke("hello")
    assert [record.prompt_snapshot for record in calls.records] == [None]


def test_captured_calls_leaves_the_applications_keys_alone() -> None:
    """A job that is handed over in a test is taken over with the application's key."""
    with CallLog(sink=MemorySink(), handover_key="a-secret-of-16-bytes"), bind(session_id="s", user_id="u"):
        before = hand_over()
        with captured_calls(), take_over(before) as taken:
            assert taken.user_id == "u"
    handover.configure(None, "raise")


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        (None, ""),
        ('[{"role": "system", "content": "x"}, {"role": "user", "content": "a\\n b"}]', "a b"),
        ('{"role": "user", "content": [{"type": "text"}]}', '[{"type": "text"}]'),
        ('"plain"', "plain"),
        ("not JSON", "not JSON"),
    ],
)
def test_first_words_of_any_snapshot(snapshot: str | None, words: str) -> None:
    """Enough to recognise a prompt, whatever its shape."""
    assert first_words(snapshot) == words
