"""What the ledger's two transactions take on a disk: reserve and settle, each with its fsync."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure
from fedge.privacy.ledger import FEATURES, Ledger
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, DiscreteGaussianEvent, sha256_hex
from fedge.statefile import StateFile

WARM_UP, PAIRS = 100, 400
BLOCK_WINDOWS = 100
GOAL_MS = 2.0


def measure() -> list[Figure]:
    """pr-ledger: milliseconds of reserve and settle of one window's report, median of 400.

    The state file lies on the disk of the present folder, as a temporary folder may be memory.
    Granting and drawing noise lie between the two and are not counted. The peer, two bare commits
    of one small row each, is measured in turn with them: what the disk alone takes.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        state = StateFile(Path(folder) / "state.sqlite")
        try:
            times, bare = _reserve_and_settle(state)
        finally:
            state.close()
    times.sort()
    median, late = statistics.median(times), times[int(0.95 * len(times))]
    print(f"pr-ledger: 95th percentile {late:.2f} ms", file=sys.stderr)
    return [
        Figure(
            id="pr-ledger",
            what=f"reserve + settle with full fsync (p95 {late:.2f} ms, {len(times)} pairs)",
            ours=median,
            peer=statistics.median(bare),
            peer_name="two bare SQLite commits",
            unit="ms",
            goal=f"<= {GOAL_MS:g} ms",
            holds=median <= GOAL_MS,
        )
    ]


def _reserve_and_settle(state: StateFile) -> tuple[list[float], list[float]]:
    """Milliseconds of each pair, and of two bare commits, after some that are not counted."""
    policy = new_policy(
        epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=BLOCK_WINDOWS)
    )
    ledger = Ledger(state, policy, clock=time.time)
    state.ensure("CREATE TABLE bare (number INTEGER PRIMARY KEY)")
    sigma2 = int(33 / (2 * policy.window_rho)) + 1
    event = DiscreteGaussianEvent(sensitivity2=33, sigma2=sigma2, count=1, dimension=130)
    times, bare = [], []
    for window in range(WARM_UP + PAIRS):
        block = window // BLOCK_WINDOWS
        ledger.open_block(block)
        artefact = sha256_hex(window.to_bytes(8, "big"))
        start = time.perf_counter()
        reservation = ledger.reserve_window(window, block, [event])
        reserved = time.perf_counter()
        ledger.grant(reservation, FEATURES, event).take(33, sigma2, 130)
        granted = time.perf_counter()
        ledger.settle(reservation, FEATURES, artefact, "os")
        settled = time.perf_counter()
        for number in (2 * window, 2 * window + 1):
            with state.transaction() as db:
                db.execute("INSERT INTO bare VALUES (?)", (number,))
        times.append(1e3 * (settled - granted + reserved - start))
        bare.append(1e3 * (time.perf_counter() - settled))
    ledger.check_chain()
    return times[WARM_UP:], bare[WARM_UP:]
