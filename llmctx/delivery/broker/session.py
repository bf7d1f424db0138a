"""A connection to the broker for the length of a command, whose errors say what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError
from llmctx.delivery.broker.client import BrokerConnection, BrokerUnavailable, require_nats
from llmctx.delivery.broker.topology import Topology
from llmctx.settings import Settings
from llmctx.settings.transport_url import TransportUrl

ANSWER_S: Final = 10.0
"""Patience with an answer of the broker's: a cluster that has lost a server takes some seconds to elect leaders."""


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncIterator[tuple[BrokerConnection, Topology]]:
    """Yield a connection to the broker of `settings`, and its topology.

    Raise `ConfigError` where none is set, `DatabaseUnavailable` where it does not answer, also in the middle of the
    block, and `LlmctxError` for what it refuses.
    """
    transport = transport_of(settings)
    connection = BrokerConnection(transport, connect_s=settings.connect_timeout_s, timeout_s=ANSWER_S)
    from nats.errors import Error, NoRespondersError
    from nats.js.errors import APIError

    try:
        await connection.open()
        yield connection, Topology(transport)
    except BrokerUnavailable as problem:
        raise DatabaseUnavailable(
            f"The broker cannot be reached: {problem}. Check that it runs, and LLMCTX_TRANSPORT."
        ) from problem
    except NoRespondersError as problem:
        raise LlmctxError(f"{transport.shown} has no JetStream: enable it, with a store_dir.") from problem
    except TimeoutError as problem:
        if connection.forbidden is not None:
            raise LlmctxError(f"{transport.shown}: {connection.forbidden}.") from problem
        raise DatabaseUnavailable(
            f"The broker {transport.shown} does not answer within {ANSWER_S:g} s: check that its cluster has a leader."
        ) from problem
    except APIError as problem:
        raise LlmctxError(f"The broker {transport.shown} refuses: {problem.description or problem}.") from problem
    except Error as problem:
        raise DatabaseUnavailable(f"The broker {transport.shown} failed: {problem}.") from problem
    finally:
        await connection.close()


def transport_of(settings: Settings) -> TransportUrl:
    """Return the broker of `settings`. Raise `ConfigError` where there is none, or no package for it."""
    transport = settings.transport_url
    if transport is None:
        raise ConfigError("LLMCTX_TRANSPORT is not set: name the broker, as in nats://host:4222.")
    require_nats()
    return transport
