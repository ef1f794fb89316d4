"""Profiling a table on one core: ours beside raw datasketches, and beside whylogs.

Each measurement is a process of its own that makes the same table, profiles it once to
warm up and once for its CPU time. The three take turns. whylogs gets fewer rows of the
table, because it would take minutes; its rate does not depend on it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.peers import python_of

ROWS, COLUMNS, WHYLOGS_ROWS = 1_000_000, 64, 100_000
REPEATS = 7
K = 200
"""Accuracy of the sketches, the same for all."""

_START = """
import sys, time
import numpy as np
rows, columns, k = map(int, sys.argv[1:])
table = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
"""
_TIMED = """
profile(table[:1000])
start = time.process_time()
profile(table)
print(table.size / (time.process_time() - start))
"""
_OURS = """
from fedge.profiles.table import profile_table
def profile(part):
    profile_table(part, k=k)
"""
_RAW = """
import datasketches
def profile(part):
    datasketches.vector_of_kll_floats_sketches(k, columns).update(part)
"""
_WHYLOGS = """
import pandas, whylogs
table = pandas.DataFrame(table, columns=[f"c{column}" for column in range(columns)])
def profile(part):
    whylogs.log(part)
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to profile the table."""

    python: Path
    code: str
    rows: int

    def values_per_second(self) -> float:
        """Values profiled per second of CPU, in a new process on one thread.

        Raises:
            subprocess.CalledProcessError: it failed; its errors are on stderr.
        """
        done = subprocess.run(
            [
                *(str(self.python), "-c", _START + self.code + _TIMED),
                *(str(self.rows), str(COLUMNS), str(K)),
            ],
            env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "WHYLOGS_NO_ANALYTICS": "True"},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return float(done.stdout.split()[-1])


def measure() -> list[Figure]:
    """gw-profile: values per second against whylogs, and CPU against raw KLL on the same table."""
    here, python = Path(sys.executable), python_of("whylogs")
    candidates = {"ours": Candidate(here, _OURS, ROWS), "raw": Candidate(here, _RAW, ROWS)}
    if python is not None:
        candidates["whylogs"] = Candidate(python, _WHYLOGS, WHYLOGS_ROWS)
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(REPEATS):
        for name, candidate in candidates.items():
            rates[name].append(candidate.values_per_second())
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ours, peer = medians["ours"], medians.get("whylogs")
    cost = medians["raw"] / ours
    return [
        Figure(
            id="gw-profile",
            what=(
                f"sketches and bins of a {ROWS:,} x {COLUMNS} float32 table, one core, "
                f"{cost:.2f}x the CPU of raw datasketches KLL (whylogs: {WHYLOGS_ROWS:,} rows)"
            ),
            ours=ours,
            peer=peer,
            peer_name="whylogs 1.6.4",
            unit="values/s",
            goal=">= 15x whylogs and <= 2x the CPU of raw KLL",
            holds=peer is not None and ours >= 15 * peer and cost <= 2,
        )
    ]


if __name__ == "__main__":
    for figure in measure():
        print(figure.line())
