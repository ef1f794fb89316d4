"""A small HTTP/1.1 client for inference servers: TCP, TLS or a unix socket, on asyncio.

One client speaks to one server over a bounded pool of kept connections, one request
at a time on each. Every request has a deadline and every answer a largest size; an
answer must say its length or be chunked. What a request means, whether it may be sent
at all, and what to do when it failed is the caller's.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools

from fedge.errors import OutboundError, OutboundTimeoutError, SettingError

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

MAX_CONNECTIONS = 32
IDLE_S = 30.0
"""A connection unused for so long is not used again: what lies between may have forgotten it."""
MAX_ANSWER_BYTES = 64 * 2**20
HEAD_BYTES = 2**16
"""What an answer's headers may take on top of its body."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer: chunks are joined, a content encoding is left as it is."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        return next((value for known, value in self.headers if known == name), None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens.

    Attributes:
        host, port: of a TCP server; unused where `socket` is set.
        prefix: path before every target, without the final slash.
        tls: set for https.
        socket: path of a unix socket.
    """

    host: str = "localhost"
    port: int = 80
    prefix: str = ""
    tls: ssl.SSLContext | None = None
    socket: Path | None = None

    @classmethod
    def parse(cls, url: str, *, ca_file: Path | None = None) -> Endpoint:
        """Read an `http` or `https` address.

        Args:
            ca_file: certificates that sign the server's; None takes those of the system.

        Raises:
            SettingError: it is none, or `ca_file` cannot be read.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError as error:
            raise SettingError(f"{url!r} is no address of a server: {error}") from error
        prefix = parts.path.rstrip("/")
        if (
            parts.scheme not in ("http", "https")
            or not host
            or "@" in parts.netloc
            or parts.query
            or parts.fragment
            or not _TARGET.fullmatch(f"{prefix}/".encode())
        ):
            raise SettingError(f"{url!r} must be http(s)://host[:port][/path] and nothing else")
        if parts.scheme == "http":
            return cls(host, port or 80, prefix)
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ValueError) as error:
            raise SettingError(f"cannot read certificates in {ca_file}: {error}") from error
        return cls(host, port or 443, prefix, tls=context)

    @property
    def authority(self) -> bytes:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 80 if self.tls is None else 443
        return (host if self.port == default else f"{host}:{self.port}").encode("idna")


class StaleConnectionError(OutboundError):
    """A kept connection was closed before a byte of the answer came."""


class HttpClient:
    """Asks one server. For one event loop; make it inside or outside of it.

    Args:
        endpoint: the server.
        max_connections: at once; a request beyond waits for a free one, within its deadline.
        max_answer_bytes: a longer answer is refused while it comes in.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._endpoint, self._max_answer_bytes = endpoint, max_answer_bytes
        self._places = asyncio.Semaphore(max_connections)
        self._idle: list[_Connection] = []
        self._closed = False

    async def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        timeout_s: float,
        resend: bool = True,
    ) -> Response:
        """Send one request and read its answer.

        A cancelled or late request takes its connection with it.

        Args:
            target: path and query, already escaped.
            headers: besides Host and Content-Length, which are added.
            timeout_s: for everything: waiting for a connection, opening it, the answer.
            resend: send once more, on a new connection, where a kept one turns out to be
                closed and nothing of an answer came. The server may then see it twice.

        Raises:
            OutboundError: no whole answer came; `OutboundTimeoutError` if not in time.
            ValueError: target or headers cannot be sent as they are.
        """
        head = self._head(method, target, headers, len(body))
        try:
            # A task of its own, because the listener starts requests outside of any, and
            # `asyncio.timeout` needs one.
            return await asyncio.wait_for(self._exchange(method, head, body, resend), timeout_s)
        except TimeoutError as error:
            raise OutboundTimeoutError(f"{self._name} did not answer in {timeout_s} s") from error

    def close(self) -> None:
        """Close what is kept; requests under way end by themselves."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    @property
    def _name(self) -> str:
        return str(self._endpoint.socket or self._endpoint.authority.decode())

    def _head(
        self, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], length: int
    ) -> bytes:
        path = f"{self._endpoint.prefix}{target}".encode()
        if not (_TOKEN.fullmatch(method.encode()) and _TARGET.fullmatch(path)):
            raise ValueError(f"no request line: {method!r} {target!r}")
        lines = [
            method.encode() + b" " + path + b" HTTP/1.1",
            b"host: " + self._endpoint.authority,
            b"content-length: %d" % length,
        ]
        for name, value in headers:
            # A line break in here would be a second request.
            if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
                raise ValueError(f"no header: {name!r}")
            lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    async def _exchange(self, method: str, head: bytes, body: bytes, resend: bool) -> Response:
        async with self._places:
            kept = self._take_idle()
            if kept is not None:
                try:
                    return await self._ask(kept, method, head, body)
                except StaleConnectionError:
                    if not resend:
                        raise
            return await self._ask(await self._connect(), method, head, body)

    def _take_idle(self) -> _Connection | None:
        """The connection used last, so that those not needed grow old."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop, endpoint = asyncio.get_running_loop(), self._endpoint
        limit = self._max_answer_bytes

        def make() -> _Connection:
            return _Connection(limit)

        try:
            if endpoint.socket is not None:
                return (await loop.create_unix_connection(make, str(endpoint.socket)))[1]
            return (
                await loop.create_connection(make, endpoint.host, endpoint.port, ssl=endpoint.tls)
            )[1]
        except TimeoutError:
            raise  # our own deadline; the kernel's is longer and means the same
        except OSError as error:
            raise OutboundError(f"cannot reach {self._name}: {error}") from error

    async def _ask(
        self, connection: _Connection, method: str, head: bytes, body: bytes
    ) -> Response:
        try:
            response = await connection.ask(method, head, body)
        except BaseException:
            connection.abort()
            raise
        if connection.usable and not self._closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return response


class _Connection(asyncio.Protocol):
    """One connection: one request at a time, its answer as a whole."""

    def __init__(self, max_answer_bytes: int) -> None:
        self._limit = max_answer_bytes
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._method, self._fresh = "", True
        self._received = 0
        self._headers: Headers = []
        self._body: list[bytes] = []
        self.usable = True
        self.idle_since = 0.0

    async def ask(self, method: str, head: bytes, body: bytes) -> Response:
        """Send a request and wait for its answer.

        Raises:
            StaleConnectionError: the connection was kept, and closed before any answer.
            OutboundError: the answer is none, too long or not complete.
        """
        transport = self._transport
        if transport is None or self._answer is not None:
            raise RuntimeError("a connection is asked once it is open, one request at a time")
        if not self.usable:
            raise OutboundError("the connection was closed as soon as it was open")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._method, self._received = method, 0
        self._headers, self._body = [], []
        # Two writes, so that a large body is not copied behind its head.
        transport.write(head)
        if body:
            transport.write(body)
        try:
            return await self._answer
        finally:
            self._answer, self._parser, self._fresh = None, None, False
            self.idle_since = loop.time()

    def abort(self) -> None:
        """Give the connection up at once, with whatever is under way on it."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`: have an answer parsed; what is none, or too long, ends here."""
        if self._parser is None or self._answer is None or self._answer.done():
            self.abort()  # nobody asked: what follows could be taken for the next answer
            return
        self._received += len(data)
        if self._received > self._limit + HEAD_BYTES:
            self._fail(f"its answer is larger than {self._limit} bytes")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"its answer is no HTTP: {error!r}")

    def eof_received(self) -> None:
        self.usable = False  # and closed by the loop

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`: whoever waits for an answer gets an error, see `ask`."""
        self.usable = False
        if self._answer is None or self._answer.done():
            return
        text = f"the connection was closed before its answer was whole: {exc or 'end of file'}"
        stale = self._received == 0 and not self._fresh
        self._answer.set_exception(StaleConnectionError(text) if stale else OutboundError(text))

    # --- called by the parser

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            self.usable = False  # more than one answer

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Refuse an answer whose end nobody could tell; one to HEAD is whole already."""
        parser = self._parser
        if parser is None:
            return
        status = parser.get_status_code()
        if status < 200:
            return
        if self._method == "HEAD":
            # The parser does not know that no body follows; it is of no use after this.
            self.usable = False
            self._complete(status)
            return
        named = {name for name, _ in self._headers}
        if status not in (204, 304) and not named & {b"content-length", b"transfer-encoding"}:
            # It would end with the connection: nobody could tell whole from broken off.
            self._fail("its answer does not say how long it is")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it only was an interim one (status 1xx)."""
        parser = self._parser
        if parser is None:
            return
        status = parser.get_status_code()
        if status < 200:
            self._headers = []  # "go on" and the like: the answer follows
            return
        self.usable = self.usable and parser.should_keep_alive()
        self._complete(status)

    def _complete(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Response(status, self._headers, b"".join(self._body)))

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(OutboundError(reason))
        self.abort()
