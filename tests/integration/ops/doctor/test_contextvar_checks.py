"""Context variables that are set where no one sees them are found."""

from __future__ import annotations

import textwrap

import pytest

from tests.kit.shop import MIDDLEWARE, Check, line, only


def test_bind_in_a_base_http_middleware_ends_too_early(check: Check) -> None:
    """call_next() returns when the answer begins."""
    before = """
        class Who(BaseHTTPMiddleware):
            async def dispatch(self, request, call_next):
                with bind(user_id=request.headers["x-user"]):
                    return await call_next(request)
    """
    finding = only(check(before, middleware=MIDDLEWARE + "\napp.add_middleware(Who)"), "BaseHTTPMiddleware")
    assert line(finding).startswith("with bind(")


def test_a_base_http_middleware_hears_nothing_from_further_in(check: Check) -> None:
    """A context variable that the endpoint sets is read in vain after call_next()."""
    before = """
        user = ContextVar("user", default=None)
    """
    middleware = """
        @app.middleware("http")
        async def audit(request, call_next):
            response = await call_next(request)
            print(user.get())
            return response
    """
    finding = only(check(before, middleware=f"{MIDDLEWARE}\n{textwrap.dedent(middleware)}"), "BaseHTTPMiddleware")
    assert "audit" in finding.cause
    assert line(finding) == "print(user.get())"


@pytest.mark.parametrize(
    "dependency",
    [
        "def patient(user: str):\n    USER.set(user)",
        "def remember(user):\n    USER.set(user)\n\n\ndef patient(user: str):\n    remember(user)",
        "def patient(user: str):\n    token = USER.set(user)\n    yield\n    USER.reset(token)",
        "def patient(user: str):\n    with bind(user_id=user):\n        yield",
        "class Patient:\n    def __call__(self, user: str):\n        USER.set(user)\n\n\npatient = Patient()",
    ],
    ids=["set", "by a helper", "with reset", "bind", "a callable object"],
)
def test_a_sync_dependency_sets_what_nobody_sees(check: Check, dependency: str) -> None:
    """FastAPI runs it in another thread, on a copy of the context."""
    before = f"USER = ContextVar('USER', default=None)\n\n\n{dependency}"
    after = """
        router = APIRouter()


        @router.post("/ask")
        async def ask(user=Depends(patient)):
            return 1


        app.include_router(router)
    """
    finding = only(check(before, after), "dependencies")
    assert "amend(" in finding.fix
    asynchronous = before.replace("def patient", "async def patient").replace("def __call__", "async def __call__")
    assert check(asynchronous, after) == []


def test_bind_across_a_yield(check: Check) -> None:
    """The consumer of an async generator would run in its scope."""
    before = """
        async def words(user, text):
            with bind(user_id=user):
                async for chunk in model.astream(text):
                    yield chunk
    """
    finding = only(check(before), "generators")
    assert line(finding) == "with bind(user_id=user):"
