"""Which of P(X), P(Y|X) and P(X|Y) stayed as it was when labelled rows changed.

Rows that moved have P(X) P(Y|X) = P(Y) P(X|Y) moved. Covariate drift leaves
P(Y|X) alone, label shift leaves P(X|Y) alone, concept drift leaves P(X) alone, so
each cause is a hypothesis that can be refuted, and the true one is that which is not.

P(Y|X) is compared only where reference and recent rows overlap, each weighted by
how much it looks like the other side (overlap weights: Li, Morgan and Zaslavsky,
JASA, 2018). That makes the test a generalised covariance measure (Shah and Peters,
Annals of Statistics, 2020): it stays true if the model of the label is a little
wrong, as small models are, because the inputs are balanced too. Elsewhere a model
extrapolates, and its error says nothing about the concept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.longrun import wander

Floats = NDArray[np.float64]

MIN_CLASS_ROWS = 4
"""A class with fewer rows on a side is not compared."""

MIN_OVERLAP = 8.0
"""Fewer effective rows in the overlap tell nothing about P(Y|X)."""

CLIP = 5.0
"""Standardised features and their squares count up to here: one wild row moves no mean far."""

LEAST_SPREAD = 0.05
"""Least standard deviation of a score, against statistics that never varied in the reference."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Against "this stayed as it was", from many comparisons.

    Attributes:
        z: float64[T], difference of means in standard errors; NaN where it was not tested.
        effect: float64[T], the differences in reference standard deviations.
    """

    z: Floats
    effect: Floats

    @property
    def known(self) -> bool:
        """Whether anything could be compared."""
        return bool(np.isfinite(self.z).any())

    def strength(self, *, part: float = 1.0) -> float:
        """The largest |z|, as the normal quantile that is as rare among one comparison as this is
        among all (Bonferroni); 0 where nothing is unusual, NaN where nothing was compared.

        `part` is the part of the chance to err that these comparisons may use.
        """
        from scipy.special import log_ndtr, ndtri

        if not self.known:
            return math.nan
        tests = int(np.isfinite(self.z).sum()) / part
        level = math.log(2 * tests) + float(log_ndtr(-np.nanmax(np.abs(self.z))))
        if level >= math.log(0.999):
            return 0.0
        # A probability that far out underflows; its quantile does not.
        if level < -600:
            return math.sqrt(-2 * level)
        return max(0.0, -float(ndtri(math.exp(level) / 2)))


def moments(matrix: Floats) -> Floats:
    """float64[n, 2 D] from standardised features: each and its square, bounded.

    The square is taken around the reference's mean and less 1, so a feature that has only two
    values, whose square is nothing new, shows as it.
    """
    clipped = np.clip(matrix, -CLIP, CLIP)
    return np.hstack([clipped, np.minimum(clipped**2, CLIP) - 1])


def compare(reference: Floats, recent: Floats) -> Evidence:
    """Whether means of scores differ; rows of a side may resemble their neighbours.

    Args:
        reference, recent: float64[n, T] and float64[m, T] in time order; NaN is no score.
    """
    ones = np.ones(len(reference)), np.ones(len(recent))
    return weighted(reference, recent, *ones, inflation(reference, len(recent)))


def weighted(
    reference: Floats, recent: Floats, weight: Floats, weight_recent: Floats, inflated: Floats
) -> Evidence:
    """Whether weighted means of scores differ.

    Args:
        weight, weight_recent: float64[n], float64[m], not negative.
        inflated: float64[T], variance of means over that of independent rows.
    """
    mean, error = _mean(reference, weight)
    mean_recent, error_recent = _mean(recent, weight_recent)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.maximum(np.nanstd(reference, axis=0), LEAST_SPREAD)
        effect = (mean_recent - mean) / spread
        least = spread**2 * (_thin(recent, weight_recent) + _thin(reference, weight))
        # Where a side hardly varied by chance, the reference's spread stands in.
        variance = np.maximum(error + error_recent, 0.25 * least)
        z = (mean_recent - mean) / np.sqrt(inflated * variance)
    return Evidence(z, np.where(np.isnan(z), np.nan, effect))


def within_classes(
    reference: Floats, recent: Floats, classes: Floats, classes_recent: Floats, count: int
) -> Evidence:
    """Whether the scores' means moved within the classes: P(X|Y), by class and over all.

    Args:
        classes, classes_recent: float64[n], float64[m], index of each row's class; NaN unknown.
        count: number of classes.
    """
    inflated = inflation(_centred(reference, classes, count), len(recent))
    found: list[Evidence] = []
    shares: list[float] = []
    for index in range(count):
        rows, rows_recent = classes == index, classes_recent == index
        if min(rows.sum(), rows_recent.sum()) < MIN_CLASS_ROWS:
            continue
        sides = reference[rows], recent[rows_recent]
        ones = np.ones(len(sides[0])), np.ones(len(sides[1]))
        found.append(weighted(*sides, *ones, inflated))
        shares.append(1 / (1 / len(sides[0]) + 1 / len(sides[1])))
    if not found:
        nothing = np.full(reference.shape[1], np.nan)
        return Evidence(nothing, nothing)
    pull = np.sqrt(np.array(shares) / sum(shares))[:, None]
    pooled = (pull * np.array([e.z for e in found])).sum(axis=0)
    return Evidence(
        np.concatenate([pooled, *(e.z for e in found)]),
        np.concatenate([np.full(len(pooled), np.nan), *(e.effect for e in found)]),
    )


def overlap(matrix: Floats, matrix_recent: Floats) -> tuple[Floats, Floats, float]:
    """Weights by which rows of both sides have the same inputs.

    Args:
        matrix, matrix_recent: float64[n, D], float64[m, D], standardised features.

    Returns:
        float64[n] and float64[m] weights, and how many recent rows those are worth.
    """
    from sklearn.linear_model import LogisticRegression

    rows, recent = len(matrix), len(matrix_recent)
    if matrix.shape[1] == 0:
        return np.ones(rows), np.ones(recent), float(recent)
    both = moments(np.vstack([matrix, matrix_recent]))
    side = np.arange(rows + recent) >= rows
    # Both sides weigh alike, and few rows of many features must not be told apart by chance.
    balance = np.where(side, 0.5 / recent, 0.5 / rows) * min(rows, recent) * 2
    strictness = min(1.0, min(rows, recent) / (10 * both.shape[1]))
    classifier = LogisticRegression(C=strictness, max_iter=300)
    recentness = classifier.fit(both, side, sample_weight=balance).predict_proba(both)[:, 1]
    weight, weight_recent = recentness[:rows], 1 - recentness[rows:]
    worth = weight_recent.sum() ** 2 / max(float((weight_recent**2).sum()), 1e-300)
    # Rows that are worth much beside each other but little beside all are no overlap.
    return weight, weight_recent, float(min(worth, 2 * weight_recent.sum()))


def inflation(reference: Floats, rows: int) -> Floats:
    """float64[T], variance of the mean over `rows` rows over that of independent ones, >= 1."""
    spread = wander(reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = spread.of_mean(max(1, rows)) * rows / spread.variance
    inflated: Floats = np.where(np.isfinite(ratio), np.maximum(1.0, ratio), 1.0)
    return inflated


def _centred(scores: Floats, classes: Floats, count: int) -> Floats:
    centred = scores.copy()
    for index in range(count):
        rows = classes == index
        if rows.any():
            centred[rows] -= np.nanmean(scores[rows], axis=0)
    return centred


def _mean(scores: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted means and the variances of these, for independent rows."""
    known = np.isfinite(scores)
    pull = np.where(known, weight[:, None], 0.0)
    filled = np.where(known, scores, 0.0)
    total = pull.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(total > 0, (pull * filled).sum(axis=0) / total, np.nan)
        variance = (pull**2 * (filled - mean) ** 2).sum(axis=0) / total**2
    return mean, variance


def _thin(scores: Floats, weight: Floats) -> Floats:
    """float64[T], one over the number of rows that the weights are worth."""
    pull = np.where(np.isfinite(scores), weight[:, None], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        thin: Floats = (pull**2).sum(axis=0) / pull.sum(axis=0) ** 2
    return thin
