"""Row scores of categories and booleans: 0 or 1 by cell.

A cell per common category, one for the rare ones, one for those that the reference has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.table import Column

Floats = NDArray[np.float64]

MAX_CELLS = 24
RARE_SHARE = 0.01
"""Categories below this share of the reference rows are pooled as `rare`."""

_RUN = 0.02
"""Part of the reference that one visit of a rare category fills at most."""

_FOLDS = 10


@dataclass(frozen=True, slots=True)
class Cells:
    """One cell per common category, then `rare` known ones and `unseen` ones."""

    statistics: tuple[RowStatistic, ...]
    cell: dict[str, int]

    def scores(self, column: Column) -> Floats:
        """Scores of any rows, float64[n, cells]: 1 in a row's cell, else 0; NaN where missing.

        A category that the reference had not counts as `unseen`, by its text: numbers of
        categories may differ between tables.
        """
        missing = np.isnan(column.values)
        unseen = len(self.statistics) - 1
        texts = _texts(column)
        cells = np.array([self.cell.get(text, unseen) for text in texts] or [unseen])
        index = cells[np.where(missing, 0, column.values).astype(np.int64)]
        scores: Floats = (index[:, None] == np.arange(len(self.statistics))).astype(np.float64)
        scores[missing] = np.nan
        return scores

    def reference_scores(self, column: Column) -> Floats:
        """Scores of the rows that the cells were fitted on, as those of new rows would be.

        Where categories are many, some of tomorrow's were never met, and that is no drift. How
        often tells a rare category without an equal among the other rows (Good, "The population
        frequencies of species", Biometrika 1953), be it in one row or in one short run. And what
        is common by chance will be rarer, so `rare` is told from the other blocks of rows.
        """
        scores = self.scores(column)
        rare, unseen = len(self.statistics) - 2, len(self.statistics) - 1
        if not scores[:, rare].any():
            return scores
        single = alone(column.values) & (scores[:, rare] == 1)
        known = ~np.isnan(column.values)
        scores[known, rare] = (_pooled(column) & ~single)[known]
        scores[single, unseen] = 1.0
        return scores


def _pooled(column: Column) -> NDArray[np.bool_]:
    """bool[n], whether a row's category is not common among the rows of other blocks."""
    codes = np.where(np.isnan(column.values), 0, column.values).astype(np.int64)
    weights = (~np.isnan(column.values)).astype(np.float64)
    number = int(codes.max(initial=0)) + 1
    total = np.bincount(codes, weights, number)
    pooled = np.zeros(len(codes), dtype=np.bool_)
    for rows in np.array_split(np.arange(len(codes)), _FOLDS):
        others = total - np.bincount(codes[rows], weights[rows], number)
        pooled[rows] = ~np.isin(codes[rows], _common(others))
    return pooled


def alone(codes: Floats) -> NDArray[np.bool_]:
    """bool[n], whether a row's category occurs nowhere else than in a short run around it."""
    rows = np.flatnonzero(~np.isnan(codes))
    found = np.zeros(len(codes), dtype=np.bool_)
    _, first, group = np.unique(codes[rows], return_index=True, return_inverse=True)
    last = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(last, group, np.arange(len(rows)))
    found[rows] = (rows[last] - rows[first] < _RUN * len(codes))[group]
    return found


def _texts(column: Column) -> tuple[str, ...]:
    return column.categories if column.kind == "category" else ("false", "true")


def fit_cells(column: Column) -> Cells:
    """The cells of a column of categories or booleans, from its reference rows."""
    present = column.values[~np.isnan(column.values)].astype(np.int64)
    texts = _texts(column)
    counts = np.bincount(present, minlength=len(texts))
    common = _common(counts)
    cell = {texts[i]: len(common) for i in np.flatnonzero(counts)}
    cell.update({texts[i]: place for place, i in enumerate(common)})
    names = [*(f"cell {texts[i]}" for i in common), "cell rare", "cell unseen"]
    statistics = tuple(RowStatistic((column.name,), name, "feature") for name in names)
    return Cells(statistics, cell)


def _common(counts: NDArray[Any]) -> list[int]:
    """Numbers of the categories that get a cell of their own, most frequent first."""
    order = np.argsort(-counts, kind="stable")[:MAX_CELLS]
    return [int(i) for i in order if counts[i] >= RARE_SHARE * counts.sum()]
