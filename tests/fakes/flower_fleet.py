"""A fleet on Flower: a real SuperLink, real SuperNodes, and agents that speak from memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fedge.config import ServerSettings
from fedge.identity import Envelope, Identity
from fedge.lifetime import die_with_parent
from fedge.records import (
    AdapterUpdate,
    PairedDifference,
    Participant,
    RoundRequest,
    RunSpec,
    TrainingPlan,
)
from fedge_client.frames import read_request, write_answer
from fedge_server.superlink import superlink_command, wait_ready

DIMENSION = 26


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(claim: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Wait until `claim()` is true."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def make_plan(rounds: int = 2) -> TrainingPlan:
    return TrainingPlan(
        adapter="input",
        rounds=rounds,
        steps=20,
        clip=0.5,
        learning_rate=2.4,
        divisor=300,
        grid_bits=16,
        sigma2=10**12,
        evaluation_sigma2=100,
        dimension=DIMENSION,
    )


def make_spec(identities: list[Identity], run_id: str = "run-1", rounds: int = 2) -> RunSpec:
    return RunSpec(
        run_id=run_id,
        task="digits",
        base_release=1,
        base_sha256="0" * 64,
        plan=make_plan(rounds),
        participants=tuple(
            Participant(
                gateway=i.fingerprint,
                public_key=i.public_key.hex(),
                first_window=0,
                last_window=3,
            )
            for i in identities
        ),
        episodes=("e",),
    )


def sealed_answer(
    identity: Identity, request: RoundRequest, change: float, *, simulated: bool = False
) -> bytes:
    """What an agent answers: a constant change, or one record won."""
    spec = request.spec
    if request.phase == "train":
        values = np.full(spec.plan.dimension, change, dtype="<f4").tobytes()
        payload = AdapterUpdate(
            run_id=spec.run_id, round=request.round, dimension=spec.plan.dimension, values=values
        ).to_bytes()
        return Envelope.seal(identity, "update", 7, payload, simulated=simulated).to_bytes()
    payload = PairedDifference(
        run_id=spec.run_id, difference=3, sigma2=spec.plan.evaluation_sigma2
    ).to_bytes()
    return Envelope.seal(identity, "counts", 8, payload, simulated=simulated).to_bytes()


class FakeAgent:
    """Answers couriers on a socket as the agent would; `decide` may decline with a reason."""

    def __init__(self, path: Path, change: float) -> None:
        self.identity, self.change = Identity.from_seed(os.urandom(32)), change
        self.requests: list[RoundRequest] = []
        self.arrays: list[bytes] = []
        self.decide: Callable[[RoundRequest], str] = lambda _: ""
        self.hold = threading.Event()
        self.hold.set()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(4)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    header, array = read_request(connection)
                except (OSError, EOFError):
                    continue
                request = RoundRequest.from_bytes(header)
                self.requests.append(request)
                self.arrays.append(array)
                self.hold.wait(60)
                reason = self._reason(request)
                envelope = b"" if reason else sealed_answer(self.identity, request, self.change)
                try:
                    write_answer(connection, ok=not reason, reason=reason, envelope=envelope)
                except OSError:
                    continue

    def _reason(self, request: RoundRequest) -> str:
        if self.identity.fingerprint not in [p.gateway for p in request.spec.participants]:
            return "not-in-cohort"
        return self.decide(request)

    def close(self) -> None:
        self.hold.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class FlowerFleet:
    """SuperLink and SuperNodes as processes on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "server.toml"
        self.config.write_text(
            f'data_dir = "data"\npolicy = "policy.toml"\nflwr_home = "flwr"\n'
            f'superlink = "127.0.0.1:{free_port()}"\n[training]\nround_timeout_s = 40.0\n'
        )
        self.settings = ServerSettings.load(self.config)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.agents: list[FakeAgent] = []
        self.superlink: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator[FlowerFleet]:
        # Not pytest's own folder: a socket's path holds 107 bytes at most.
        folder = Path(tempfile.mkdtemp(prefix="fw"))
        fleet = cls(folder)
        try:
            yield fleet
        finally:
            fleet.close()
            sys.stdout.write(fleet.logs()[-8000:])
            shutil.rmtree(folder, ignore_errors=True)

    def start(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )
        self.processes.append(process)
        return process

    def start_superlink(self) -> None:
        self.superlink = self.start(superlink_command(self.config), "superlink")
        wait_ready(self.settings, 60)

    def add_gateway(self, change: float = 1.0) -> FakeAgent:
        index = len(self.agents)
        runtime = self.folder / f"g{index}"
        runtime.mkdir()
        agent = FakeAgent(runtime / "agent.sock", change)
        self.agents.append(agent)
        (runtime / "gateway.toml").write_text(
            f'state_dir = "state"\nruntime_dir = "."\nsupernode_port = 0\n'
            f'superlink = "{self.settings.superlink}"\nsupernode_poll_s = 0.25\n'
        )
        self.start_supernode(index)
        return agent

    def start_supernode(self, index: int) -> subprocess.Popen[bytes]:
        config = self.folder / f"g{index}" / "gateway.toml"
        command = [sys.executable, "-m", "fedge_client.supernode", "--config", str(config)]
        return self.start(command, f"supernode{index}")

    def put_run(self, spec: RunSpec) -> Path:
        folder = self.settings.objects_dir / "runs" / spec.run_id
        folder.mkdir(parents=True)
        (folder / "spec.json").write_bytes(spec.to_bytes())
        np.save(folder / "initial.npy", np.zeros(spec.plan.dimension, dtype="<f4"))
        return folder

    def logs(self) -> str:
        return "".join(p.read_text(errors="replace") for p in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
