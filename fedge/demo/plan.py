"""What a demo plays: fixed by its options before anything starts.

Gateways close windows of a fixed number of rows, so every moment of the play is
a row number of one gateway's stream, and the same seed plays the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedge.errors import SettingError

Fault = Literal["lens", "dirt"]
_ONSET, _STREAM, _EVALUATION = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayPlan:
    """The whole play.

    Attributes:
        gateways: how many; `faulty` of them drift, each at its own row `onset_rows[i]`
            (None: never).
        window_slots: rows in a full window.
        baseline_windows: windows that form a gateway's baseline.
        gather_windows: windows after the first alarm until the cohort is frozen.
        label_every: every n-th slot gets its label back, a public rule.
        records: labelled captures that a gateway trains on.
        watch_windows: windows that must pass after the new baseline without a second episode.
        rows_per_s: pace of each gateway's stream.
        rows_per_request: rows that one request carries.
    """

    seed: int
    gateways: int
    faulty: int
    fault: Fault
    quick: bool
    window_slots: int
    baseline_windows: int
    gather_windows: int
    label_every: int
    records: int
    watch_windows: int
    rows_per_s: float
    rows_per_request: int
    onset_rows: tuple[int | None, ...]

    def onset_window(self, gateway: int) -> int | None:
        """Index of the window that holds a gateway's first faulty row."""
        row = self.onset_rows[gateway]
        return None if row is None else row // self.window_slots

    def seeds(self, purpose: Literal["stream", "evaluation"], gateway: int) -> tuple[int, ...]:
        """Numbers that seed one use, so that uses never disturb each other."""
        return (self.seed, {"stream": _STREAM, "evaluation": _EVALUATION}[purpose], gateway)


def make_plan(
    *,
    seed: int = 1,
    gateways: int = 5,
    faulty: int | None = None,
    fault: str = "lens",
    quick: bool = False,
) -> PlayPlan:
    """Turn a demo's options into its play.

    Raises:
        SettingError: an option is out of range; names it.
    """
    if not 1 <= gateways <= 20:
        raise SettingError(f"--gateways must be 1 to 20, not {gateways}")
    faulty = gateways if faulty is None else faulty
    if not 1 <= faulty <= gateways:
        raise SettingError(f"--faulty must be 1 to {gateways}, not {faulty}")
    if fault not in ("lens", "dirt"):
        raise SettingError(f"--fault must be lens or dirt, not {fault!r}")
    if seed < 0:
        raise SettingError(f"--seed must not be negative, not {seed}")
    window_slots, baseline_windows = 200, 12
    label_every, records = 4, 300
    label_windows = -(-records * label_every // window_slots)
    rng = np.random.default_rng([seed, _ONSET])
    stagger = rng.permutation(faulty)
    hit = rng.permutation(gateways)[:faulty]
    onset_rows: list[int | None] = [None] * gateways
    for order, gateway in zip(stagger, hit, strict=True):
        window = baseline_windows + 2 + int(order)
        onset_rows[int(gateway)] = window * window_slots + int(rng.integers(0, window_slots))
    return PlayPlan(
        seed=seed,
        gateways=gateways,
        faulty=faulty,
        fault=fault,  # type: ignore[arg-type]
        quick=quick,
        window_slots=window_slots,
        baseline_windows=baseline_windows,
        # The last gateway hit still fills its labelled windows before the cohort is frozen.
        gather_windows=faulty - 1 + 3 + label_windows,
        label_every=label_every,
        records=records,
        watch_windows=3 if quick else 10,
        rows_per_s=200.0,
        rows_per_request=8,
        onset_rows=tuple(onset_rows),
    )
