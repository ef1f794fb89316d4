"""Accepting connections on a shared listening socket, and draining without losing a request.

During a swap two processes accept from the same socket. The one that leaves stops
accepting, answers what still comes on its connections with `Connection: close`,
and goes when all callers went. (Closing idle connections at once, as servers do on
SIGTERM, fails the request that is just being sent on each of them.)

Every connection counts from the moment that it is accepted, TLS handshakes included, and
has to make progress: who is slower than `limits` allows is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

from fedge.config import LimitSettings
from fedge.serving.asgi import App
from fedge.serving.callers import OpenConnections, client_key
from fedge.serving.connection import LINGER_S, Connection
from fedge.serving.exchange import error_answer
from fedge.serving.front import Front, Observer, Pace, Unobserved
from fedge.serving.tls import ServerTls

log = logging.getLogger(__name__)

BACKLOG = 1024
ACCEPTS_PER_TURN = 16
"""Connections accepted before those that we have get their turn again."""
NO_HANDLES_PAUSE_S = 0.5
"""Accepting rests so long where the process has no file handle left."""
LOOKS_PER_LIMIT, LONGEST_LOOK_S = 8, 1.0
"""Deadlines are looked at so many times within the shortest limit, and at least so often."""
RETRY_AFTER = (b"retry-after", b"1")
POLL_S = 0.02
FINISH_S = 5.0
"""After the draining time, answers that are being made may take this long."""
OUT_OF_HANDLES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Serves an app on a listening socket that others hold too.

    Args:
        listening: TCP or Unix, bound; several processes may accept from it.
        limits: how many connections, and how slow they may be.
        tls: with it, callers must speak TLS; the handshake may take `header_timeout_s`.
        observer: is told of every request.
    """

    def __init__(
        self,
        app: App,
        listening: socket.socket,
        limits: LimitSettings | None = None,
        *,
        tls: ServerTls | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._app, self._listening, self._tls = app, listening, tls
        self._limits = limits or LimitSettings()
        self._observer = observer or Unobserved()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._front: Front | None = None
        self._open_now = OpenConnections(self._limits.max_connections_per_client)
        self.accepting = False

    @property
    def connections(self) -> int:
        """Connections that are open, handshakes under way included."""
        return len(self._handshakes) + (len(self._front.connections) if self._front else 0)

    async def serve(self) -> None:
        """Start to accept; returns once the socket listens."""
        limits = self._limits
        pace = Pace(limits.header_timeout_s, limits.body_timeout_s, limits.idle_timeout_s)
        loop = asyncio.get_running_loop()
        self._front = Front(self._app, pace, loop, self._observer)
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        self.accepting = True
        loop.add_reader(self._listening.fileno(), self._accept)
        self._look(min(LONGEST_LOOK_S, min(_seconds(pace)) / LOOKS_PER_LIMIT))

    async def drain(self, seconds: float) -> None:
        """Stop accepting, then wait until every connection had its last answer.

        Args:
            seconds: how long an idle connection may take to send its next request; then it
                is closed. Zero closes idle connections at once.
        """
        self._stop_accepting()
        front = self._front
        if front is None:
            return
        front.draining = True
        await _until(lambda: not (self.connections or front.tasks), seconds)
        for connection in list(front.connections):
            connection.finish()
        for handshake in self._handshakes:
            handshake.cancel()
        await asyncio.sleep(0)
        await _until(lambda: not (front.tasks or any(c.busy for c in front.connections)), FINISH_S)
        # In TLS both sides say goodbye; nobody has to wait for the other's.
        for connection in list(front.connections):
            connection.abort()
        await _until(lambda: not self.connections, FINISH_S)

    # --- accepting ------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_HANDLES:
                    raise
                log.error("cannot accept: %s", error)
                self._pause_accepting()
                return
            self._take(accepted, address)

    def _take(self, accepted: socket.socket, address: Any) -> None:
        if self.connections >= self._limits.max_connections:
            self._turn_away(accepted, 503, "connections: there are too many; try again")
            return
        # Whoever calls over a unix socket is a worker of this gateway.
        key = client_key(address[:2]) if accepted.family != socket.AF_UNIX else None
        if key is not None and not self._open_now.opened(key):
            self._turn_away(accepted, 429, "connections: there are too many of this client")
            return
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            # An answer is one write: nothing is gained by waiting to fill a packet.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake = asyncio.ensure_future(self._open(accepted, key))
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

    async def _open(self, accepted: socket.socket, key: bytes | None) -> None:
        front, loop = self._front, asyncio.get_running_loop()
        if front is None:
            raise RuntimeError("serve() comes first")
        counted = [] if key is None else [key]

        def closed() -> None:
            while counted:  # once, whoever hears of it first
                self._open_now.closed(counted.pop())

        context, timeouts = None, dict[str, Any]()
        if self._tls is not None:
            context = self._tls.context()
            timeouts["ssl_handshake_timeout"] = self._limits.header_timeout_s
            timeouts["ssl_shutdown_timeout"] = LINGER_S
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(front, closed), accepted, ssl=context, **timeouts
            )
        except (OSError, ssl.SSLError) as error:
            # The other end's doing, most of all: no TLS, no certificate, or it left.
            log.debug("a connection did not open: %s", error)
            accepted.close()
            closed()

    def _turn_away(self, accepted: socket.socket, status: int, why: str) -> None:
        with accepted, contextlib.suppress(OSError):
            if self._tls is None:
                accepted.setblocking(False)
                accepted.send(error_answer(status, why, RETRY_AFTER))
        self._observer.refused("connections")

    def _pause_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening.fileno())
        loop.call_later(NO_HANDLES_PAUSE_S, self._accept_again)

    def _accept_again(self) -> None:
        if self.accepting:
            asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def _stop_accepting(self) -> None:
        if self.accepting:
            self.accepting = False
            asyncio.get_running_loop().remove_reader(self._listening.fileno())

    def _look(self, every_s: float) -> None:
        """Expire the connections whose deadline has passed, now and again."""
        if self._front is None:
            return
        now = monotonic()
        for connection in [c for c in self._front.connections if c.deadline <= now]:
            connection.expire()
        if self.accepting or self._front.connections:
            asyncio.get_running_loop().call_later(every_s, self._look, every_s)


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait for it, but not longer than so many seconds."""
    deadline = monotonic() + seconds
    while not holds() and monotonic() < deadline:
        await asyncio.sleep(POLL_S)


def _seconds(pace: Pace) -> tuple[float, float, float]:
    return pace.header_s, pace.body_s, pace.idle_s
