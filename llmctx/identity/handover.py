"""Signed tokens that take an identity to another process: `hand_over` there, `take_over` here.

For jobs (Celery, arq, RQ, a plain queue) and for HTTP between services. A token is short, expires, and names nobody
unless its signature is ours: who can put a job into the queue cannot put another user's name into it. The key
is `LLMCTX_HANDOVER_KEY`, the same for all processes; several, separated by commas, while keys are being changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError, InvalidToken
from llmctx.identity.inherited_context import current
from llmctx.identity.scope import EMPTY, ID_FIELDS, CallContext, Held, opened

if TYPE_CHECKING:
    from itsdangerous import URLSafeSerializer

_SHORT: Final = dict(zip("sutcah", ID_FIELDS, strict=True))  # one letter an id: tokens travel in headers
_SALT: Final = "llmctx.identity.handover.1"

_KEY_BYTES: Final = 16
TOO_SHORT: Final = (
    "LLMCTX_HANDOVER_KEY is too short: a key of fewer than 16 bytes can be guessed. "
    "Make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`."
)

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
    """Return the identity of the current scope as a signed text of 100 to 300 characters, good for `ttl_s` seconds.

        queue.enqueue(job, text, identity=hand_over())

    Raises `ConfigError` when no key is set.
    """
    return sign(current(), ttl_s=ttl_s)


def has_key() -> bool:
    """Return whether a started `CallLog` has configured a key."""
    return bool(_configured[0][0])


def sign(identity: CallContext, *, ttl_s: float = 86_400.0) -> str:
    """Return `identity` as a token."""
    ids = {letter: value for letter, name in _SHORT.items() if (value := getattr(identity, name)) is not None}
    return str(_serializer().dumps({"e": int(time.time() + ttl_s), **ids}))


@contextmanager
def take_over(token: str | None, *, on_invalid: OnInvalid | None = None) -> Iterator[CallContext]:
    """Open a scope with the identity in `token`, in a worker or in another service.

        with take_over(job.identity):
            graph.invoke(...)

    A forged, broken or expired token raises `InvalidToken`, or opens an anonymous scope where `on_invalid`, or else
    `LLMCTX_HANDOVER_INVALID`, says "anonymous". The worker's own context is not inherited.
    """
    reason: str | None = None
    try:
        identity = read(token)
    except InvalidToken as problem:
        diagnostics.count("invalid_handover", "a handed-over identity was refused: %s", problem)
        if (on_invalid or _configured[0][1]) == "raise":
            raise
        from llmctx.core.record import Reason  # late, as itsdangerous is: `import llmctx` stays quick

        identity, reason = EMPTY, Reason.INVALID_HANDOVER
    scope = opened("job", identity)
    if reason is not None and not scope.failed:
        scope.reason, scope.of_request = reason, scope.serial  # as an anonymous request, it borrows no name
    with Held(scope):
        yield identity


def read(token: str | None) -> CallContext:
    """Return the identity in `token`, for an `identify` that reads a header. `InvalidToken` if forged or too old."""
    from itsdangerous import BadData

    if not token:
        raise InvalidToken("There is no token. Call hand_over() where the job is created.")
    try:
        said: Any = _serializer().loads(token)
        if not all(isinstance(value, str) for name, value in said.items() if name != "e"):
            raise InvalidToken
        if said.pop("e") < time.time():
            raise InvalidToken("The token has expired. Give hand_over() a longer ttl_s if jobs wait that long.")
        return CallContext(**{_SHORT[letter]: value for letter, value in said.items()})
    except (BadData, KeyError, TypeError, AttributeError, ValueError, RecursionError) as problem:
        raise InvalidToken from problem


def _serializer() -> URLSafeSerializer:
    from itsdangerous import URLSafeSerializer

    secrets = keys() or _from_environment()
    if any(len(key.encode("utf-8", "surrogatepass")) < _KEY_BYTES for key in secrets):
        raise ConfigError(TOO_SHORT)
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
