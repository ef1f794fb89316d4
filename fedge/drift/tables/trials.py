"""The tests that a comparison of two tables makes, column by column and beyond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.cells import Blocks, CellCounts, count_categories, count_numbers
from fedge.drift.tables.encoding import Group, RowStatistic
from fedge.drift.tables.means import (
    Means,
    Series,
    Shape,
    judge_means,
    judge_shape,
    scored,
    weighted,
)
from fedge.drift.tables.table import Column

Floats = NDArray[np.float64]

_TELLING_CELLS = 3
"""Categories whose shares are followed over blocks, to see how rows resemble their neighbours."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One test.

    Attributes:
        p_value: of this test alone.
        z: evidence in standard errors of a normal variable; its sign is the direction, shapes have
            none.
        effect: in reference standard deviations.
        error: standard error of `effect`; of shapes the root of what chance alone makes of its
            square.
        degrees: of freedom behind `error`.
    """

    statistic: RowStatistic
    p_value: float
    z: float
    effect: float
    error: float
    degrees: float
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class ColumnTrials:
    """The tests of one column, and its rows in cells.

    Attributes:
        rows: independent rows that reference and current are worth.
    """

    reference: Column
    current: Column
    cells: CellCounts
    trials: tuple[Trial, ...]
    rows: tuple[float, float]

    @property
    def varies(self) -> bool:
        """Whether both tables hold more than one value."""
        return all(int((total[:-1] > 0).sum()) > 1 for total in self.cells.totals)

    def scores(self, side: int) -> NDArray[np.float32]:
        """float32[n], normal scores of the rows of reference (0) or current (1), with mean 0 and
        variance 1 there; 0 where missing. For ordered columns that vary."""
        counts = self.cells.totals[side][:-1]
        score = _normal_scores(self.cells.totals[0][:-1])
        score = score - score @ counts / counts.sum()
        score = score / math.sqrt(max(float(score**2 @ counts / counts.sum()), 1e-18))
        return np.append(score, 0.0).astype(np.float32).take(self.cells.codes[side])

    def detectable(self, level: float) -> float:
        """The shift that is seen four times in five at `level` for each test."""
        return min(
            (detectable(t, level) for t in self.trials if t.statistic.name in _BROAD),
            default=math.inf,
        )


_BROAD = ("location", "shape")


def detectable(trial: Trial, level: float) -> float:
    """The effect that a test sees four times in five."""
    if trial.shape is not None:
        return trial.shape.detectable(level)
    from scipy.special import stdtrit

    return (0.8416 - float(stdtrit(trial.degrees, level / 2))) * trial.error


def trials_of_columns(
    pairs: Sequence[tuple[Column, Column, Group]], blocks: tuple[Blocks, Blocks]
) -> list[ColumnTrials]:
    """Location, scale, shape and missing values of columns that both tables have.

    Args:
        pairs: reference, current, and what the column is: a feature, a prediction, a label.
    """
    if not pairs:
        return []
    counted = [_counted(reference, current, blocks) for reference, current, _ in pairs]
    watched = [_series(cells) for cells in counted]
    flat = [series for column in watched for series in column.values()]
    means = judge_means(flat)
    found, start = [], 0
    for (reference, current, group), cells, series in zip(pairs, counted, watched, strict=True):
        part = _part(means, slice(start, start + len(series)))
        start += len(series)
        found.append(_judged(reference, current, group, cells, list(series), part))
    return found


def _counted(reference: Column, current: Column, blocks: tuple[Blocks, Blocks]) -> CellCounts:
    if reference.kind == "category":
        return count_categories(reference, current, blocks)
    return count_numbers(reference, current, blocks)


def _series(cells: CellCounts) -> dict[str, Series]:
    """What is followed over blocks: tests by their names, and telling cells of categories."""
    total = cells.totals
    found: dict[str, Series] = {}
    gap = np.zeros(len(total[0]))
    if cells.ordered:
        score = np.append(_normal_scores(total[0][:-1]), np.nan)
        found["location"] = weighted(cells, score)
        if cells.many:
            found["scale"] = weighted(cells, score**2)
    else:
        for cell in _telling((total[0] + total[1])[:-1]):
            weights = gap.copy()
            weights[cell], weights[-1] = 1.0, np.nan
            found[f"cell {cell}"] = weighted(cells, weights)
    if total[0][-1] or total[1][-1]:
        gap[-1] = 1.0
        found["missing"] = weighted(cells, gap)
    return found


def _telling(counts: Floats) -> list[int]:
    """The fullest cells; a rare one says nothing about how rows resemble each other."""
    fullest = np.argsort(-counts, kind="stable")[:_TELLING_CELLS]
    return [int(c) for i, c in enumerate(fullest) if i == 0 or counts[c] >= 0.05 * counts.sum()]


def _normal_scores(counts: Floats) -> Floats:
    """float64[B], normal quantile of the middle rank of each cell (van der Waerden, 1952)."""
    from scipy.special import ndtri

    rows = max(1.0, float(counts.sum()))
    middle = (np.cumsum(counts) - counts / 2) / rows
    scores: Floats = ndtri(np.clip(middle, 0.5 / (rows + 1), 1 - 0.5 / (rows + 1)))
    return scores


def _part(means: Means, part: slice) -> Means:
    return Means(
        means.difference[part],
        means.variance[part],
        means.degrees[part],
        means.unit[part],
        means.inflation[:, part],
        means.beyond[:, part],
    )


def _judged(
    reference: Column,
    current: Column,
    group: Group,
    cells: CellCounts,
    names: list[str],
    means: Means,
) -> ColumnTrials:
    values = [i for i, name in enumerate(names) if name != "missing"]
    # Labels come late: that some are missing yet is no drift.
    late = ("missing",) if group == "label" else ()
    shown = [i for i, name in enumerate(names) if not name.startswith(("cell ", *late))]
    statistics = {
        i: RowStatistic((reference.name,), names[i], "missing" if names[i] == "missing" else group)
        for i in shown
    }
    trials = trials_of_means(means, statistics)
    inflation = means.inflation[:, values].max(axis=1)
    if cells.many:
        shape = judge_shape(
            cells,
            (float(means.beyond[0, values].max()), float(means.beyond[1, values].max())),
            float(means.degrees[values].min()),
        )
        statistic = RowStatistic((reference.name,), "shape", group)
        if shape is not None:
            trials.append(_of_shape(shape, statistic))
        elif not cells.ordered:
            # One category only: its share stands for all of them.
            trials += trials_of_means(means, {0: statistic})
    known = [float(total[:-1].sum()) for total in cells.totals]
    rows = (known[0] / inflation[0], known[1] / inflation[1])
    return ColumnTrials(reference, current, cells, tuple(trials), rows)


def trials_of_means(means: Means, statistics: dict[int, RowStatistic]) -> list[Trial]:
    """A test for each of some means."""
    p_values, z, effect = means.p_values(), means.z, means.effect
    error = np.sqrt(means.variance) / means.unit
    return [
        Trial(
            statistic,
            float(p_values[i]),
            math.copysign(normal_z(float(p_values[i])), float(z[i])),
            float(effect[i]),
            float(error[i]),
            float(means.degrees[i]),
        )
        for i, statistic in statistics.items()
    ]


def _of_shape(shape: Shape, statistic: RowStatistic) -> Trial:
    p_value = shape.p_value
    error = math.sqrt(shape.mean)
    return Trial(statistic, p_value, normal_z(p_value), shape.effect, error, shape.second, shape)


def normal_z(p_value: float) -> float:
    """The |z| of a normal variable that is as rare."""
    from scipy.special import ndtri

    return -float(ndtri(max(p_value, 1e-300) / 2))


def trials_of_scores(
    statistics: Sequence[RowStatistic],
    scores: tuple[Floats, Floats],
    unit: Floats,
    blocks: tuple[Blocks, Blocks],
) -> list[Trial]:
    """Tests of an encoder's row scores, float64[n, T] and float64[m, T].

    A score that one of the tables has in hardly any row cannot be judged, and is left out.
    """
    kept: dict[int, RowStatistic] = {}
    series: list[Series] = []
    for index, statistic in enumerate(statistics):
        both = scores[0][:, index], scores[1][:, index]
        if min(int(np.isfinite(side).sum()) for side in both) >= _LEAST_SCORED:
            kept[len(series)] = statistic
            series.append(scored(both[0], both[1], blocks, float(unit[index])))
    return trials_of_means(judge_means(series), kept) if series else []


_LEAST_SCORED = 10
