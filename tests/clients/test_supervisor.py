"""The supervisor as a real process: it keeps serving, swaps, falls back, and leaves nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes.gateways import (
    FAMILY,
    Caller,
    Load,
    ask_once,
    fill_slot,
    infer_body,
    make_gateway,
    toy_inputs,
    wait_until,
)
from fakes.supervisors import SupervisedGateway, alive

from fedge.config import GatewaySettings
from fedge.delivery.switch import SlotSwitch
from fedge.errors import OutboundError, SettingError, StateError, TrialFailedError
from fedge.serving.ring_reader import RingReader
from fedge_client.control import SupervisorClient
from fedge_client.slot_keeper import Active
from fedge_client.supervisor import Supervisor
from fedge_client.supervisor_settings import OPTIONAL, SupervisorSettings

INFER = f"/v2/models/{FAMILY}/infer"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SupervisedGateway]:
    gateway = SupervisedGateway(tmp_path).start()
    yield gateway
    gateway.stop(signal.SIGKILL)


def test_the_client_is_a_slot_switch(tmp_path: Path) -> None:
    """What the installer asks for is what the supervisor's client offers."""
    client = SupervisorClient(tmp_path / "supervisor.sock")
    assert isinstance(client, SlotSwitch)
    with pytest.raises(OutboundError, match="does not answer"):
        client.active()


def test_the_first_release_is_installed(gateway: SupervisedGateway) -> None:
    """A new gateway refuses callers until its first release took the socket."""
    assert gateway.client.active() is None
    with pytest.raises(ConnectionRefusedError):
        ask_once(gateway.port, "GET", "/v2/health/ready")
    fill_slot(gateway.settings.state_dir, "A", 1)
    report = gateway.client.trial("A")
    assert report.latency_us > 0 and 0 <= report.golden_max_abs < 1e-3
    assert gateway.client.trial("A") == report
    assert gateway.client.active() is None
    gateway.client.takeover("A")
    gateway.client.takeover("A")
    assert gateway.active == {"slot": "A", "fallback": None}
    assert gateway.client.active() == "A" and gateway.release() == 1


def test_a_hot_swap_fails_no_request(gateway: SupervisedGateway) -> None:
    """Under load three releases follow each other; no caller sees an error or a mixed answer."""
    gateway.install("A", 1)
    with Load(gateway.port, callers=3, pause_s=0.002) as load:
        for counter, slot, before in ((2, "B", "A"), (3, "A", "B"), (4, "B", "A")):
            gateway.install(slot, counter)
            assert gateway.active == {"slot": slot, "fallback": before}
            wait_until(
                lambda c=counter: all(r and r[-1] == c for r in load.releases),  # type: ignore[misc]
                what=f"release {counter} serves",
            )
    assert load.failed == []
    assert len(set(load.record_ids)) == 2 * load.served > 200
    assert gateway.client.worker_restarts() == 0


def test_a_killed_worker_serves_again_within_two_seconds(gateway: SupervisedGateway) -> None:
    """kill -9: callers reconnect, the next worker goes on with the next slot, nothing is lost.

    Nor is a release that serves well given up for it, although there is one to return to.
    """
    gateway.install("B", 1)
    gateway.install("A", 2)
    ask_once(gateway.port, "POST", INFER, infer_body(toy_inputs(3)))
    took = []
    for restart in (1, 2, 3):
        pid = gateway.client.status()["worker_pid"]
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda p=pid: not alive(p), what="the worker is dead")  # type: ignore[misc]
        status, answer = ask_once(gateway.port, "POST", INFER, infer_body(toy_inputs(1)))
        took.append(time.monotonic() - killed)
        assert status == 200
        assert answer["parameters"]["fedge_record_ids"][0].endswith(f"-{2 + restart}")
        assert gateway.client.worker_restarts() == restart
    assert gateway.active == {"slot": "A", "fallback": "B"}
    # The median, so that one pause of a busy test machine says nothing.
    assert sorted(took)[1] < 2.0, took
    rows, _ = RingReader(gateway.settings.state_dir / "ring.bin").read(0, 100)
    assert rows["slot"].tolist() == [0, 1, 2, 3, 4, 5]


def test_worker_and_agent_survive_each_other(gateway: SupervisedGateway) -> None:
    """The agent's death costs no request and no worker; it is started again."""
    gateway.install("A", 1)
    worker, agent = gateway.pids()
    with Load(gateway.port, callers=1, pause_s=0.01) as load:
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: gateway.client.status()["agent_pid"] not in (None, agent))
        wait_until(lambda: load.served > 10)
    assert load.failed == []
    assert gateway.client.status()["agent_restarts"] == 1
    assert gateway.pids()[0] == worker
    assert (gateway.settings.state_dir / "logs" / "agent.log").read_text().count("here") >= 1


def test_a_failed_trial_leaves_the_active_slot_alone(gateway: SupervisedGateway) -> None:
    """Wrong golden vectors, missing files, an untried slot: refused, and the old model serves."""
    gateway.install("A", 1)
    worker = gateway.pids()[0]
    fill_slot(gateway.settings.state_dir, "B", 2, golden_shift=0.5)
    with pytest.raises(TrialFailedError, match="golden vectors"):
        gateway.client.trial("B")
    with pytest.raises(TrialFailedError, match="no worker waits"):
        gateway.client.takeover("B")
    (gateway.settings.state_dir / "slots" / "B" / "release.json").unlink()
    with pytest.raises(TrialFailedError, match="tampered-file"):
        gateway.client.trial("B")
    with pytest.raises(RuntimeError, match="active"):
        gateway.client.trial("A")
    with pytest.raises(RuntimeError, match="active"):
        gateway.client.discard("A")
    assert gateway.active == {"slot": "A", "fallback": None}
    assert gateway.pids()[0] == worker and gateway.release() == 1


def test_a_discarded_trial_is_gone(gateway: SupervisedGateway) -> None:
    """After `discard` no process and no fallback of the slot is left; asking twice is fine."""
    gateway.install("A", 1)
    fill_slot(gateway.settings.state_dir, "B", 2)
    gateway.client.trial("B")
    assert gateway.client.status()["trial"] == "B"
    for _ in range(2):
        gateway.client.discard("B")
    assert gateway.client.status()["trial"] is None
    with pytest.raises(TrialFailedError):
        gateway.client.takeover("B")
    gateway.install("B", 2)
    assert gateway.active == {"slot": "B", "fallback": "A"}
    gateway.client.discard("A")
    assert gateway.active == {"slot": "B", "fallback": None}


def test_stepping_back_is_a_swap_too(gateway: SupervisedGateway) -> None:
    """The installer returns to the slot before by a trial and a takeover of it."""
    gateway.install("A", 1)
    gateway.install("B", 2)
    with Load(gateway.port, callers=2, pause_s=0.005) as load:
        gateway.client.trial("A")
        gateway.client.takeover("A")
        wait_until(lambda: all(r and r[-1] == 1 for r in load.releases))
    assert load.failed == [] and gateway.active == {"slot": "A", "fallback": "B"}


def test_a_slot_that_does_not_start_falls_back(gateway: SupervisedGateway) -> None:
    """After three failed starts the slot before serves again, and the disk says so."""
    gateway.install("A", 1)
    gateway.install("B", 2)
    (gateway.settings.state_dir / "slots" / "B" / "golden.npz").write_bytes(b"rotten")
    os.kill(gateway.client.status()["worker_pid"], signal.SIGKILL)
    wait_until(lambda: gateway.client.active() == "A", what="fallback")
    assert gateway.active == {"slot": "A", "fallback": None}
    assert gateway.release() == 1


def test_kills_from_outside_throw_no_good_release_away(tmp_path: Path) -> None:
    """What an operator or the OOM killer ended is no failure; only many in a row are a verdict."""
    with SupervisedGateway(tmp_path, patience={"kills": 3}) as gateway:
        gateway.install("A", 1)
        gateway.install("B", 2)
        for _ in range(2):
            gateway.kill_worker()
            assert gateway.release() == 2
        assert gateway.active == {"slot": "B", "fallback": "A"}
        gateway.kill_worker()
        assert gateway.active == {"slot": "A", "fallback": None} and gateway.release() == 1


def test_a_release_that_crashes_falls_back(tmp_path: Path) -> None:
    """A worker that dies of its own soon after it served counts against its release."""
    with SupervisedGateway(tmp_path, patience={"failures": 1}) as gateway:
        gateway.install("A", 1)
        gateway.install("B", 2)
        os.kill(gateway.worker_pid() or 0, signal.SIGSEGV)
        wait_until(lambda: gateway.client.active() == "A", what="fallback")
        assert gateway.release() == 1


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """One stopped in its tracks is ended, and the next one serves; hanging again is a verdict."""
    patience = {"failures": 2, "ping_every_s": 0.1, "deaf_s": 0.4}
    with SupervisedGateway(tmp_path, patience=patience) as gateway:
        gateway.install("A", 1)
        gateway.install("B", 2)
        hung = gateway.worker_pid()
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: gateway.worker_pid() not in (None, hung), what="the next worker")
        assert not alive(hung) and gateway.release() == 2
        assert gateway.client.worker_restarts() == 1
        os.kill(gateway.worker_pid() or 0, signal.SIGSTOP)
        wait_until(lambda: gateway.client.active() == "A", what="fallback")
        assert gateway.release() == 1


def test_a_paused_supervisor_ends_no_healthy_worker(tmp_path: Path) -> None:
    """When the whole machine slept, an answer that came in time is read before the verdict."""
    patience = {"ping_every_s": 0.05, "deaf_s": 0.4}
    with SupervisedGateway(tmp_path, patience=patience) as gateway:
        gateway.install("A", 1)
        assert gateway.process is not None
        for _ in range(3):
            gateway.process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)  # longer than a worker may be deaf
            gateway.process.send_signal(signal.SIGCONT)
            assert gateway.release() == 1
        assert gateway.client.worker_restarts() == 0


def test_pings_end_no_worker_that_works(tmp_path: Path) -> None:
    """Under load and while releases follow each other, a watched worker stays."""
    with SupervisedGateway(tmp_path, patience={"ping_every_s": 0.02, "deaf_s": 2.0}) as gateway:
        gateway.install("A", 1)
        with Load(gateway.port, callers=2, pause_s=0.001) as load:
            gateway.install("B", 2)
            gateway.install("A", 3)
            wait_until(lambda: all(r and r[-1] == 3 for r in load.releases))
        assert load.failed == [] and gateway.client.worker_restarts() == 0


def test_without_a_fallback_it_keeps_trying(gateway: SupervisedGateway) -> None:
    """A damaged only slot serves again as soon as it is repaired."""
    gateway.install("A", 1)
    golden = gateway.settings.state_dir / "slots" / "A" / "golden.npz"
    data = golden.read_bytes()
    golden.write_bytes(b"rotten")
    os.kill(gateway.client.status()["worker_pid"], signal.SIGKILL)
    log = gateway.settings.state_dir / "logs" / "worker-A.log"
    wait_until(lambda: log.read_text().count("does not serve") >= 3, what="three failed starts")
    golden.write_bytes(data)
    assert gateway.release() == 1 and gateway.client.active() == "A"


def test_a_restarted_supervisor_serves_the_active_slot(gateway: SupervisedGateway) -> None:
    """kill -9 of the supervisor ends all its processes; the next one serves what was active."""
    gateway.install("A", 1)
    gateway.install("B", 2)
    pids = gateway.pids()
    gateway.stop(signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), what="children died with it")
    gateway.start()
    wait_until(lambda: gateway.client.status()["worker_pid"] is not None)
    assert gateway.release() == 2 and gateway.client.status()["fallback"] == "A"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_leaves_no_process(gateway: SupervisedGateway, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end worker, trial and agent within seconds, idle callers or not."""
    gateway.install("A", 1)
    fill_slot(gateway.settings.state_dir, "B", 2)
    gateway.client.trial("B")
    idle = Caller(gateway.port)
    idle.infer(toy_inputs(1))
    pids = gateway.pids()
    started = time.monotonic()
    assert gateway.stop(number) == 0
    assert time.monotonic() - started < 5
    assert not any(map(alive, pids))
    left = {path.name for path in gateway.settings.runtime_dir.iterdir()}
    assert {name for name in left if not name.startswith("stats-")} == set()
    idle.close()


def test_before_it_stops_it_says_that_it_is_not_ready(tmp_path: Path) -> None:
    """For `stop_delay_s` it serves on, unready, also with a worker that had to be started again;
    a second signal ends it at once."""
    with SupervisedGateway(tmp_path, stop_delay_s=60.0) as gateway:
        gateway.install("A", 1)
        assert ready(gateway.port) == 200
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ready(gateway.port) == 400, what="it is not ready")
        assert gateway.release() == 1

        before = gateway.client.status()["worker_pid"]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: gateway.client.status()["worker_pid"] not in (None, before))
        wait_until(lambda: ready(gateway.port) == 400, what="the next worker is not ready either")
        assert gateway.release() == 1

        assert gateway.stop(signal.SIGTERM) == 0


def ready(port: int) -> int:
    """Status of a readiness request."""
    return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10).status_code


def test_a_system_that_cannot_start_a_process_stops_nothing(gateway: SupervisedGateway) -> None:
    """Where no process can be started the supervisor says so, waits, and goes on serving."""
    gateway.install("A", 1)
    logs = gateway.settings.state_dir / "logs"
    logs.rename(logs.with_name("old-logs"))
    logs.write_text("in the way")
    fill_slot(gateway.settings.state_dir, "B", 2)
    with pytest.raises(TrialFailedError, match="not-started"):
        gateway.client.trial("B")
    os.kill(gateway.client.status()["agent_pid"], signal.SIGKILL)
    wait_until(lambda: gateway.client.status()["agent_pid"] is None)
    assert gateway.release() == 1
    logs.unlink()
    gateway.install("B", 2)
    assert gateway.release() == 2
    wait_until(lambda: gateway.client.status()["agent_pid"] is not None, timeout_s=60)


def test_only_one_supervisor_owns_a_state_directory(gateway: SupervisedGateway) -> None:
    """A second one is refused before it touches anything."""
    with pytest.raises(StateError, match="another supervisor"):
        Supervisor(SupervisorSettings.load(gateway.config), {})
    assert gateway.answers()


def test_nonsense_on_the_control_socket_is_answered(gateway: SupervisedGateway) -> None:
    """The socket is the owner's alone, and no line breaks the supervisor."""
    path = gateway.settings.runtime_dir / "supervisor.sock"
    assert path.stat().st_mode & 0o077 == 0
    lines = [b"{", b"[]", b"7", b"{}", b'{"command": "trial"}', b'{"command": "x", "slot": "A"}']
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        answers = connection.makefile("rb")
        for line in lines:
            connection.sendall(line + b"\n")
            assert json.loads(answers.readline())["code"] == "misuse"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"x" * 100_000)
    assert gateway.answers()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    """The address in use is named, and the process ends with status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        make_gateway(tmp_path, port=port)
        answer = subprocess.run(
            [sys.executable, "-m", "fedge_client.supervisor", str(tmp_path / "gateway.toml")],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert answer.returncode == 1 and f"127.0.0.1:{port}" in answer.stderr


def test_settings_mean_the_same_to_supervisor_and_agent(tmp_path: Path) -> None:
    """The supervisor's own reading of `gateway.toml` never differs from the checked one."""
    (tmp_path / "bare.toml").write_text('state_dir = "s"\nruntime_dir = "r"\n')
    (tmp_path / "full.toml").write_text(
        'state_dir = "s"\nruntime_dir = "/r"\nhost = "::1"\nport = 7\nsuperlink = "h:1"\n'
        'train = false\ndrain_s = 3.5\nops_port = -1\nfamily = "first"\nmax_batch = 9\n'
        "start_supernode = false\nstop_delay_s = 2.5\n"
        '[[models]]\nfamily = "second"\ntask = "t"\n[[models]]\nfamily = "third"\ntask = "t"\n'
    )
    for name in ("bare.toml", "full.toml"):
        ours, theirs = (
            SupervisorSettings.load(tmp_path / name),
            GatewaySettings.load(tmp_path / name),
        )
        alike = ("state_dir", "runtime_dir", *OPTIONAL)
        assert [getattr(ours, f) for f in alike] == [getattr(theirs, f) for f in alike]
        served = [(model.family, model.state_dir) for model in theirs.served]
        assert [(model.family, model.state_dir) for model in ours.served] == served
    (tmp_path / "bad.toml").write_text('state_dir = "s"\n')
    with pytest.raises(SettingError, match="runtime_dir"):
        SupervisorSettings.load(tmp_path / "bad.toml")


def test_a_supernode_runs_only_where_it_trains(tmp_path: Path) -> None:
    """Without a SuperLink, or with training off, nothing of Flower is started."""
    base = SupervisorSettings(tmp_path / "g.toml", tmp_path, tmp_path)
    assert set(base.companions) == {"agent"}
    trains = SupervisorSettings(tmp_path / "g.toml", tmp_path, tmp_path, superlink="h:1")
    assert set(trains.companions) == {"agent", "supernode"}
    for off in ("train", "start_supernode"):
        settings = dataclasses.replace(trains, **{off: False})
        assert set(settings.companions) == {"agent"}


@pytest.mark.parametrize("text", ["", "[]", '{"slot": "C", "fallback": null}', '{"slot": "A"'])
def test_a_damaged_active_file_is_refused(tmp_path: Path, text: str) -> None:
    """Which model to serve is never guessed."""
    (tmp_path / "active.json").write_text(text)
    with pytest.raises(ValueError):
        Active.read(tmp_path / "active.json")


def test_the_supervisor_stands_on_the_standard_library(tmp_path: Path) -> None:
    """Nothing from outside is loaded, so nothing outside can break or bloat it."""
    program = (
        "import sys; before = set(sys.modules); import fedge_client.supervisor;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "['fedge', 'fedge_client']"
