"""A coordinator in memory and on a free port, and senders that talk to it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from fedge.config import ServerSettings
from fedge.identity import Envelope, EnvelopeKind, Identity
from fedge.profiles.wire import encode_report
from fedge.records import FeatureCounts, GatewayStatus, WindowReport
from fedge_server.app import create_app
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet

DEADLINE_S = 30.0
WITNESS = Identity.from_seed(b"\xee" * 32)
"""The key of a coordinator that confirms heads, where no file holds one."""


def report(window: int, **changes: Any) -> WindowReport:
    """A small valid report."""
    features = (
        FeatureCounts(name="mean", kind="numeric", counts=(window % 50,) * 16, sigma2=72),
        FeatureCounts(name="class", kind="categorical", counts=(3, -1, 7), sigma2=72),
    )
    values: dict[str, Any] = {
        "task": "digits",
        "window": window,
        "block": window // 10,
        "release": 1,
        "reference_sha256": "0" * 64,
        "first_slot": window * 200,
        "slots": 200,
        "planned_slots": 200,
        "opened_at": 1000.0 + window,
        "closed_at": 1001.0 + window,
        "features": features,
    }
    return WindowReport(**(values | changes))


def status(**changes: Any) -> GatewayStatus:
    """A small valid status."""
    values: dict[str, Any] = {
        "release": 1,
        "release_sha256": "0" * 64,
        "variant": "int8",
        "slot": "A",
        "hardware": "x86-vnni",
        "install_state": "idle",
        "refused_release": 0,
        "refused_reason": "",
        "next_slot": 400,
        "windows": 2,
        "dropped_observations": 0,
        "spool_depth": 0,
        "spool_dropped": 0,
        "worker_restarts": 0,
        "blocks": (),
        "at": 1234.5,
    }
    return GatewayStatus(**(values | changes))


class Sender:
    """A gateway as the coordinator sees it: a key that signs numbered payloads."""

    def __init__(self, number: int = 1) -> None:
        self.identity = Identity.from_seed(bytes([number]) * 32)
        self.fingerprint = self.identity.fingerprint
        self.public_key = self.identity.public_key.hex()

    def seal(
        self, kind: EnvelopeKind, seq: int, payload: bytes, *, simulated: bool = False
    ) -> bytes:
        return Envelope.seal(self.identity, kind, seq, payload, simulated=simulated).to_bytes()

    def report(self, seq: int, window: int | None = None, **changes: Any) -> bytes:
        """Report of `window` (its number, unless given) as number `seq`."""
        payload = encode_report(report(seq if window is None else window, **changes))
        return self.seal("report", seq, payload)

    def status(self, seq: int, **changes: Any) -> bytes:
        return self.seal("status", seq, status(**changes).to_bytes())


@dataclass
class FakeClock:
    """Moves by one second each time it is read."""

    now: float = 5000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@dataclass
class Centre:
    """A coordinator in this process. `post` answers status and JSON body."""

    settings: ServerSettings
    database: Database
    clock: FakeClock
    fleet: Fleet = field(init=False)
    facts: Facts = field(init=False)
    client: TestClient = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.database, self.clock)
        self.facts = Facts(self.database, self.clock)
        app = create_app(self.settings, self.database, self.clock)
        # An error inside must look like a 500, as it would to a gateway.
        self.client = TestClient(app, raise_server_exceptions=False)

    def post(self, data: bytes) -> tuple[int, Any]:
        answer = self.client.post("/v1/envelopes", content=data)
        return answer.status_code, answer.json()

    def admitted(self, number: int = 1) -> Sender:
        sender = Sender(number)
        self.fleet.admit(sender.public_key, f"gateway {number}")
        return sender


def server_settings(folder: Path, **changes: Any) -> ServerSettings:
    values = {"data_dir": folder, "policy": folder / "policy.toml", "port": 0}
    return ServerSettings(**(values | changes))


class Coordinator:
    """A real coordinator process on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "server.toml"
        if not self.config.exists():
            self.config.write_text('data_dir = "data"\npolicy = "policy.toml"\nport = 0\n')
        self.settings = ServerSettings.load(self.config)
        self.settings.data_dir.mkdir(exist_ok=True)
        self._log = (folder / "coordinator.log").open("ab")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        (self.settings.data_dir / "port").unlink(missing_ok=True)
        command = [sys.executable, "-m", "fedge_server.main", "--config", str(self.config)]
        return subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def url(self) -> str:
        """Waits until it listens."""
        port = self.settings.data_dir / "port"
        wait_for(lambda: port.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (self.folder / "coordinator.log").read_text()
        return f"http://127.0.0.1:{int(port.read_text())}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def restart(self) -> None:
        self.process = self._start()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(DEADLINE_S)
        self._log.close()


def wait_for(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited too long")
        time.sleep(0.02)
