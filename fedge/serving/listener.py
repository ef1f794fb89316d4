"""Accepting connections on a shared listening socket, and draining without losing a request.

During a swap two processes accept from the same socket. The one that leaves stops
accepting, answers what still comes on its connections with `Connection: close`,
and goes when all callers went. (Closing idle connections at once, as servers do on
SIGTERM, fails the request that is just being sent on each of them.)
"""

from __future__ import annotations

import asyncio
import socket

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fedge.serving.app import InferenceApp

BACKLOG = 1024
KEEP_ALIVE_S = 120
POLL_S = 0.02
FINISH_S = 5.0
"""After the draining time, answers that are being made may take this long."""


class Listener:
    """Uvicorn's HTTP protocol on a socket that others hold too."""

    def __init__(self, app: InferenceApp, listening: socket.socket) -> None:
        self._app, self._listening = app, listening
        self._state = ServerState()
        self._server: asyncio.AbstractServer | None = None
        self._config = Config(
            app,
            interface="asgi3",
            http=HttpToolsProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()

    async def serve(self) -> None:
        """Start to accept; returns once the socket listens."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: HttpToolsProtocol(
                config=self._config, server_state=self._state, app_state={}, _loop=loop
            ),
            sock=self._listening,
            backlog=BACKLOG,
        )

    async def drain(self, seconds: float) -> None:
        """Stop accepting, then wait until every connection had its last answer.

        Args:
            seconds: how long an idle connection may take to send its next request; then it
                is closed. Zero closes idle connections at once.
        """
        self._app.draining = True
        if self._server is not None:
            self._server.close()
        await self._until_quiet(seconds)
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._until_quiet(FINISH_S)

    async def _until_quiet(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while self._state.connections or self._state.tasks:
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(POLL_S)
