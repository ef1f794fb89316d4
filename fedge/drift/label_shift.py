"""Class shares without labels.

Black-box shift estimation (Lipton, Wang and Smola, "Detecting and correcting for
label shift with black box predictors", ICML 2018): if only the class shares
changed, the shares of the model's predictions are the confusion matrix times the
new class shares, and solving for them needs nothing but counts. Whether that
"if" holds is tested by whoever asks, on the features by class.

All inputs are sums over rows, so those of many sites, noised or not, may be added first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_SINGULAR = 0.05
"""A confusion matrix whose smallest singular value is below this blows errors up twentyfold: some
mixture of classes hardly shows in the predictions."""

WORST_ERROR = 0.25
"""Shares with a larger standard error say nothing."""

_NORMAL_95 = 1.959964


@dataclass(frozen=True, slots=True)
class NotEstimable:
    """There is no estimate, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class ClassShares:
    """Class shares of some rows, estimated.

    Attributes:
        shares: float64[K], not negative, of sum 1.
        covariance: float64[K, K], of the shares before they were brought into that range.
        reference: float64[K], the shares in the reference.
    """

    shares: Floats
    covariance: Floats
    reference: Floats

    @property
    def low(self) -> Floats:
        """float64[K], lower ends of 95 % intervals."""
        return np.maximum(0.0, self.shares - _NORMAL_95 * self._errors)

    @property
    def high(self) -> Floats:
        """float64[K], upper ends of 95 % intervals."""
        return np.minimum(1.0, self.shares + _NORMAL_95 * self._errors)

    @property
    def weights(self) -> Floats:
        """float64[K], how many times more frequent each class is now."""
        weights: Floats = self.shares / self.reference
        return weights

    @property
    def _errors(self) -> Floats:
        errors: Floats = np.sqrt(np.diagonal(self.covariance))
        return errors


def bbse(
    confusion: NDArray[np.floating] | NDArray[np.integer],
    predicted: NDArray[np.floating] | NDArray[np.integer],
    *,
    noise: float = 0.0,
    inflation: float = 1.0,
) -> ClassShares | NotEstimable:
    """Class shares from how often each class was predicted.

    Args:
        confusion: [K, K], reference rows of class j (column) that were predicted as i (row).
        predicted: [K], rows now that were predicted as each class; noised counts may be negative.
        noise: variance of the noise in each entry of `predicted`.
        inflation: variance of the counts over that of independent rows.
    """
    confusion, predicted = np.asarray(confusion, np.float64), np.asarray(predicted, np.float64)
    per_class, rows = confusion.sum(axis=0), float(predicted.sum())
    if not (np.isfinite(confusion).all() and np.isfinite(predicted).all()):
        return NotEstimable("counts are missing")
    if (per_class <= 0).any() or rows <= 0:
        return NotEstimable("a class has no reference row, or there is no row now")
    rates = confusion / per_class
    smallest = float(np.linalg.svd(rates, compute_uv=False)[-1])
    if smallest < LEAST_SINGULAR:
        return NotEstimable("the model's predictions hardly tell the classes apart")
    answered = predicted / rows
    raw = np.linalg.solve(rates, answered)
    spread = inflation * _multinomial(np.clip(answered, 0, 1)) / rows + np.eye(len(raw)) * (
        noise / rows**2
    )
    for share, rate, n in zip(raw, rates.T, per_class, strict=True):
        spread = spread + share**2 * _multinomial(rate) / n
    inverse = np.linalg.inv(rates)
    covariance = inverse @ spread @ inverse.T
    if float(np.sqrt(np.diagonal(covariance).max())) > WORST_ERROR:
        return NotEstimable("too few rows to tell the class shares")
    return ClassShares(_to_shares(raw), covariance, per_class / per_class.sum())


def _multinomial(shares: Floats) -> Floats:
    """Covariance of one draw."""
    covariance: Floats = np.diag(shares) - np.outer(shares, shares)
    return covariance


def _to_shares(raw: Floats) -> Floats:
    """The nearest vector that is not negative and sums to 1 (Duchi and others, ICML 2008)."""
    ordered = np.sort(raw)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(raw) + 1)
    last = int(np.flatnonzero(ordered > excess)[-1])
    nearest: Floats = np.maximum(raw - excess[last], 0.0)
    return nearest
