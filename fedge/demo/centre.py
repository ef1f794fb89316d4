"""The central host of a demo: its folder, its processes, and its first release."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fedge.config import ServerSettings
from fedge.demo.plan import PlayPlan
from fedge.demo.services import Services, free_ports
from fedge.errors import OutboundError
from fedge.identity import Identity
from fedge.privacy.approval import approve, write_approval
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength
from fedge_flows import local
from fedge_flows.initial import publish_initial
from fedge_server.admin import init_server
from fedge_server.superlink import superlink_command, wait_ready

EPSILON, DELTA, TELEMETRY_RHO = 3.0, 1e-5, 0.0281
BLOCK_WINDOWS = 1000
"""One block covers the whole play."""
MONITOR_INTERVAL_S = 15.0
"""A flow is a process that costs some seconds of a core."""
DEPLOY_ATTEMPTS, DEPLOY_TIMEOUT_S = 3, 60.0
START_TIMEOUT_S = 240.0
"""Generous: two busy cores start a dozen processes."""


class Centre:
    """Coordinator, evaluator, SuperLink, Prefect server and worker on loopback.

    Args:
        folder: of the run; the centre's own folder is `server` in it, the offline keys go to
            `offline-keys`, which no process of the run is told about.
    """

    def __init__(self, plan: PlayPlan, folder: Path, services: Services) -> None:
        self._plan, self._services = plan, services
        self.folder = folder / "server"
        self.policy = policy = _signed_policy(folder)
        coordinator_port, superlink_port, self._prefect_port = free_ports(3)
        self.superlink = f"127.0.0.1:{superlink_port}"
        self.url = f"http://127.0.0.1:{coordinator_port}"
        init_server(
            self.folder,
            policy=policy,
            offline_keys=folder / "offline-keys",
            settings=self._settings(coordinator_port),
        )
        self.settings = ServerSettings.load(self.folder / "server.toml")
        self._environment = local.prefect_environment(
            folder / "prefect", self._prefect_port, self._flow_environment()
        )

    def start(self) -> None:
        """Start every process of the centre; those that need each other come later."""
        config = self.folder / "server.toml"
        start = self._services.start
        start("prefect-server", local.server_command(self._prefect_port), self._environment)
        start("coordinator", self._module("fedge_server.main", config))
        start("evaluator", self._module("fedge_server.evaluator", self.folder / "evaluator.toml"))
        start(
            "first-release",
            [sys.executable, "-m", "fedge.demo.first_release", str(self.folder)],
        )
        start("superlink", superlink_command(config))

    def wait(self) -> None:
        """Wait until Prefect runs the flows and the first release is published.

        Raises:
            ServiceEndedError, OutboundError: something did not start; names its log.
        """
        local.wait_for_server(self._prefect_port, timeout_s=START_TIMEOUT_S)
        self._services.start("deploy", local.deploy_command(), self._environment)
        self._services.finish("first-release", START_TIMEOUT_S)
        publish_initial(ServerSettings.load(self.folder / "publisher.toml"))
        self._finish_deploy()
        self._services.start("prefect-worker", local.worker_command(), self._environment)
        wait_ready(self.settings, START_TIMEOUT_S)

    def _finish_deploy(self) -> None:
        """Wait for the deployments; a client of a busy Prefect server may hang, so ask again."""
        for attempt in range(DEPLOY_ATTEMPTS):
            try:
                self._services.finish("deploy", DEPLOY_TIMEOUT_S)
                break
            except OutboundError:
                if attempt == DEPLOY_ATTEMPTS - 1:
                    raise
                self._services.abandon("deploy")
                self._services.start("deploy", local.deploy_command(), self._environment)

    @property
    def trusted_root(self) -> Path:
        """The first root metadata, which a gateway's operator is given."""
        return self.settings.releases_dir / "metadata" / "1.root.json"

    def _settings(self, port: int) -> dict[str, object]:
        plan = self._plan
        return {
            "port": port,
            "superlink": self.superlink,
            "flwr_home": "flwr",
            "monitor_interval_s": MONITOR_INTERVAL_S,
            "drift": {
                "baseline_windows": plan.baseline_windows,
                "gather_windows": plan.gather_windows,
                "max_fleet": plan.gateways,
            },
            "training": {"records": plan.records},
        }

    def _flow_environment(self) -> Mapping[str, str]:
        return {**os.environ, "FEDGE_SERVER_CONFIG": str(self.folder / "server.toml")}

    @staticmethod
    def _module(module: str, config: Path) -> list[str]:
        return [sys.executable, "-m", module, "--config", str(config)]


def _signed_policy(folder: Path) -> Path:
    """Write the demo's policy, and the approval of a reviewer whose key is made for it."""
    path = folder / "policy.toml"
    policy = new_policy(
        epsilon=EPSILON,
        delta=DELTA,
        block=BlockLength(kind="windows", value=BLOCK_WINDOWS),
        telemetry_rho=TELEMETRY_RHO,
    )
    reviewer = Identity.create(folder / "reviewer.pem")
    write_policy(policy, path)
    write_approval(
        approve(
            policy,
            reviewer,
            reviewer="whoever started the demo",
            reason="a bound for one play",
            at=time.time(),
        ),
        path,
    )
    return path
