"""The SuperLink of this fleet: starting it, and submitting and watching runs.

`python -m fedge_server.superlink --config server.toml` is Flower's SuperLink on loopback
with its own database, and the process that starts its ServerApps; all of them end with
their parent. A run is submitted as the code-free bundle and our run id, nothing else.
What a run left behind is in the object store; Flower only says how it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedge.config import ServerSettings
from fedge.errors import FedgeError, OutboundError, RunFailedError
from fedge.flower import (
    RUN_KEY,
    TaskStarter,
    flower_environment,
    loopback,
    require_flwr,
    use_environment,
)
from fedge.lifetime import die_with_parent

log = logging.getLogger("fedge.superlink")

BUNDLE = Path(__file__).parent / "bundle"
SETTINGS_VARIABLE = "FEDGE_SERVER_CONFIG"
"""Environment variable by which the ServerApp finds the `server.toml`."""
START_WAIT_S = 60.0
RUNNING, COMPLETED, FAILED, UNKNOWN = "running", "completed", "failed", "unknown"


def superlink_command(config: Path) -> list[str]:
    """The command that runs the SuperLink of a `server.toml`. It ends with its parent."""
    return [sys.executable, "-m", "fedge_server.superlink", "--config", str(config)]


def superlink_arguments(settings: ServerSettings) -> list[str]:
    """Arguments for `flower-superlink`.

    Raises:
        SettingError: the address is not on loopback. Flower's control API lets whoever
            reaches it run code, so nothing else is bound until an mTLS front stands before it.
    """
    host, port = loopback(settings.superlink, "the SuperLink")
    arguments = ["--insecure", "--host", host, "--port", str(port), "--isolation", "process"]
    # Without a database a restart forgets its nodes, and they end themselves.
    arguments += ["--database", str(settings.flwr_home.absolute() / "superlink.sqlite")]
    return [*arguments, "--disable-runtime-dependency-installation"]


def wait_ready(settings: ServerSettings, timeout_s: float) -> None:
    """Wait until the SuperLink answers.

    Raises:
        OutboundError: it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(f"http://{settings.superlink}/health", timeout=2),
        ):
            return
        time.sleep(0.1)
    raise OutboundError(f"the SuperLink at {settings.superlink} does not answer")


def submit_run(settings: ServerSettings, run_id: str) -> int:
    """Start one attempt of a run whose files are in place; answers Flower's own run id.

    Raises:
        OutboundError: the SuperLink could not be reached or refused.
    """
    return submit_bundle(settings, bundle_content(settings), run_id)


def bundle_content(settings: ServerSettings) -> bytes:
    """The code-free bundle as Flower packs it."""
    _prepare(settings)
    from flwr.cli.build import build_fab_from_disk

    return bytes(build_fab_from_disk(BUNDLE))


def submit_bundle(settings: ServerSettings, content: bytes, run_id: str) -> int:
    """Start a run of any Flower bundle, given as the bytes of its zip file.

    Raises:
        OutboundError: the SuperLink could not be reached or refused.
    """
    with _control(settings) as client:
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto({RUN_KEY: run_id})
        )
        answer = client.StartRun(request)
        if not answer.HasField("run_id"):
            raise OutboundError("the SuperLink did not start the run")
        return int(answer.run_id)


def run_status(settings: ServerSettings, flower_run: int) -> str:
    """`running`, `completed`, `failed`, or `unknown` where Flower does not know the run.

    Raises:
        OutboundError: the SuperLink could not be reached.
    """
    with _control(settings) as client:
        from flwr.proto.control_pb2 import ListRunsRequest

        runs = client.ListRuns(ListRunsRequest()).run_dict
        run = runs.get(flower_run)
        if run is None:
            return UNKNOWN
        if run.status.status != "finished":
            return RUNNING
        return COMPLETED if run.status.sub_status == "completed" else FAILED


def connected_nodes(settings: ServerSettings) -> int:
    """How many SuperNodes the SuperLink counts as online.

    Raises:
        OutboundError: the SuperLink could not be reached.
    """
    with _control(settings) as client:
        from flwr.proto.control_pb2 import ListNodesRequest

        nodes = client.ListNodes(ListNodesRequest()).nodes_info
        return sum(node.status == "online" for node in nodes)


def stop_run(settings: ServerSettings, flower_run: int) -> None:
    """End an attempt.

    Raises:
        OutboundError: the SuperLink could not be reached or refused.
    """
    with _control(settings) as client:
        from flwr.proto.control_pb2 import StopRunRequest

        client.StopRun(StopRunRequest(run_id=flower_run))


def wait_run(
    settings: ServerSettings,
    flower_run: int,
    timeout_s: float,
    *,
    poll_s: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until an attempt completed. A SuperLink that is away meanwhile may come back.

    Raises:
        RunFailedError: it failed, Flower forgot it, or it did not end in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            status = run_status(settings, flower_run)
        except OutboundError as error:
            log.warning("%s", error)
            status = RUNNING
        if status == COMPLETED:
            return
        if status != RUNNING:
            raise RunFailedError(f"Flower's run {flower_run} is {status}")
        sleep(poll_s)
    raise RunFailedError(f"Flower's run {flower_run} did not end within {timeout_s:g} s")


def _prepare(settings: ServerSettings) -> None:
    """Check Flower's version and, before it is imported, set its switches."""
    require_flwr()
    if "flwr" not in sys.modules:
        os.environ.update(flower_environment(settings.flwr_home.absolute()))


@contextlib.contextmanager
def _control(settings: ServerSettings) -> Iterator[Any]:
    """Flower's control client; its errors become ours."""
    loopback(settings.superlink, "the SuperLink")
    _prepare(settings)
    import click
    import httpx
    from flwr.supercore.control import ControlHttpClient

    client = ControlHttpClient.from_server_address(settings.superlink, True, None, interceptors=[])
    try:
        yield client
    except (httpx.HTTPError, click.ClickException) as error:
        raise OutboundError(f"the SuperLink at {settings.superlink}: {error}") from error
    finally:
        client.close()


def end_leftovers(settings: ServerSettings, before: datetime) -> None:
    """End attempts that another SuperLink process had started before `before`.

    Their ServerApp ended with it; Flower itself would show them as running for a minute.

    Raises:
        OutboundError: the SuperLink could not be reached.
    """
    with _control(settings) as client:
        from flwr.proto.control_pb2 import ListRunsRequest, StopRunRequest

        for number, run in client.ListRuns(ListRunsRequest()).run_dict.items():
            started = run.starting_at and datetime.fromisoformat(run.starting_at) < before
            if started and run.status.status != "finished":
                log.warning("Flower's run %d ended with the SuperLink before this one", number)
                client.StopRun(StopRunRequest(run_id=number))


def _end_leftovers_when_up(settings: ServerSettings, before: datetime) -> None:
    try:
        wait_ready(settings, START_WAIT_S)
        end_leftovers(settings, before)
    except OutboundError as error:
        log.error("leftover runs stay until Flower misses their heartbeat: %s", error)


def write_connection(settings: ServerSettings) -> None:
    """Write Flower's own configuration, for people who use its command line."""
    home = settings.flwr_home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        "[superlink]\n"
        'default = "fedge"\n\n'
        "[superlink.fedge]\n"
        f'address = "{settings.superlink}"\n'
        "insecure = true\n"
    )


def run(config: Path) -> None:
    """Run the SuperLink in this process until it is told to end.

    Raises:
        SettingError: a setting is wrong, or Flower is another version.
    """
    settings = ServerSettings.load(config)
    require_flwr()
    arguments = superlink_arguments(settings)
    use_environment(settings.flwr_home.absolute())
    write_connection(settings)
    os.environ[SETTINGS_VARIABLE] = str(config.absolute())
    from flwr.superlink.cli.flower_superlink import flower_superlink

    started = datetime.now(UTC)
    TaskStarter(settings.superlink, "flwr-serverapp", preload=("fedge_server.rounds",))
    cleaner = threading.Thread(target=_end_leftovers_when_up, args=(settings, started), daemon=True)
    cleaner.start()
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m fedge_server.superlink --config server.toml`."""
    parser = argparse.ArgumentParser(prog="fedge-superlink", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the server.toml")
    arguments = parser.parse_args(argv)
    die_with_parent()
    try:
        run(arguments.config)
    except FedgeError as error:
        print(f"fedge-superlink: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
