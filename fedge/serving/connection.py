"""One HTTP/1.1 connection between a socket and an ASGI app.

httptools parses; this file keeps requests and answers in order, bounds what is buffered,
and knows until when the client must have made progress. Requests that follow each other
without waiting (pipelining) are answered one after the other. An answer must state its
content length. Who may connect, when the process ends and who looks at the deadlines
belong to `fedge.serving.listener`; what is served, how large a body may be and who may ask
belong to the app.

A request is begun where its last byte is read, and gets a task only if its app has to wait
for something: most do not. Until it first waits an app has no current task, which
`asyncio.timeout` and `TaskGroup` need and `asyncio.wait_for` makes for itself.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any
from urllib.parse import unquote

import httptools

from fedge.serving.asgi import Scope
from fedge.serving.exchange import Exchange, error_answer
from fedge.serving.front import Front
from fedge.serving.heads import origin_form, plain_head
from fedge.serving.resumed import resumed

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 65_536
"""Request line and headers that did not come in one piece."""
FIRST_BODY_BYTES = 65_536
"""The app sees a request when its body is whole or has come so far. Until then a slow client
holds nothing but its connection."""
MAX_BUFFERED_BYTES = 262_144
"""Body bytes that wait for the app; then reading pauses."""
MAX_FRAMING_BYTES = 2**20
"""What comes with a body and is none of it: chunk sizes and trailers, which nobody here reads.
It also bounds in how many pieces a body can come."""
MAX_WAITING = 128
"""Requests that came in one piece and wait for their turn; who sends more is answered so many, and
then has to connect again."""
MAX_DISCARDED_BYTES = 32 * 2**20
"""A body that nobody wanted is read so far, so that its sender, who writes before it reads,
gets to see the answer and may go on."""
LINGER_S = 5.0
"""A caller may take so long to fetch the last answer of a connection."""
NEVER = float("inf")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ASGI = {"version": "3.0", "spec_version": "2.3"}
BETWEEN, HEAD, BODY = range(3)
"""Where in a request the bytes that came last ended; see `Connection._stage`."""


class Connection(asyncio.Protocol):
    """One connection of a `Front`.

    When `deadline` (of the monotonic clock) has passed, call `expire`.

    Args:
        closed: is called when it is closed.
    """

    __slots__ = (
        *(
            "_arriving",
            "_body_bytes",
            "_closed",
            "_current",
            "_deaf",
            "_discarded",
            "_expects_continue",
        ),
        *("_framing_bytes", "_front", "_head_bytes", "_headers", "_parser", "_paused", "_queue"),
        *("_scope", "_stage"),
        *("_timed_stage", "_tls", "_transport", "_url", "_writable", "deadline"),
    )

    def __init__(self, front: Front, closed: Callable[[], None] | None = None) -> None:
        self._front, self._closed = front, closed
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._queue: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._arriving: Exchange | None = None
        self._stage = self._timed_stage = 0
        """Counts the begins, ends of headers and ends of requests that came; modulo 3 it is
        `BETWEEN`, `HEAD` or `BODY`. A change of it is progress, one more byte is not."""
        self._head_bytes = self._body_bytes = self._framing_bytes = self._discarded = 0
        self._deaf = self._paused = self._tls = self._expects_continue = False
        self._writable = True
        self.deadline = NEVER

    # --- what the transport calls ---------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`: the caller now has `Pace.header_s` seconds for its first head."""
        self._transport = transport
        self._tls = transport.get_extra_info("sslcontext") is not None
        peer = transport.get_extra_info("peername")
        self._scope: Scope = {
            "type": "http",
            "asgi": ASGI,
            "server": None,
            "client": tuple(peer[:2]) if isinstance(peer, tuple) else None,
            "scheme": "https" if self._tls else "http",
            "root_path": "",
        }
        self.deadline = monotonic() + self._front.pace.header_s
        self._front.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """See `asyncio.Protocol`: what waits is forgotten, the app that is answering is told."""
        self._front.connections.discard(self)
        if self._closed is not None:
            self._closed()
        self._deaf = True
        self._queue.clear()
        if self._current is not None:
            self._current.give_up()
        self._parser = self._arriving = None

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`: have bytes parsed, keep them within bounds, begin what can begin.

        What is no HTTP is answered with 400, and too much head or framing with 431; then the
        connection closes.
        """
        if self._deaf:
            return
        body_bytes = self._body_bytes
        try:
            self._feed(data)
        except httptools.HttpParserError:
            # Behind the last request of a connection anything may come.
            if not self._deaf:
                self._refuse(400, "request: is no valid HTTP/1.1")
                return
        if self._stage != self._timed_stage:
            self._time()
        if self._stage % 3 == HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"request: its headers are larger than {MAX_HEAD_BYTES} bytes")
                return
        elif self._stage % 3 == BODY:
            self._framing_bytes += len(data) - (self._body_bytes - body_bytes)
            if self._framing_bytes > MAX_FRAMING_BYTES:
                self._refuse(431, "request: its chunks are too many, or its trailers too large")
                return
        self._next()
        if self._arriving is not None or self._queue:
            self.regulate()

    def _feed(self, data: bytes) -> None:
        """Have what came parsed, offers to speak another protocol left out.

        The parser takes what follows such an offer for that protocol, also the body of a request
        that its caller wants answered in HTTP/1.1 where nothing else is spoken (RFC 9110, 7.8).
        """
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if self._queue[-1].scope["method"] == "CONNECT":
                    raise
                head = plain_head(self._queue.pop().scope, self._url, self._headers)
                data = head + data[offer.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
                self._stage -= 3
                self._deaf = False

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`: after a whole request the caller still gets its answer."""
        last = self._queue[-1] if self._queue else self._current
        if self._tls or last is None or not last.complete:
            return False
        # The caller closed its half only, and still reads.
        self._hear_no_more()
        return True

    def pause_writing(self) -> None:
        self._writable = False
        self.deadline = monotonic() + self._front.pace.body_s

    def resume_writing(self) -> None:
        self._writable = True
        self._take_up()

    # --- what the parser calls ------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request's first bytes came. With too many waiting the parser is stopped by an error."""
        if len(self._queue) >= MAX_WAITING:
            self._hear_no_more()
            raise RuntimeError("the parser has to stop here")
        self._stage += 1
        self._head_bytes = self._framing_bytes = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header, its name in small letters as ASGI wants it."""
        if self._stage % 3 == BODY:
            return  # of a trailer, which is none of the headers: they were acted upon
        name = name.lower()
        self._headers.append((name, value))
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        """Line the request up, with its ASGI scope. Its app is begun when its turn has come."""
        self._stage += 1
        parser, url = self._parser, self._url
        if not url.startswith(b"/"):
            url = origin_form(url)
        raw_path, _, query = url.partition(b"?")
        path = raw_path.decode("ascii")
        scope = {
            **self._scope,
            "http_version": parser.get_http_version(),
            "method": parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
        }
        keeps = parser.should_keep_alive()
        waits = self._expects_continue and scope["http_version"] != "1.0"
        self._arriving = Exchange(self, scope, keeps, waits)
        self._queue.append(self._arriving)

    def on_body(self, part: bytes) -> None:
        """Hand a piece of body to its request; where nobody wants it any more, only count it."""
        exchange = self._arriving
        if exchange is None:
            raise RuntimeError("a body follows headers")
        self._body_bytes += len(part)
        if exchange.over:
            self._discarded += len(part)
            if self._discarded > MAX_DISCARDED_BYTES:
                self._close()
            return
        exchange.parts.append(part)
        exchange.size += len(part)
        exchange.wake()

    def on_message_complete(self) -> None:
        """The request is whole. After one that wants the connection closed no other is heard."""
        self._stage += 1
        exchange, self._arriving = self._arriving, None
        if exchange is None:
            raise RuntimeError("a message has headers")
        exchange.complete = True
        if not exchange.keeps:
            self._deaf = True
        if exchange.over:
            self._settle(exchange)
        else:
            exchange.wake()

    # --- what exchanges and the listener call ---------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether the answer that is being made is the last one here."""
        return self._front.draining and not self._queue

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self._transport.writelines(parts)

    def regulate(self) -> None:
        """Read on, or wait until the app has taken what came."""
        arriving, busy = self._arriving, self._current is not None or not self._writable
        full = (busy and bool(self._queue)) or (
            arriving is not None and arriving.size > MAX_BUFFERED_BYTES
        )
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    @property
    def busy(self) -> bool:
        """Whether an answer is being made, or is not with the system yet."""
        return (
            self._current is not None
            or bool(self._queue)
            or self._transport.get_write_buffer_size() > 0
        )

    def abort(self) -> None:
        """Close without another word."""
        self._transport.abort()

    def finish(self) -> None:
        """While draining: close, unless an answer is still to be made; that closes."""
        if self._current is None and not self._queue:
            self._close()

    def expire(self) -> None:
        """The deadline has passed: cut the connection if that is the client's doing."""
        current, arriving = self._current, self._arriving
        if self._transport.is_closing() or not self._writable:
            self._transport.abort()
        elif current is not None and current.complete:
            self.deadline = NEVER  # the app takes its time; set anew when it is done
        elif self._deaf or (arriving is not None and arriving.over):
            self._transport.abort()
        elif self._stage % 3 == BETWEEN:
            self._close()
        else:
            self._refuse(408, "request: took too long to arrive")

    # --- the way of an exchange -----------------------------------------------------------

    def _next(self) -> None:
        """Let the app have the next request that came, if it is its turn."""
        if self._current is not None or not self._queue or not self._writable:
            return
        exchange = self._queue[0]
        if not (exchange.complete or exchange.size >= FIRST_BODY_BYTES):
            if exchange.expects_continue and not exchange.size:
                # Told by us and not when the app asks: it would hold a place until the body comes.
                exchange.expects_continue = False
                self.write(CONTINUE)
            return
        self._current = self._queue.popleft()
        front = self._front
        front.observer.begun()
        exchange.started = monotonic()
        call = front.app(exchange.scope, exchange.receive, exchange.send)
        # Most requests are answered without waiting for anything: they need no task.
        try:
            awaited = call.send(None)
        except StopIteration:
            self._ended(exchange)
        except Exception as error:  # noqa: BLE001 - this caller gets a 500, others go on
            self._failed(exchange, error)
        else:
            task = front.loop.create_task(self._go_on(exchange, call, awaited))
            front.tasks.add(task)
            task.add_done_callback(front.tasks.discard)

    async def _go_on(
        self, exchange: Exchange, call: Coroutine[Any, Any, None], awaited: object
    ) -> None:
        try:
            await resumed(call, awaited)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(exchange, error)
        else:
            self._ended(exchange)

    def _failed(self, exchange: Exchange, error: Exception) -> None:
        # Where, but not the error's text, which may repeat what the request held.
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("a request failed, which is a bug: %s\n%s", type(error).__name__, where)
        self._ended(exchange)

    def _ended(self, exchange: Exchange) -> None:
        front = self._front
        if not exchange.answered and not exchange.gone:
            if exchange.begun:
                self._transport.abort()
            else:
                exchange.keeps = False
                exchange.status = 500
                self.write(error_answer(500, "the request could not be served"))
        front.observer.answered(exchange.status, monotonic() - exchange.started)
        self._current = None
        exchange.over = True
        if exchange.gone:
            return
        if exchange.complete:
            self._settle(exchange)
        else:
            # What is still to come of the body is thrown away.
            exchange.parts.clear()
            exchange.size = self._discarded = 0
            self.regulate()

    def _settle(self, exchange: Exchange) -> None:
        """A request has come and was answered to the end."""
        if not exchange.keeps:
            self._close()
        elif self._queue:
            # Others get their turn between two requests of this connection.
            self._front.loop.call_soon(self._take_up)
        else:
            self._time()

    def _take_up(self) -> None:
        if not self._deaf:
            self._time()  # what comes now had to wait for us
        self._next()
        self.regulate()

    def _hear_no_more(self) -> None:
        """Nothing that still comes is for us; the last request we have is the last answered."""
        self._deaf = True
        last = self._queue[-1] if self._queue else self._current
        if last is not None:
            last.keeps = False

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, or never became one.

        Requests before it are answered, and the last of these answers closes the connection.
        """
        current, arriving = self._current, self._arriving
        self._arriving = None
        if arriving is not None and arriving.over:
            self._close()  # the one answer that it gets
            return
        if self._queue and not self._queue[-1].complete:
            self._queue.pop()
        self._hear_no_more()
        if self._queue or (current is not None and current.complete):
            self._next()
            return
        if current is not None:
            current.give_up()
        if current is None or not current.begun:
            self._front.observer.begun()
            self._front.observer.answered(status, 0.0)
            self.write(error_answer(status, message))
        if self._transport.can_write_eof():
            # Closing now would reset the connection under a caller that still writes.
            self._transport.write_eof()
            self.deadline = monotonic() + LINGER_S
        else:
            self._close()

    def _close(self) -> None:
        self._deaf = True
        self.deadline = monotonic() + LINGER_S
        self._transport.close()

    def _time(self) -> None:
        """Set the deadline of what the client owes now."""
        self._timed_stage = self._stage
        pace, kind = self._front.pace, self._stage % 3
        if kind == BETWEEN:
            self.deadline = monotonic() + pace.idle_s
        elif kind == HEAD:
            self.deadline = monotonic() + pace.header_s
        else:
            self.deadline = monotonic() + pace.body_s
