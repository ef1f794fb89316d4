"""A tiny HTTP server that answers as a test tells it to, and keeps every byte that it was sent."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import uvloop
from fakes.gateways import TASK, toy_logits

T = TypeVar("T")


def run(story: Coroutine[Any, Any, T]) -> T:
    """Run a test's story on the event loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(story)


@dataclass(frozen=True)
class Request:
    """One whole request, as it came."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode().split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (e.partition(":") for e in lines)}


Play = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
"""What the server does about one request. A writer that it closed ends the connection."""


@dataclass
class FakeServer:
    """Listens on loopback, or on a unix socket; start it with `async with`."""

    play: Play
    socket: Path | None = None
    tls: ssl.SSLContext | None = None
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a caller hung up."""

    async def __aenter__(self) -> Self:
        if self.socket is not None:
            self._server = await asyncio.start_unix_server(self._serve, self.socket)
        else:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, ssl=self.tls
            )
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        return f"http{'' if self.tls is None else 's'}://127.0.0.1:{self.port}"

    @property
    def received(self) -> bytes:
        """Every byte of every request."""
        return b"".join(request.head + request.body for request in self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                length = int(Request(head, b"").headers["content-length"])
                request = Request(head, await reader.readexactly(length))
                self.requests.append(request)
                playing = asyncio.ensure_future(self.play(request, writer))
                leaving = asyncio.ensure_future(self._left(reader))
                await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                leaving.cancel()
                if not playing.done():
                    playing.cancel()
                    break
                await playing
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.gone.set()
            writer.close()

    @staticmethod
    async def _left(reader: asyncio.StreamReader) -> None:
        while not reader.at_eof():
            await asyncio.sleep(0.005)


def answer(body: bytes, status: int = 200, *, headers: str = "") -> bytes:
    """A whole HTTP answer; `headers` are lines that end in CRLF."""
    return (
        f"HTTP/1.1 {status} Some Reason\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
        + body
    )


def plays(data: bytes, *, then_close: bool = False) -> Play:
    """Send these bytes for every request."""

    async def play(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()

    return play


async def hang(_: Request, __: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


# --- a larger model of the toy task, written without our own code for messages


def toy_outputs(counter: int, inputs: npt.NDArray[np.float32]) -> dict[str, Any]:
    """What a larger model says: that of release `counter`, but surer of itself."""
    logits = (3 * toy_logits(counter, inputs)).astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    indices = logits.argmax(axis=1)
    return {
        "logits": logits,
        "class": indices.astype(np.int64),
        "label": [TASK.classes[index] for index in indices],
        "confidence": (1 / shifted.sum(axis=1)).astype(np.float32),
    }


DATATYPES = {"logits": "FP32", "class": "INT64", "label": "BYTES", "confidence": "FP32"}


def rows_of(request: Request) -> npt.NDArray[np.float32]:
    """The rows that a binary request holds."""
    length = int(request.headers["inference-header-content-length"])
    (tensor,) = json.loads(request.body[:length])["inputs"]
    assert tensor["datatype"] == "FP32" and tensor["name"] == "x"
    assert tensor["parameters"] == {"binary_data_size": len(request.body) - length}
    return np.frombuffer(request.body[length:], "<f4").reshape(tensor["shape"])


def wanted_of(request: Request) -> list[str]:
    """The outputs that a binary request asks for."""
    length = int(request.headers["inference-header-content-length"])
    return [output["name"] for output in json.loads(request.body[:length])["outputs"]]


def binary_answer(
    outputs: dict[str, Any],
    change: Callable[[dict[str, Any]], object] = lambda _: None,
    tail: bytes = b"",
) -> bytes:
    """An answer with all outputs as binary data; `change` alters its JSON, `tail` follows it."""
    described, data = [], b""
    for name, values in outputs.items():
        if isinstance(values, list):
            part = b"".join(len(v).to_bytes(4, "little") + v.encode() for v in values)
            shape = [len(values)]
        else:
            part, shape = values.tobytes(), list(values.shape)
        data += part
        parameters = {"binary_data_size": len(part)}
        described.append(
            {
                "name": name,
                "datatype": DATATYPES.get(name, "FP32"),
                "shape": shape,
                "parameters": parameters,
            }
        )
    head: dict[str, Any] = {"model_name": "large", "outputs": described}
    change(head)
    text = json.dumps(head).encode()
    headers = f"Inference-Header-Content-Length: {len(text)}\r\n"
    return answer(text + data + tail, headers=headers)


def json_answer(outputs: dict[str, Any]) -> bytes:
    """An answer with all outputs as JSON."""
    described = []
    for name, values in outputs.items():
        array = np.asarray(values)
        described.append(
            {
                "name": name,
                "datatype": DATATYPES[name],
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
        )
    return answer(json.dumps({"model_name": "large", "outputs": described}).encode())


def large_model(
    counter: int = 2,
    *,
    spoil: Callable[[dict[str, Any]], object] = lambda _: None,
    change: Callable[[dict[str, Any]], object] = lambda _: None,
    tail: bytes = b"",
) -> Play:
    """Answer as a larger model would.

    Args:
        spoil: alters the outputs by name before they are written.
        change: alters the JSON of the answer.
        tail: bytes behind the outputs.
    """

    async def play(request: Request, writer: asyncio.StreamWriter) -> None:
        known = toy_outputs(counter, rows_of(request))
        outputs = {name: known[name] for name in wanted_of(request)}
        spoil(outputs)
        writer.write(binary_answer(outputs, change, tail))
        await writer.drain()

    return play
