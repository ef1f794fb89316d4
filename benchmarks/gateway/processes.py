"""What a gateway takes at rest and under traffic, and how soon it answers."""

from __future__ import annotations

import statistics
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gateway import site

STARTS = 7
TRAFFIC_S = 120.0
MEMORY_GOAL_MB, RIVER_GOAL_MB, START_GOAL_S = 220.0, 330.0, 2.0


def proportional_mb(pid: int) -> float:
    """Proportional set size of a process, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no proportional set size")


def memory(work: Path, *, seconds: float = TRAFFIC_S, river: bool = False) -> Figure:
    """gw-memory: supervisor, agent and worker after traffic of 200 requests/s.

    Args:
        river: with local alarms on, for which the agent loads river.
    """
    candidate = site.digits(work)
    body = site.json_body(
        candidate.task.input.name, np.load(candidate.folder / "golden.npz")["inputs"][:1]
    )
    with tempfile.TemporaryDirectory() as folder:
        local = {"local_drift": {"enabled": True}} if river else {}
        settings = site.make_folder(Path(folder) / "gw", candidate, **local)
        with site.running(settings) as ours:
            trickle(ours.infer_url, body, seconds=seconds, rate=200.0)
            parts = {name: proportional_mb(pid) for name, pid in ours.pids().items()}
    total = sum(parts.values())
    detail = ", ".join(f"{name} {size:.0f}" for name, size in parts.items())
    goal = RIVER_GOAL_MB if river else MEMORY_GOAL_MB
    return Figure(
        id="gw-memory-river" if river else "gw-memory",
        what=f"PSS after {seconds:.0f} s of traffic{', local alarms on' * river} ({detail})",
        ours=total,
        peer=None,
        peer_name="",
        unit="MB",
        goal=f"<= {goal:g} MB",
        holds=total <= goal,
    )


def trickle(url: str, body: bytes, *, seconds: float, rate: float) -> None:
    """Post at a steady pace over one kept connection."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=10)
    started, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < seconds:
        if sent / rate > elapsed:
            time.sleep(sent / rate - elapsed)
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}")
        sent += 1
    connection.close()


def start(work: Path) -> Figure:
    """gw-start: from starting the supervisor until the model answers ready."""
    candidate = site.digits(work)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        settings = site.make_folder(Path(folder) / "gw", candidate)
        for _ in range(STARTS):
            (settings.runtime_dir / "port").unlink(missing_ok=True)
            begin = time.monotonic()
            with site.running(settings):
                times.append(time.monotonic() - begin)
    seconds = statistics.median(times)
    return Figure(
        id="gw-start",
        what=f"start to ready, median of {STARTS}",
        ours=seconds,
        peer=None,
        peer_name="",
        unit="s",
        goal=f"<= {START_GOAL_S:g} s",
        holds=seconds <= START_GOAL_S,
    )
