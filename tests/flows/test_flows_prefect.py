"""On a real Prefect server: the schedule, the trigger, exactly once, and again after a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow_fakes import FOLDER, FileFacts

from fedge.lifetime import die_with_parent
from fedge_flows.deploy import deployments
from fedge_flows.local import (
    prefect_environment,
    server_command,
    wait_for_server,
    worker_command,
)
from fedge_flows.progress import RUN_TRAINED

# Deadlines are for a busy host; nothing is waited for longer than it takes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(claim: Callable[[], Any], what: str, timeout_s: float = 150.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := claim():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


OPERATORS = {
    "name": "told",
    "entrypoint": "flow_fakes.told_flow",
    "work_pool": {"name": "fedge"},
    "triggers": [
        {
            "type": "event",
            "name": "told",
            "enabled": True,
            "posture": "Reactive",
            "expect": ["fedge.gateway.quarantined"],
            "match": {"prefect.resource.id": "fedge.gateway.*"},
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": 0,
            "parameters": {"episode": "{{ event.payload.episode }}"},
        }
    ],
}
"""A flow that an operator attached to alerts."""

SEND = """
import sys
from fedge.drift.fleet.interventions import Intervention
from fedge_flows.alerts import alert_of
from fedge_flows.bus import PrefectBus
for episode in sys.argv[1:]:
    PrefectBus().send(alert_of(Intervention(
        episode=episode, gateway="a" * 32, action="quarantine", window=1, at=1.0, by="policy",
        reason="Drift since window 1.",
    )))
"""


class Prefect:
    """A server, a worker and the test's flows deployed, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "home").mkdir()
        self.environment = prefect_environment(folder / "home", self.port) | {
            FOLDER: str(folder),
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
            ),
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.running.append(process)
        return process

    def start_server(self) -> None:
        self.server = self.start(server_command(self.port), "server.log")
        wait_for_server(self.port)

    def kill_server(self) -> None:
        self.server.kill()
        self.server.wait(10)

    def sent(self) -> list[tuple[str, str]]:
        """What the announcer remembers to have sent."""
        files = (self.folder / "sent").glob("*.json")
        return [(json.loads(file.read_text())["event"], file.stem) for file in files]

    def deploy(self) -> None:
        """The real `prefect.yaml`, its schedule and triggers, with the test's flows behind."""
        content = deployments(3.0)
        content["deployments"] = content["deployments"][:2]
        for deployment in content["deployments"]:
            deployment["entrypoint"] = deployment["entrypoint"].replace(
                "fedge_flows.flows", "flow_fakes"
            )
        content["deployments"].append(OPERATORS)
        (self.folder / "prefect.yaml").write_text(yaml.safe_dump(content))
        prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
        for command in (["work-pool", "create", "fedge", "--type", "process"], ["deploy", "--all"]):
            subprocess.run(
                [*prefect, *command],
                env=self.environment,
                cwd=self.folder,
                check=True,
                capture_output=True,
            )

    def api(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api{path}",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def log(self) -> list[str]:
        file = self.folder / "log"
        return (
            [line.split(" ", 2)[2] for line in file.read_text().splitlines()]
            if file.exists()
            else []
        )

    def stop(self) -> None:
        for process in reversed(self.running):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait(10)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    prefect = Prefect(tmp_path_factory.mktemp("prefect"))
    try:
        prefect.start_server()
        prefect.deploy()
        prefect.start(worker_command(), "worker.log")
        yield prefect
    finally:
        prefect.stop()


def test_loop_on_a_real_server(prefect: Prefect) -> None:
    """The schedule runs monitor, its event starts one retraining, a killed one is run again.

    Up to here the logs of server and worker hold no traceback. Then the server is killed and
    comes back: nothing is lost, nothing is done twice.
    One test, because each part needs what the one before left on the server.
    """
    folder, facts = prefect.folder, FileFacts(prefect.folder / "facts")
    wait_until(lambda: prefect.log().count("monitor") >= 2, "the schedule runs monitor")
    assert facts.runs() == []

    (folder / "frozen").touch()
    wait_until(lambda: "training run-1" in prefect.log(), "the event starts retrain")
    assert facts.runs()[0].state == "training"
    seen = prefect.log().count("monitor")
    wait_until(lambda: prefect.log().count("monitor") >= seen + 2, "monitor goes on meanwhile")
    assert prefect.log().count("training run-1") == 1

    first = int((folder / "trainer.pid").read_text())
    os.kill(first, signal.SIGKILL)
    for memory in (folder / "sent").iterdir():
        memory.unlink()  # the reminder's waiting time would pass here
    wait_until(
        lambda: prefect.log().count("training run-1") == 2, "monitor has a killed run taken up"
    )
    assert int((folder / "trainer.pid").read_text()) != first

    for name in ("server.log", "worker.log"):
        text = (folder / name).read_text()
        assert "Traceback" not in text and "database is locked" not in text, text[-2000:]
    prefect.kill_server()
    (folder / "go").touch()
    wait_until(lambda: facts.runs()[0].state == "trained", "a run ends without Prefect, too")

    prefect.start_server()
    seen = prefect.log().count("monitor")
    wait_until(lambda: prefect.log().count("monitor") >= seen + 2, "the schedule goes on")
    wait_until(lambda: (RUN_TRAINED, "run-1") in prefect.sent(), "the event that was lost is sent")
    assert (folder / "results").read_text().splitlines() == ["run-1"]
    assert facts.history() == ["run-1 training", "run-1 trained"]


def test_deployments_are_as_described(prefect: Prefect) -> None:
    """The monitor has an interval schedule and comes last; retrain starts by the event alone."""
    found = {d["name"]: d for d in prefect.api("/deployments/filter", {})}
    automations = prefect.api("/automations/filter", {})
    queues = prefect.api("/work_queues/filter", {})
    priorities = {queue["name"]: queue["priority"] for queue in queues}

    assert [s["schedule"]["interval"] for s in found["monitor"]["schedules"]] == [3.0]
    assert found["retrain"]["schedules"] == []
    assert priorities["monitor"] > priorities[found["retrain"]["work_queue_name"]]
    expected = [a["trigger"]["expect"] for a in automations if a["name"] != "told"]
    assert expected == [["fedge.cohort.frozen"]]


def test_an_alert_reaches_an_operators_flow_once(prefect: Prefect) -> None:
    """Sent again under its key, as after a kill, the server drops it; the next one gets through."""
    command = [sys.executable, "-c", SEND]
    for episodes in (["e-1", "e-1"], ["e-1", "e-2"]):
        subprocess.run([*command, *episodes], env=prefect.environment, check=True)
    # Each is told by a process of its own: they may end in another order than they began.
    both = {"told e-1", "told e-2"}
    wait_until(lambda: both <= set(prefect.log()), "each alert starts the flow")

    assert prefect.log().count("told e-1") == 1


def test_nothing_is_written_outside_its_home(prefect: Prefect) -> None:
    """Prefect keeps its database and its profiles in the folder it was given."""
    assert (prefect.folder / "home" / "prefect.db").exists()
