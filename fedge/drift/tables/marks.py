"""Marks that name a cause by themselves: broken sensors, and rows like nothing in the reference."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from fedge.drift.sensor_faults import Fault, broken_relation, value_fault
from fedge.drift.tables.sides import Pair, Sides
from fedge.drift.tables.stability import Evidence, compare, moments
from fedge.drift.tables.table import Column, Table

Floats = NDArray[np.float64]

FEW = 0.25
"""Sensors break one at a time: a shift or scale of more columns than this part is no fault."""

MOVED = 3.5
"""Strength at which a column counts as moved."""

FAR = 0.1
"""A value is unfamiliar if it lies this far outside the reference's range, in ranges."""

FAR_COLUMNS = 0.25
"""Part of the columns in which a row must be unfamiliar, two at least..."""

FAR_ROWS = 0.5
"""...and part of the rows that must be so."""


def columns_with_faults(
    reference: Table, recent: Table, sides: Sides, named: Collection[str]
) -> dict[str, Fault]:
    """The columns whose sensor bears the signature of a fault.

    Args:
        named: the columns that the alarm is about; others did not raise it.
    """
    numbers = [c for c in reference.features if c.numeric]
    own = {
        c.name: fault
        for c in numbers
        if c.name in named and (fault := value_fault(c.values, recent.column(c.name).values))
    }
    frozen = {name: f for name, f in own.items() if f.kind in ("stuck", "dead", "saturated")}
    if frozen:
        return frozen
    most = max(1, int(FEW * len(numbers)))
    moved = moved_columns(sides)
    if len(moved) > most:
        return {}
    if own and len(own) <= most:
        return own
    return {
        name: fault
        for name in moved
        if name in named
        and name in {c.name for c in numbers}
        and (fault := _broken(sides, name, moved))
    }


def _broken(sides: Sides, name: str, moved: Collection[str]) -> Fault | None:
    """An offset against the columns that stayed, and against the classes if their shares did."""
    others = [i for i, column in enumerate(sides.columns) if column not in moved]
    own = sides.columns.index(name)
    reference, recent = sides.matrix.reference, sides.matrix.recent
    known, now = [reference[:, [own, *others]]], [recent[:, [own, *others]]]
    if (labels := _classes_that_stayed(sides)) is not None:
        known.append(labels.reference)
        now.append(labels.recent)
    before, after = np.hstack(known), np.hstack(now)
    complete = np.isfinite(after).all(axis=1)
    return broken_relation(before[np.isfinite(before).all(axis=1)], after[complete], 0)


def _classes_that_stayed(sides: Sides) -> Pair | None:
    if sides.labelled is None:
        return None
    classes = sides.labelled.classes
    indicators = Pair(
        indicators_of(classes.reference, sides.labelled.count),
        indicators_of(classes.recent, sides.labelled.count),
    )
    still = compare(indicators.reference, indicators.recent).strength()
    return indicators if still < MOVED else None


def indicators_of(classes: Floats, count: int) -> Floats:
    """float64[n, count], 1 where a row is of the class; NaN where nobody knows."""
    held = (classes[:, None] == np.arange(count)).astype(np.float64)
    return np.where(np.isnan(classes)[:, None], np.nan, held)


def moved_columns(sides: Sides) -> dict[str, float]:
    """The columns whose values moved, and how clearly."""
    if not sides.columns:
        return {}
    found = compare(moments(sides.matrix.reference), moments(sides.matrix.recent))
    names = np.array(sides.columns * 2)
    tests = len(sides.columns)
    moved = {}
    for name in dict.fromkeys(sides.columns):
        strength = Evidence(found.z[names == name], found.effect[names == name])
        if (clear := strength.strength(part=1 / tests)) >= MOVED:
            moved[name] = clear
    return moved


def unfamiliar(reference: Table, recent: Table) -> float:
    """Share of recent rows that lie outside of all that the reference holds, in many columns."""
    columns = [c for c in reference.features if c.numeric or c.kind == "category"]
    if len(columns) < 2:
        return 0.0
    outside = np.array([_outside(c, recent.column(c.name)) for c in columns])
    needed = max(2.0, FAR_COLUMNS * len(columns))
    return float((outside.sum(axis=0) >= needed).mean()) if recent.rows else 0.0


def _outside(known: Column, now: Column) -> NDArray[np.bool_]:
    if known.kind == "category":
        seen = {known.categories[int(code)] for code in np.unique(known.values[known.values >= 0])}
        new = np.array([text not in seen for text in now.categories], dtype=np.bool_)
        codes = np.where(np.isnan(now.values), -1, now.values).astype(np.int64)
        return np.where(codes >= 0, new[codes], False) if len(new) else codes >= 0
    finite = known.values[np.isfinite(known.values)]
    if len(finite) == 0:
        return np.zeros(len(now.values), dtype=np.bool_)
    # Halves first: the range of two finite numbers may not be finite.
    margin = 2 * FAR * (finite.max() / 2 - finite.min() / 2)
    # NaN compares false: a missing value is not unfamiliar.
    above, below = finite.max() + margin, finite.min() - margin
    outside: NDArray[np.bool_] = (now.values > above) | (now.values < below)
    return outside
