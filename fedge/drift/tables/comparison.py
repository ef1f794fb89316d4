"""What a comparison of two tables found: each column judged, and the whole.

Records only; `compare` makes them. States are derived from the numbers kept here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedge.drift.distances import Effect
from fedge.drift.tables.findings import TableFinding
from fedge.drift.tables.frames import ComparisonFaces
from fedge.drift.tables.outcome import Json, Moved
from fedge.drift.tables.table import ColumnKind, Table
from fedge.drift.words import Cause

State = Literal["drift", "no drift", "unknown", "not watched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnVerdict:
    """One column of two tables.

    Attributes:
        state: `unknown` where the rows say too little, or one table lacks the column;
            `not watched` for clocks, counters, identifiers and columns without any value.
        strongest: the statistic with the smallest p-value and its evidence; None where none was
            tested.
        p_value: chance of evidence this strong without drift, over all tests of all columns
            (Holm); NaN where nothing was tested.
        rank: q-value of Benjamini and Hochberg, by which columns are ranked and nothing decided.
        detectable: the shift in reference standard deviations that would be seen four times in
            five; infinite where none would.
        effects: effect sizes with intervals; none decides anything.
        words: one sentence for a person.
    """

    name: str
    kind: ColumnKind
    state: State
    strongest: Moved | None = None
    p_value: float = math.nan
    rank: float = math.nan
    detectable: float = math.inf
    effects: tuple[Effect, ...] = ()
    words: str = ""

    @property
    def drifted(self) -> bool | None:
        """None where it is not known."""
        return {"drift": True, "no drift": False}.get(self.state)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(ComparisonFaces):
    """Two tables compared.

    Attributes:
        reference, current: the tables as they were understood.
        columns: of both tables, those of the reference first.
        others: statistics of no single column (structure, model outputs) that moved.
        cause, confidence, sentence: of the drift; None, 0 and a sentence where there is none.
        features: columns that moved, strongest first.
        unknown: why the answer is not known, in sentences; empty where it is. Drift that was seen
            is drift, also where something else could not be judged.
        notes: what else a person should know.
        false_alarms: the chance of calling two tables without drift drifted, over all columns.
        min_effect: least shift, in reference standard deviations, that counts.
    """

    reference: Table
    current: Table
    columns: tuple[ColumnVerdict, ...]
    others: tuple[Moved, ...]
    findings: tuple[TableFinding, ...]
    cause: Cause | None
    confidence: float
    sentence: str
    features: tuple[str, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    false_alarms: float
    min_effect: float

    def __repr__(self) -> str:
        if self.state != "drift":
            return f"Comparison({self.headline})"
        drifted = sum(column.state == "drift" for column in self.columns)
        return f"Comparison(drift in {drifted} of {len(self.columns)} columns, cause {self.cause})"

    @property
    def state(self) -> State:
        """The verdict about the whole table."""
        if self.others or any(column.state == "drift" for column in self.columns):
            return "drift"
        return "unknown" if self.unknown else "no drift"

    @property
    def headline(self) -> str:
        """Verdict and sentence; a sentence about no drift tells the verdict itself."""
        return f"drift: {self.sentence}" if self.state == "drift" else self.sentence

    @property
    def drifted(self) -> bool | None:
        """Whether the current table drifted; None where that could not be judged."""
        return {"drift": True, "no drift": False}.get(self.state)

    @property
    def detectable(self) -> float:
        """The shift that would be seen in any watched column, in reference deviations."""
        watched = [c.detectable for c in self.columns if c.state in ("drift", "no drift")]
        return max(watched, default=math.inf)

    def to_json(self) -> Json:
        """What `fedge drift compare --json` prints."""
        return {
            "reference_rows": self.reference.rows,
            "current_rows": self.current.rows,
            "state": self.state,
            "drifted": self.drifted,
            "cause": self.cause,
            "confidence": self.confidence,
            "sentence": self.sentence,
            "features": list(self.features),
            "false_alarms": self.false_alarms,
            "min_effect": self.min_effect,
            "detectable": finite(self.detectable),
            "columns": [_column(column) for column in self.columns],
            "others": [_moved(moved) for moved in self.others],
            "findings": [finding.to_json() for finding in self.findings],
            "unknown": list(self.unknown),
            "notes": list(self.notes),
        }


def finite(number: float) -> float | None:
    """The number, None where it is none: JSON has neither NaN nor infinity."""
    return number if math.isfinite(number) else None


def _column(column: ColumnVerdict) -> Json:
    return {
        "name": column.name,
        "type": column.kind,
        "state": column.state,
        "drifted": column.drifted,
        "statistic": _moved(column.strongest) if column.strongest else None,
        "p_value": finite(column.p_value),
        "rank": finite(column.rank),
        "detectable": finite(column.detectable),
        "effects": {
            e.name: {"value": finite(e.value), "low": finite(e.low), "high": finite(e.high)}
            for e in column.effects
        },
        "words": column.words,
    }


def _moved(moved: Moved) -> Json:
    return {
        "columns": list(moved.statistic.columns),
        "name": moved.statistic.name,
        "group": moved.statistic.group,
        "z": finite(moved.z),
        "effect": finite(moved.effect),
    }
