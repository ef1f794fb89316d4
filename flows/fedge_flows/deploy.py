"""Everything `prefect work-pool create` and `prefect deploy --all` do, in one command.

`prefect.yaml` stays the one description of the deployments; all that is replaced in it are the
intervals of monitor and compliance, by those in `server.toml`. Run again, it changes nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from fedge.errors import FedgeError, OutboundError
from fedge_flows.local import WORK_POOL
from fedge_flows.ports import process_environment
from fedge_flows.roles import server_settings

DAY_S = 86_400.0


def deploy(monitor_interval_s: float, compliance_interval_s: float = DAY_S) -> None:
    """Create work pool, deployments, schedule and triggers on the server of PREFECT_API_URL.

    Raises:
        OutboundError: the server cannot be reached or refused something.
    """
    _create_work_pool()
    description = deployments(monitor_interval_s, compliance_interval_s)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(description, sort_keys=False))
        command = [sys.executable, "-m", "prefect", "--no-prompt"]
        command += ["deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OutboundError(f"prefect deploy failed: {(done.stderr or done.stdout).strip()}")


def deployments(monitor_interval_s: float, compliance_interval_s: float = DAY_S) -> dict[str, Any]:
    """The content of `prefect.yaml` with the intervals of monitor and compliance replaced."""
    content: dict[str, Any] = yaml.safe_load((files("fedge_flows") / "prefect.yaml").read_text())
    intervals = {"monitor": monitor_interval_s, "compliance": compliance_interval_s}
    for deployment in content["deployments"]:
        for schedule in deployment.get("schedules", ()):
            schedule["interval"] = intervals.get(deployment["name"], schedule["interval"])
    return content


def _create_work_pool() -> None:
    pool = WorkPoolCreate(
        name=WORK_POOL,
        type=ProcessWorker.type,
        base_job_template=ProcessWorker.get_default_base_job_template(),
    )
    try:
        with get_client(sync_client=True) as client:
            client.create_work_pool(pool)
    except ObjectAlreadyExists:
        return
    except httpx.HTTPError as error:
        raise OutboundError(f"Prefect refused the work pool: {error}") from error


def main() -> int:
    """Deploy with the intervals of FEDGE_SERVER_CONFIG. Exit status 0, or 1 with a message."""
    try:
        settings = server_settings(process_environment)
        deploy(settings.monitor_interval_s, settings.compliance.interval_s)
    except FedgeError as error:
        print(f"fedge: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
