"""Signed tokens that take an identity to another process: `hand_over` there, `take_over` here.

For jobs (Celery, arq, RQ, a plain queue) and for HTTP between services. A token is short, expires, and names no user
unless its signature is ours: who can put a job into the queue cannot put another user's name into it. The key
is `LLMCTX_HANDOVER_KEY`, the same for all processes; several, separated by commas, while keys are being changed.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError, InvalidToken, check_keys
from llmctx.core.guard import guard_harmless
from llmctx.identity.held_scopes import hold
from llmctx.identity.present_scope import current, present_scope
from llmctx.identity.scope import EMPTY, ID_FIELDS, CallContext, InsideBlock, new_scope

if TYPE_CHECKING:
    from itsdangerous import URLSafeSerializer

    from llmctx.core.tracing import Span

_SHORT: Final = dict(zip("sutcah", ID_FIELDS, strict=True))  # one letter an id: tokens travel in headers
_SALT: Final = "llmctx.identity.handover.1"

_LONGEST_S: Final = 100 * 366 * 86_400
_NUMBER: Final = "n"
_SPAN: Final = "p"

OnInvalid = Literal["raise", "anonymous"]

_configured: list[tuple[str | None, OnInvalid]] = [(None, "raise")]


def configure(key: str | None, on_invalid: OnInvalid) -> None:
    """Use the settings of a starting `CallLog`. `key` may be several, separated by commas: the first signs, the others
    still verify.
    """
    _configured[0] = key, on_invalid


def configuration() -> tuple[str | None, OnInvalid]:
    """Return the arguments of the last `configure`."""
    return _configured[0]


def hand_over(*, ttl_s: float = 86_400.0) -> str:
    """Return the identity of the current scope as a signed text of 100 to 400 characters, good for `ttl_s` seconds.

        queue.enqueue(job, text, identity=hand_over())

    Inside of a span of OpenTelemetry it takes that along as well: rows of the job are linked with it.

    Raises `ConfigError` when no key is set, or one is too short, and for a `ttl_s` that is no number of seconds.
    """
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)) or not abs(ttl_s) <= _LONGEST_S:
        raise ConfigError(f"hand_over(ttl_s=…) takes seconds, such as 86400 for a day, not {ttl_s!r}.")
    return sign(current(), ttl_s=ttl_s, span=_span_here())


def has_key() -> bool:
    """Return whether a started `CallLog` has configured a key."""
    return bool(_configured[0][0])


@guard_harmless("trace_failed")
def _span_here() -> Span | None:
    """Return the span around the caller; in a job that runs in none, that of the token which it was given."""
    from llmctx.core.tracing import current_span  # late, as below: `import llmctx` stays quick

    scope = present_scope()
    return current_span() or (None if scope is None else scope.span)


def sign(identity: CallContext, *, ttl_s: float = 86_400.0, span: Span | None = None) -> str:
    """Return `identity`, and a span if there is one, as a token."""
    ids = {letter: value for letter, name in _SHORT.items() if (value := getattr(identity, name)) is not None}
    number = os.urandom(6).hex()  # two tokens are two, also of one user and second: each may be taken over once
    trace = {} if span is None else {_SPAN: span.traceparent}
    return str(_serializer().dumps({"e": int(time.time() + ttl_s), _NUMBER: number, **ids, **trace}))


def take_over(token: str | None, *, on_invalid: OnInvalid | None = None, once: bool = False) -> TakeOver:
    """Open a scope with the identity in `token`, in a worker or in another service.

        with take_over(job.identity):
            graph.invoke(...)

    A forged, broken or expired token raises `InvalidToken`, or opens an anonymous scope where `on_invalid`, or else
    `LLMCTX_HANDOVER_INVALID`, says "anonymous". The worker's own context is not inherited.

    Until it expires a token may be taken over any number of times: queues deliver jobs again. With `once` the first
    worker alone is given the identity, of all processes; that takes a round trip to the Redis of `LLMCTX_REGISTRY_URL`
    (`ConfigError` without one), which `async with take_over(token, once=True)` makes outside of the event loop.
    """
    return TakeOver(token, on_invalid, once)


class TakeOver:
    """The block of `take_over`: `with`, or `async with`."""

    __slots__ = ("_inside", "_on_invalid", "_once", "_token")

    def __init__(self, token: str | None, on_invalid: OnInvalid | None, once: bool) -> None:
        self._token, self._on_invalid, self._once = token, on_invalid, once

    def __enter__(self) -> CallContext:
        return self._open(_checked(self._token, self._once))

    def __exit__(self, *problem: object) -> None:
        self._inside.__exit__(*problem)

    async def __aenter__(self) -> CallContext:
        if not self._once:
            return self.__enter__()
        import asyncio

        return self._open(await asyncio.to_thread(_checked, self._token, True))

    async def __aexit__(self, *problem: object) -> None:
        self._inside.__exit__(*problem)

    def _open(self, checked: _Token | InvalidToken) -> CallContext:
        identity, reason, span = EMPTY, None, None
        if isinstance(checked, _Token):
            identity, span = checked.identity, checked.span
        else:
            diagnostics.count("invalid_handover", "a handed-over identity was refused: %s", checked)
            if (self._on_invalid or _configured[0][1]) == "raise":
                raise checked
            from llmctx.core.record import Reason  # late, as itsdangerous is: `import llmctx` stays quick

            reason = Reason.INVALID_HANDOVER
        scope = new_scope("job", identity)
        if span is not None and not scope.failed:
            scope.span = span
        if reason is not None and not scope.failed:
            scope.reason, scope.of_request = reason, scope.serial  # as an anonymous request, it borrows no name
        self._inside = InsideBlock(scope, is_held=hold(scope))
        self._inside.__enter__()
        return identity


class _Token(NamedTuple):
    """The content of a token."""

    identity: CallContext
    expires: float
    """Seconds since 1970."""
    span: Span | None


def _checked(token: str | bytes | None, once: bool) -> _Token | InvalidToken:
    """Return what `token` says, or why it says nothing."""
    is_first = not keys()  # a CallLog that has been started has configured them
    try:
        said = _read(token)
        if is_first:
            diagnostics.count("no_call_log", "take_over() before any CallLog was started: this process records no call")
        if once and token is not None:
            from llmctx.identity.registry.single_use import redeem  # late: it may load redis

            text = token.decode() if isinstance(token, bytes) else token  # as a queue may hand it out
            redeem(text.rpartition(".")[0], said.expires - time.time())  # without the signature: keys rotate
    except InvalidToken as problem:
        return problem
    return said


def read(token: str | None) -> CallContext:
    """Return the identity in `token`, for an `identify` that reads a header. `InvalidToken` if forged or too old."""
    return _read(token).identity


def _read(token: str | bytes | None) -> _Token:
    from itsdangerous import BadData
    from itsdangerous.encoding import base64_decode, base64_encode, want_bytes

    if not isinstance(token, (str, bytes)) or not token:
        raise InvalidToken("The token is missing. Call hand_over() where the job is created.")
    serializer = _serializer()
    try:
        said: Any = serializer.loads(token)
        signature = want_bytes(token).rpartition(b".")[2]
        if base64_encode(base64_decode(signature)) != signature:  # the same signature, spelled in another way
            raise InvalidToken
        if not all(isinstance(value, str) for name, value in said.items() if name != "e"):
            raise InvalidToken
        expires = float(said.pop("e"))
        if expires < time.time():
            raise InvalidToken("The token has expired. Give hand_over() a longer ttl_s if jobs wait that long.")
        said.pop(_NUMBER, None)
        span = None
        if (traceparent := said.pop(_SPAN, None)) is not None:
            from llmctx.core.tracing import span_of

            span = span_of(traceparent)
        return _Token(CallContext(**{_SHORT[letter]: value for letter, value in said.items()}), expires, span)
    except (BadData, KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as problem:
        raise InvalidToken from problem


def _serializer() -> URLSafeSerializer:
    from itsdangerous import URLSafeSerializer

    secrets = keys() or _from_environment()
    check_keys(secrets)
    return URLSafeSerializer(list(reversed(secrets)), salt=_SALT, signer_kwargs={"key_derivation": "hmac"})


def keys() -> list[str]:
    """Return the keys that are configured: the first signs, all verify."""
    return [part for part in (part.strip() for part in (_configured[0][0] or "").split(",")) if part]


def _from_environment() -> list[str]:
    """Return the key, in a process that hands over without recording anything itself."""
    from llmctx.settings import load

    settings = load()
    configure(settings.handover_key, settings.handover_invalid)
    secrets = keys()
    if not secrets:
        raise ConfigError(
            "LLMCTX_HANDOVER_KEY is not set: hand_over() and take_over() need the same secret in every process. "
            "Make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`."
        )
    return secrets
