"""A whole gateway, supervisor, worker and agent, whose disk fails while a file exists."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from fakes.faults_disk import Fault, FaultyDisk
from fakes.faults_gateway import FaultyGateway
from fakes.gateways import ask_once

from fedge.errors import OutboundError
from fedge.lifetime import die_with_parent
from fedge_client.control import SupervisorClient


class SupervisedOnBadDisk:
    """The supervisor of a gateway, started as an operator would."""

    def __init__(self, gateway: FaultyGateway, disk: FaultyDisk, fault: Fault) -> None:
        (gateway.state_dir / "active.json").write_text('{"slot": "A", "fallback": null}')
        environment = disk.environment(gateway.state_dir, gateway.log, fault, children=True)
        self._gateway = gateway
        self.client = SupervisorClient(gateway.settings.runtime_dir / "supervisor.sock")
        with gateway.stderr.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedge_client.supervisor", str(gateway.config)],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )

    def facts(self) -> dict[str, Any]:
        """The supervisor's status; empty where it does not answer."""
        try:
            return self.client.status()
        except OutboundError:
            return {}

    def serves(self) -> bool:
        """Whether a model answers."""
        assert self._process.poll() is None, self._gateway.said()
        port = self.facts().get("port")
        try:
            return port is not None and ask_once(port, "GET", "/v2/health/ready")[0] == 200
        except OSError:
            return False

    def kill(self, name: str) -> int:
        """SIGKILL to the `worker` or the `agent`; answers its process id."""
        pid = int(self.facts()[f"{name}_pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def replaced(self, name: str, pid: int) -> bool:
        """Whether another process runs in the place of `pid`."""
        return self.facts().get(f"{name}_pid") not in (None, pid)

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(timeout=30)
