"""Calls that leave the context of their request: tasks, threads, executors, loops, processes, workers."""

from __future__ import annotations

from tests.shapes import shape
from tests.shapes.world import World, in_thread, model
from tests.support import User


@shape
async def bare_thread_with_nothing(world: World) -> None:
    async def endpoint(user: User) -> None:
        prompt = world.prompt(user, known="carried")
        await in_thread(lambda: model.invoke(prompt))

    await world.through(endpoint)
