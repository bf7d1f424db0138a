"""Checks of the broker: its streams, what its servers keep through a power cut, and whether shippers keep up."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

from llmctx.core.errors import LlmctxError
from llmctx.core.text import counted
from llmctx.delivery.broker import provision
from llmctx.delivery.broker.lag import Lag, fetch_lag
from llmctx.delivery.broker.session import open_broker, transport_of
from llmctx.ops.doctor.finding import Finding, list_names
from llmctx.settings import Settings
from llmctx.settings.transport_url import TransportUrl

_OLD_S: Final = 300.0
_MONITOR: Final = 8222
_PATIENCE_S: Final = 2.0


async def broker(settings: Settings) -> list[Finding]:
    """Check the broker of `settings`; nothing where none is set."""
    if settings.transport is None:
        return []
    try:
        transport = transport_of(settings)
        async with open_broker(settings) as (connection, topology):
            servers = provision.servers_of(connection, transport)
            plan = await provision.plan(connection.jetstream, topology, servers)
            lag = await fetch_lag(connection, topology)
    except LlmctxError as problem:
        return [
            Finding(
                "broker", False, str(problem), "Rows stay in the journals of this host until it is there again.",
                "Start the broker, or correct LLMCTX_TRANSPORT.", "LLMCTX_TRANSPORT",
            )
        ]  # fmt: skip
    findings = [Finding("broker", True, f"reachable, {counted(servers, 'server')}", where=lag.transport)]
    findings += _streams(plan, topology.where)
    findings += await asyncio.to_thread(lambda: list(_syncing(transport)))
    return [*findings, *_progress(lag)]


def _streams(plan: provision.Plan, where: str) -> Iterator[Finding]:
    for refusal in plan.refusals:
        yield Finding("broker streams", False, refusal, "Rows may be lost on the broker.", "Do what it says.", where)
    if plan.steps:
        cause = f"not as they should be: {list_names(step.what for step in plan.steps)}"
        consequence = "Rows stay in the journals, or are less safe on the broker than they could be."
        yield Finding("broker streams", False, cause, consequence, "llmctx migrate --transport --yes", where)
    elif not plan.refusals:
        yield Finding("broker streams", True, "as they should be", where=where)


def _syncing(transport: TransportUrl) -> Iterator[Finding]:
    """Ask the monitoring ports of the servers, where they are open, whether they wait for the disk."""
    lazy, asked = [], 0
    for server in transport.servers:
        host = server.partition("://")[2].rpartition(":")[0]
        config = _config_of(host)
        asked += config is not None
        if config is not None and not config.get("sync_always"):
            lazy.append(host)
    if lazy:
        cause = f"{list_names(lazy)} acknowledge before data is on disk (sync_interval)"
        consequence = (
            "If a machine fails, the last minutes can be lost. Journals send their rows again until the database has "
            "them; those of a host without a journal are lost."
        )
        fix = "Set `sync_interval: always` in the jetstream section of each server's configuration."
        yield Finding("broker disks", False, cause, consequence, fix, transport.shown)
    elif not asked:
        cause = f"not checked whether servers set `sync_interval: always`: no monitoring port {_MONITOR} answers"
        yield Finding("broker disks", True, cause, unknown=True)
    else:
        yield Finding("broker disks", True, "what is acknowledged is on disk", where=transport.shown)


def _config_of(host: str) -> dict[str, Any] | None:
    """Return a server's configuration of JetStream, as its monitoring port tells it."""
    try:
        with urllib.request.urlopen(f"http://{host}:{_MONITOR}/jsz", timeout=_PATIENCE_S) as answer:
            config = json.load(answer)["config"]
            return dict(config)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _progress(lag: Lag) -> Iterator[Finding]:
    if lag.oldest_s > _OLD_S:
        idle = "" if lag.sum("shippers") else ", and no shipper is running"
        consequence = "Rows are late; when the broker is full they stay in the journals."
        fix = "Run llmctx ship, or more of them; see its log, and check that the database keeps up."
        yield Finding("broker lag", False, f"{lag.description}{idle}", consequence, fix, lag.transport)
    elif lag.streams:
        yield Finding("broker lag", True, lag.description, where=lag.transport)
    if lag.refused:
        cause = (
            f"{counted(lag.refused, 'message is', 'messages are')} set aside: refused by the database, or unreadable"
        )
        fix = "llmctx journal, correct what it names, and llmctx journal replay --yes"
        yield Finding("broker refused", False, cause, "They are not in the table.", fix, lag.transport)
