"""Feature columns as a matrix of numbers that any small model takes.

Numbers are standardised on the reference rows, clipped to a little beyond the reference's range,
and gaps filled with its mean, with one column more that says where the gaps were. Categories become
one column for each frequent one. Constant columns bring nothing and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.table import Column, Table

MAX_CELLS = 12
"""Most categories of one column that get a matrix column of their own, the frequent ones."""

MIN_CELL_ROWS = 3
"""A rarer category is not told from the others: a model could only learn its rows by heart."""

REACH = 0.5
"""How far beyond the reference's range numbers count, in ranges: further out no model knows
anything, and a linear one would answer wildly."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the matrix.

    Attributes:
        column: name of the table's column.
        category: the text whose rows are 1; None for numbers and gaps.
        gap: 1 where the table's value is missing.
    """

    column: str
    category: str | None = None
    gap: bool = False
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    spread: float = 1.0

    @property
    def name(self) -> str:
        if self.gap:
            return f"{self.column} missing"
        return self.column if self.category is None else f"{self.column}={self.category}"

    def values(self, column: Column) -> NDArray[np.float64]:
        """float64[m], standardised."""
        return (self._raw(column) - self.mean) / self.spread

    def _raw(self, column: Column) -> NDArray[np.float64]:
        missing = np.isnan(column.values)
        if self.gap:
            return missing.astype(np.float64)
        if self.category is not None:
            return cells(column, self.category).astype(np.float64)
        return np.where(missing, self.mean, np.clip(column.values, self.low, self.high))


@dataclass(frozen=True, slots=True)
class Design:
    """The matrix's columns, fitted on reference rows; possibly none."""

    features: tuple[Feature, ...]

    def matrix(self, rows: Table) -> NDArray[np.float64]:
        """float64[m, D], finite, mean 0 and variance 1 on the reference rows."""
        matrix = np.empty((rows.rows, len(self.features)))
        for index, feature in enumerate(self.features):
            matrix[:, index] = feature.values(rows.column(feature.column))
        return matrix


def cells(column: Column, category: str) -> NDArray[np.bool_]:
    """bool[n], which rows hold a category. By its text: tables may number theirs differently."""
    if category not in column.categories:
        return np.zeros(len(column.values), dtype=np.bool_)
    held: NDArray[np.bool_] = column.values == column.categories.index(category)
    return held


def fit_design(reference: Table) -> Design:
    """Learn the matrix of a table's features; roles and excluded columns are none."""
    features: list[Feature] = []
    for column in reference.features:
        features += _of_cells(column) if column.kind == "category" else _of_numbers(column)
        missing = np.isnan(column.values)
        if MIN_CELL_ROWS <= missing.sum() < len(missing):
            features.append(_scaled(Feature(column.name, gap=True), column))
    return Design(tuple(features))


def _of_cells(column: Column) -> list[Feature]:
    codes = column.values[~np.isnan(column.values)].astype(np.int64)
    counts = np.bincount(codes, minlength=len(column.categories))
    frequent = np.argsort(-counts, kind="stable")[:MAX_CELLS]
    return [
        _scaled(Feature(column.name, category=column.categories[code]), column)
        for code in frequent
        if MIN_CELL_ROWS <= counts[code] < len(column.values)
    ]


def _of_numbers(column: Column) -> list[Feature]:
    finite = column.values[np.isfinite(column.values)]
    if len(finite) == 0 or finite.min() == finite.max():
        return []
    low, high = float(finite.min()), float(finite.max())
    # Halves first: the range of two finite numbers may not be finite.
    margin = min(REACH * 2 * (high / 2 - low / 2), np.finfo(np.float64).max / 4)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, spread = float(finite.mean()), float(finite.std())
    if not (np.isfinite(mean) and 0 < spread < np.inf):
        return []
    return [Feature(column.name, None, False, low - margin, high + margin, mean, spread)]


def _scaled(feature: Feature, column: Column) -> Feature:
    share = float(feature.values(column).mean())
    spread = max(float(np.sqrt(share * (1 - share))), 1e-3)
    return Feature(feature.column, feature.category, feature.gap, mean=share, spread=spread)
