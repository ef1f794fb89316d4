"""The agent's socket outlives whatever a courier, or the server behind it, sends."""

from __future__ import annotations

import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedge.records import Participant, RoundRequest, RunSpec, TrainingPlan
from fedge_client.agent import courier_port
from fedge_client.agent.courier_port import CourierPort
from fedge_client.frames import MAX_FRAME_BYTES, AgentAnswer, ask_agent
from fedge_client.sockets import close_local

PLAN = TrainingPlan(
    adapter="input",
    rounds=1,
    steps=1,
    clip=1.0,
    learning_rate=1.0,
    divisor=1,
    grid_bits=16,
    sigma2=1,
    evaluation_sigma2=1,
    dimension=1,
)


def request(plan: TrainingPlan = PLAN) -> bytes:
    member = Participant(gateway="0" * 32, public_key="0" * 64, first_window=0, last_window=0)
    spec = RunSpec(
        run_id="run-1",
        task="toy",
        base_release=1,
        base_sha256="0" * 64,
        plan=plan,
        participants=(member,),
        episodes=(),
    )
    return RoundRequest(spec=spec, phase="train", round=0, arrays_sha256="0" * 64).to_bytes()


@contextmanager
def port() -> Iterator[Path]:
    """A port whose agent prices the run, as the real one does first, and answers `sealed`."""

    def answer(asked: RoundRequest, _: bytes) -> bytes:
        return b"sealed" if asked.spec.plan.events else b""

    # Sockets want a short path.
    with tempfile.TemporaryDirectory(prefix="cp") as folder:
        path = Path(folder) / "agent.sock"
        listening = CourierPort(path, answer)
        try:
            yield path
        finally:
            listening.close()


def test_a_frame_that_claims_too_much_ends_one_exchange_only() -> None:
    """Whoever lies about a frame's length is cut off; the next one is answered."""
    with port() as path:
        with socket.socket(socket.AF_UNIX) as liar:
            liar.connect(str(path))
            liar.sendall(struct.pack(">I", MAX_FRAME_BYTES + 1))
            assert liar.recv(1) == b""

        assert ask_agent(path, request(), b"", 10.0) == AgentAnswer(True, "", b"sealed")


def test_an_orderly_end_waits_for_the_answer_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a round noised is stored before the agent ends, if that takes a moment only."""
    begun, ending, stored = threading.Event(), threading.Event(), []

    def answer(_: RoundRequest, __: bytes) -> bytes:
        begun.set()
        ending.wait(10)
        stored.append("noised")
        return b"sealed"

    def shut(*parts: Any) -> None:
        close_local(*parts)
        ending.set()

    monkeypatch.setattr(courier_port, "close_local", shut)
    monkeypatch.setattr(courier_port, "FINISH_S", 10.0)
    with tempfile.TemporaryDirectory(prefix="cp") as folder:
        path, answers = Path(folder) / "agent.sock", []
        listening = CourierPort(path, answer)
        courier = threading.Thread(
            target=lambda: answers.append(ask_agent(path, request(), b"", 10.0))
        )
        courier.start()
        assert begun.wait(10)
        listening.close()
        assert stored == ["noised"]
        courier.join()
        assert answers == [AgentAnswer(True, "", b"sealed")]


@pytest.mark.parametrize("clip", [b"1e-9", b"1e308", b"-1.0", b"NaN"])
def test_a_plan_that_cannot_be_priced_is_one_failed_answer(clip: bytes) -> None:
    """A clip below the grid, beyond all numbers or of none fails that message, not the agent."""
    with port() as path:
        odd = request().replace(b'"clip":1.0', b'"clip":' + clip)
        assert clip in odd

        assert ask_agent(path, odd, b"", 10.0) == AgentAnswer(False, "malformed-request", b"")
        assert ask_agent(path, request(), b"", 10.0).ok
