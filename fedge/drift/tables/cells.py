"""Two tables' rows counted in cells that the reference fixes, block by block in order of rows.

A block is a run of consecutive rows: some hundreds of them keep what is needed to
know how rows resemble their neighbours, at a fraction of the work. Every statistic of
a column is a weighted sum of its cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.categories import alone
from fedge.drift.tables.table import Column

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]

BINS = 20
"""Cells of a number at most: at 20, ranks in cells know nearly all that ranks of rows do."""

MAX_BLOCKS = 256

_ROWS_PER_BIN = 10
_KEPT_CATEGORIES = 30


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which block each row of a table is in.

    Attributes:
        of_row: int64[n].
        rows: float64[G], rows of each block; they differ by one at most.
    """

    of_row: NDArray[np.int64]
    rows: Floats

    @classmethod
    def of(cls, rows: int) -> Blocks:
        """At most `MAX_BLOCKS` blocks of `rows` rows; of a short table each row is one."""
        blocks = min(rows, MAX_BLOCKS)
        of_row = np.arange(rows, dtype=np.int64) * blocks // max(1, rows)
        return cls(of_row, np.bincount(of_row, minlength=blocks).astype(np.float64))

    def count(self, cells: Codes, number: int) -> Floats:
        """float64[G, number], how often each cell occurs in each block."""
        blocks = len(self.rows)
        place = self.of_row * number
        place += cells
        counted = np.bincount(place, minlength=blocks * number)
        return counted.reshape(blocks, number).astype(np.float64)


@dataclass(frozen=True, slots=True)
class CellCounts:
    """One column of both tables in the same cells.

    Attributes:
        reference, current: float64[G, B + 1] counts by block; the last cell holds missing values.
        totals: float64[B + 1] each, the same over all blocks.
        codes: uint8[n] and uint8[m], the cell of each row.
        labels: B texts that name the cells of categories; empty for numbers.
        known: float64[k], the reference's values in increasing order, without missing ones; empty
            for categories.
        ordered: whether cells have an order.
        many: whether there are more than two values, so that spread and shape mean something.
    """

    reference: Floats
    current: Floats
    totals: tuple[Floats, Floats]
    codes: tuple[Codes, Codes]
    labels: tuple[str, ...]
    known: Floats
    ordered: bool
    many: bool


def count_numbers(reference: Column, current: Column, blocks: tuple[Blocks, Blocks]) -> CellCounts:
    """Count a numeric or boolean column on bins between the reference's quantiles."""
    known = reference.values[~np.isnan(reference.values)]
    known.sort()
    least = min(len(known), int((~np.isnan(current.values)).sum()))
    edges, atoms = _edges(known, int(np.clip(least // _ROWS_PER_BIN, 2, BINS)))
    number = len(edges) + 2
    codes = _cells(edges, reference.values), _cells(edges, current.values)
    counted = [block.count(cells, number) for block, cells in zip(blocks, codes, strict=True)]
    totals = counted[0].sum(axis=0), counted[1].sum(axis=0)
    return CellCounts(
        counted[0], counted[1], totals, codes, (), known, True, many=not 0 < atoms <= 2
    )


def count_categories(
    reference: Column, current: Column, blocks: tuple[Blocks, Blocks]
) -> CellCounts:
    """Count categories: frequent ones, other ones, those that the reference has not, missing.

    Which are frequent is told from both tables, else chance alone would make those of the
    reference rarer in the current one; and a rare one that the reference has but once counts there
    as unseen, for so often it meets what its other rows have not (Good 1953).
    """
    frequency = _frequency(reference)
    place = _frequent(reference, current, frequency)
    rare = len(place)
    known = {t for t, times in zip(reference.categories, frequency, strict=True) if times}
    number = rare + 3
    codes = []
    for column in (reference, current):
        to_cell = np.array(
            [place.get(t, rare + (t not in known)) for t in column.categories] + [number - 1],
            dtype=np.uint8,
        )
        codes.append(to_cell[_codes(column)])
    codes[0][alone(reference.values) & (codes[0] == rare)] = rare + 1
    counted = [block.count(cells, number) for block, cells in zip(blocks, codes, strict=True)]
    labels = (*place, "(others)", "(unseen)")
    both = codes[0], codes[1]
    totals = counted[0].sum(axis=0), counted[1].sum(axis=0)
    return CellCounts(counted[0], counted[1], totals, both, labels, np.empty(0), False, many=True)


def _codes(column: Column) -> NDArray[np.int64]:
    """int64[n], of each row's category; one more than the last where it is missing."""
    missing = np.isnan(column.values)
    return np.where(missing, len(column.categories), column.values).astype(np.int64)


def _frequency(column: Column) -> NDArray[np.int64]:
    """int64[categories]."""
    return np.bincount(_codes(column), minlength=len(column.categories) + 1)[:-1]


def _frequent(reference: Column, current: Column, frequency: NDArray[np.int64]) -> dict[str, int]:
    """The cells of categories that the reference has and that both tables together have most."""
    later = dict(zip(current.categories, _frequency(current).tolist(), strict=True))
    both = frequency + [later.get(text, 0) for text in reference.categories]
    order = np.argsort(-both, kind="stable")
    kept = order[frequency[order] > 0][:_KEPT_CATEGORIES]
    return {reference.categories[code]: cell for cell, code in enumerate(kept)}


def _edges(known: Floats, bins: int) -> tuple[Floats, int]:
    """Edges of half-open cells, and the number of distinct values where each has its own cell.

    A value on which much of the reference lies gets a cell of its own.

    Args:
        known: float64[n] in increasing order.
    """
    if not len(known):
        return np.empty(0), 0
    rises = known[1:] != known[:-1]
    if np.count_nonzero(rises) < BINS:
        values = np.append(known[:-1][rises], known[-1])
        return np.append(values, np.nextafter(values[-1], np.inf)), len(values)
    cuts = known[(np.arange(1, bins) * len(known)) // bins]
    heavy = np.unique(cuts[1:][cuts[1:] == cuts[:-1]])
    return np.unique(np.concatenate([cuts, np.nextafter(heavy, np.inf)])), 0


def _cells(edges: Floats, values: Floats) -> Codes:
    # With so few edges, counting the edges passed is several times faster than searching them.
    cells = np.zeros(len(values), dtype=np.uint8)
    passed = np.empty(len(values), dtype=np.bool_)
    for edge in edges:
        np.greater_equal(values, edge, out=passed)
        cells += passed.view(np.uint8)
    cells[np.isnan(values)] = len(edges) + 1
    return cells


def merged(reference: Floats, current: Floats, least: float = 5.0) -> NDArray[np.int64]:
    """int64[B], the cell that each cell counts in so that none holds fewer than `least` rows.

    Args:
        reference, current: float64[B] counts of both tables.
    """
    pooled = reference + current
    target = np.arange(len(pooled))
    rare = pooled < least
    if not rare.any() or rare.all():
        return target if not rare.all() else np.zeros_like(target)
    target[rare] = np.flatnonzero(rare)[0]
    if pooled[rare].sum() < least:
        target[rare] = int(np.argmax(pooled))
    return target
