"""A centre and one gateway as real processes on loopback, with tiny releases and no torch.

Coordinator, supervisor, worker and agent are the real ones, and so are keys, repository
and signatures. Only the model is a toy: the linear one of `fakes.gateways`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fakes.centre import Coordinator
from fakes.gateways import (
    FAMILY,
    TASK,
    ask_once,
    npz,
    toy_inputs,
    toy_logits,
    toy_model,
    toy_weights,
    wait_until,
)
from tuf.api.metadata import Metadata, Targets

from fedge.config import GatewaySettings, ServerSettings
from fedge.delivery.candidate import countersign, describe_files, publish, stage
from fedge.delivery.keys import KeyFiles, load_signer
from fedge.delivery.names import rollout_target
from fedge.delivery.repository import Published, ReleaseRepository
from fedge.demo.services import free_ports
from fedge.errors import OutboundError
from fedge.lifetime import die_with_parent
from fedge.models.hardware import hardware_class
from fedge.models.weights import weights_to_bytes
from fedge.privacy.policy import new_policy, write_policy
from fedge.profiles.build import build_reference
from fedge.records import (
    BlockLength,
    GatewayStatus,
    ReleaseManifest,
    RolloutTable,
    WindowReport,
    sha256_hex,
)
from fedge_client.control import SupervisorClient
from fedge_client.setup import init_gateway
from fedge_server.admin import admit, fleet_state, init_server
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import GatewayState
from fedge_server.witness import open_witness

WINDOW_SLOTS, BLOCK_WINDOWS = 10, 40
DEADLINE_S = 60.0


class ToyCentre:
    """The folder of a central host, its keys, and releases made with them. No process.

    Args:
        port: where the coordinator will listen; a restarted one comes back there.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.policy = folder, folder.parent / "policy.toml"
        block = BlockLength(kind="windows", value=BLOCK_WINDOWS)
        write_policy(
            new_policy(epsilon=3.0, delta=1e-5, block=block, telemetry_rho=0.0281), self.policy
        )
        init_server(
            folder, policy=self.policy, settings={"port": port, "task": "toy", "family": FAMILY}
        )
        self.settings = ServerSettings.load(folder / "server.toml")
        self.releases_dir = self.settings.releases_dir
        self.keys = KeyFiles.named(offline=folder / "offline-keys", online=folder / "keys")
        self.repository = ReleaseRepository(self.releases_dir)

    @property
    def trusted_root(self) -> Path:
        return self.releases_dir / "metadata" / "1.root.json"

    def candidate(self, counter: int, *, golden_shift: float = 0.0) -> tuple[Path, ReleaseManifest]:
        """A folder with the files of release `counter`, and the manifest that fits them.

        Args:
            golden_shift: by how much the golden logits are wrong.
        """
        folder = self.folder / "candidates" / str(counter)
        folder.mkdir(parents=True)
        inputs = toy_inputs(64, seed=99)
        logits = toy_logits(counter, inputs)
        model = toy_model(toy_weights(counter))
        columns = [inputs.mean((1, 2)), inputs.max((1, 2)), logits.argmax(1), np.ones(64)]
        reference = build_reference(
            TASK,
            np.column_stack([*columns, logits.max(1)]).astype(np.float64),
            ood=logits.max(1).astype(np.float64),
            model_sha256=sha256_hex(model),
            source="public toy rows",
        )
        files = {
            "task.json": TASK.to_bytes(),
            "reference.json": reference.to_bytes(),
            "golden.npz": npz(
                inputs=inputs[:8], logits_float=(logits[:8] + golden_shift).astype(np.float32)
            ),
            "model.float.onnx": model,
            "weights.npz": weights_to_bytes({"input_adapter.shift": np.zeros(4, np.float32)}),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        manifest = ReleaseManifest(
            family=FAMILY,
            task_version=1,
            counter=counter,
            parent=counter - 1,
            run_id="initial" if counter == 1 else f"run-{counter}",
            variants={hardware_class(): "float"},
            files=describe_files(folder, list(files)),
            cohort=(),
            privacy_epsilon=0.0,
            measures={},
        )
        return folder, manifest

    def staged(self, counter: int, **options: float) -> Path:
        """A candidate that its builder signed, and nobody else."""
        folder, manifest = self.candidate(counter, **options)
        stage(self.releases_dir, folder, manifest, self.keys.builder)
        return folder

    def release(self, counter: int, **options: float) -> None:
        """Stage, countersign and publish release `counter` for every gateway."""
        folder = self.staged(counter, **options)
        countersign(self.releases_dir, folder, self.keys.evaluator)
        publish(self.releases_dir, folder, self.keys.online, gateways=None)

    def served_file(self, counter: int, name: str) -> Path:
        (path,) = (self.releases_dir / "targets" / FAMILY / str(counter)).glob(f"*.{name}")
        return path

    def commit(self, change: Callable[[Published], Mapping[str, Metadata[Targets]]]) -> None:
        """What a thief of the online key can do: make any metadata visible."""
        published = self.repository.published()
        online = load_signer(self.keys.online)
        self.repository.commit(online, published, change(published))

    def assign(self, counter: int) -> None:
        """Send every gateway to release `counter`, with the online key alone."""
        table = RolloutTable(family=FAMILY, default=counter, assigned={})
        self.repository.add_target(rollout_target(FAMILY), table.to_bytes())
        online = load_signer(self.keys.online)
        self.commit(lambda now: {"rollout": self.repository.next_rollout(online, now, [table])})


class ToyGateway:
    """A gateway's folder and its supervisor, which starts the real worker and the real agent.

    Args:
        url: of the coordinator; releases are read below it.
    """

    def __init__(self, folder: Path, centre: ToyCentre, url: str, **settings: object) -> None:
        self.identity = init_gateway(
            folder,
            policy=centre.policy,
            root=centre.trusted_root,
            coordinator=url,
            port=0,
            settings={
                "task": "toy",
                "family": FAMILY,
                "window_slots": WINDOW_SLOTS,
                "poll_interval_s": 0.2,
                "push_interval_s": 0.1,
                "status_interval_s": 0.2,
                "trial_s": 0.2,
                "drain_s": 2.0,
                **settings,
            },
        )
        admit(centre.settings, self.identity.public_key.hex(), folder.name)
        self.config = folder / "gateway.toml"
        self.settings = GatewaySettings.load(self.config)
        self.client = SupervisorClient(self.settings.runtime_dir / "supervisor.sock")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until a model answers."""
        with (self.config.parent / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedge_client.supervisor", str(self.config)],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        wait_until(self.answers, DEADLINE_S, "the first model answers")

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.logs()
        try:
            return ask_once(self.port, "GET", "/v2/health/ready")[0] == 200
        except OSError:
            return False

    @property
    def port(self) -> int:
        return int((self.settings.runtime_dir / "port").read_text())

    def facts(self) -> dict[str, Any]:
        """The supervisor's facts; empty while it does not answer."""
        with contextlib.suppress(OutboundError):
            return self.client.status()
        return {}

    def next_slot(self) -> int:
        """Arrival slots given out so far."""
        return int(ask_once(self.port, "GET", "/fedge/v1/status")[1]["next_slot"])

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Look into the state file while its owner works on it."""
        path = self.settings.state_dir / "state.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    def entries(self) -> list[bytes]:
        """The ledger as it stands on disk."""
        return [body for (body,) in self.rows("SELECT body FROM ledger_entries ORDER BY seq")]

    def spooled_reports(self) -> int:
        (count,) = self.rows("SELECT COUNT(*) FROM spool WHERE kind = 'report'")[0]
        return int(count)

    def kill_agent(self) -> None:
        """SIGKILL, and wait until another one runs."""
        wait_until(lambda: self.facts().get("agent_pid"), DEADLINE_S, "an agent runs")
        pid = self.facts()["agent_pid"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: self.facts().get("agent_pid") not in (None, pid), DEADLINE_S, "the next agent"
        )

    def logs(self) -> str:
        """Everything that its processes wrote down."""
        found = [self.config.parent / "supervisor.log"]
        found += sorted((self.settings.state_dir / "logs").glob("*"))
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')}" for p in found)

    def stop(self) -> None:
        """End it as an operator would; by force where that does not help."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            # Its children end with it: the kernel sees to that.
            self.process.kill()
            self.process.wait(20)


class Loop:
    """Centre and gateway, both running, release 1 served and committed."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.centre = ToyCentre(folder / "centre", port)
        self.centre.release(1)
        self.coordinator = Coordinator(folder / "centre")
        self.url = f"http://127.0.0.1:{port}"
        try:
            key = open_witness(self.centre.settings).public_key.hex()
            self.gateway = ToyGateway(folder / "gw", self.centre, self.url, witness_key=key)
            self.gateway.start()
            self.coordinator.url()
            self.wait_for_status(lambda s: s.release == 1 and s.install_state == "committed")
        except BaseException:
            self.close()
            raise

    def fleet(self) -> GatewayState:
        """The gateway as `GET /v1/fleet` shows it."""
        (state,) = httpx.get(f"{self.url}/v1/fleet", timeout=10).json()["gateways"]
        return GatewayState.from_bytes(json.dumps(state).encode())

    def offline_fleet(self) -> GatewayState:
        """The same from the database, whether or not a coordinator runs."""
        (state,) = fleet_state(self.centre.settings).gateways
        return state

    def wait_for_status(self, holds: Callable[[GatewayStatus], bool]) -> GatewayStatus:
        """The first status in the fleet state that is as wanted."""
        deadline, last = time.monotonic() + DEADLINE_S, None
        while time.monotonic() < deadline:
            last = self.fleet().status
            if last is not None and holds(last):
                return last
            time.sleep(0.05)
        raise AssertionError(f"last status {last}\n{self.gateway.logs()[-4000:]}")

    def reports(self) -> tuple[WindowReport, ...]:
        """What the coordinator stored of this gateway, by window."""
        with Database(self.centre.settings.database) as database:
            found = Facts(database, time.time).reports()
        return found.get(self.gateway.identity.fingerprint, ())

    def wait_for_windows(self, count: int) -> tuple[WindowReport, ...]:
        """Wait until so many reports are stored."""
        wait_until(lambda: len(self.reports()) >= count, DEADLINE_S, f"{count} reports arrive")
        return self.reports()

    def close(self) -> None:
        if hasattr(self, "gateway"):
            self.gateway.stop()
        self.coordinator.close()
