"""A real supervisor on a folder of tiny releases, with a quiet companion in the agent's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fakes.gateways import FAMILY, ask_once, fill_slot, infer_body, make_gateway, toy_inputs
from fakes.gateways import wait_until as wait_until

from fedge.config import GatewaySettings
from fedge.errors import OutboundError
from fedge.lifetime import die_with_parent
from fedge_client.control import SupervisorClient
from fedge_client.setup import add_model

# What `fedge_client.supervisor` does, but for the agent; patience comes as an argument.
PROGRAM = """
import asyncio, json, logging, os, sys
from pathlib import Path
from fedge_client.notify import Notifier
from fedge_client.slot_keeper import Patience
from fedge_client.sockets import inherited
from fedge_client.supervisor import Supervisor, SupervisorSettings
logging.basicConfig(level=logging.INFO)
companion = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
notifier, listening = Notifier.from_environment(os.environ), inherited(os.environ)
settings = SupervisorSettings.load(Path(sys.argv[1]))
supervisor = Supervisor(
    settings,
    {"agent": companion},
    listening=listening,
    notifier=notifier,
    patience=Patience(**json.loads(sys.argv[2])),
)
asyncio.run(supervisor.run())
"""


class SupervisedGateway:
    """A gateway's folder, its supervisor, and the ways to reach it.

    Args:
        further: model families to serve beside the first.
        patience: fields of `Patience`.
        settings: keys of `gateway.toml`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        further: Sequence[str] = (),
        patience: Mapping[str, float] | None = None,
        **settings: object,
    ) -> None:
        self.config = folder / "gateway.toml"
        first = make_gateway(folder, **settings)
        (folder / "root.json").write_text("{}")
        for family in further:
            add_model(
                folder,
                family=family,
                task="toy",
                root=folder / "root.json",
                policy=first.state_dir / "policy.toml",
            )
        self.settings = GatewaySettings.load(self.config)
        self.client = self.client_of(None)
        self.process: subprocess.Popen[bytes] | None = None
        self._patience = dict(patience or {})

    def __enter__(self) -> SupervisedGateway:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def client_of(self, family: str | None) -> SupervisorClient:
        return SupervisorClient(self.settings.runtime_dir / "supervisor.sock", family)

    def start(
        self,
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] = (),
        **popen: Any,
    ) -> SupervisedGateway:
        """Start it and wait until it answers.

        Args:
            launcher: a command that runs the command that follows it.
            popen: passed on to `subprocess.Popen`.
        """
        command = [sys.executable, "-c", PROGRAM, str(self.config), json.dumps(self._patience)]
        self.process = subprocess.Popen(
            [*launcher, *command],
            env={**os.environ, **(environment or {})},
            preexec_fn=die_with_parent,
            **popen,
        )
        wait_until(self.answers, what="the supervisor answers")
        return self

    def install(self, slot: str, counter: int, family: str = FAMILY, **options: object) -> None:
        """Put a release into a slot, try it, and let it serve."""
        state_dir = self.settings.for_model(family).state_dir
        fill_slot(state_dir, slot, counter, family=family, **options)  # type: ignore[arg-type]
        client = self.client_of(family)
        client.trial(slot)  # type: ignore[arg-type]
        client.takeover(slot)  # type: ignore[arg-type]

    def answers(self) -> bool:
        try:
            self.client.status()
        except OutboundError:
            return False
        return True

    @property
    def port(self) -> int:
        return int((self.settings.runtime_dir / "port").read_text())

    @property
    def ops_port(self) -> int:
        return int((self.settings.runtime_dir / "ops_port").read_text())

    @property
    def active(self) -> dict[str, object]:
        return dict(json.loads((self.settings.state_dir / "active.json").read_text()))

    def worker_pid(self, family: str | None = None) -> int | None:
        pid: int | None = self.client_of(family).status()["worker_pid"]
        return pid

    def pids(self) -> list[int]:
        facts = self.client.status()
        return [facts[name] for name in ("worker_pid", "agent_pid") if facts[name]]

    def release(self, family: str = FAMILY) -> int:
        """The release that answers a request for `family`."""
        path = f"/v2/models/{family}/infer"
        _, answer = ask_once(self.port, "POST", path, infer_body(toy_inputs(1)))
        return int(answer["parameters"]["fedge_release"])

    def kill_worker(self, family: str | None = None) -> None:
        """SIGKILL from outside, and wait until another one serves."""
        before = self.worker_pid(family)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.worker_pid(family) not in (None, before), what="the next worker")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
