"""Watching under privacy: window sums as a gateway would release them, from noised counts.

Every window becomes one vector of integers on bins frozen with the reference: 15
dyadic sums and the missing rows of a number, the cells of a category, and the rows
counted by each 0/1 statistic of a model's outputs. It gets discrete Gaussian noise
for the asked-for epsilon, as one release of the whole vector; the statistics are
linear in it, so their noise is known and enters the tests.

What is protected are the windows. Reference rows, and the rows that explain an alarm
or become a new reference, are read as they are: they are the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.categories import fit_cells
from fedge.drift.tables.encoding import Encoder, Fit, RowStatistic
from fedge.drift.tables.features import units
from fedge.drift.tables.table import Column, Table
from fedge.errors import TableError
from fedge.privacy.grants import Grant
from fedge.privacy.noise import SeededNoise
from fedge.profiles.counts import LEVELS, dyadic
from fedge.records import NUMERIC_BINS, DiscreteGaussianEvent

Floats = NDArray[np.float64]

DELTA = 1e-6

_HAAR = np.stack([dyadic(row) for row in np.eye(NUMERIC_BINS, dtype=np.int64)])
"""int64[16, 15], what one row in a bin adds to the dyadic sums."""
_CENTRED = np.arange(NUMERIC_BINS) - (NUMERIC_BINS - 1) / 2
_BIN_SCORES = np.stack([_CENTRED, np.abs(_CENTRED) - np.abs(_CENTRED).mean()])
_WEIGHTS = (_BIN_SCORES @ _HAAR / np.abs(_HAAR).sum(axis=0)).T
"""float64[15, 2], location and scale from the dyadic sums."""


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Counts of one numeric column: 15 dyadic sums, and missing."""

    name: str
    edges: Floats
    sensitivity2: int = LEVELS

    @property
    def weights(self) -> Floats:
        """float64[16, 3]."""
        weights = np.zeros((NUMERIC_BINS, 3))
        weights[:-1, :2], weights[-1, 2] = _WEIGHTS, 1.0
        return weights

    @property
    def statistics(self) -> tuple[RowStatistic, ...]:
        column = (self.name,)
        shape = (RowStatistic(column, kind, "feature") for kind in ("location", "scale"))
        return (*shape, RowStatistic(column, "missing", "missing"))

    def rows(self, table: Table) -> NDArray[np.int64]:
        """int64[m, 16], what each row adds."""
        values = table.column(self.name).values
        missing = np.isnan(values)
        added = np.zeros((len(values), NUMERIC_BINS), dtype=np.int64)
        added[:, :-1] = _HAAR[self.edges.searchsorted(values, side="right").clip(max=15)]
        added[missing, :-1] = 0
        added[:, -1] = missing
        return added

    def known(self, table: Table) -> NDArray[np.bool_]:
        """bool[m, 3], whether a row counts for a statistic."""
        return np.ones((table.rows, len(self.statistics)), dtype=np.bool_)

    def reference_rows(self, reference: Table) -> NDArray[np.int64]:
        """The same of the rows that the edges were learnt from."""
        return self.rows(reference)


@dataclass(frozen=True, slots=True)
class _Shares:
    """Counts of rows in cells, `sensitivity2` of which one row may be in.

    Attributes:
        fitted: the same for the rows that `scores` was fitted on; None where that is no matter.
    """

    statistics: tuple[RowStatistic, ...]
    scores: Callable[[Table], Floats]
    sensitivity2: int
    fitted: Callable[[Table], Floats] | None = None

    @property
    def weights(self) -> Floats:
        """float64[cells, cells]."""
        return np.eye(len(self.statistics))

    def rows(self, table: Table) -> NDArray[np.int64]:
        """int64[m, cells], what each row adds."""
        return np.nan_to_num(self.scores(table)).astype(np.int64)

    def known(self, table: Table) -> NDArray[np.bool_]:
        """bool[m, cells], whether a row counts for a statistic: without a label it says nothing of
        labels and errors, and is no row in which the model was right."""
        known = np.ones((table.rows, len(self.statistics)), dtype=np.bool_)
        late = [s.group in ("label", "error") for s in self.statistics]
        if any(late) and table.roles.label is not None:
            known[:, late] = np.isfinite(table.column(table.roles.label).values)[:, None]
        return known

    def reference_rows(self, reference: Table) -> NDArray[np.int64]:
        """The same of the rows that these counts were learnt from."""
        return np.nan_to_num((self.fitted or self.scores)(reference)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Release:
    """An encoder whose window sums are released; made by `fit_release`.

    Attributes:
        noise: float64[T], variance that one window's release adds to each sum.
        event: the release of one window's vector.
    """

    parts: tuple[_Numbers | _Shares, ...]
    statistics: tuple[RowStatistic, ...]
    weights: Floats
    unit: Floats
    reference_scores: Floats
    noise: Floats
    event: DiscreteGaussianEvent

    def scores(self, rows: Table) -> Floats:
        """float64[m, T]; a row with a missing value adds 0 to the column's other sums. How many
        rows have a label is taken for known: it is the clock's doing, and no value's."""
        return _where_known(self.parts, rows, self._counts(rows) @ self.weights)

    def noised(self, seed: int, window: int) -> Floats:
        """float64[T], what the noise of one window adds to its sums."""
        noise = SeededNoise(seed * 1_000_003 + window)
        grant = Grant(0, f"window {window}", self.event, simulated=True)
        drawn = noise.discrete_gaussian(
            np.zeros(self.event.dimension, dtype=np.int64),
            sensitivity2=self.event.sensitivity2,
            sigma2=self.event.sigma2,
            grant=grant,
        )
        added: Floats = drawn @ self.weights
        return added

    def _counts(self, rows: Table) -> NDArray[np.int64]:
        return np.concatenate([part.rows(rows) for part in self.parts], axis=1)


def fit_release(reference: Table, epsilon: float, outputs: Sequence[Fit]) -> Release | None:
    """Learn the bins of the features and the 0/1 statistics of what `outputs` fit.

    Raises:
        TableError: `epsilon` is no positive number.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise TableError(f"epsilon must be a positive number, not {epsilon}")
    parts = [p for column in reference.features for p in _parts(column)]
    parts += [p for fit in outputs if (e := fit(reference)) is not None for p in _indicators(e)]
    if not parts:
        return None
    weights = _blocks([part.weights for part in parts])
    sensitivity2 = sum(part.sensitivity2 for part in parts)
    event = DiscreteGaussianEvent(
        sensitivity2=sensitivity2,
        sigma2=math.ceil(sensitivity2 * gaussian_sigma(epsilon, DELTA) ** 2),
        count=1,
        dimension=len(weights),
    )
    counts = np.concatenate([part.reference_rows(reference) for part in parts], axis=1)
    scores = _where_known(parts, reference, counts @ weights)
    return Release(
        parts=tuple(parts),
        statistics=tuple(s for part in parts for s in part.statistics),
        weights=weights,
        unit=units(scores),
        reference_scores=scores,
        noise=event.sigma2 * (weights**2).sum(axis=0),
        event=event,
    )


def _where_known(parts: Sequence[_Numbers | _Shares], rows: Table, scores: Floats) -> Floats:
    known = np.concatenate([part.known(rows) for part in parts], axis=1)
    return np.where(known, scores, np.nan)


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """Least noise for sensitivity 1 by the analytic Gaussian mechanism (Balle & Wang 2018)."""
    low, high = 1e-3, 1e6
    while high / low > 1 + 1e-9:
        sigma = math.sqrt(low * high)
        above = _tail(epsilon * sigma - 0.5 / sigma)
        below = _tail(epsilon * sigma + 0.5 / sigma)
        # exp(epsilon) below, without overflow: below is far smaller where epsilon is large.
        lost = above - (math.exp(epsilon + math.log(below)) if below > 0 else 0.0)
        low, high = (sigma, high) if lost > delta else (low, sigma)
    return high


def _tail(z: float) -> float:
    """Chance that a standard normal value exceeds z."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def _parts(column: Column) -> list[_Numbers | _Shares]:
    present = column.values[~np.isnan(column.values)]
    missing = RowStatistic((column.name,), "missing", "missing")
    if not len(present):
        return [_Shares((missing,), _missing(column.name), 1)]
    if column.numeric:
        return [_Numbers(column.name, _edges(present))]
    cells = fit_cells(column)
    statistics = (*cells.statistics, missing)
    scores = _and_missing(column.name, cells.scores)
    fitted = _and_missing(column.name, cells.reference_scores)
    return [_Shares(statistics, scores, 1, fitted)]


def _missing(name: str) -> Callable[[Table], Floats]:
    return lambda rows: np.isnan(rows.column(name).values).astype(np.float64)[:, None]


def _and_missing(name: str, score: Callable[[Column], Floats]) -> Callable[[Table], Floats]:
    missing = _missing(name)
    return lambda rows: np.concatenate([score(rows.column(name)), missing(rows)], axis=1)


def _edges(present: Floats) -> Floats:
    """15 edges; those of a constant lie on both sides of it, so that it can move either way."""
    edges = np.quantile(present, np.arange(1, NUMERIC_BINS) / NUMERIC_BINS, method="higher")
    if edges[0] == edges[-1]:
        half = NUMERIC_BINS // 2
        edges[half:] = np.nextafter(edges[0], math.inf)
    return edges


def _indicators(encoder: Encoder) -> list[_Shares]:
    """The statistics of an encoder that are 0 or 1 in every row; one row may be in all of them."""
    known = np.nan_to_num(encoder.reference_scores)
    shares = np.flatnonzero(np.isin(known, (0.0, 1.0)).all(axis=0))
    if not len(shares):
        return []
    statistics = tuple(encoder.statistics[i] for i in shares)
    return [
        _Shares(
            statistics,
            lambda rows: encoder.scores(rows)[:, shares],
            len(shares),
            lambda _: encoder.reference_scores[:, shares],
        )
    ]


def _blocks(weights: list[Floats]) -> Floats:
    """One matrix with these on its diagonal."""
    shape = np.sum([w.shape for w in weights], axis=0)
    whole, row, column = np.zeros(shape), 0, 0
    for block in weights:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole
