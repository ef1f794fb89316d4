"""What monitoring does to the slowest answers: the same worker with and without it.

Measured at a steady pace, a tenth of what the worker can do, as on a gateway that keeps up.
Beside it what saturation does: there wrk, worker and agent share the machine, and whatever
the agent takes is missing elsewhere.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure
from benchmarks.gateway import http, site, wrk

RATE, SECONDS, REPEATS = 1000.0, 6.0, 7
SATURATED_S = 3.0


def measure(work: Path) -> list[Figure]:
    """gw-tail: p99 and p99.9 of a worker with 64 watched features against a bare one."""
    goal = "p99 <= 1.15x and p99.9 <= 1.5x of bare"
    candidate = site.pooled(work, (64,), 64)
    row = np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)
    body, headers = site.binary_body(candidate.task.input.name, row)
    with tempfile.TemporaryDirectory() as folder:
        watched = site.make_folder(Path(folder) / "watched", candidate)
        bare = site.make_folder(Path(folder) / "bare", candidate, monitoring=False)
        with site.running(watched) as one, site.running(bare) as other:
            targets = [http.Target(place.infer_url, body, headers) for place in (one, other)]
            runs = _paced_in_turns(targets)
            saturated = _saturated(targets)
    (p99, bare99), (p999, bare999) = (
        [statistics.median(float(np.percentile(run, at)) for run in each) for each in runs]
        for at in (99.0, 99.9)
    )
    what = (
        f"p99 with monitoring, 64 features, batch 1, {RATE:.0f} requests/s "
        f"(p99.9: {p999 / bare999:.2f}x bare{saturated})"
    )
    holds = p99 <= 1.15 * bare99 and p999 <= 1.5 * bare999
    return [
        Figure(
            id="gw-tail",
            what=what,
            ours=p99,
            peer=bare99,
            peer_name="monitoring off",
            unit="us",
            goal=goal,
            holds=holds,
        )
    ]


def _paced_in_turns(targets: list[http.Target]) -> list[list[npt.NDArray[np.float64]]]:
    """Latencies in microseconds; `REPEATS` runs for each target, in turns."""
    runs: list[list[npt.NDArray[np.float64]]] = [[] for _ in targets]
    for target in targets:
        _paced(target, 1.0)
    for repeat in range(REPEATS):
        order = range(len(targets)) if repeat % 2 == 0 else reversed(range(len(targets)))
        for at in order:
            runs[at].append(_paced(targets[at], SECONDS))
    return runs


def _paced(target: http.Target, seconds: float) -> npt.NDArray[np.float64]:
    """Post at `RATE` over one kept connection; microseconds from sending to having the answer."""
    parts = urlsplit(target.url)
    connection = HTTPConnection(parts.netloc, timeout=10)
    taken = np.empty(int(RATE * seconds))
    started = time.perf_counter()
    for number in range(len(taken)):
        ahead = started + number / RATE - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        begin = time.perf_counter()
        connection.request("POST", parts.path, target.body, target.headers)
        answer = connection.getresponse()
        answer.read()
        taken[number] = 1e6 * (time.perf_counter() - begin)
        if answer.status != 200:
            raise RuntimeError(f"{target.url} answered {answer.status}")
    connection.close()
    return taken


def _saturated(targets: list[http.Target]) -> str:
    """The same ratios without a pause between requests, in words."""
    if not wrk.available():
        return ""
    (p99, bare99), (p999, bare999) = (
        [statistics.median(getattr(load, name) for load in each) for each in runs]
        for runs in [http.interleaved(targets, seconds=SATURATED_S)]
        for name in ("p99", "p999")
    )
    return f"; saturated by 4 connections: p99 {p99 / bare99:.2f}x, p99.9 {p999 / bare999:.2f}x"
