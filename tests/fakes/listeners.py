"""A real listener on a loopback port, in a thread of its own, and a caller made of bytes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import socket
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import uvloop

from fedge.config import LimitSettings
from fedge.serving.asgi import App, Message, Receive, Scope, Send
from fedge.serving.listener import Listener
from fedge.serving.stats import WorkerStats
from fedge.serving.tls import ServerTls

T = TypeVar("T")
WAIT_S = 10.0
QUICK = LimitSettings(header_timeout_s=0.25, body_timeout_s=0.25, idle_timeout_s=0.25)
"""Limits that a test can wait for."""


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; None where the caller left."""
    parts: list[bytes] = []
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def answer(send: Send, value: object, status: int = 200) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers what it was asked."""
    body = await read_body(receive)
    if body is None:
        return
    query = scope["query_string"].decode()
    facts = {"method": scope["method"], "path": scope["path"], "query": query, "size": len(body)}
    await answer(send, facts)


class Held:
    """An app whose answers wait until they are let go; a path `/quick` is answered at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.ended = threading.Event()
        self._go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        if scope["path"] != "/quick":
            self.asked.set()
            await self._go.wait()
        await answer(send, {"size": len(body or b"")})
        self.ended.set()

    async def go(self) -> None:
        self._go.set()


class RunningListener:
    """Serves `app` while the context is open; `port` is where."""

    def __init__(
        self,
        app: App,
        limits: LimitSettings | None = None,
        *,
        tls: ServerTls | None = None,
        observer: WorkerStats | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        self.socket = listening or socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.listener = Listener(app, self.socket, limits, tls=tls, observer=observer)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the listener's loop, and wait for it."""
        return self.start(call).result(WAIT_S)

    def start(self, call: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), WAIT_S))

    def __enter__(self) -> RunningListener:
        self._thread.start()
        self.run(self.listener.serve())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.run(self.listener.drain(0.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()
        self.socket.close()


class Wire:
    """One connection, of which every byte is the test's own."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(WAIT_S)
        self._read = connection.makefile("rb")

    def send(self, data: bytes) -> Wire:
        self.socket.sendall(data)
        return self

    def ask(self, path: str, body: bytes = b"", method: str = "POST", **headers: str) -> Answered:
        """One whole request and its answer."""
        return self.send(request(path, body, method, **headers)).answer(method)

    def answer(self, method: str = "POST") -> Answered:
        """The next answer."""
        status = self._read.readline()
        assert status.startswith(b"HTTP/1.1 "), status or "the connection was closed"
        headers: dict[str, str] = {}
        while (line := self._read.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            assert name.lower() not in headers, f"{name} is there twice"
            headers[name.lower()] = value.strip()
        length = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
        body = self._read.read(length)
        return Answered(int(status.split()[1]), headers, json.loads(body) if body else None)

    def closed(self) -> bool:
        """Wait for the end of the connection; false where something else came."""
        try:
            return self._read.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._read.close()
        self.socket.close()


class Answered(NamedTuple):
    """One answer; names of headers are in lower case, `value` is its JSON."""

    status: int
    headers: dict[str, str]
    value: Any


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """The bytes of a request; `_` in header names stands for `-`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"host": "here", "content-length": str(len(body)), **given}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body
