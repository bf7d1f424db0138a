"""Serve an ASGI application on a free loopback port until the parent exits."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from llmctx.cli.demo.processes import say, when_parent_goes


class _Server(uvicorn.Server):
    name: str

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            say(name=self.name, port=sockets[0].getsockname()[1])


def serve(app: Any, name: str) -> None:
    """Report the port when the application is up; return when it has shut down."""
    # Kept-alive connections outlast every pause: one that is closed just as a client uses it again would be an error
    # that the demo is not about.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_keep_alive=600, timeout_graceful_shutdown=5
    )
    server = _Server(config)
    server.name = name

    def stop() -> None:
        server.should_exit = True

    when_parent_goes(stop)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        server.run(sockets=[listener])
    if not server.started:
        raise RuntimeError(f"{name} did not start")
