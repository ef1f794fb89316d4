"""What the coordinator's process promises: kill it, share its file, stop it."""

from __future__ import annotations

import subprocess
import sys
import threading

import httpx
import pytest
from fakes.centre import Coordinator, FakeClock, Sender, report, wait_for

from fedge_server.admin import admit
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet

SENDERS = 4


class Load:
    """Gateways that push reports as fast as they can and note what was acknowledged."""

    def __init__(self, url: str, senders: list[Sender], at_most: int = 100_000) -> None:
        self.acknowledged: dict[str, list[int]] = {s.fingerprint: [] for s in senders}
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._push, args=(url, sender, at_most)) for sender in senders
        ]
        for thread in self._threads:
            thread.start()

    def _push(self, url: str, sender: Sender, at_most: int) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            for seq in range(at_most):
                if self._stop.is_set():
                    return
                try:
                    answer = client.post("/v1/envelopes", content=sender.report(seq))
                except httpx.HTTPError:
                    return  # killed: this one was not acknowledged
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                    return
                self.acknowledged[sender.fingerprint].append(seq)

    def total(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        self.join()


@pytest.fixture
def senders(coordinator: Coordinator) -> list[Sender]:
    coordinator.url()
    found = [Sender(number + 1) for number in range(SENDERS)]
    for number, sender in enumerate(found):
        # While the coordinator runs, as an operator would.
        admit(coordinator.settings, sender.public_key, f"gateway {number}")
    return found


def test_killed_under_load_it_loses_nothing_acknowledged(
    coordinator: Coordinator, senders: list[Sender]
) -> None:
    """SIGKILL in the middle of pushing, twice: every 200 was the truth."""
    acknowledged: dict[str, set[int]] = {sender.fingerprint: set() for sender in senders}
    for _ in range(2):
        load = Load(coordinator.url(), senders)
        try:
            wait_for(lambda load=load: load.total() >= 60)  # type: ignore[misc]
            coordinator.kill()
        finally:
            load.stop()
        assert load.failures == []
        for who, seqs in load.acknowledged.items():
            acknowledged[who] |= set(seqs)
        coordinator.restart()

    url = coordinator.url()
    for sender in senders:
        fleet = httpx.get(f"{url}/v1/gateways/{sender.fingerprint}").json()["gateway"]
        with Database(coordinator.settings.database) as database:
            stored = Facts(database, FakeClock()).reports()[sender.fingerprint]
        windows = {r.window for r in stored}
        assert acknowledged[sender.fingerprint] <= windows
        # At most the one in flight was stored without its answer being heard.
        assert len(windows - acknowledged[sender.fingerprint]) <= 1
        assert all(r == report(r.window) for r in stored)
        assert fleet["reports"] == len(windows)
        # What a spool does after the restart: all of it again, taken once.
        again = httpx.post(f"{url}/v1/envelopes", content=sender.report(0))
        assert again.status_code == 200


FLOW = """
import sys, time
from fakes.runs import run_spec
from fedge_server.database import Database
from fedge_server.facts import Facts

with Database(sys.argv[1]) as database:
    facts = Facts(database, time.time)
    for number in range(40):
        run = f"run-{number}"
        assert facts.create_run(run_spec(run)) is True
        if number % 10 == 0:
            facts.reports()
        facts.set_run_state(run, "training")
        facts.set_run_state(run, "published")
        facts.record_release(run, number + 2)
    print("done")
"""


def test_flows_and_coordinator_share_one_file(
    coordinator: Coordinator, senders: list[Sender], pytestconfig: pytest.Config
) -> None:
    """A flow decides and reads while gateways push: neither fails, nothing is lost."""
    load = Load(coordinator.url(), senders, at_most=200)
    try:
        flow = subprocess.run(
            [sys.executable, "-c", FLOW, coordinator.settings.database],
            cwd=pytestconfig.rootpath / "tests",
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        load.stop()

    assert (flow.stdout.strip(), flow.returncode) == ("done", 0), flow.stderr
    assert load.failures == []
    assert load.total() > SENDERS
    with Database(coordinator.settings.database) as database:
        facts = Facts(database, FakeClock())
        assert {run.release for run in facts.runs()} == set(range(2, 42))
        assert {run.state for run in facts.runs()} == {"published"}
        stored = {who: len(reports) for who, reports in facts.reports().items()}
    assert stored == {who: len(seqs) for who, seqs in load.acknowledged.items()}


def test_it_stops_when_asked(coordinator: Coordinator) -> None:
    """SIGTERM ends it with status 0, and the port file goes with it."""
    coordinator.url()

    assert coordinator.stop() == 0
    assert not (coordinator.settings.data_dir / "port").exists()


def test_a_started_coordinator_answers_at_once(coordinator: Coordinator) -> None:
    """Who reads the port file can connect: it listened before the file was written."""
    assert httpx.get(f"{coordinator.url()}/health").json()["status"] == "ok"
    assert httpx.get(f"{coordinator.url()}/releases/metadata/timestamp.json").status_code == 404


def test_too_large_a_body_gets_its_answer(coordinator: Coordinator, senders: list[Sender]) -> None:
    """The sender hears 413, also while it still sends, and can go on."""
    url = coordinator.url()
    with httpx.Client(base_url=url) as client:
        body = b"x" * (coordinator.settings.max_report_bytes + 2**20)
        assert client.post("/v1/envelopes", content=body).status_code == 413
        assert client.post("/v1/envelopes", content=senders[0].report(0)).status_code == 200


def test_a_port_that_is_taken_is_said_so(coordinator: Coordinator) -> None:
    """It exits with a message, not with a traceback."""
    port = coordinator.url().rsplit(":", 1)[1]
    config = coordinator.config.with_name("second.toml")
    config.write_text(f'data_dir = "other"\npolicy = "policy.toml"\nport = {port}\n')

    second = subprocess.run(
        [sys.executable, "-m", "fedge_server.main", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert second.returncode == 1
    assert f":{port}" in second.stderr and "Traceback" not in second.stderr


def test_fleet_state_needs_no_process(coordinator: Coordinator, senders: list[Sender]) -> None:
    """What was taken can be read after the coordinator is gone."""
    httpx.post(f"{coordinator.url()}/v1/envelopes", content=senders[0].status(0))
    coordinator.kill()

    with Database(coordinator.settings.database) as database:
        states = Fleet(database, FakeClock()).state().gateways
    assert [state.envelopes for state in states] == [1, 0, 0, 0]
