"""Window reports in number and in size: merging 10,000 of them, and one on the wire."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from benchmarks.figures import Figure
from benchmarks.peers import python_of
from fedge.profiles.counts import count_window, feature_counts, join, window_event
from fedge.profiles.merge import merge_reports
from fedge.profiles.table import profile_table
from fedge.profiles.wire import encode_report
from fedge.records import NumericStream, Reference, WindowReport

FEATURES, ROWS, RHO = 64, 1_000, 0.0281
REPORTS, REPEATS = 10_000, 7

_WHYLOGS = """
import sys
import numpy as np, pandas, whylogs
rows, columns = map(int, sys.argv[1:])
table = np.random.default_rng(0).normal(size=(rows, columns))
frame = pandas.DataFrame(table, columns=[f"c{column}" for column in range(columns)])
print(len(whylogs.log(frame).view().serialize()))
"""


@lru_cache(maxsize=1)
def _reference() -> Reference:
    rows = np.random.default_rng(1).normal(size=(5_000, FEATURES))
    profile = profile_table(rows)
    return Reference(
        task="bench",
        source="normal numbers",
        rows=len(rows),
        model_sha256="d" * 64,
        ood_quantile_95=0.0,
        streams=tuple(
            NumericStream(
                name=f"sensor-{column:02d}",
                edges=tuple(edges.tolist()),
                histogram=tuple((counts / len(rows)).tolist()),
            )
            for column, (edges, counts) in enumerate(
                zip(profile.edges, profile.histogram, strict=True)
            )
        ),
    )


def _report(seed: int) -> bytes:
    """One window as it travels, noise included."""
    rng = np.random.default_rng(seed)
    reference, event = _reference(), window_event(_reference(), RHO)
    exact = join(count_window(reference, rng.normal(size=(ROWS, FEATURES))))
    noise = np.rint(rng.normal(0, np.sqrt(event.sigma2), len(exact))).astype(np.int64)
    return encode_report(
        WindowReport(
            task="bench",
            window=seed,
            block=0,
            release=1,
            reference_sha256="c" * 64,
            first_slot=seed * ROWS,
            slots=ROWS,
            planned_slots=ROWS,
            opened_at=1000.0 + seed,
            closed_at=1001.0 + seed,
            features=feature_counts(reference, exact + noise, event),
        )
    )


def merge() -> list[Figure]:
    """dr-merge: CPU seconds, and how much memory more reports take."""
    distinct = [_report(seed) for seed in range(50)]

    def reports(count: int) -> Iterator[bytes]:
        # Copies: every report is other bytes in memory, as when they come from a database.
        return (bytes(bytearray(distinct[index % len(distinct)])) for index in range(count))

    merge_reports(reports(REPORTS // 10))
    few = _peak_kb()
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        merge_reports(reports(REPORTS))
        seconds.append(time.process_time() - start)
    ours, grown = statistics.median(seconds), (_peak_kb() - few) / 1024
    return [
        Figure(
            id="dr-merge",
            what=f"merge of {REPORTS:,} reports x {FEATURES} features (grew by {grown:.1f} MB)",
            ours=ours,
            peer=None,
            peer_name="",
            unit="s",
            goal="<= 1 s, memory flat in the number of reports",
            holds=ours <= 1.0 and grown <= 8.0,
        )
    ]


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def wire() -> list[Figure]:
    """dr-wire: bytes of one report beside a whylogs profile of the same window."""
    ours, python, peer = len(_report(0)), python_of("whylogs"), None
    if python is not None:
        done = subprocess.run(
            [str(python), "-c", _WHYLOGS, str(ROWS), str(FEATURES)],
            env={"PATH": "/usr/bin:/bin", "WHYLOGS_NO_ANALYTICS": "True"},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        peer = int(done.stdout.split()[-1])
    limit = 1536 + 100 * FEATURES
    print(f"dr-wire: {ours} bytes, limit {limit}", file=sys.stderr)
    return [
        Figure(
            id="dr-wire",
            what=f"report of {FEATURES} features on the wire (limit {limit} B)",
            ours=float(ours),
            peer=None if peer is None else float(peer),
            peer_name="whylogs 1.6.4",
            unit="B",
            goal="<= 1.5 KiB + 100 B per feature; <= 1/50 of a whylogs profile",
            holds=peer is not None and ours <= limit and 50 * ours <= peer,
        )
    ]
