"""The agent's process: one `Agent` per served model, with its real ports, until it is told to end.

The models' agents share nothing but the process. One that cannot start (its state
directory belongs to another process, or is damaged) does not keep the others from
their work.
"""

from __future__ import annotations

import contextlib
import gc
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
from fedge.logs import log_to_stderr
from fedge.privacy.noise import OsNoise
from fedge_client.admin_client import admin_socket
from fedge_client.agent.admin_port import AdminPort
from fedge_client.agent.agent import Agent, Ports
from fedge_client.agent.courier_port import CourierPort
from fedge_client.agent.loops import run_forever
from fedge_client.agent.post import HttpPost
from fedge_client.control import SupervisorClient
from fedge_client.trainer import TrainerProcess

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED = 0, 1


def build_agent(settings: GatewaySettings, family: str | None = None) -> Agent:
    """The agent of one served model with its real ports.

    Args:
        family: None for the gateway's first model.

    Raises:
        FedgeError: it cannot start; says why.
    """
    state_dir = settings.state_dir
    supervisor = SupervisorClient(settings.runtime_dir / "supervisor.sock", family)
    (state_dir / "logs").mkdir(exist_ok=True)
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


def start(settings: GatewaySettings) -> dict[str | None, Agent]:
    """The agents that can start, by family; None names the first model."""
    agents: dict[str | None, Agent] = {}
    for number, served in enumerate(settings.served):
        family = served.family if number else None
        try:
            agents[family] = build_agent(served, family)
        except (FedgeError, OSError) as error:
            print(f"fedge agent: {served.family}: {error}", file=sys.stderr)
    return agents


def run(config: Path) -> int:
    """Run until SIGTERM or SIGINT; answers the exit status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = GatewaySettings.load(config)
    except FedgeError as error:
        print(f"fedge agent: {error}", file=sys.stderr)
        return EXIT_FAILED
    log_to_stderr("agent", settings.log_format)
    agents = start(settings)
    if not agents:
        return EXIT_FAILED
    with contextlib.ExitStack() as open_parts:
        for family, agent in agents.items():
            open_parts.callback(agent.close)
            port = AdminPort(admin_socket(settings.runtime_dir, family), agent.commands())
            open_parts.callback(port.close)
        if None in agents:
            # A further model is never trained here.
            courier = CourierPort(settings.runtime_dir / "agent.sock", agents[None].answer)
            open_parts.callback(courier.close)
        # What was loaded stays: collections need not look at it again.
        gc.collect()
        gc.freeze()
        run_forever(list(agents.values()), stop)
    return EXIT_OK
