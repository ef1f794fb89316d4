"""The agent's socket: two frames in, two frames out, and nothing else."""

from __future__ import annotations

import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge.errors import OutboundError, RecordError
from fedge_client import frames
from fedge_client.frames import AgentAnswer, ask_agent, read_request, write_answer

Serve = Callable[[Callable[[socket.socket], None]], Path]


@pytest.fixture()
def serve() -> Iterator[Serve]:
    """Starts a listener that handles one connection; answers its path."""
    with tempfile.TemporaryDirectory(prefix="fr") as folder, socket.socket(socket.AF_UNIX) as lis:
        path = Path(folder) / "agent.sock"

        def start(handle: Callable[[socket.socket], None]) -> Path:
            lis.bind(str(path))
            lis.listen()

            def run() -> None:
                connection, _ = lis.accept()
                with connection:
                    handle(connection)

            threading.Thread(target=run, daemon=True).start()
            return path

        yield start


@given(request=st.binary(max_size=2000), array=st.binary(max_size=100_000))
def test_a_request_arrives_as_it_was_sent(request: bytes, array: bytes) -> None:
    """Whatever bytes make a request, empty ones too, come out unchanged at the other end."""
    here, there = socket.socketpair()
    with here, there:
        sender = threading.Thread(target=frames._write_frames, args=(here, request, array))
        sender.start()
        assert read_request(there) == (request, array)
        sender.join()


def test_an_answer_brings_its_envelope(serve: Serve) -> None:
    """The courier gets the envelope that the agent wrote."""

    def agent(connection: socket.socket) -> None:
        request, array = read_request(connection)
        write_answer(connection, ok=True, reason="", envelope=request + array)

    assert ask_agent(serve(agent), b"req", b"\0" * 8, 5) == AgentAnswer(
        True, "", b"req" + b"\0" * 8
    )


def test_a_refusal_brings_its_reason_and_nothing_else(serve: Serve) -> None:
    """Where the agent declines there is no envelope, even if one was handed in."""

    def agent(connection: socket.socket) -> None:
        read_request(connection)
        write_answer(connection, ok=False, reason="budget-exhausted", envelope=b"secret")

    assert ask_agent(serve(agent), b"", b"", 5) == AgentAnswer(False, "budget-exhausted", b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        struct.pack(">I", 2) + b"{}" + struct.pack(">I", 0),
        struct.pack(">I", 26) + b'{"ok":"true","reason":"x"}' + struct.pack(">I", 1) + b"e",
        struct.pack(">I", 23) + b'{"ok":true,"reason":""}' + struct.pack(">I", 0),
        struct.pack(">I", 3) + b"abc" + struct.pack(">I", 0),
        struct.pack(">I", 2**31),
        struct.pack(">I", 100) + b"short",
    ],
    ids=["nothing", "no fields", "text for a bool", "no envelope", "no json", "huge", "cut"],
)
def test_a_malformed_answer_is_no_answer(serve: Serve, answer: bytes) -> None:
    """Bytes that are no answer give an error, never an empty envelope or a hang."""

    def agent(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    with pytest.raises(OutboundError):
        ask_agent(serve(agent), b"r", b"", 5)


def test_a_silent_agent_is_given_up_in_time(serve: Serve) -> None:
    """The courier waits as long as it was told and no longer."""
    done = threading.Event()
    path = serve(lambda connection: bool(done.wait(10)) or None)
    with pytest.raises(OutboundError):
        ask_agent(path, b"r", b"", 0.2)
    done.set()


def test_nobody_there_is_said(tmp_path: Path) -> None:
    """An agent that is down is an outbound error, to be tried again."""
    with pytest.raises(OutboundError):
        ask_agent(tmp_path / "none", b"r", b"", 1)


def test_a_frame_that_says_it_is_huge_is_refused() -> None:
    """A length over the limit is refused before anything is read for it."""
    here, there = socket.socketpair()
    with here, there:
        here.sendall(struct.pack(">I", frames.MAX_FRAME_BYTES + 1))
        with pytest.raises(RecordError):
            read_request(there)


def test_a_slow_peer_cannot_hold_the_agent() -> None:
    """A peer that stops in the middle is dropped when its time is over."""
    here, there = socket.socketpair()
    with here, there:
        here.sendall(struct.pack(">I", 10) + b"half")
        with pytest.raises(TimeoutError):
            read_request(there, timeout_s=0.2)
