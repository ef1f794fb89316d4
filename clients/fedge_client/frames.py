"""Frames on the agent's unix socket: how the courier asks and the agent answers.

A frame is its length (u32, big-endian) and that many bytes. A request is two frames: the
bytes of a `RoundRequest`, then its array (float32, little-endian). An answer is two frames:
`{"ok": bool, "reason": str}` as JSON, then a sealed envelope (empty where `ok` is false).
One exchange per connection. Who may connect, what a request means and which answer is
given belong to the agent; nothing here looks inside a request, an array or an envelope.

Standard library alone: both the agent and Flower's process per message load this file.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from fedge.errors import OutboundError, RecordError

MAX_FRAME_BYTES = 80 * 2**20
"""More than the largest update (64 MiB of float32) needs in any frame."""
MAX_ANSWER_HEADER_BYTES = 4096
READ_TIMEOUT_S = 30.0
"""How long a peer may take to hand over what it has ready; not how long work may take."""

_LENGTH = struct.Struct(">I")
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What the agent answered.

    Attributes:
        ok: whether there is an envelope.
        reason: why not, a public fact; empty where `ok`.
        envelope: sealed bytes; empty where not `ok`.
    """

    ok: bool
    reason: str
    envelope: bytes


def read_request(
    connection: socket.socket, *, timeout_s: float = READ_TIMEOUT_S
) -> tuple[bytes, bytes]:
    """Take a request off an accepted connection: (`RoundRequest` bytes, array bytes).

    Raises:
        RecordError: a frame is larger than `MAX_FRAME_BYTES`.
        OSError, EOFError: the peer was too slow or went away; there is nobody to answer.
    """
    deadline = time.monotonic() + timeout_s
    header = _read_frame(connection, deadline, MAX_FRAME_BYTES)
    return header, _read_frame(connection, deadline, MAX_FRAME_BYTES)


def write_answer(
    connection: socket.socket,
    *,
    ok: bool,
    reason: str,
    envelope: bytes = b"",
    timeout_s: float = READ_TIMEOUT_S,
) -> None:
    """Answer the request read from `connection`; `reason` is public, a short fixed word.

    Raises:
        OSError: the peer was too slow or went away.
    """
    connection.settimeout(timeout_s)
    header = json.dumps({"ok": ok, "reason": reason}).encode()
    _write_frames(connection, header, envelope if ok else b"")


def ask_agent(path: Path, request: bytes, array: bytes, timeout_s: float) -> AgentAnswer:
    """Hand a request to the agent that listens on `path` and wait for its answer.

    Args:
        request: the bytes of a `RoundRequest`.
        array: float32 values, little-endian.
        timeout_s: for the whole exchange, training included.

    Raises:
        OutboundError: nobody listens, the answer did not come in time, or it is no answer.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(max(timeout_s, 0.001))
            connection.connect(str(path))
            _write_frames(connection, request, array)
            header = _read_frame(connection, deadline, MAX_ANSWER_HEADER_BYTES)
            envelope = _read_frame(connection, deadline, MAX_FRAME_BYTES)
    except (OSError, EOFError, RecordError) as error:
        raise OutboundError(f"the agent on {path.name} did not answer: {error}") from error
    return _parse_answer(header, envelope)


def _parse_answer(header: bytes, envelope: bytes) -> AgentAnswer:
    try:
        fields = json.loads(header)
    except ValueError as error:
        raise OutboundError(f"the agent's answer is no JSON: {error}") from error
    match fields:
        case {"ok": bool(ok), "reason": str(reason)} if ok == bool(envelope):
            return AgentAnswer(ok, reason, envelope)
    raise OutboundError("the agent's answer does not hold ok, reason and a fitting envelope")


def _write_frames(connection: socket.socket, first: bytes, second: bytes) -> None:
    for frame in (first, second):
        if len(frame) > MAX_FRAME_BYTES:
            raise RecordError(f"a frame of {len(frame)} bytes, {MAX_FRAME_BYTES} allowed")
        connection.sendall(_LENGTH.pack(len(frame)) + frame)


def _read_frame(connection: socket.socket, deadline: float, limit: int) -> bytes:
    (length,) = _LENGTH.unpack(_read_exactly(connection, _LENGTH.size, deadline))
    if length > limit:
        raise RecordError(f"a frame of {length} bytes, {limit} allowed")
    return _read_exactly(connection, length, deadline)


def _read_exactly(connection: socket.socket, count: int, deadline: float) -> bytes:
    # Grows with what really arrived: a length that lies costs no memory.
    data = bytearray()
    while len(data) < count:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the peer is too slow")
        connection.settimeout(left_s)
        chunk = connection.recv(min(count - len(data), _CHUNK_BYTES))
        if not chunk:
            raise EOFError("the peer closed the connection")
        data += chunk
    return bytes(data)
