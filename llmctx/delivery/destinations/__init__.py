"""The places for rows that are there already: a database (`sql`), and a message broker before it (`nats`)."""

from __future__ import annotations

from llmctx.delivery.broker.client import require_nats
from llmctx.delivery.destination import Destination
from llmctx.settings import Settings


def check_packages(settings: Settings) -> None:
    """Raise `ConfigError` where a package is not installed that the way of the rows needs."""
    if settings.transport is not None:
        require_nats()


def default_destination(settings: Settings) -> Destination:
    """Return where rows go by `settings`: to the broker of `transport`, or else to the database."""
    if (transport := settings.transport_url) is not None:
        from llmctx.delivery.destinations.nats import NatsDestination  # late, both: one is wanted, with its driver

        return NatsDestination(transport, settings)
    from llmctx.delivery.destinations.sql import SqlDestination

    return SqlDestination(settings)
