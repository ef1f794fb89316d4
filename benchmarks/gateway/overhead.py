"""What monitoring costs beside inference: CPU of worker and agent for each observed row.

One process plays the worker: it scores row after row, in turns by `session.run` alone
and through the engine that the worker and embedded callers use, with the real ring. The
real agent process consumes the ring meanwhile: block store, sketches, bins, noise,
ledger, report. What a row costs more than `session.run` is the engine's CPU less the
bare one's, and the agent's. The noise of a window costs the same for 1,000 rows as for
20,000, so the window's size is part of the figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gateway import site
from fedge.config import GatewaySettings
from fedge.privacy.policy import read_policy
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.engine import DirectEngine
from fedge.serving.marks import Marks
from fedge.serving.record_ids import block_numbering
from fedge.serving.release import load_release
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_reader import RingReader
from fedge.serving.scoring import OUTPUTS

FEATURES, RING_SLOTS = 64, 65_536
LARGE, SMALL = 20_000, 1_000
"""Slots of a window."""
REPEATS, ROWS = 7, 40_000
"""Turns, and rows of one turn."""
BURST = 1_000
GOAL_US = 5.0
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over all turns, in microseconds of CPU for each row.

    Attributes:
        observed: rows that the agent got, as a share of all.
    """

    bare: float
    engine: float
    agent: float
    observed: float

    @property
    def overhead(self) -> float:
        return self.engine - self.bare + self.agent


def measure() -> list[Figure]:
    """gw-overhead: monitoring at batch 1 and 64 features, in large windows.

    In words beside it: small windows, and what it costs to keep the rows for training as well.
    """
    watched = INFERENCE | MONITORING
    large, small = cost(LARGE, watched), cost(SMALL, watched)
    kept = cost(LARGE, watched | TRAINING)
    return [
        Figure(
            id="gw-overhead",
            what=(
                f"agent + worker CPU per observed row, {FEATURES} features, batch 1, windows of "
                f"{LARGE:,}: worker {large.engine - large.bare:.2f} over session.run's "
                f"{large.bare:.2f}, agent {large.agent:.2f}, {large.observed:.1%} observed; "
                f"windows of {SMALL:,}: {small.overhead:.2f}; rows kept for training, too "
                f"(Parquet, {LARGE:,}): {kept.overhead:.2f}"
            ),
            ours=large.overhead,
            peer=large.bare,
            peer_name="session.run",
            unit="us",
            goal=f"<= {GOAL_US:g} us over session.run",
            holds=large.overhead <= GOAL_US and large.observed >= 0.99,
        )
    ]


def cost(window_slots: int, purposes: int) -> Cost:
    """Measure with windows of so many slots, and rows of these purposes, in new processes.

    Raises:
        RuntimeError: the agent ended or fell behind.
        subprocess.CalledProcessError: the worker's side failed; its errors are on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="fo") as folder:
        home = Path(folder)
        candidate = site.pooled(home, (FEATURES,), FEATURES)
        site.make_folder(home / "gw", candidate, window_slots=window_slots, ring_slots=RING_SLOTS)
        config = home / "gw" / "gateway.toml"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gateway.overhead", str(config), str(purposes)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        turns = json.loads(done.stdout.splitlines()[-1])
    return Cost(**{name: statistics.median(t[name] for t in turns) for name in Cost.__slots__})


@contextlib.contextmanager
def _agent(config: Path) -> Iterator[int]:
    """The real agent process, as its supervisor starts it; gives its process id."""
    with (config.parent / "agent.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedge_client.agent", "--config", str(config)],
            stdout=log,
            stderr=log,
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _cpu_of(pid: int) -> float:
    """Seconds of CPU that the threads of a process have had, to the nanosecond."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it may have ended
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


class _Worker:
    """Scores rows one at a time, by one of two ways."""

    def __init__(self, settings: GatewaySettings, marks: Marks) -> None:
        release = load_release(settings.state_dir / "slots" / "A", settings)
        self._session, self._name = release.model._session, release.task.input.name
        self._ring = RingWriter(
            settings.state_dir / "ring.bin", RowLayout.of(release.task), settings.ring_slots
        )
        block_of = block_numbering(
            read_policy(settings.state_dir / "policy.toml").block, settings.window_slots
        )
        self._engine = DirectEngine(release, self._ring, block_of, time.time)
        self._marks = marks
        drawn = np.random.default_rng(0).normal(size=(BURST, 1, FEATURES))
        self._rows = list(drawn.astype(np.float32))

    def bare(self) -> None:
        run, name = self._session.run, self._name
        for row in self._rows:
            run(OUTPUTS, {name: row})

    def observed(self) -> None:
        serve, marks = self._engine.serve, self._marks
        for row in self._rows:
            serve(row, marks)

    @property
    def dropped(self) -> int:
        return self._ring.dropped


def _wait(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {TIMEOUT_S:g} s: {what}")
        time.sleep(0.005)


def _turn(worker: _Worker, ring: RingReader, agent: int) -> dict[str, float]:
    """Score `ROWS` rows each way, and wait until the agent has finished with them."""
    bare = engine = 0.0
    before, dropped, position = _cpu_of(agent), worker.dropped, ring.position
    for _ in range(ROWS // BURST):
        start = time.process_time()
        worker.bare()
        middle = time.process_time()
        worker.observed()
        engine += time.process_time() - middle
        bare += middle - start
        # A line of machines is no burst: the agent gets its time, too.
        _wait(lambda: ring.waiting < RING_SLOTS // 2 - BURST, "the agent is behind")
    lost = worker.dropped - dropped
    _wait(lambda: ring.position >= position + ROWS - lost, "the agent finishes")
    spent = _cpu_of(agent) - before
    return {
        "bare": 1e6 * bare / ROWS,
        "engine": 1e6 * engine / ROWS,
        "agent": 1e6 * spent / (ROWS - lost),
        "observed": 1 - lost / ROWS,
    }


def main() -> int:
    """The worker's side, beside its agent: prints what each turn cost as JSON."""
    parser = argparse.ArgumentParser(prog="overhead")
    parser.add_argument("config", type=Path)
    parser.add_argument("purposes", type=int)
    options = parser.parse_args()
    config, settings = options.config, GatewaySettings.load(options.config)
    worker = _Worker(settings, Marks(options.purposes))
    ring = RingReader(settings.state_dir / "ring.bin")
    with _agent(config) as agent:
        _turn(worker, ring, agent)  # warm-up
        print(json.dumps([_turn(worker, ring, agent) for _ in range(REPEATS)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
