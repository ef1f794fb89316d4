"""What a replay found: windows judged, alarms raised, and how far the reference could be trusted.

Records only. They are made by `replay`, explained by `explain`, and drawn and printed by others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.expected_accuracy import ExpectedAccuracy
from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.findings import TableFinding
from fedge.drift.tables.frames import ReplayFaces
from fedge.drift.tables.table import ColumnKind
from fedge.drift.words import Cause, Scope

Json = dict[str, object]
"""What `json.dumps` takes; no NaN and no infinity in it."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A statistic that left its baseline.

    Attributes:
        z: deviation of the mean in standard errors; its sign is the direction.
        effect: the shift of the mean in reference standard deviations of one row.
        length: over how many of the latest windows the mean was taken.
        strength: |z| over its own threshold: 1 is just an alarm. Comparable between statistics
            whose baselines are known unequally well, which z is not.
    """

    statistic: RowStatistic
    z: float
    effect: float
    length: int
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """One window after the reference.

    Attributes:
        start_row, end_row: counted from 0 over the whole stream; the end is excluded.
        drifted: an alarm fired here, or one that fired before still stands because the rows since
            are not yet a new baseline.
        cause: of that alarm; None where not drifted.
        features: columns of that alarm; empty where not drifted.
        tested: whether there was a baseline to compare with. A window that could not be tested is
            no window without drift.
        concept_tested: the same of concept drift, which needs labels in the window; None where no
            label was asked for.
    """

    start_row: int
    end_row: int
    drifted: bool
    cause: Cause | None
    features: tuple[str, ...]
    tested: bool
    concept_tested: bool | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: an episode begins.

    Attributes:
        row: the last row seen when it fired.
        onset_row: first row of the window in which the change most likely began.
        confidence: 0 to 1, that something moved, see `episode.Change`.
        sentence: for a person.
        moved: the statistics behind it, strongest first.
        expected: accuracy of the model expected from its confidence; None where it is not known.
        cause_confidence: 0 to 1, that the cause is this one.
    """

    row: int
    onset_row: int
    cause: Cause
    scope: Scope
    features: tuple[str, ...]
    confidence: float
    sentence: str
    moved: tuple[Moved, ...]
    expected: ExpectedAccuracy | None = None
    cause_confidence: float = math.nan


@dataclass(frozen=True, slots=True)
class ReferenceFacts:
    """How far the reference rows carry.

    Attributes:
        certified_false_alarms: false-alarm episodes per 720 windows that can be vouched for; never
            below the budget that was asked for. Infinite where nothing can be vouched for.
        notes: sentences for a person.
    """

    rows: int
    certified_false_alarms: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WatchedColumn:
    """A column as it was understood."""

    name: str
    kind: ColumnKind
    note: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Replay(ReplayFaces):
    """A stream replayed.

    Attributes:
        rows: of the whole stream, reference rows included.
        window: rows of one full window; the last one may be shorter.
        statistics: what was watched, T of them; later references may watch others than the first.
        z: float64[W, T], the strongest deviation over all lengths that end with the window, in
            standard errors; NaN where it was not tested.
        strength: float64[W, T], the same over the threshold: 1 and more is an alarm if the effect
            is large enough too.
        effect: float64[W, T], shift of the window's own mean in reference standard deviations.
        findings: what is odd about the table itself.
        false_alarms, min_effect, epsilon, seed: the settings, see `replay`.
        unlabelled_from: the row from which on no label comes any more, so that concept drift is
            unknown; None where labels come to the end, or are not asked for.
    """

    rows: int
    window: int
    columns: tuple[WatchedColumn, ...]
    reference: ReferenceFacts
    windows: tuple[JudgedWindow, ...]
    alarms: tuple[Alarm, ...]
    statistics: tuple[RowStatistic, ...]
    z: NDArray[np.float64]
    strength: NDArray[np.float64]
    effect: NDArray[np.float64]
    findings: tuple[TableFinding, ...] = ()
    false_alarms: float = math.nan
    min_effect: float = math.nan
    epsilon: float | None = None
    seed: int = 0
    unlabelled_from: int | None = None

    def __repr__(self) -> str:
        rows = ", ".join(str(alarm.row) for alarm in self.alarms)
        alarms = f"alarms at rows {rows}" if self.alarms else "no alarm"
        return f"Replay({self.rows} rows, {len(self.windows)} windows of {self.window}, {alarms})"

    @property
    def drifted(self) -> bool | None:
        """Whether any alarm fired; None where none did and not every window could be tested."""
        if self.alarms:
            return True
        return None if self.unknown else False

    @property
    def unknown(self) -> tuple[str, ...]:
        """Why quiet is no proof of no drift, in sentences; empty where it is one.

        Labels that stop are no such reason: all but concept drift was judged (`unlabelled_from`).
        """
        untested = sum(not window.tested for window in self.windows)
        if not untested and self.windows:
            return ()
        return (f"{untested} of {len(self.windows)} windows could not be tested",)

    def to_json(self) -> Json:
        """What `fedge drift replay --json` prints."""
        return {
            "rows": self.rows,
            "window": self.window,
            "drifted": self.drifted,
            "unknown": list(self.unknown),
            "unlabelled_from": self.unlabelled_from,
            "columns": [{"name": c.name, "type": c.kind, "note": c.note} for c in self.columns],
            "windows": [
                {
                    "start_row": w.start_row,
                    "end_row": w.end_row,
                    "drifted": w.drifted,
                    "cause": w.cause,
                    "features": list(w.features),
                    "tested": w.tested,
                    "concept_tested": w.concept_tested,
                }
                for w in self.windows
            ],
            "alarms": [
                {
                    "row": a.row,
                    "cause": a.cause,
                    "scope": a.scope,
                    "features": list(a.features),
                    "confidence": a.confidence,
                    "cause_confidence": _finite(a.cause_confidence),
                    "onset_row": a.onset_row,
                    "sentence": a.sentence,
                    "expected_accuracy": _accuracy(a.expected),
                }
                for a in self.alarms
            ],
            "reference": {
                "rows": self.reference.rows,
                "certified_false_alarms": _finite(self.reference.certified_false_alarms),
                "notes": list(self.reference.notes),
            },
            "findings": [finding.to_json() for finding in self.findings],
        }


def _accuracy(expected: ExpectedAccuracy | None) -> Json | None:
    if expected is None:
        return None
    return {
        "value": expected.value,
        "low": expected.low,
        "high": expected.high,
        "reference": expected.reference,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
