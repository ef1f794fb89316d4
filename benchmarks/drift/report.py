"""A drift report of 20,000 x 64: ours beside Evidently's preset.

Each measurement is a process of its own that makes the same two tables, compares them once to warm
up and once for its CPU time. The two take turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.peers import python_of

ROWS, COLUMNS, REPEATS = 20_000, 64, 7

_START = """
import sys, time
import numpy as np, pandas as pd
rows, columns = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
names = [f"c{index}" for index in range(columns)]
reference = pd.DataFrame(rng.normal(size=(rows, columns)), columns=names)
current = pd.DataFrame(rng.normal(size=(rows, columns)), columns=names)
current["c7"] += 0.1
"""
_TIMED = """
drift(reference[:1000], current[:1000])
start = time.process_time()
drift(reference, current)
print(time.process_time() - start)
"""
_OURS = """
import fedge.drift
def drift(reference, current):
    result = fedge.drift.compare(reference, current)
    return result.to_json()
"""
_EVIDENTLY = """
from evidently import Report
from evidently.presets import DataDriftPreset
def drift(reference, current):
    return Report([DataDriftPreset()]).run(current, reference).dict()
"""


def _seconds(python: Path, code: str) -> float:
    """CPU seconds of one comparison, in a new process on one thread.

    Raises:
        subprocess.CalledProcessError: it failed; its errors are on stderr.
    """
    done = subprocess.run(
        [str(python), "-c", _START + code + _TIMED, str(ROWS), str(COLUMNS)],
        env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "DO_NOT_TRACK": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def measure() -> list[Figure]:
    """dr-report: CPU seconds of one report."""
    sides = {"ours": (Path(sys.executable), _OURS)}
    python = python_of("evidently")
    if python is not None:
        sides["evidently"] = (python, _EVIDENTLY)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(REPEATS):
        for name, (interpreter, code) in sides.items():
            seconds[name].append(_seconds(interpreter, code))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ours, peer = medians["ours"], medians.get("evidently")
    return [
        Figure(
            id="dr-report",
            what=f"drift report of {ROWS:,} x {COLUMNS}, one core",
            ours=ours,
            peer=peer,
            peer_name="Evidently 0.7.23",
            unit="s",
            goal=">= 50x faster than Evidently's data drift preset",
            holds=peer is not None and 50 * ours <= peer,
        )
    ]
