"""The agent's process: one per state directory, one `Agent` for each served model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.gateways import wait_until
from fakes.loop import ToyCentre, ToyGateway

from fedge.config import GatewaySettings
from fedge.errors import FedgeError
from fedge.lifetime import die_with_parent
from fedge.statefile import StateFile
from fedge_client.admin_client import AdminClient, admin_socket
from fedge_client.setup import add_model

AGENT = [sys.executable, "-m", "fedge_client.agent", "--config"]


class AgentProcess:
    """A real agent on a gateway's folder; nothing else of the gateway runs."""

    def __init__(self, config: Path, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self.process = subprocess.Popen(
            [*AGENT, str(config)],
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        wait_until(self.answers, what="the agent answers")

    def answers(self, family: str | None = None) -> bool:
        assert self.process.poll() is None
        try:
            AdminClient(admin_socket(self._runtime_dir, family)).status()
        except FedgeError:
            return False
        return True

    def stop(self) -> tuple[int, str]:
        """Exit status, and what it wrote."""
        self.process.send_signal(signal.SIGTERM)
        _, written = self.process.communicate(timeout=30)
        return self.process.returncode, written.decode()


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> ToyCentre:
    """A centre's folder, without a process."""
    return ToyCentre(tmp_path_factory.mktemp("host") / "centre", 1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, centre: ToyCentre) -> ToyGateway:
    """A gateway's folder, without a process."""
    return ToyGateway(tmp_path_factory.mktemp("host") / "gw", centre, "")


@pytest.fixture
def agent(gateway: ToyGateway) -> Iterator[AgentProcess]:
    running = AgentProcess(gateway.config, gateway.settings.runtime_dir)
    yield running
    running.process.kill()
    running.process.communicate()


def test_a_second_agent_refuses_to_start(gateway: ToyGateway, agent: AgentProcess) -> None:
    """It says whose directory it is and touches nothing: the first one goes on answering."""
    second = subprocess.run(
        [*AGENT, str(gateway.config)], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert f"{gateway.settings.state_dir / 'state.sqlite'} is in use" in second.stderr
    assert agent.answers()
    assert agent.stop()[0] == 0


def test_it_gives_way_to_the_worker(agent: AgentProcess) -> None:
    """It runs where the worker leaves room."""
    pid = agent.process.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH


def test_each_model_has_its_agent_and_none_stops_another(tmp_path: Path, centre: ToyCentre) -> None:
    """A further model's foreign or damaged state directory keeps only that model unwatched."""
    folder = tmp_path / "gw"
    gateway = ToyGateway(folder, centre, "")
    for family in ("second", "third"):
        add_model(folder, family=family, task="toy", root=centre.trusted_root, policy=centre.policy)
    settings = GatewaySettings.load(gateway.config)
    held = StateFile(settings.for_model("third").state_dir / "state.sqlite")
    agent = AgentProcess(gateway.config, settings.runtime_dir)
    try:
        wait_until(lambda: agent.answers("second"), what="the second model's agent answers")
        assert not agent.answers("third")
        status, written = agent.stop()
    finally:
        held.close()
        agent.process.kill()
    assert status == 0
    (refusal,) = [line for line in written.splitlines() if "is in use" in line]
    assert "third" in refusal
