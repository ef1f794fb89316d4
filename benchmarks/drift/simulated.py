"""Gateways whose released counts are drawn at once, without a row or a report.

What 1,000 rows add to a histogram is a sum of so many terms that it is taken as
normal, with the exact mean and the exact covariance of the bins of an
autoregressive row process (Mehler's expansion of the bivariate normal in Hermite
polynomials), and the noise of the report as normal with its variance. A bin holds
some sixty rows and the noise has a standard deviation of sixty: nothing finer is
left to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings
from fedge.drift.fleet.baseline import Track, join
from fedge.drift.fleet.scores import ScoreSheet, score_sheet
from fedge.profiles.counts import dyadic, window_event
from fedge.records import NUMERIC_BINS, CategoricalStream, NumericStream, Reference

Floats = NDArray[np.float64]

RHO = 0.028
ROWS = 1_000
FEATURES, CLASSES = 50, 10
HAAR = np.stack([dyadic(row) for row in np.eye(NUMERIC_BINS, dtype=np.int64)], axis=1)
_ORDERS = 120


class Rows(NamedTuple):
    """How the rows of a window hang together.

    Attributes:
        correlation: of neighbouring rows (AR(1), normal).
        wander: sd of the slow movement of window means, in noise sds of the location score.
        common: whether all streams wander together.
    """

    correlation: float = 0.0
    wander: float = 0.0
    common: bool = False


@dataclass(frozen=True)
class Fleet:
    """What all simulated gateways have in common."""

    sheet: ScoreSheet
    sigma2: int
    settings: DriftSettings

    @classmethod
    def of(cls, settings: DriftSettings, features: int = FEATURES) -> Fleet:
        reference = make_reference(features)
        event = window_event(reference, RHO)
        return cls(score_sheet(reference), event.sigma2, settings)


def make_reference(features: int) -> Reference:
    """Standard normal features, class, confidence and OOD score."""
    from scipy.stats import norm

    edges = tuple(norm.ppf(np.arange(1, NUMERIC_BINS) / NUMERIC_BINS).tolist())
    flat = (1 / NUMERIC_BINS,) * NUMERIC_BINS
    names = [*(f"f{k}" for k in range(features)), "confidence", "ood"]
    numeric = [NumericStream(name=name, edges=edges, histogram=flat) for name in names]
    klass = CategoricalStream(
        name="class",
        categories=tuple(f"c{k}" for k in range(CLASSES)),
        histogram=(*(1 / CLASSES,) * CLASSES, 0.0),
    )
    return Reference(
        task="simulated",
        source="made up",
        rows=100_000,
        model_sha256="0" * 64,
        ood_quantile_95=0.0,
        streams=(*numeric[:features], klass, *numeric[features:]),
    )


def bin_covariance(edges: Floats, correlation: float, rows: int) -> Floats:
    """Covariance of the bin counts of `rows` consecutive rows, float64[bins, bins].

    Rows are a standard normal AR(1) process. By Mehler's formula the joint distribution of two
    rows k apart is a sum over m of correlation^(k m) a_m a_m', a_m = integrals of the m-th
    normalised Hermite function over the bins.
    """
    from scipy.special import ndtr

    share = np.diff(ndtr(edges), prepend=0.0, append=1.0)
    single = np.diag(share) - np.outer(share, share)
    if correlation == 0.0:
        return rows * single
    total = rows * single
    density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
    before, here = np.zeros_like(edges), np.ones_like(edges)  # Hermite functions m - 2, m - 1
    for order in range(1, _ORDERS + 1):
        # The integral of He_m phi / sqrt(m!) is -He_{m-1} phi / sqrt(m!), He normalised.
        integral = -here * density / math.sqrt(order)
        part = np.diff(integral, prepend=0.0, append=0.0)
        decay = correlation**order
        if decay < 1e-6:
            break
        # sum over k of (rows - k) decay^k
        lagged = decay * (rows - (1 - decay**rows) / (1 - decay)) / (1 - decay)
        total = total + 2 * lagged * np.outer(part, part)
        before, here = here, (edges * here - math.sqrt(order - 1) * before) / math.sqrt(order)
    return total


@dataclass
class Simulated:
    """One gateway. `shift` moves the first feature by so many sds from window `onset` on."""

    fleet: Fleet
    rows: Rows
    rng: np.random.Generator
    differ: float = 0.25

    def track(self, windows: int, *, onset: int = 10**9, shift: float = 0.0) -> Track:
        """Statistics and coordinates of consecutive windows."""
        sheet, sigma2 = self.fleet.sheet, self.fleet.sigma2
        streams = sheet.reference.streams
        wander = self._wander(windows, len(streams))
        counts: list[Floats] = []
        for index, stream in enumerate(streams):
            if isinstance(stream, NumericStream):
                mean = self.rng.normal(0, self.differ) + wander[:, index]
                if index == 0:
                    mean = mean + shift * (np.arange(windows) >= onset)
                counts.append(self._numeric(np.asarray(stream.edges), mean))
            else:
                counts.append(self._cells(windows, len(stream.histogram)))
        noise = np.full((windows, len(streams)), float(sigma2))
        scores, variance = sheet.scores_of(counts, noise)
        full = np.ones(windows, dtype=np.bool_)
        size = np.full(windows, float(ROWS))
        track = Track(np.arange(windows), size, size, full, scores, variance)
        return join(track, *sheet.coordinates_of(counts, noise))

    def _wander(self, windows: int, streams: int) -> Floats:
        """float64[windows, streams], in sds of a row: AR(1) 0.9 from window to window."""
        from scipy.signal import lfilter

        columns = 1 if self.rows.common else streams
        shocks = self.rng.normal(size=(windows + 60, columns)) * math.sqrt(1 - 0.9**2)
        path = lfilter([1.0], [1.0, -0.9], shocks, axis=0)[60:]
        noise_sd = math.sqrt(float(self.fleet.sheet.noise[0]) * self.fleet.sigma2)
        # A shift by one sd moves the mean bin by 16 / (2 sqrt(pi)).
        unit = noise_sd / (ROWS * NUMERIC_BINS / (2 * math.sqrt(math.pi)))
        return np.broadcast_to(self.rows.wander * unit * path, (windows, streams))

    def _numeric(self, edges: Floats, mean: Floats) -> Floats:
        """float64[windows, 16]: dyadic sums and missing, with noise."""
        from scipy.special import ndtr

        below = ndtr(edges - mean[:, None])
        share = np.diff(below, axis=1, prepend=0.0, append=1.0)
        spread = HAAR @ bin_covariance(edges - mean.mean(), self.rows.correlation, ROWS) @ HAAR.T
        sigma2 = float(self.fleet.sigma2)
        root = np.linalg.cholesky(spread + sigma2 * np.eye(len(spread)))
        sums = ROWS * share @ HAAR.T + self.rng.normal(size=(len(mean), len(root))) @ root.T
        missing = self.rng.normal(0, math.sqrt(sigma2), (len(mean), 1))
        counts: Floats = np.rint(np.concatenate([sums, missing], axis=1))
        return counts

    def _cells(self, windows: int, cells: int) -> Floats:
        from scipy.stats import norm

        edges = norm.ppf(np.arange(1, cells - 1) / (cells - 1))
        spread = bin_covariance(edges, self.rows.correlation, ROWS)
        spread = np.pad(spread, (0, 1)) + self.fleet.sigma2 * np.eye(cells)
        root = np.linalg.cholesky(spread)
        mean = np.append(np.full(cells - 1, ROWS / (cells - 1)), 0.0)
        counts: Floats = np.rint(mean + self.rng.normal(size=(windows, cells)) @ root.T)
        return counts
