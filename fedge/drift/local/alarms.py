"""From the signals of one release's rows to local alarms.

Three signals, each a number between 0 and 1 per row: `confidence`, of which a fall matters;
`ood`, how strange the row is among the reference's (`calibration.Ranks`), of which a rise
matters; `error`, 1 for a labelled row that was predicted wrong and 0 for one that was right, of
which a rise matters. Where rows come from, and who is told of an alarm, is for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedge.drift.local.baseline import BaselineDetector
from fedge.drift.local.detectors import (
    AdwinDetector,
    Detector,
    Direction,
    PageHinkleyDetector,
    Signal,
)
from fedge.errors import SettingError

SignalName = Literal["confidence", "ood", "error"]
DetectorName = Literal["adwin", "page-hinkley"]

DIRECTIONS: dict[SignalName, Direction] = {"confidence": "down", "ood": "up", "error": "up"}

FLOOR = 0.05
"""Standard deviation of one row that is believed at least: a model that is sure of everything,
or never wrong, does not alarm at the first row of another kind."""


def standard_detector(kind: DetectorName, direction: Direction, groups: int) -> Detector:
    """A detector for values in units of their own noise, with settings that were measured.

    On groups of 32 rows, independent or an autoregression of 0.9, both stay below one false alarm
    in a million rows; a shift of one row's standard deviation among independent rows is seen
    after some 250 (ADWIN) and 130 rows (Page-Hinkley).

    Raises:
        SettingError: there is no such detector, or river is missing.
    """
    if kind == "adwin":
        return AdwinDetector(delta=0.002, scale=1.0, warmup=groups, direction=direction)
    if kind == "page-hinkley":
        return PageHinkleyDetector(threshold=12.0, slack=0.5, warmup=groups, direction=direction)
    raise SettingError(f"a detector is adwin or page-hinkley, not {kind}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalAlarm:
    """A signal moved, as one gateway saw it by itself.

    Computed from records without noise: for the gateway's own operator.

    Attributes:
        at: when it was noticed, seconds since the epoch.
        release: counter of the release that served the rows.
        rows: how many the detector had seen of this release, the last one included.
        before: mean of the baseline; after: mean of the latest rows. Rounded to two digits.
    """

    at: float
    signal: SignalName
    detector: DetectorName
    release: int
    rows: int
    before: float
    after: float

    def __str__(self) -> str:
        moved = "fell" if self.after < self.before else "rose"
        return f"{self.signal} {moved} from {self.before:.2f} to {self.after:.2f}"


class SignalWatch:
    """One signal of one release under watch.

    Args:
        known: a baseline that an earlier process took.

    Attributes:
        rows: values taken in. skipped: values that were not finite, and told nothing.
        state: what the detector said last.
    """

    def __init__(
        self,
        signal: SignalName,
        kind: DetectorName,
        *,
        release: int,
        group_rows: int,
        baseline_groups: int,
        known: Sequence[float] = (),
    ) -> None:
        self.signal, self._kind, self._release = signal, kind, release
        self._detector = BaselineDetector(
            lambda: standard_detector(kind, DIRECTIONS[signal], baseline_groups),
            rows=group_rows,
            groups=baseline_groups,
            floor=FLOOR,
            known=known,
        )
        self.rows = self.skipped = 0
        self.state = Signal.STABLE if self._detector.baseline else Signal.WARMING_UP

    @property
    def baseline(self) -> tuple[float, ...]:
        """See `BaselineDetector.baseline`."""
        return self._detector.baseline

    @property
    def baselines(self) -> int:
        """See `BaselineDetector.baselines`."""
        return self._detector.baselines

    def take_in(self, values: npt.NDArray[np.floating[Any]], at: float) -> LocalAlarm | None:
        """Watch some more rows; an alarm where they show a drift.

        Args:
            values: float[n]; what is not finite is counted and left out.
        """
        finite = np.isfinite(values)
        known = values if finite.all() else values[finite]
        self.skipped += len(values) - len(known)
        if not len(known):
            return None
        self.rows += len(known)
        self.state = self._detector.extend(known.astype(np.float64))
        shift = self._detector.shift
        if self.state is not Signal.DRIFT or shift is None:
            return None
        return LocalAlarm(
            at=at,
            signal=self.signal,
            detector=self._kind,
            release=self._release,
            rows=self.rows,
            before=round(shift[0], 2),
            after=round(shift[1], 2),
        )

    def facts(self) -> Mapping[str, object]:
        """Its state in a few words and numbers, for the operator."""
        return {
            "state": self.state.value,
            "rows": self.rows,
            "skipped": self.skipped,
            "baseline": _rounded(self._detector.level),
            "now": _rounded(self._detector.level_now),
        }


def _rounded(level: float | None) -> float | None:
    return None if level is None else round(level, 2)
