"""The broker on the command line: `migrate --transport` makes its streams, and `journal` shows what lies there."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmctx.cli import output
from llmctx.cli.options import interruptible
from llmctx.cli.partition import show_done
from llmctx.core.text import counted, escape_controls

if TYPE_CHECKING:
    from llmctx.delivery.broker.provision import Plan
    from llmctx.ops.broker import BrokerReport
    from llmctx.settings import Settings


def provision_broker(settings: Settings, *, only_plan: bool, yes: bool, json: bool) -> None:
    """Make what is not there at once; show changes of what is there until `yes`."""
    with interruptible(changes=True):
        plan, steps = asyncio.run(_provision(settings, only_plan=only_plan, yes=yes, quiet=json))
    where = settings.transport_url
    assert where is not None
    if json:
        output.show_json(
            {
                "transport": where.shown,
                "steps": [step.what for step in plan.steps],
                "notes": [*plan.refusals, *plan.notes],
                "done": steps,
            }
        )
    if not plan.steps and not plan.refusals:
        output.say(f"Nothing to do: the streams are as they should be in {where.shown}.")
    elif steps is None:
        output.say(output.dry_run(possible=not plan.refusals, where=f" in {where.shown}"))
    else:
        output.say(f"The streams are ready in {where.shown}.")


async def _provision(settings: Settings, *, only_plan: bool, yes: bool, quiet: bool) -> tuple[Plan, list[str] | None]:
    """Return the plan, and what was done of it; None where nothing was to be done now."""
    from llmctx.delivery.broker import provision
    from llmctx.delivery.broker.session import open_broker, transport_of

    async with open_broker(settings) as (connection, topology):
        servers = provision.servers_of(connection, transport_of(settings))
        plan = await provision.plan(connection.jetstream, topology, servers)
        if plan.refusals and not only_plan:
            raise provision.ProvisionError(" ".join(plan.refusals))
        doing = bool(plan.steps) and not only_plan and (yes or not plan.changes)
        if not quiet:
            steps = [] if doing else [step.what for step in plan.steps]
            output.show_plan(steps, [*plan.refusals, *plan.notes] if plan.steps or plan.refusals else [], done=False)
        if not doing:
            return plan, None
        steps = []
        await provision.provision(connection, topology, servers, lambda what: _say(what, steps, quiet=quiet))
        return plan, steps


def _say(what: str, steps: list[str], *, quiet: bool) -> None:
    steps.append(what)
    if not quiet:
        show_done(what)


def report_json(report: BrokerReport | str) -> dict[str, Any]:
    """Return what lies on the broker, for programs."""
    if isinstance(report, str):
        return {"broker": None, "problem": report}
    lag = report.lag
    refused = [
        {"sequence": one.sequence, "code": one.code, "reason": one.reason, "at": one.at} for one in report.refused
    ]
    streams = [asdict(one) for one in lag.streams]
    return {"broker": lag.transport, "streams": streams, "missing": lag.missing, "refused": refused}


def show_report(report: BrokerReport | str) -> None:
    """Print what lies on the broker."""
    if isinstance(report, str):
        output.paragraph(report, lead="broker: ")
        return
    lag = report.lag
    output.show(escape_controls(lag.transport))
    columns = [output.Column("stream")]
    columns += [output.Column(title, "right") for title in ("waiting", "in hand", "again", "bytes")]
    columns += [output.Column("oldest"), output.Column("shippers", "right")]
    busy = [one for one in lag.streams if one.waiting or one.in_hand]
    numbers = [map(output.text_of, (one.waiting, one.in_hand, one.redelivered, one.bytes)) for one in busy]
    lines = [
        [one.stream, *counts, output.text_of(one.oldest, null="-"), output.text_of(one.shippers)]
        for one, counts in zip(busy, numbers, strict=True)
    ]
    if lines:
        output.table(columns, lines, indent=2)
    else:
        output.paragraph(f"{lag.description}, in {counted(len(lag.streams), 'stream')}", lead="  ")
    for name in lag.missing:
        output.paragraph(f"{name} is not there, or has no consumer: llmctx migrate --transport", lead="  ")
    for (code, reason), count in Counter((one.code, one.reason) for one in report.refused).most_common(10):
        output.paragraph(f"{count} set aside [{code}]: {reason}", lead="  ")
