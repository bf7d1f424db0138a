"""The connection to NATS: several servers, TLS, credentials, deadlines, and no log lines but ours.

Belongs to one event loop. It ends when the server does (`is_open`): then `open` chooses among the servers anew, in the
rhythm of the code that uses it, not in one of the client library's own.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.process import import_lock
from llmctx.core.threads import run_in_daemon_thread
from llmctx.delivery.broker.topology import CONSUMER
from llmctx.settings.transport_url import TransportUrl

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

NAME: Final = "llmctx"
"""Of the connection, as the broker's own tools list it."""
_PING_S: Final = 20
_OTHER_SERVER_S: Final = 0.1
_CLOSE_S: Final = 0.5
_FORBIDDEN: Final = re.compile(r"permissions violation for (publish|subscription) to \"?([^\s\"']+)", re.IGNORECASE)


class BrokerUnavailable(ConnectionError):
    """Raised where no server of the broker can be reached, with its last word."""


class StreamMissing(BrokerUnavailable):
    """Raised where the broker has no such stream, or no consumer of it."""


def require_nats() -> None:
    """Raise `ConfigError` where the packages for a broker are not installed."""
    if find_spec("nats") is None or find_spec("zstandard") is None:
        raise ConfigError('LLMCTX_TRANSPORT needs nats-py and zstandard: pip install "llmctx[nats]".')


class BrokerConnection:
    """At most one connection to the broker that `transport` names; every request ends after `timeout_s` seconds."""

    def __init__(self, transport: TransportUrl, *, connect_s: float, timeout_s: float) -> None:
        self._transport = transport
        self._connect_s = connect_s
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._jetstream: JetStreamContext | None = None
        self._last_problem: Exception | None = None
        self.forbidden: str | None = None
        """What the broker has refused this connection's user, in words."""
        self.connect_count = 0
        """How many connections there were: with each, another server may answer."""

    @property
    def is_open(self) -> bool:
        """Return whether there is a connection, as far as is known."""
        return self._client is not None and _is_alive(self._client)

    @property
    def client(self) -> Client:
        """Return the client library's own connection. Raise `BrokerUnavailable` where there is none."""
        if self._client is None or not _is_alive(self._client):
            raise BrokerUnavailable(f"there is no connection to {self._transport.shown}")
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        """Return the API of its streams. Raise `BrokerUnavailable` where there is no connection."""
        _ = self.client
        assert self._jetstream is not None
        return self._jetstream

    @property
    def max_payload(self) -> int:
        """Return how many bytes a message may have, headers included."""
        return self.client.max_payload

    async def open(self) -> None:
        """Connect to one of the servers, if there is no connection. Raise `BrokerUnavailable`."""
        if self.is_open:
            return
        await self.close()
        with import_lock:
            from nats.errors import NoServersError

        options = await run_in_daemon_thread(self._options)  # reads files
        client = _new_client(needs_tls=self._transport.is_tls)
        try:
            async with asyncio.timeout(self._connect_s):
                await client.connect(**options)
        except Exception as problem:
            await _end(client)
            last, self._last_problem = self._last_problem, None
            # these two say nothing of why
            why = last if last is not None and isinstance(problem, (NoServersError, TimeoutError)) else problem
            raise BrokerUnavailable(f"{self._transport.shown}: {str(why) or type(why).__name__}") from problem
        except BaseException:  # cancelled half-way
            await _end(client)
            raise
        self.connect_count += 1
        self.forbidden = None
        self._client = client
        self._jetstream = client.jetstream(timeout=self._timeout_s)

    def _options(self) -> dict[str, Any]:
        transport = self._transport
        return {
            "servers": list(transport.servers),
            "name": NAME,
            "user": transport.user,
            "password": transport.password,
            "token": transport.token,
            "user_credentials": transport.creds,
            "tls": _tls(transport) if transport.is_tls else None,
            # another server is chosen by `open`, in the rhythm of the code that uses this
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": _OTHER_SERVER_S,
            "connect_timeout": self._connect_s,
            "ping_interval": _PING_S,
            "pending_size": 0,  # nothing is sent later than its deadline
            "error_cb": self._note,
        }

    async def _note(self, problem: Exception) -> None:
        """Keep what the library would log: it is raised, or counted, by what it makes fail."""
        self._last_problem = problem
        if (found := _FORBIDDEN.search(str(problem))) is not None:
            what = "publish" if found[1].lower() == "publish" else "subscribe"
            self.forbidden = (
                f"this user of the broker may not {what} to {self._as_written(found[2])}: grant it "
                "(the guide about the broker lists the rights)"
            )
            diagnostics.count("broker_forbids", "%s: %s", self._transport.shown, self.forbidden)

    def _as_written(self, subject: str) -> str:
        """Return a subject as it is to be granted: the library tells it in small letters, NATS tells them apart."""
        if not subject.lower().startswith("$js."):
            return subject
        small = (CONSUMER, *self._transport.readers)
        return ".".join(token if token in small else token.upper() for token in subject.split("."))

    def explain(self, problem: BaseException) -> str:
        """Return why a request failed: what a client may not do, the broker leaves without an answer."""
        if isinstance(problem, TimeoutError) and self.forbidden is not None:
            return self.forbidden
        return str(problem) or type(problem).__name__

    async def close(self) -> None:
        """Close the connection, if there is one. Never raises."""
        client, self._client, self._jetstream = self._client, None, None
        if client is not None:
            await _end(client)

    def forget(self) -> None:
        """Let go of a connection that belongs to another event loop, or to the parent of a fork, without a word."""
        self._client = self._jetstream = None


def _new_client(*, needs_tls: bool) -> Client:
    with import_lock:
        from nats.aio.client import Client
        from nats.errors import SecureConnRequiredError

    class EncryptedClient(Client):
        async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
            # before anything is said: the library would go on in plain text, password included
            if initial_connection and not info.get("tls_required"):
                raise SecureConnRequiredError
            await super()._process_info(info, initial_connection=initial_connection)

    return EncryptedClient() if needs_tls else Client()


def _tls(transport: TransportUrl) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=transport.ca)
    if transport.cert is not None:
        context.load_cert_chain(transport.cert, transport.key)
    return context


def _is_alive(client: Client) -> bool:
    """Return whether `client` is connected, and reads: a late answer to a ping that was given up ends its reader."""
    reader = client._reading_task
    return client.is_connected and not (reader is not None and reader.done())


async def _end(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await client.close()
    except Exception as problem:  # noqa: BLE001  it is let go of all the same
        if not isinstance(problem, TimeoutError):  # a server that does not answer, or speaks no TLS
            diagnostics.count("close_failed", "a connection to the broker could not be closed", exc=problem)
        writer = getattr(getattr(client, "_transport", None), "_io_writer", None)  # the library has no word for it
        if writer is not None:
            writer.transport.abort()
