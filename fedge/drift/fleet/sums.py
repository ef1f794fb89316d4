"""Sums of scores over the latest windows, and how far they may stray.

A window counts by its share of a full one, so that one which was cut short brings
as little weight as it brings evidence. With weight w = rows / planned of each
window: deviation = sum w (score - rows rate), and its variance without dependence
= sum w^2 (noise + rows row_variance) + (sum w rows)^2 rate_variance, the latter
for each season cell on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.fleet.baseline import Baseline, Track

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Running sums from which a sum over any run of windows is one difference."""

    baseline: Baseline
    deviation: Floats
    variance: Floats
    rows: Floats

    @classmethod
    def of(cls, track: Track, baseline: Baseline) -> Sums:
        """Sums of a track. A window whose season cell has no baseline counts as empty."""
        place, rates = baseline.expected(track)
        rows = np.where(place >= 0, track.rows, 0.0)[:, None]
        weight = rows / track.planned[:, None]
        by_cell = np.zeros((len(rows), len(rates)))
        by_cell[np.arange(len(rows)), place] = (weight * rows)[:, 0]
        return cls(
            baseline,
            _running(weight * (track.scores - rows * rates[place])),
            _running(weight**2 * (track.noise + rows * baseline.row_variance)),
            _running(by_cell),
        )

    def over(self, length: int, unit: Floats) -> tuple[Floats, Floats]:
        """z and effect of the sums over `length` windows, for each window that ends such a run.

        float64[W - length + 1, T]; NaN where there is no record in a sum.
        """
        plain, rows, deviation = self.plain(length)
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = np.where(rows > 0, deviation / rows / unit, np.nan)
        return plain / np.sqrt(self.baseline.at(length).inflation), effect

    def plain(self, length: int) -> tuple[Floats, Floats, Floats]:
        """Deviations in standard errors of independent windows, records, and raw deviations."""
        deviation, variance, rows = (
            part[length:] - part[:-length] for part in (self.deviation, self.variance, self.rows)
        )
        return self._z(deviation, variance, rows), rows.sum(axis=1, keepdims=True), deviation

    def suffixes(self) -> tuple[Floats, Floats]:
        """z of the sums from each window to the last one, and the same for independent windows."""
        plain = self._z(*(p[-1] - p[:-1] for p in (self.deviation, self.variance, self.rows)))
        lengths = np.arange(len(plain), 0, -1)
        by_length = {int(k): self.baseline.at(int(k)).inflation for k in lengths}
        inflation = np.stack([by_length[int(k)] for k in lengths])
        return plain / np.sqrt(inflation), plain

    def _z(self, deviation: Floats, variance: Floats, rows: Floats) -> Floats:
        error = variance + rows**2 @ self.baseline.rate_variances
        with np.errstate(invalid="ignore", divide="ignore"):
            z: Floats = np.where(
                rows.sum(axis=1, keepdims=True) > 0, deviation / np.sqrt(error), np.nan
            )
        return z


def _running(values: Floats) -> Floats:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
