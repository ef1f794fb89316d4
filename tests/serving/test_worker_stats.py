"""The worker's counters: read while written, whole after a kill, and light to read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.gateways import FAMILY, Caller, fill_slot, toy_inputs, wait_until
from fakes.workers import StartWorker

from fedge.config import GatewaySettings
from fedge.errors import StateError
from fedge.serving.stats import LATENCY_BOUNDS_S, WorkerStats, read_stats, stats_path


def test_what_was_counted_is_read(tmp_path: Path) -> None:
    """Every counter, and each latency in its bucket."""
    path = stats_path(tmp_path, "toy", "A")
    stats = WorkerStats(path, release=7)
    assert path.name == "stats-toy-A.bin" and read_stats(path)["ready"] is False
    stats.ready(True)
    latencies = [(200, 0.0), (200, 1e-5), (404, 1.1e-5), (503, 99.0)]
    for status, seconds in latencies:
        stats.begun()
        stats.answered(status, seconds)
    stats.begun()
    stats.begun()
    stats.answered(0, 1.0)  # its caller had gone
    stats.served(5)
    stats.refused("token")
    counted: dict[str, Any] = read_stats(path)
    assert (counted["pid"], counted["release"], counted["ready"]) == (os.getpid(), 7, True)
    assert (counted["inflight"], counted["rows"]) == (1, 5)
    assert counted["requests"] == {"1xx": 0, "2xx": 2, "3xx": 0, "4xx": 1, "5xx": 1}
    assert counted["refused"] == {"token": 1, "rate": 0, "concurrency": 0, "connections": 0}
    latency = counted["latency_s"]
    assert latency["bounds"] == list(LATENCY_BOUNDS_S)
    assert latency["count"] == 4 and latency["sum"] == pytest.approx(99.000021)
    assert latency["counts"][:2] == [2, 1] and latency["counts"][-1] == 1
    stats.close()


def test_a_new_worker_starts_from_zero(tmp_path: Path) -> None:
    """Its file replaces the one before in one step."""
    path = tmp_path / "stats.bin"
    before = WorkerStats(path)
    before.served(3)
    WorkerStats(path).served(1)
    before.served(3)
    assert read_stats(path)["rows"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats.bin"]


WRITER = """
import sys
from pathlib import Path
from fedge.serving.stats import WorkerStats
stats = WorkerStats(Path(sys.argv[1]))
print("begun", flush=True)
while True:
    stats.served(0x00000000FFFFFFFF)
    stats.served(1)
    stats.served(-0x0000000100000000)
"""


def test_a_reader_never_sees_half_a_number(tmp_path: Path) -> None:
    """Values around 2^32 change all their bytes; another process sees one or the other."""
    path = tmp_path / "stats.bin"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
        seen = {read_stats(path)["rows"] for _ in range(5000)}
        writer.kill()
    assert len(seen) > 1 and seen <= {0, 0xFFFFFFFF, 0x100000000}


def test_counts_survive_a_kill(gateway: GatewaySettings, start_worker: StartWorker) -> None:
    """A real worker: what it counted before kill -9 is all there; its end is told by its pid."""
    fill_slot(gateway.state_dir, "A", 3)
    path = stats_path(gateway.runtime_dir, FAMILY, "A")
    worker = start_worker("A")
    assert worker.hear()["event"] == "ready"
    assert (read_stats(path)["ready"], read_stats(path)["release"]) == (False, 3)
    worker.serve_now()
    caller = Caller(worker.port)
    for _ in range(4):
        assert caller.infer(toy_inputs(3))[0] == 200
    assert caller.ask("GET", "/v2/nothing")[0] == 404
    # The last answer is counted just after it was sent.
    wait_until(lambda: read_stats(path)["inflight"] == 0, what="it is counted")
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    counted: dict[str, Any] = read_stats(path)
    assert (counted["pid"], counted["rows"], counted["ready"]) == (worker.process.pid, 12, True)
    assert (counted["requests"]["2xx"], counted["requests"]["4xx"]) == (4, 1)
    assert counted["latency_s"]["count"] == 5
    caller.close()


def test_a_draining_worker_is_not_ready(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """On purpose and at once, in the counters and to callers, while it still serves them."""
    fill_slot(gateway.state_dir, "A", 1)
    path = stats_path(gateway.runtime_dir, FAMILY, "A")
    worker = start_worker("A").serve()
    callers = [Caller(worker.port) for _ in range(4)]
    for caller in callers:
        assert caller.ask("GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    worker.tell("drain", seconds=10.0)
    wait_until(lambda: read_stats(path)["ready"] is False, what="not ready")
    ready = ("/v2/health/ready", f"/v2/models/{FAMILY}/ready")
    for caller, target in zip(callers[:2], ready, strict=True):
        status, answer, headers = caller.ask("GET", target)
        assert (status, answer["ready"], headers["connection"]) == (400, False, "close")
    assert callers[2].ask("GET", "/v2/health/live")[0] == 200
    assert callers[3].infer(toy_inputs(1))[0] == 200
    assert worker.process.wait(10) == 0
    for caller in callers:
        caller.close()


def test_a_worker_can_be_unready_before_it_drains(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """`unready` turns load balancers away first; whoever still comes is served."""
    fill_slot(gateway.state_dir, "A", 1)
    worker = start_worker("A").serve()
    worker.tell("unready")
    worker.tell("ping")
    assert worker.hear() == {"event": "pong"}
    caller = Caller(worker.port)
    assert caller.ask("GET", "/v2/health/ready")[0] == 400
    assert caller.infer(toy_inputs(1))[0] == 200
    caller.close()


@pytest.mark.parametrize("data", [b"", b"short", bytes(4096), b"FEDGEST9" + bytes(4096)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    """No counters are made up from other bytes."""
    path = tmp_path / "stats.bin"
    with pytest.raises(StateError, match="cannot read"):
        read_stats(path)
    path.write_bytes(data)
    with pytest.raises(StateError):
        read_stats(path)
    with pytest.raises(StateError, match="cannot write"):
        WorkerStats(tmp_path / "missing" / "stats.bin")


def test_reading_counters_is_light() -> None:
    """The supervisor does it: nothing beside the standard library comes in."""
    program = (
        "import sys; before = set(sys.modules); import fedge.serving.stats, json; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    others = {name.partition(".")[0] for name in json.loads(answer.stdout)}
    assert others - sys.stdlib_module_names == {"fedge"}
