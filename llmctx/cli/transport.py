"""`llmctx migrate --transport`: make the broker's streams and consumers, or change them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmctx.cli import output
from llmctx.cli.options import interruptible
from llmctx.cli.partition import done

if TYPE_CHECKING:
    from llmctx.delivery.broker.provision import Plan
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
    from llmctx.delivery.broker.visit import transport_of, visit

    async with visit(settings) as (connection, topology):
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
        done(what)
