"""What monitoring does to the slowest answers: the same worker with and without it."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gateway import http, site, wrk

SECONDS = 6.0


def measure(work: Path) -> list[Figure]:
    """gw-tail: p99 and p99.9 of a worker with 64 watched features against a bare one."""
    goal = "p99 <= 1.15x and p99.9 <= 1.5x of bare"
    if not wrk.available():
        return [_figure(None, None, "needs wrk", goal, holds=False)]
    candidate = site.pooled(work, (64,), 64)
    row = np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)
    body, headers = site.binary_body(candidate.task.input.name, row)
    with tempfile.TemporaryDirectory() as folder:
        watched = site.make_folder(Path(folder) / "watched", candidate)
        bare = site.make_folder(Path(folder) / "bare", candidate, monitoring=False)
        with site.running(watched) as one, site.running(bare) as other:
            runs = http.interleaved(
                [http.Target(place.infer_url, body, headers) for place in (one, other)],
                seconds=SECONDS,
            )
    (p99, bare99), (p999, bare999) = (
        [statistics.median(getattr(load, name) for load in each) for each in runs]
        for name in ("p99", "p999")
    )
    what = f"p99 with monitoring, 64 features, batch 1 (p99.9: {p999 / bare999:.2f}x bare)"
    holds = p99 <= 1.15 * bare99 and p999 <= 1.5 * bare999
    return [_figure(p99, bare99, what, goal, holds=holds)]


def _figure(ours: float | None, peer: float | None, what: str, goal: str, *, holds: bool) -> Figure:
    return Figure(
        id="gw-tail",
        what=what,
        ours=ours,
        peer=peer,
        peer_name="monitoring off",
        unit="us",
        goal=goal,
        holds=holds,
    )
