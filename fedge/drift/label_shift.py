"""Class shares without labels, and whether a change of them explains how a feature moved.

Black-box shift estimation (Lipton, Wang and Smola, "Detecting and correcting for
label shift with black box predictors", ICML 2018): if only the class shares
changed, the shares of the model's predictions are the confusion matrix times the
new class shares, and solving for them needs nothing but counts. Whether that
"if" holds is tested: then every feature's histogram now is its histograms by
class in the reference, mixed by the new shares.

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


@dataclass(frozen=True, slots=True)
class MixtureFit:
    """How one histogram fits a mixture of the reference's histograms by class.

    Attributes:
        before: chi-square of the histogram against the reference's own mixture.
        after: chi-square against the mixture by the new shares.
        degrees: degrees of freedom of both.
    """

    before: float
    after: float
    degrees: int

    @property
    def p_value(self) -> float:
        """How likely a distance as `after` is if the new shares explain all."""
        from scipy.special import chdtrc

        return float(chdtrc(self.degrees, self.after))

    @property
    def moved_p_value(self) -> float:
        """How likely a distance as `before` is if nothing moved."""
        from scipy.special import chdtrc

        return float(chdtrc(self.degrees, self.before))

    @property
    def explained(self) -> float:
        """The part of the movement beyond chance that the new shares explain, 0 to 1."""
        beyond = self.before - self.degrees
        if beyond <= 0:
            return 0.0
        return float(np.clip(1 - max(0.0, self.after - self.degrees) / beyond, 0.0, 1.0))


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


def explains(
    shares: ClassShares,
    by_class: NDArray[np.floating] | NDArray[np.integer],
    now: NDArray[np.floating] | NDArray[np.integer],
    *,
    noise: float = 0.0,
    inflation: float = 1.0,
) -> MixtureFit | NotEstimable:
    """Whether new class shares explain a feature's histogram.

    Args:
        by_class: [K, B], reference rows by class and bin.
        now: [B], rows now by bin.
        noise: variance of the noise in each entry of `now`.
        inflation: variance of `now` over that of independent rows.
    """
    by_class, now = np.asarray(by_class, np.float64), np.asarray(now, np.float64)
    per_class, rows = by_class.sum(axis=1), float(now.sum())
    if (per_class <= 0).any() or rows <= 0:
        return NotEstimable("a class has no reference row, or there is no row now")
    used = (by_class.sum(axis=0) > 0) | (now > 0)
    rates, seen = by_class[:, used] / per_class[:, None], now[used] / rows
    noised = np.eye(len(seen)) * (noise / rows**2)
    distances = []
    for mix in (shares.reference, shares.shares):
        expected = mix @ rates
        # The larger of expected and seen shares: a bin that was empty before has no variance.
        spread = inflation * _multinomial(np.maximum(expected, np.clip(seen, 0, 1))) / rows
        spread = spread + noised + rates.T @ shares.covariance @ rates * (mix is shares.shares)
        for share, rate, n in zip(mix, rates, per_class, strict=True):
            spread = spread + share**2 * _multinomial(rate) / n
        off = seen - expected
        distances.append(float(off @ np.linalg.pinv(spread, rcond=1e-9, hermitian=True) @ off))
    return MixtureFit(distances[0], distances[1], max(1, int(used.sum()) - 1))


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
