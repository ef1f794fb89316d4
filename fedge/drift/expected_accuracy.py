"""How accurate a model probably is now, without labels.

Confidence-based performance estimation: the reference says how often the model is
right at each level of confidence, the present rows say how often each level occurs
(as NannyML's CBPE; see also Guillory and others, "Predicting with confidence on unseen
distributions", ICCV 2021). From raw confidences or from their counts in bins.

This sees only what shows in the confidence. It holds if the inputs moved and what
they mean did not. Concept drift it cannot see at all: a model can be as sure as
ever and wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.label_shift import NotEstimable

Floats = NDArray[np.float64]

BLIND_SPOT = "expected from confidence; concept drift would not show in it"
"""To be shown beside every figure."""

BINS = 16
MIN_ROWS = 30
_NORMAL_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often a model was right at each level of confidence.

    Attributes:
        edges: float64[B - 1], increasing; bin i holds edges[i-1] <= confidence < edges[i].
        right, rows: float64[B], reference rows in the bin that were right, and all.
    """

    edges: Floats
    right: Floats
    rows: Floats

    @property
    def rates(self) -> Floats:
        """float64[B], share that was right, made to never fall with confidence."""
        return _isotonic((self.right + 0.5) / (self.rows + 1), self.rows + 1)

    def count(self, confidence: Floats) -> Floats:
        """float64[B], how many of the confidences fall into each bin; NaN counts nowhere."""
        known = confidence[np.isfinite(confidence)]
        bins = np.searchsorted(self.edges, known, side="right")
        return np.bincount(bins, minlength=len(self.rows)).astype(np.float64)


@dataclass(frozen=True, slots=True)
class ExpectedAccuracy:
    """An estimate with its 95 % interval, and the reference's accuracy beside it."""

    value: float
    low: float
    high: float
    reference: float

    @property
    def lost(self) -> bool:
        """Whether the model is clearly expected to be worse than on the reference."""
        return self.high < self.reference


def calibrate(confidence: Floats, right: Floats) -> Calibration | NotEstimable:
    """Learn from reference rows that the model was not fitted on.

    Args:
        confidence: float64[n], 0 to 1.
        right: float64[n], 1 where the model was right, 0 where not, NaN where nobody knows.
    """
    known = np.isfinite(confidence) & np.isfinite(right)
    if known.sum() < MIN_ROWS:
        return NotEstimable(f"only {int(known.sum())} rows with confidence and label")
    levels = np.quantile(confidence[known], np.arange(1, BINS) / BINS)
    edges = np.unique(levels)
    bins = np.searchsorted(edges, confidence[known], side="right")
    size = len(edges) + 1
    return Calibration(
        edges=edges,
        right=np.bincount(bins, weights=right[known], minlength=size).astype(np.float64),
        rows=np.bincount(bins, minlength=size).astype(np.float64),
    )


def expected_accuracy(
    calibration: Calibration,
    counts: NDArray[np.floating] | NDArray[np.integer],
    *,
    noise: float = 0.0,
    inflation: float = 1.0,
) -> ExpectedAccuracy | NotEstimable:
    """Expected accuracy of rows with these confidences.

    Args:
        counts: [B], rows by confidence bin (`Calibration.count`), noised or not.
        noise: variance of the noise in each count.
        inflation: variance of the counts over that of independent rows.
    """
    counts = np.asarray(counts, np.float64)
    rows, reference_rows = float(counts.sum()), float(calibration.rows.sum())
    if not rows >= 1 or not np.isfinite(counts).all():
        return NotEstimable("no row with a confidence")
    rates, shares = calibration.rates, counts / rows
    value = float(np.clip(shares @ rates, 0.0, 1.0))
    of_rates = shares**2 @ (rates * (1 - rates) / np.maximum(calibration.rows, 1.0))
    of_shares = inflation * max(0.0, float(shares @ (rates - value) ** 2)) / rows
    of_noise = noise / rows**2 * float(((rates - value) ** 2).sum())
    error = float(np.sqrt(of_rates + of_shares + of_noise))
    return ExpectedAccuracy(
        value=value,
        low=max(0.0, value - _NORMAL_95 * error),
        high=min(1.0, value + _NORMAL_95 * error),
        reference=float(calibration.right.sum() / reference_rows),
    )


def _isotonic(rates: Floats, weights: Floats) -> Floats:
    """The closest sequence that never falls: neighbours that do are pooled (Barlow, 1972)."""
    pooled: list[tuple[float, float, int]] = []
    for rate, weight in zip(rates.tolist(), weights.tolist(), strict=True):
        size = 1
        while pooled and pooled[-1][0] >= rate:
            before, more, length = pooled.pop()
            rate = (rate * weight + before * more) / (weight + more)
            weight, size = weight + more, size + length
        pooled.append((rate, weight, size))
    return np.repeat([rate for rate, _, _ in pooled], [size for _, _, size in pooled])
