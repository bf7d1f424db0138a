"""What a row says of a failure, by exceptions of the real clients."""

from __future__ import annotations

import gc
from typing import Any

import anthropic
import groq
import httpx
import httpx2
import ollama
import openai
import pytest
from botocore.exceptions import ClientError
from google.genai import errors as google_errors
from langchain_core.exceptions import OutputParserException
from openai.types.responses import ResponseError

from llmctx.capture.payload.failures import MESSAGE_LIMIT, CallFailure, failure_of
from llmctx.delivery.payload_fields import error_fields

BODY: dict[str, Any] = {
    "message": "Too fast.",
    "type": "rate_limit_error",
    "code": "rate_limit_exceeded",
    "param": None,
}


def response(status: int = 429, module: Any = httpx, **content: Any) -> Any:
    return module.Response(status, request=module.Request("POST", "http://x.test/v1"), **content)


def wrapped(outer: Exception, inner: Exception, *, explicit: bool = True) -> Exception:
    try:
        try:
            raise inner
        except Exception as caught:
            if explicit:
                raise outer from caught
            raise outer  # noqa: B904
    except Exception as both:
        return both


def http_error(module: Any, body: Any) -> Exception:
    answer = response(429, module, json=body)
    return module.HTTPStatusError("Error response 429", request=answer.request, response=answer)  # type: ignore[no-any-return]


FAILURES: list[tuple[Exception, str, str | None]] = [
    (ValueError(str(ResponseError(code="server_error", message="It can't, sorry"))), "server_error", "It can't, sorry"),
    (
        openai.RateLimitError("Error code: 429", response=response(module=httpx2), body=BODY),
        "rate_limit_exceeded",
        "Too fast.",
    ),
    (openai.APIError("x", request=response(module=httpx2).request, body=BODY), "rate_limit_exceeded", "Too fast."),
    (openai.BadRequestError("x", response=response(module=httpx2), body={"message": "m", "code": 400}), "400", "m"),
    (
        openai.BadRequestError("x", response=response(module=httpx2), body={"detail": "Invalid"}),
        "BadRequestError",
        "Invalid",
    ),
    (openai.APITimeoutError(response(module=httpx2).request), "APITimeoutError", "Request timed out."),
    (
        anthropic.APIStatusError(
            "Error code: 529",
            response=response(529),
            body={"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}},
        ),
        "overloaded_error",
        "Busy",
    ),
    (groq.BadRequestError("x", response=response(400), body={"error": BODY}), "rate_limit_exceeded", "Too fast."),
    (
        google_errors.ClientError(429, {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}),
        "429",
        "Quota",
    ),
    (
        ClientError({"Error": {"Code": "ThrottlingException", "Message": "Slow down"}}, "Converse"),
        "ThrottlingException",
        "Slow down",
    ),
    (ollama.ResponseError("model not found", 404), "ResponseError", "model not found"),
    (http_error(httpx, {"error": BODY}), "rate_limit_exceeded", "Too fast."),
    (http_error(httpx, {"detail": [{"loc": ["body"], "msg": "field required"}]}), "HTTPStatusError", "field required"),
    (http_error(httpx, "a page"), "HTTPStatusError", "a page"),
    (OutputParserException("cannot parse"), "OutputParserException", None),
    (ValueError("plain"), "ValueError", "plain"),
    (ValueError({"message": "Provider returned error", "code": 429}), "429", "Provider returned error"),
    (ValueError({"row": 3}), "ValueError", "{'row': 3}"),
    (ValueError(), "ValueError", None),
    (KeyError("k"), "KeyError", "'k'"),
]


@pytest.mark.parametrize(("error", "code", "message"), FAILURES, ids=lambda part: type(part).__name__)
def test_a_failure_says_what_the_provider_said(error: Exception, code: str, message: str | None) -> None:
    """The code, else the type, else the class; the provider's own words, else the exception's."""
    fields = error_fields(failure_of(error))
    assert fields["error_code"] == code
    if isinstance(error, OutputParserException):
        assert "cannot parse" in fields["error_message"]
    else:
        assert fields["error_message"] == message


def test_a_wrapped_failure_is_that_of_the_provider() -> None:
    """Whether it was chained on purpose or not; an exception raised `from None` stands for itself."""
    inner = google_errors.ClientError(404, {"error": {"code": 404, "message": "no model", "status": "NOT_FOUND"}})
    for explicit in (True, False):
        fields = error_fields(failure_of(wrapped(ValueError("wrapper"), inner, explicit=explicit)))
        assert (fields["error_code"], fields["error_message"]) == ("404", "no model")
    hidden = ValueError("wrapper")
    hidden.__context__, hidden.__suppress_context__ = inner, True
    assert error_fields(failure_of(hidden))["error_code"] == "ValueError"


def test_what_was_interrupted_does_not_speak_for_a_cancellation() -> None:
    """The class alone."""
    error = KeyboardInterrupt()
    error.__context__ = openai.RateLimitError("x", response=response(module=httpx2), body=BODY)
    fields = error_fields(failure_of(error))
    assert (fields["error_code"], fields["error_message"]) == ("KeyboardInterrupt", None)


def test_hostile_exceptions_give_a_bounded_failure() -> None:
    """Words that cannot be had or have no end, chains in a circle, attributes that raise."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    class Trap(Exception):
        @property
        def response(self) -> Any:
            raise OSError("no")

    circle = ValueError("round")
    circle.__cause__ = TypeError("and round")
    circle.__cause__.__cause__ = circle
    huge = ValueError("x\0\ud800" * 5_000_000)
    assert error_fields(failure_of(Mute()))["error_code"] == "Mute"
    assert error_fields(failure_of(Trap("words")))["error_message"] == "words"
    assert error_fields(failure_of(circle))["error_message"] == "round"
    kept = failure_of(huge)
    assert len(repr(kept)) < 100_000
    message = error_fields(kept)["error_message"]
    assert len(message.encode()) <= MESSAGE_LIMIT
    assert "\0" not in message
    body = {"message": "y" * 10_000_000, "code": "z" * 10_000_000}
    long = failure_of(openai.BadRequestError("x", response=response(module=httpx2), body=body))
    assert len(repr(long)) < 100_000
    assert not any(isinstance(found, BaseException) for found in gc.get_referents(long))


def test_a_response_that_was_not_read_is_not_read_now() -> None:
    """Reading it would wait for the network."""
    answer = httpx.Response(500, request=httpx.Request("GET", "http://x.test"), stream=httpx.ByteStream(b"{}"))
    error = httpx.HTTPStatusError("Server error", request=answer.request, response=answer)
    assert failure_of(error) == CallFailure("HTTPStatusError", status=500, text="Server error")
