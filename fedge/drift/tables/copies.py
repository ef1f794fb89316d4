"""Columns that say again what another column says: its copy, another unit of it, its complement.

A copy brings no evidence of its own. Watched like any other it would take its part of the
budget of false alarms, count as a second witness, and leave every relation between columns with
a variance of nothing. So it is left out of whatever is watched, and one thing is asked of it:
whether it is still the copy that it was. It is named wherever its original is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.features import LEAST_UNIT
from fedge.drift.tables.table import Column, Table

Floats = NDArray[np.float64]

PARTED = "copy"
"""Name of the statistic that counts rows in which a copy is none."""

TELLING_ROWS = 10
"""Rows beside those of its commonest value that a column must have: two rare events that came
together are no copies of each other."""

_EXACT = 1e-9
"""Part of its range by which a copy may differ: what the arithmetic of a unit change leaves."""

_SAMPLE = 256
"""Rows by which pairs of columns are sieved before all of them are compared."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A column and what it repeats.

    Attributes:
        factor, offset: of numbers, `factor * original + offset` is the copy.
        within: by how much it may differ from that.
        texts: of categories, the copy's text for each of the original's; empty for numbers.
    """

    name: str
    original: str
    factor: float = 1.0
    offset: float = 0.0
    within: float = 0.0
    texts: Mapping[str, str] | None = None

    def parted(self, rows: Table) -> NDArray[np.bool_]:
        """bool[m], whether a row differs from what its original says. A category of the original
        that was never met says nothing."""
        original, copy = rows.column(self.original), rows.column(self.name)
        with np.errstate(invalid="ignore", over="ignore"):
            said = self._said(original, copy)
            same = (np.abs(copy.values - said) <= self.within) | (copy.values == said)
        silent = np.isnan(said) & ~np.isnan(original.values)
        parted: NDArray[np.bool_] = ~same & ~(np.isnan(said) & np.isnan(copy.values)) & ~silent
        return parted

    def _said(self, original: Column, copy: Column) -> Floats:
        if self.texts is None:
            return self.factor * original.values + self.offset
        place = {text: code for code, text in enumerate(copy.categories)}
        # A text that the copy no longer has differs from every code.
        codes = [
            float(place.get(self.texts[text], -1)) if text in self.texts else np.nan
            for text in original.categories
        ]
        missing = np.isnan(original.values)
        index = np.where(missing, 0, original.values).astype(np.int64)
        return np.where(missing, np.nan, np.array(codes or [np.nan])[index])


@dataclass(frozen=True, slots=True)
class CopyEncoder:
    """See `Encoder`: 1 in rows in which a copy is none; made by `fit_copies`."""

    copies: tuple[Copy, ...]
    statistics: tuple[RowStatistic, ...]
    unit: Floats
    reference_scores: Floats

    def scores(self, rows: Table) -> Floats:
        """float64[m, T], 0 or 1."""
        return np.column_stack([copy.parted(rows) for copy in self.copies]).astype(np.float64)


def fit_copies(reference: Table, *, copies: tuple[Copy, ...]) -> CopyEncoder | None:
    """Watch copies that were found in these rows; None where there is none."""
    if not copies:
        return None
    return CopyEncoder(
        copies,
        tuple(RowStatistic((copy.name, copy.original), PARTED, "structure") for copy in copies),
        np.full(len(copies), LEAST_UNIT),
        np.zeros((reference.rows, len(copies))),
    )


def without(table: Table, copies: Sequence[Copy]) -> Table:
    """The table without the columns that are copies."""
    names = {copy.name for copy in copies}
    return Table(tuple(c for c in table.columns if c.name not in names), table.roles)


def with_copies(names: Sequence[str], copies: Sequence[Copy]) -> tuple[str, ...]:
    """The names, and after each those of its copies."""
    found: dict[str, None] = {}
    for name in names:
        found[name] = None
        found.update(dict.fromkeys(c.name for c in copies if c.original == name))
    return tuple(found)


def told(copies: Sequence[Copy]) -> list[str]:
    """One sentence that names them; none where there are none."""
    named = ", ".join(f"{copy.name!r} is a copy of {copy.original!r}" for copy in copies)
    return [f"columns that repeat another one are judged as one with it: {named}"] if named else []


def copies_in(table: Table) -> tuple[Copy, ...]:
    """The features that repeat an earlier one in every row, gaps included.

    Numbers, and booleans among themselves, up to a factor and an offset; categories up to their
    names.
    """
    features = table.features
    numbers = _of_numbers([c for c in features if c.numeric])
    booleans = _of_numbers([c for c in features if c.kind == "boolean"])
    return (*numbers, *booleans, *_of_categories([c for c in features if c.kind == "category"]))


def _of_numbers(columns: Sequence[Column]) -> list[Copy]:
    found: dict[str, Copy] = {}
    for alike in _changing_together(columns):
        for original, column in _candidates(alike):
            if original.name in found or column.name in found or not _tells(original.values):
                continue
            copy = _affine(original, column)
            if copy is not None and not copy.parted(Table((original, column))).any():
                found[column.name] = copy
    return list(found.values())


def _changing_together(columns: Sequence[Column]) -> list[list[Column]]:
    """Two and more columns that change in the same rows: a copy does so with its original."""
    groups: dict[bytes, list[Column]] = {}
    for column in columns:
        changes = column.values[1:] != column.values[:-1]
        groups.setdefault(np.packbits(changes).tobytes(), []).append(column)
    return [group for group in groups.values() if len(group) > 1]


def _tells(values: Floats) -> bool:
    known = values[np.isfinite(values)]
    # A value that most rows hold is their median.
    middle = np.partition(known, len(known) // 2)[len(known) // 2] if len(known) else np.nan
    return int((known != middle).sum()) >= TELLING_ROWS


def _candidates(columns: Sequence[Column]) -> list[tuple[Column, Column]]:
    """Pairs, in order, whose correlation in a sample of rows is all but 1 or -1."""
    rows = np.unique(np.linspace(0, len(columns[0].values) - 1, _SAMPLE).astype(np.int64))
    values = np.stack([c.values[rows] for c in columns])
    known = np.isfinite(values)
    values = np.where(known, values, 0.0)
    # Scaled first: numbers near the largest have no square.
    scaled = values / np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-300)
    mean = scaled.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    scaled = np.where(known, scaled - mean, 0.0)
    length = np.sqrt((scaled**2).sum(axis=1))
    # Of a column that stood still in the sample all rows decide.
    still = length <= 1e-12
    scaled /= np.maximum(length, 1e-12)[:, None]
    alike = (np.abs(scaled @ scaled.T) > 1 - 1e-6) | still | still[:, None]
    pairs = np.argwhere(np.triu(alike, 1))
    return [(columns[int(first)], columns[int(second)]) for first, second in pairs]


def _affine(original: Column, column: Column) -> Copy | None:
    """The line through the two rows that are farthest apart; None where there is none."""
    known = np.flatnonzero(np.isfinite(original.values) & np.isfinite(column.values))
    if len(known) < TELLING_ROWS:
        return None
    low = known[original.values[known].argmin()]
    high = known[original.values[known].argmax()]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rise = column.values[high] - column.values[low]
        factor = float(rise / (original.values[high] - original.values[low]))
        offset = float(column.values[low] - factor * original.values[low])
        size = max(abs(float(rise)), abs(offset) * 1e-6)
    if not (np.isfinite([factor, offset, size]).all() and factor != 0):
        return None
    return Copy(column.name, original.name, factor, offset, _EXACT * size)


def _of_categories(columns: Sequence[Column]) -> list[Copy]:
    found = []
    for alike in _changing_together(columns):
        first: dict[bytes, Column] = {}
        for column in alike:
            original = first.setdefault(_by_appearance(column.values), column)
            if original is not column and _tells(column.values):
                found.append(_renamed(original, column))
    return found


def _renamed(original: Column, column: Column) -> Copy:
    known = ~np.isnan(original.values)
    pairs = np.unique(np.stack([original.values, column.values])[:, known], axis=1)
    texts = {original.categories[int(a)]: column.categories[int(b)] for a, b in pairs.T}
    return Copy(column.name, original.name, texts=texts)


def _by_appearance(codes: Floats) -> bytes:
    """The rows' categories, numbered as they come first; -1 where missing."""
    known = ~np.isnan(codes)
    _, first, inverse = np.unique(codes[known], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    numbered = np.full(len(codes), -1, dtype=np.int64)
    numbered[known] = rank[inverse]
    return numbered.tobytes()
