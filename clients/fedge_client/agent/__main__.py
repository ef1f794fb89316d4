"""`python -m fedge_client.agent --config gateway.toml`: the agent's process."""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import logging
import signal
import sys
import threading
import time
from pathlib import Path

from fedge.config import GatewaySettings
from fedge.delivery.client import ReleaseClient
from fedge.errors import FedgeError
from fedge.identity import Identity
from fedge.lifetime import die_with_parent
from fedge.privacy.noise import OsNoise
from fedge_client.agent.agent import Agent, Ports, run_forever
from fedge_client.agent.courier_port import CourierPort
from fedge_client.agent.sender import HttpPost
from fedge_client.control import SupervisorClient
from fedge_client.trainer import TrainerProcess


class WithoutPandas(importlib.abc.MetaPathFinder):
    """Makes pandas look absent in this process.

    Where it is installed, pyarrow imports it to check types; nothing here uses it, and it would
    stay in memory for months.
    """

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not loaded here", name=fullname)
        return None


def build_agent(settings: GatewaySettings) -> Agent:
    """The agent with its real ports."""
    state_dir = settings.state_dir
    supervisor = SupervisorClient(settings.runtime_dir / "supervisor.sock")
    trainer_log = state_dir / "logs" / "trainer.log"
    ports = Ports(
        clock=time.time,
        noise=OsNoise(),
        switch=supervisor,
        post=HttpPost(settings.coordinator_url),
        releases=ReleaseClient(
            state_dir / "tuf",
            (state_dir / "root.json").read_bytes(),
            settings.releases_url,
            settings.family,
        ),
        start_trainer=lambda release, plan, records: TrainerProcess(
            release, plan, records, log_path=trainer_log
        ),
        worker_restarts=supervisor.worker_restarts,
    )
    return Agent(settings, Identity.load(state_dir / "identity.pem"), ports)


def main() -> int:
    die_with_parent()
    sys.meta_path.insert(0, WithoutPandas())
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    parser = argparse.ArgumentParser(prog="fedge_client.agent")
    parser.add_argument("--config", type=Path, required=True)
    settings = GatewaySettings.load(parser.parse_args().config)
    (settings.state_dir / "logs").mkdir(exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        agent = build_agent(settings)
    except FedgeError as error:
        print(f"fedge agent: {error}", file=sys.stderr)
        return 1
    port = CourierPort(settings.runtime_dir / "agent.sock", agent.answer)
    try:
        run_forever(agent, stop)
    finally:
        port.close()
        agent.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
