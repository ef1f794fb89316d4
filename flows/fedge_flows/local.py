"""A Prefect server and worker of our own on one machine: commands and environment.

Starts nothing: whoever supervises processes does. The settings make Prefect prompt
(seconds, not tens of seconds), quiet, and silent towards the outside.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from fedge.errors import OutboundError, SettingError

WORK_POOL = "fedge"
LOGGING = str(files("fedge_flows") / "prefect_logging.yml")

SILENT = {
    # The server's usage report, and the SDK's own, which only this common variable switches off.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
PROMPT = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    # Few runs ahead: after a pause of the worker only these few are late.
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_SCHEDULED_TIME": "PT60S",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT20S",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
}
# Background services that nothing here needs. Each writes to the one SQLite file, and Prefect's
# writers get in each other's way: the fewer, the fewer lost requests on a busy host.
_UNUSED_SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
    "EVENT_PERSISTER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "TASK_RUN_RECORDER",
)
LEAN = {
    **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _UNUSED_SERVICES},
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
}


def prefect_environment(
    home: Path, port: int, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment for the server, the worker and every client on this machine.

    Args:
        home: Prefect's own folder (database, profiles); nothing is written elsewhere.
        port: of the server, on loopback.
        base: environment to add to; this process's own by default. Its `PREFECT_*` settings
            are dropped: they belong to another server.
    """
    source = os.environ if base is None else base
    kept = {name: value for name, value in source.items() if not name.startswith("PREFECT_")}
    own = {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_SERVER_MEMO_STORE_PATH": str(home / "memo_store.toml"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_LOGGING_SETTINGS_PATH": LOGGING,
    }
    return kept | SILENT | PROMPT | LEAN | own


def server_command(port: int, *, ui: bool = False) -> list[str]:
    """Command of the Prefect server on loopback.

    Raises:
        SettingError: SQLAlchemy 2.1 or later is installed, with which Prefect 3.7 starts but
            never schedules a run.
    """
    major, minor = (int(part) for part in version("sqlalchemy").split(".")[:2])
    if (major, minor) >= (2, 1):
        raise SettingError("Prefect 3.7 schedules nothing with SQLAlchemy >= 2.1; install <2.1")
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    return command if ui else [*command, "--no-ui"]


def worker_command(name: str = "fedge", *, limit: int = 4) -> list[str]:
    """Command of the process worker that runs the flows.

    Args:
        limit: flow processes at a time; late runs wait instead of starting all at once.
    """
    command = [sys.executable, "-m", "prefect", "worker", "start", "--limit", str(limit)]
    return [*command, "--pool", WORK_POOL, "--type", "process", "--name", name]


def deploy_command() -> list[str]:
    """Command that makes work pool and deployments; reads FEDGE_SERVER_CONFIG if set."""
    return [sys.executable, "-m", "fedge_flows.deploy"]


def wait_for_server(port: int, *, timeout_s: float = 60.0, poll_s: float = 0.1) -> None:
    """Return when the server answers.

    Raises:
        OutboundError: it did not in `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(poll_s)
    raise OutboundError(f"no Prefect server on port {port} after {timeout_s:g} s")
