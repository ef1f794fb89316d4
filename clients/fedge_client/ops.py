"""The operations listener: a few pages of facts over HTTP/1.1, on loopback only.

GET and nothing else, one request a connection, small limits on size, time and number:
whoever is slow or hostile here costs the gateway a handful of handles for some seconds.
A request must name loopback in `Host`, so that a web page elsewhere cannot read it through
a browser on this machine. What the pages say belongs to others. Standard library alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fedge.errors import SettingError

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1")
HOST_NAMES = (b"127.0.0.1", b"localhost", b"[::1]")
MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 16
READ_TIMEOUT_S, WRITE_TIMEOUT_S = 5.0, 10.0
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
    500: "Internal Server Error",
}


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers with."""

    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Awaitable[Page]]]


class OpsListener:
    """Serves `pages` by path.

    Raises:
        SettingError: `host` is not a loopback address.
    """

    def __init__(self, pages: Pages, port: int, host: str = "127.0.0.1") -> None:
        if host not in LOOPBACK:
            raise SettingError(f"the operations listener is for loopback only, not {host}")
        self._pages, self._host, self._wanted = pages, host, port
        self._server: asyncio.AbstractServer | None = None
        self.connections = 0
        self.port = -1

    async def open(self) -> None:
        """Start to answer; `port` is the real one afterwards.

        Raises:
            SettingError: the port is taken.
        """
        try:
            server = await asyncio.start_server(
                self._serve, self._host, self._wanted, limit=MAX_HEAD_BYTES, backlog=MAX_CONNECTIONS
            )
        except OSError as error:
            raise SettingError(
                f"cannot open the operations listener on {self._host}:{self._wanted}: {error}"
            ) from error
        self._server = server
        self.port = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Take no more callers."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.connections >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            answer = await self._answer(reader)
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                writer.write(answer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            # Also what a client would not read is dropped; after a clean close this does nothing.
            writer.transport.abort()
            self.connections -= 1

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(400, detail="the request's head is too long")
        request, *fields = head.split(b"\r\n")
        parts = request.split(b" ")
        if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            return _response(400, detail="not an HTTP/1.1 request")
        if parts[0] != b"GET":
            return _response(405, detail="only GET", allow="GET")
        if not _names_loopback(fields):
            return _response(421, detail="Host must name loopback")
        page = self._pages.get(parts[1].partition(b"?")[0].decode("latin-1"))
        if page is None:
            return _response(404, detail="pages: " + " ".join(self._pages))
        try:
            return _response(200, await page())
        except Exception:  # a bug in a page must not end anything but this answer
            log.exception("a page failed")
            return _response(500, detail="see the supervisor's log")


def _names_loopback(fields: list[bytes]) -> bool:
    hosts = [
        value.strip().lower()
        for name, _, value in (field.partition(b":") for field in fields)
        if name.lower() == b"host"
    ]
    if len(hosts) != 1:
        return False
    name = hosts[0]
    with contextlib.suppress(ValueError):
        bare, _, port = name.rpartition(b":")
        int(port)
        name = bare
    return name in HOST_NAMES


def _response(status: int, page: Page | None = None, *, detail: str = "", allow: str = "") -> bytes:
    page = page or Page("text/plain; charset=utf-8", detail.encode() + b"\n")
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if allow:
        lines.append(f"Allow: {allow}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + page.body
