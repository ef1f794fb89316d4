"""Pairs of numeric columns whose correlation changed though neither column did.

Correlations are those of normal scores in cells, in each table around its own means, so
that a column that moved does not move its correlations by that alone. How far chance lets
them stray is seen from cross products of blocks of rows in order: their long-run variance
has Bartlett's weights (Newey and West, Econometrica 1987) over a few blocks, and Student's
t the degrees of freedom of that estimate (Andrews, Econometrica 1991).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.family import Unit
from fedge.drift.tables.trials import ColumnTrials, Trial, normal_z

Floats = NDArray[np.float64]

MAX_COLUMNS = 150
"""Columns whose pairs are tested, the first ones; pairs grow with the square."""

LEAST_ROWS = 100
_MAX_BLOCKS = 64
_LEAST_BLOCKS = 8
_LEAST_ROWS_OF_BLOCK = 8
_PERSISTENCE = 1.5
"""Rows of a block over the rows that are worth one independent row."""
_LAGS = 3
_LEAST_NOISE = 1e-3
"""Part of its variance that a column is not taken to share with another, even with its copy."""


def unit_of_pairs(columns: Sequence[ColumnTrials]) -> Unit | None:
    """A test for every pair of ordered columns that vary in both tables; None in short tables."""
    ordered = [c for c in columns if c.cells.ordered and c.varies][:MAX_COLUMNS]
    if len(ordered) < 2:
        return None
    rows = [len(side.values) for side in (ordered[0].reference, ordered[0].current)]
    if min(rows) < LEAST_ROWS:
        return None
    blocks = [_blocks(ordered, side, rows[side]) for side in (0, 1)]
    if min(blocks) < _LEAST_BLOCKS:
        return None
    sides = [_correlations(np.array([c.scores(i) for c in ordered]), blocks[i]) for i in (0, 1)]
    first, second = np.triu_indices(len(ordered), 1)
    difference = (sides[1][0] - sides[0][0])[first, second]
    parts = np.array([side[1][first, second] for side in sides])
    degrees = np.array([side[2] for side in sides])[:, None]
    variance = parts.sum(axis=0)
    welch = variance**2 / (parts**2 / degrees).sum(axis=0)
    return _unit(ordered, (first, second), difference, variance, welch)


def _blocks(ordered: Sequence[ColumnTrials], side: int, rows: int) -> int:
    """Number of blocks: each so long that it hardly resembles its neighbours in most columns."""
    alike = float(np.quantile([rows / max(1.0, column.rows[side]) for column in ordered], 0.8))
    length = max(_LEAST_ROWS_OF_BLOCK, math.ceil(_PERSISTENCE * alike))
    return min(_MAX_BLOCKS, rows // length)


def _unit(
    ordered: Sequence[ColumnTrials],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    difference: Floats,
    variance: Floats,
    degrees: Floats,
) -> Unit:
    from scipy.special import stdtr

    error = np.sqrt(variance)
    p_values = 2 * stdtr(degrees, -np.abs(difference) / error)
    names = [column.reference.name for column in ordered]
    # The others cannot be significant, and there are thousands of them.
    telling = (p_values * len(p_values) < 1) | (np.arange(len(p_values)) == p_values.argmin())
    trials = (
        Trial(
            RowStatistic((names[pairs[0][k]], names[pairs[1][k]]), "pair", "structure"),
            float(p_values[k]),
            math.copysign(normal_z(float(p_values[k])), float(difference[k])),
            float(difference[k]),
            float(error[k]),
            float(degrees[k]),
        )
        for k in np.flatnonzero(telling)
    )
    return Unit(tuple(trials), len(p_values))


def _correlations(standard: NDArray[np.float32], blocks: int) -> tuple[Floats, Floats, float]:
    """Correlations float64[C, C], their variances, and the degrees of freedom behind these.

    Args:
        standard: float32[C, n], scores with mean 0 and variance 1.
    """
    rows = standard.shape[1]
    bounds = np.arange(blocks + 1) * rows // blocks
    products = np.stack(
        [
            standard[:, start:end] @ standard[:, start:end].T
            for start, end in pairwise(bounds.tolist())
        ]
    ).astype(np.float64)
    products *= blocks / rows
    correlation = products.mean(axis=0)
    # A correlation is a product over both variances: its error is the product's less theirs.
    own = np.einsum("gii->gi", products)
    products -= 0.5 * correlation * (own[:, :, None] + own[:, None, :])
    lags = min(_LAGS, blocks // 8)
    variance = _long_run(products, lags)
    # No pair of columns is trusted to vary less than independent rows would.
    least = np.maximum(1 - correlation**2, _LEAST_NOISE) ** 2 / rows
    return correlation, np.maximum(variance, least), 1.5 * blocks / (lags + 1)


def _long_run(products: Floats, lags: int) -> Floats:
    """float64[C, C], variance of the mean of float64[G, C, C]."""
    blocks = len(products)
    own = (products**2).sum(axis=0)
    total = own.copy()
    for lag in range(1, lags + 1):
        weight = 2 * (1 - lag / (lags + 1))
        total += weight * (products[lag:] * products[:-lag]).sum(axis=0)
    variance: Floats = np.maximum(total, own) / (blocks * (blocks - 1))
    return variance
