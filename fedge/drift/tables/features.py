"""Row scores of single columns: where values lie, how wide, in which shape, how far apart in time.

A number is scored by its rank among the reference values, so that neither unit nor
outliers matter: a value outside of them scores as the nearest end does. From the rank
u follow the normal score (`location`), its absolute value (`scale`) and the third and
fourth Legendre polynomial (`skew`, `tails`): the first components of Neyman's smooth
test, which say together what a chi-square over cells says, with a direction each.
`step` does the same for the absolute change from row to row, and so notices a sensor
that froze or became noisy although its values stay where they were.

Categories and booleans are scored as 0 or 1 by cell. Missing values are counted on
their own and score nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.categories import Cells, fit_cells
from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.longrun import independent_rows
from fedge.drift.tables.table import Column, Table

Floats = NDArray[np.float64]

LEAST_UNIT = 0.14
"""Least standard deviation by which effects are measured, that of a cell of 2 %: a rare value that
doubles is no large effect."""

SCALE_VISITS = 60.0
"""Independent rows that the width of a column must rest on."""
SHAPE_VISITS = 160.0
"""The same for skew, tails and products of two columns, which come in longer bursts."""

MOSTLY = 0.8
"""A column of which one value makes up more than this part is one of rare events (rain): it has no
shape, and when two of them come together is chance that comes in bursts."""


class _Part(Protocol):
    """The scores of one column."""

    @property
    def statistics(self) -> tuple[RowStatistic, ...]: ...

    def scores(self, column: Column) -> Floats:
        """float64[m, its statistics]."""


@dataclass(frozen=True, slots=True)
class FeatureEncoder:
    """See `Encoder`; made by `fit_features`."""

    parts: tuple[tuple[str, _Part], ...]
    statistics: tuple[RowStatistic, ...]
    unit: Floats
    reference_scores: Floats

    def scores(self, rows: Table) -> Floats:
        """float64[m, T]. The first row has no `step`, for it has no row before."""
        return _stacked(self.parts, rows)


def fit_features(reference: Table) -> FeatureEncoder | None:
    """Learn the columns that are watched as inputs; None if there are none.

    A rank among the reference is no overfit: the reference's own ranks have the mean that ranks
    of new rows of the same kind expect. Categories are another matter (`Cells.reference_scores`).
    """
    return _fit(reference, reference.features)


def fit_columns(reference: Table, names: Sequence[str]) -> FeatureEncoder | None:
    """The same for named columns, whatever their role."""
    return _fit(reference, tuple(reference.column(name) for name in names))


def _fit(reference: Table, columns: tuple[Column, ...]) -> FeatureEncoder | None:
    parts = tuple((column.name, part) for column in columns for part in _parts(column))
    if not parts:
        return None
    scores = np.concatenate(
        [_reference_scores(part, reference.column(name)) for name, part in parts], axis=1
    )
    return FeatureEncoder(
        parts=parts,
        statistics=tuple(statistic for _, part in parts for statistic in part.statistics),
        unit=units(scores),
        reference_scores=scores,
    )


def units(scores: Floats) -> Floats:
    """float64[T], standard deviations of reference scores, floored by `LEAST_UNIT`."""
    present = np.isfinite(scores)
    rows = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, scores, 0.0).sum(axis=0) / rows
    squares = np.where(present, (scores - mean) ** 2, 0.0).sum(axis=0) / rows
    unit: Floats = np.maximum(np.sqrt(squares), LEAST_UNIT)
    return unit


def _reference_scores(part: _Part, column: Column) -> Floats:
    return part.reference_scores(column) if isinstance(part, Cells) else part.scores(column)


def _stacked(parts: tuple[tuple[str, _Part], ...], rows: Table) -> Floats:
    by_name = {column.name: column for column in rows.columns}
    return np.concatenate([part.scores(by_name[name]) for name, part in parts], axis=1)


def _parts(column: Column) -> list[_Part]:
    parts: list[_Part] = [_Missing((RowStatistic((column.name,), "missing", "missing"),))]
    present = column.values[~np.isnan(column.values)]
    if not len(present):
        return parts
    if not column.numeric:
        return [*parts, fit_cells(column)]
    parts.append(_Values(*_ranked(column)))
    steps = _steps(column.values)
    steps = steps[~np.isnan(steps)]
    if len(np.unique(steps)) > 1:
        table = RankTable.of(steps)
        name = (RowStatistic((column.name,), "step", "feature"),)
        parts.append(_Steps(name, RankTable(table.values, table.rows[:, :1])))
    return parts


@dataclass(frozen=True, slots=True)
class _Missing:
    statistics: tuple[RowStatistic, ...]

    def scores(self, column: Column) -> Floats:
        return np.isnan(column.values).astype(np.float64)[:, None]


@dataclass(frozen=True, slots=True)
class RankTable:
    """Scores by rank among reference values.

    Attributes:
        values: float64[k], the distinct reference values in order.
        rows: float64[2 k + 1, S], the scores of a value: below the first, equal to it, between it
            and the second, and so on.
    """

    values: Floats
    rows: Floats

    @classmethod
    def of(cls, values: Floats) -> RankTable:
        """From finite or infinite reference values.

        S = 4: location, scale, skew and tails; only the first two for a constant.
        """
        from scipy.special import ndtri  # heavy, and needed only where a table is fitted

        distinct, counts = np.unique(values, return_counts=True)
        if len(distinct) == 1:
            # No rank to speak of: any other value is an event.
            return cls(distinct, np.array([[-1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
        below = np.concatenate([[0], np.cumsum(counts)])
        rank = np.empty(2 * len(distinct) + 1)
        rank[::2], rank[1::2] = below, below[:-1] + counts / 2
        # As if half a value lay beyond each end.
        share = (rank + 0.5) / (len(values) + 1)
        normal, spread = ndtri(share), 2 * share - 1
        skew = np.sqrt(7) * (5 * spread**3 - 3 * spread) / 2
        tails = 3 * (35 * spread**4 - 30 * spread**2 + 3) / 8
        return cls(distinct, np.column_stack([normal, np.abs(normal), skew, tails]))

    def __call__(self, values: Floats) -> Floats:
        """float64[m, S]; NaN where a value is NaN."""
        missing = np.isnan(values)
        index = self.values.searchsorted(values)
        found = self.values[np.minimum(index, len(self.values) - 1)] == values
        scores: Floats = self.rows[2 * index + found]
        scores[missing] = np.nan
        return scores


@dataclass(frozen=True, slots=True)
class _Values:
    statistics: tuple[RowStatistic, ...]
    table: RankTable

    def scores(self, column: Column) -> Floats:
        return self.table(column.values)


@dataclass(frozen=True, slots=True)
class _Steps:
    statistics: tuple[RowStatistic, ...]
    table: RankTable

    def scores(self, column: Column) -> Floats:
        return self.table(_steps(column.values))


def _ranked(column: Column) -> tuple[tuple[RowStatistic, ...], RankTable]:
    """Location always. A width needs three distinct values, a shape six; a constant has a width of
    nothing.

    Both need a column that visits its range several times within the reference: of one that
    wanders through it once, the shape is chance.
    """
    present = column.values[~np.isnan(column.values)]
    table = RankTable.of(present)
    distinct = len(table.values)
    names: tuple[str, ...] = ("location", "scale", "skew", "tails")
    names = names[: 1 if distinct == 2 else 2 if distinct < 6 else 4]
    if distinct > 1:
        visits = independent_rows(table(column.values)[:, :1])[0]
        shaped = visits >= SHAPE_VISITS and commonest(present) <= MOSTLY
        names = names[: 1 if visits < SCALE_VISITS else 4 if shaped else 2]
    statistics = tuple(RowStatistic((column.name,), kind, "feature") for kind in names)
    return statistics, RankTable(table.values, table.rows[:, : len(names)])


def commonest(values: Floats) -> float:
    """Share of the value that occurs most."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values))


def _steps(values: Floats) -> Floats:
    """Absolute change from the row before; NaN where either is missing or both are infinite."""
    with np.errstate(invalid="ignore"):
        steps: Floats = np.abs(np.diff(values, prepend=np.nan))
    return steps
