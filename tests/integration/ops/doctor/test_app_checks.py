"""Middleware, `identify` and the call log: what is missing or comes too late is found."""

from __future__ import annotations

import pytest

from tests.kit.shop import CALL_LOG, MIDDLEWARE, Check, line, only


def test_no_middleware(check: Check) -> None:
    """Nobody says whose request it is."""
    finding = only(check(middleware=""), "middleware")
    assert line(finding).startswith("app = FastAPI(")


def test_a_middleware_around_a_part_only(check: Check) -> None:
    """Routes outside of a mounted application that has it are named."""
    after = """
        inner = FastAPI()
        inner.add_middleware(ContextMiddleware, identify=who)


        @inner.get("/inside")
        async def inside():
            return 1


        app.mount("/inner", inner)
    """
    finding = only(check(after=after, middleware=""), "middleware")
    assert "1 of 2 routes are outside of ContextMiddleware: /chat" in finding.cause


def test_a_middleware_put_around_by_hand_counts(check: Check) -> None:
    """`app = ContextMiddleware(FastAPI(), identify=who)` is as good."""
    assert check(middleware="app = ContextMiddleware(app, identify=who)") == []


BACKEND = """
    class Backend(AuthenticationBackend):
        async def authenticate(self, conn):
            raise AssertionError("doctor calls nothing")
"""


def test_identify_asks_for_a_user_before_there_is_one(check: Check) -> None:
    """Authentication runs further in, so identify finds nobody."""
    middleware = """
        def by_user(conn):
            return CallContext(user_id=conn.user.identity)


        app.add_middleware(AuthenticationMiddleware, backend=Backend())
        app.add_middleware(ContextMiddleware, identify=by_user)
    """
    finding = only(check(BACKEND, middleware=middleware), "middleware order")
    assert "AuthenticationMiddleware" in finding.cause


@pytest.mark.parametrize(
    "middleware",
    [
        "app.add_middleware(AuthenticationMiddleware, backend=Backend())\n" + MIDDLEWARE,
        "app.add_middleware(ContextMiddleware)\napp.add_middleware(AuthenticationMiddleware, backend=Backend())",
        "app.add_middleware(AuthenticationMiddleware, backend=Backend())\napp.add_middleware(ContextMiddleware)",
    ],
    ids=["identify reads a header", "authentication outside", "authentication inside, no identify"],
)
def test_orders_that_work_are_no_finding(check: Check, middleware: str) -> None:
    """An identify of one's own that reads headers needs no authentication; without one the user is looked up late."""
    assert check(BACKEND, middleware=middleware) == []


def test_neither_identify_nor_authentication(check: Check) -> None:
    """Every request would be anonymous."""
    only(check(middleware="app.add_middleware(ContextMiddleware)"), "identify")


def test_amend_in_a_dependency_is_as_good_as_identify(check: Check) -> None:
    """The user is learned late, but learned."""
    before = """
        async def patient(user: str):
            amend(user_id=user)
    """
    after = """
        @app.get("/later", dependencies=[Depends(patient)])
        async def later():
            return 1
    """
    assert check(before, after, middleware="app.add_middleware(ContextMiddleware)") == []


def test_a_call_log_that_is_never_started(check: Check) -> None:
    """It was made, and the lifespan is another."""
    only(check(call_log=CALL_LOG, after="app.router.lifespan_context = FastAPI().router.lifespan_context"), "handler")


def test_an_application_that_does_not_start(check: Check) -> None:
    """Its own error is the finding, and everything else is looked at all the same."""
    after = """
        @asynccontextmanager
        async def broken(app):
            raise RuntimeError("no such key")
            yield


        app.router.lifespan_context = broken
    """
    findings = check(after=after, middleware="")
    assert [finding.name for finding in findings] == ["start", "middleware"]
    assert "no such key" in findings[0].cause


HANDLER = """
    class Recorder(AsyncCallbackHandler):
        async def on_llm_start(self, *args, **kwargs):
            pass


    recorder = Recorder()
"""


def test_a_handler_that_is_not_inline_misses_completion_models(check: Check) -> None:
    """LangChain loses their starts as soon as any other handler is inline."""
    finding = only(check(HANDLER + "    old = FakeListLLM(responses=['a'])\n"), "handlers")
    assert line(finding).startswith("class Recorder")
