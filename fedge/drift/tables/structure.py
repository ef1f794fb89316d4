"""Row scores of several columns together: relations that change while each column stays as it was.

Columns are first turned into normal scores (ranks), then

- each column is predicted from all others by a shrunk linear regression (from the
  inverse of the shrunk correlation matrix, Ledoit & Wolf 2004). The rest that is
  left, `relation`, and its size, `relation spread`, notice an offset or a lost
  relation of one column, and stray less than the column itself where a common
  cause drives many;
- Hotelling's T2 and the squared prediction error Q of a principal component model
  (Jackson & Mudholkar 1979), each on a log scale;
- for not too many columns, products of two columns' ranks (`pair`), whose mean is
  Spearman's correlation: they also notice a relation that appears.

A model fits its own rows too well. Reference rows are scored by models of the other
blocks (contiguous ones, because neighbours are alike), new rows by the mean of all these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.features import MOSTLY, SHAPE_VISITS, RankTable, commonest, units
from fedge.drift.tables.longrun import independent_rows
from fedge.drift.tables.table import Column, Table

Floats = NDArray[np.float64]

BLOCKS = 5
LEAST_ROWS = 100
LEAST_EXPLAINED = 0.15
"""A column of which the others explain less, out of sample, has no relation to watch."""
EXPLAINED = 0.85
"""Share of the variance that the principal components keep."""
MAX_PAIRED = 32
"""Columns up to which every pair is watched."""
_LEAST_STEADY = 5.0
"""Independent rows below which a column wanders too slowly to learn its relations."""
_CLIP = 4.0


@dataclass(frozen=True, slots=True)
class _Model:
    """What is fitted on normal scores.

    Attributes:
        centre: float64[d].
        precision: float64[d, d], inverse of the shrunk covariance.
        directions: float64[d, k], principal components.
        inverse: float64[k], one over their variances.
    """

    centre: Floats
    precision: Floats
    directions: Floats
    inverse: Floats

    def rests(self, normal: Floats) -> Floats:
        """float64[m, d], each column less what the others predict."""
        rests: Floats = (normal - self.centre) @ self.precision / np.diag(self.precision)
        return rests

    def distances(self, normal: Floats) -> Floats:
        """float64[m, 2], logarithms of T2 and Q per degree of freedom."""
        centred = normal - self.centre
        along = centred @ self.directions
        components = len(self.inverse)
        squared = (along**2) @ self.inverse / components
        rest = ((centred**2).sum(axis=1) - (along**2).sum(axis=1)).clip(min=0)
        rest = rest / max(1, centred.shape[1] - components)
        return np.log(np.column_stack([squared, rest]) + 0.05)


@dataclass(frozen=True, slots=True)
class StructureEncoder:
    """See `Encoder`; made by `fit_structure`."""

    columns: tuple[tuple[str, RankTable], ...]
    models: tuple[_Model, ...]
    related: NDArray[np.int64]
    spread: Floats
    pairs: NDArray[np.int64]
    statistics: tuple[RowStatistic, ...]
    unit: Floats
    reference_scores: Floats

    def scores(self, rows: Table) -> Floats:
        """float64[m, T]; a missing value counts as the middle one where others are judged by it,
        and has no score itself."""
        normal, ranks, missing = _normal(self.columns, rows)
        scores = [
            _scores(
                normal,
                missing,
                model.rests(normal)[:, self.related] / self.spread,
                model.distances(normal),
                self.related,
            )
            for model in self.models
        ]
        # All models learnt from as many rows, so that each scores new rows as it scored the block
        # it had not seen; one from all rows would score them closer.
        return np.concatenate([np.mean(scores, axis=0), _products(ranks, missing, self.pairs)], 1)


def fit_structure(reference: Table) -> StructureEncoder | None:
    """Learn how the numeric columns hang together; None with fewer than two that vary, or too few
    rows."""
    if reference.rows < LEAST_ROWS:
        return None
    columns = tuple(table for table in map(_ranks, reference.features) if table is not None)
    if len(columns) < 2:
        return None
    normal, ranks, missing = _normal(columns, reference)
    visits = independent_rows(normal)
    steady = visits >= _LEAST_STEADY
    if steady.sum() < 2:
        return None
    columns = tuple(column for column, keep in zip(columns, steady, strict=True) if keep)
    normal, ranks, missing = normal[:, steady], ranks[:, steady], missing[:, steady]
    visits = visits[steady]
    models, rests, distances = _cross_fitted(normal)
    unexplained = (rests**2).mean(axis=0) / np.maximum(normal.var(axis=0), 1e-12)
    related = np.flatnonzero(unexplained < 1 - LEAST_EXPLAINED)
    spread = np.maximum(np.sqrt((rests[:, related] ** 2).mean(axis=0)), 1e-6)
    varied = np.array([commonest(ranks[:, i]) <= MOSTLY for i in range(ranks.shape[1])])
    pairs = _pairs(np.flatnonzero((visits >= SHAPE_VISITS) & varied))
    names = [name for name, _ in columns]
    scores = np.concatenate(
        [
            _scores(normal, missing, rests[:, related] / spread, distances, related),
            _products(ranks, missing, pairs),
        ],
        axis=1,
    )
    return StructureEncoder(
        columns=columns,
        models=models,
        related=related,
        spread=spread,
        pairs=pairs,
        statistics=_statistics(names, related, pairs),
        unit=units(scores),
        reference_scores=scores,
    )


def _ranks(column: Column) -> tuple[str, RankTable] | None:
    from scipy.special import ndtr  # heavy, and needed only where a model is fitted

    present = column.values[~np.isnan(column.values)]
    if not column.numeric or len(present) < 2 or len(np.unique(present)) < 2:
        return None
    table = RankTable.of(present)
    normal = table.rows[:, 0]
    # Ranks beside normal scores: a product of two normal scores has too heavy a tail for the mean
    # over a small window.
    rank = math.sqrt(3) * (2 * ndtr(normal) - 1)
    return column.name, RankTable(table.values, np.column_stack([normal, rank]))


def _normal(
    columns: tuple[tuple[str, RankTable], ...], rows: Table
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Normal scores and ranks, both float64[m, d] and 0 where missing, and what is missing."""
    by_name = {column.name: column for column in rows.columns}
    both = np.stack([table(by_name[name].values) for name, table in columns], axis=1)
    missing = np.isnan(both[:, :, 0])
    both[missing] = 0.0
    return both[:, :, 0], both[:, :, 1], missing


def _model(normal: Floats) -> _Model:
    centre = normal.mean(axis=0)
    covariance = _shrunk(normal - centre)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 1e-9), vectors[:, ::-1]
    kept = int(np.searchsorted(np.cumsum(values) / values.sum(), EXPLAINED)) + 1
    kept = max(1, min(kept, len(values) - 1))
    inverse = vectors / values @ vectors.T
    return _Model(centre, inverse, vectors[:, :kept], 1 / values[:kept])


def _shrunk(centred: Floats) -> Floats:
    """Covariance shrunk to its diagonal, by Ledoit and Wolf's estimate of the best weight."""
    rows, columns = centred.shape
    sample = centred.T @ centred / rows
    target = np.diag(np.diag(sample))
    squares = centred**2
    noise = ((squares.T @ squares) / rows - sample**2).sum() / rows
    away = ((sample - target) ** 2).sum()
    weight = float(np.clip(noise / max(away, 1e-12), 0.01, 1.0))
    ridge = 1e-3 * np.trace(sample) / columns
    shrunk: Floats = (1 - weight) * sample + weight * target + ridge * np.eye(columns)
    return shrunk


def _cross_fitted(normal: Floats) -> tuple[tuple[_Model, ...], Floats, Floats]:
    """The models, and rests and distances of each reference row by the one that did not see it."""
    rests, distances, models = np.empty_like(normal), np.empty((len(normal), 2)), []
    for block in np.array_split(np.arange(len(normal)), BLOCKS):
        others = np.ones(len(normal), dtype=np.bool_)
        others[block] = False
        model = _model(normal[others])
        models.append(model)
        rests[block], distances[block] = model.rests(normal[block]), model.distances(normal[block])
    return tuple(models), rests, distances


def _pairs(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[pairs, 2], of columns that visit their range often enough; none if these are many."""
    pairs = list(combinations(columns.tolist(), 2)) if len(columns) <= MAX_PAIRED else []
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _statistics(
    names: list[str], related: NDArray[np.int64], pairs: NDArray[np.int64]
) -> tuple[RowStatistic, ...]:
    every = tuple(names)
    return (
        *(RowStatistic((names[i],), "relation", "structure") for i in related),
        *(RowStatistic((names[i],), "relation spread", "structure") for i in related),
        RowStatistic(every, "T2", "structure"),
        RowStatistic(every, "Q", "structure"),
        *(RowStatistic((names[i], names[j]), "pair", "structure") for i, j in pairs),
    )


def _scores(
    normal: Floats,
    missing: NDArray[np.bool_],
    rests: Floats,
    distances: Floats,
    related: NDArray[np.int64],
) -> Floats:
    rests = np.clip(rests, -_CLIP, _CLIP)
    rests[missing[:, related]] = np.nan
    return np.concatenate([rests, np.abs(rests), distances], axis=1)


def _products(ranks: Floats, missing: NDArray[np.bool_], pairs: NDArray[np.int64]) -> Floats:
    first, second = pairs[:, 0], pairs[:, 1]
    product: Floats = ranks[:, first] * ranks[:, second]
    product[missing[:, first] | missing[:, second]] = np.nan
    return product
