"""One request and its answer, between a connection and an ASGI app.

The app asks for the body as it comes and hands over an answer that states its length. When
a request begins, and what comes after it on the same connection, is
`fedge.serving.connection`'s to say.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Protocol

import orjson

from fedge.serving.asgi import Message, Scope

WHOLE_WRITE_BYTES = 16_384
"""Smaller answers are copied behind their headers; larger ones are handed on as they are."""

STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Wire(Protocol):
    """What an exchange needs of its connection."""

    @property
    def draining(self) -> bool:
        """Whether every answer is the last of its connection."""

    def regulate(self) -> None:
        """Read on, or pause, by what waits for the app."""

    def write(self, data: bytes) -> None: ...

    def writelines(self, parts: tuple[bytes, ...]) -> None: ...


class Exchange:
    """One request and its answer, as the app sees them."""

    __slots__ = (
        *("_head", "_to_send", "_told", "_version_1_0", "_waiter", "_wire", "complete"),
        *("expects_continue", "gone", "keeps", "over", "parts", "scope", "size", "started"),
        "status",
    )

    def __init__(self, wire: Wire, scope: Scope, keeps: bool, expects_continue: bool) -> None:
        self._wire, self.scope, self.keeps = wire, scope, keeps
        self.expects_continue = expects_continue
        self._version_1_0 = scope["http_version"] == "1.0"
        self._waiter: asyncio.Future[None] | None = None
        self._head: bytes | None = None
        self._to_send = -1
        self.parts: deque[bytes] = deque()
        self.size = 0
        self.status = 0
        self.started = 0.0
        self.complete = self.over = self.gone = self._told = False

    @property
    def answered(self) -> bool:
        """Whether the whole answer was handed to the transport."""
        return self._to_send == 0 and self._head is None

    @property
    def begun(self) -> bool:
        """Whether a part of the answer was."""
        return self._to_send >= 0 and self._head is None

    async def receive(self) -> Message:
        """ASGI: the body as far as it came, or that the caller is gone."""
        while not (self.parts or self.complete or self.gone):
            self._wire.regulate()
            await self._progress()
        if self.gone:
            return {"type": "http.disconnect"}
        if self._told:
            await self._progress()
            return {"type": "http.disconnect"}
        body = self.parts.popleft() if self.parts else b""
        self.size -= len(body)
        more = bool(self.parts) or not self.complete
        self._told = not more
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(self, message: Message) -> None:
        """ASGI: hand over the answer; does nothing once the caller is gone."""
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
            return
        body: bytes = message.get("body", b"")
        left = self._to_send - len(body)
        if left < 0 or (left > 0 and not message.get("more_body", False)):
            raise RuntimeError("the answer has not begun, or is not as long as it says")
        self._to_send = left
        head, self._head = self._head, None
        if self.gone:
            return
        if self.scope["method"] == "HEAD":
            body = b""
        if head is None:
            self._wire.write(body)
        elif len(body) <= WHOLE_WRITE_BYTES:
            self._wire.write(head + body)
        else:
            self._wire.writelines((head, body))

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self.status:
            raise RuntimeError("an answer starts once")
        self.status = status
        if self._wire.draining:
            self.keeps = False
        lines = [STATUS_LINES[status]]
        told_close = False
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._to_send = int(value)
            elif name == b"connection" and value == b"close":
                self.keeps, told_close = False, True
        if self._to_send < 0:
            raise RuntimeError("an answer must state its content length")
        if not self.keeps:
            lines.append(b"\r\n" if told_close else b"connection: close\r\n\r\n")
        else:
            lines.append(b"connection: keep-alive\r\n\r\n" if self._version_1_0 else b"\r\n")
        self._head = b"".join(lines)

    def wake(self) -> None:
        """Something came, or nothing more will."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def give_up(self) -> None:
        """There is nobody to answer."""
        self.gone = True
        self.wake()

    async def _progress(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def error_answer(status: int, message: str, *headers: tuple[bytes, bytes]) -> bytes:
    """A whole answer, the last of its connection."""
    body = orjson.dumps({"error": message})
    head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n"
    more = b"".join(b"%s: %s\r\n" % header for header in headers)
    return STATUS_LINES[status] + head % len(body) + more + b"\r\n" + body
