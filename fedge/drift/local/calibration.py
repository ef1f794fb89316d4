"""Giving an OOD score a unit: how rare it is among reference rows.

The threshold is the conformal quantile: of n reference rows and one served row that is
exchangeable with them, the served one exceeds the k-th smallest score with a probability of at
most `rate` for k = ceil((n + 1)(1 - rate)), whatever the score's distribution (Vovk, Gammerman
and Shafer, "Algorithmic Learning in a Random World", 2005; for outliers Bates et al., "Testing
for outliers with conformal p-values", Annals of Statistics 51, 2023). Where k > n no such row
exists, and the rate is refused. Reference scores must come from the model that serves, as it
serves: of the quantized one, where that serves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.drift.local.ood import LogitScore
from fedge.errors import NonFiniteValueError, SettingError
from fedge.records import CONFIDENCE_STREAM, OOD_LEVELS, OOD_STREAM, NumericStream, Reference

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating[Any]]


def rows_needed(rate: float) -> int:
    """Reference rows from which on a threshold of this rate exists.

    Raises:
        SettingError: a rate is more than 0 and less than 1.
    """
    if not 0.0 < rate < 1.0:  # catches NaN too
        raise SettingError(f"a rate is more than 0 and less than 1, not {rate}")
    return math.ceil(_exactly((1.0 - rate) / rate))


def rank_needed(rows: int, rate: float) -> int:
    """Which of `rows` scores in their order, counted from 1, is the threshold.

    Raises:
        SettingError: too few rows for this rate; says how many it takes.
    """
    if rows < rows_needed(rate):
        raise SettingError(
            f"a rate of {rate:g} takes {rows_needed(rate)} reference rows, here are {rows}"
        )
    return math.ceil(_exactly((rows + 1) * (1.0 - rate)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """Above which a row counts as strange.

    Attributes:
        limit: in units of the score.
        rate: at most this share of rows like the reference's exceeds it, averaged over what the
            reference could have been.
        rows: how many reference rows it was taken from.
    """

    limit: float
    rate: float
    rows: int

    @classmethod
    def of(cls, scores: Values, rate: float) -> Threshold:
        """The threshold from the scores of reference rows.

        Raises:
            SettingError: too few rows for this rate.
            NonFiniteValueError: a score is NaN or infinite.
        """
        if not np.isfinite(scores).all():
            raise NonFiniteValueError("a reference row has no finite OOD score")
        rank = rank_needed(len(scores), rate)
        limit = float(np.partition(scores.astype(np.float64), rank - 1)[rank - 1])
        return cls(limit=limit, rate=rate, rows=len(scores))

    @classmethod
    def of_reference(cls, reference: Reference, score: LogitScore, rate: float) -> Threshold:
        """The threshold from the quantiles that travel with a release.

        They are few: the next one above is taken, so that the share is at most `rate`, and often
        less.

        Raises:
            SettingError: the release has no quantiles of this score, or none that is far enough
                out for this rate with as many rows.
        """
        rank, rows = rank_needed(reference.rows, rate), reference.rows
        for level, value in _quantiles(reference, score):
            # Interpolated between two rows; the lower one counts.
            if math.floor(_exactly((rows - 1) * level)) + 1 >= rank:
                return cls(limit=value, rate=rate, rows=rows)
        raise SettingError(f"this release calibrates {score} for no rate as low as {rate:g}")

    def strange(self, scores: Values) -> npt.NDArray[np.bool_]:
        """Which rows exceed it; a row without a score (NaN) does."""
        return ~(scores <= self.limit)


class Ranks:
    """Where a score lies among reference rows: 0 below all of them, 1 above all of them.

    Piecewise linear between known quantiles, so that any score becomes a number of one scale, on
    which a detector works.

    Args:
        scores: float[m], not decreasing.
        shares: float[m], share of the reference rows up to each of them, not decreasing, in [0, 1].

    Raises:
        SettingError: they are not as they must be.
    """

    def __init__(self, scores: Values, shares: Values) -> None:
        good = len(scores) == len(shares) >= 2 and bool(np.isfinite(scores).all())
        if not (good and _not_decreasing(scores) and _not_decreasing(shares)):
            raise SettingError("quantiles of an OOD score must be finite and not decrease")
        if not 0.0 <= shares[0] <= shares[-1] <= 1.0:
            raise SettingError("shares of a reference lie between 0 and 1")
        self._scores = scores.astype(np.float64)
        self._shares = shares.astype(np.float64)

    @classmethod
    def of(cls, scores: Values) -> Ranks:
        """From the scores of reference rows themselves.

        Raises:
            SettingError: fewer than two.
            NonFiniteValueError: one is NaN or infinite.
        """
        if not np.isfinite(scores).all():
            raise NonFiniteValueError("a reference row has no finite OOD score")
        return cls(np.sort(scores), (np.arange(len(scores)) + 0.5) / max(len(scores), 1))

    @classmethod
    def of_reference(cls, reference: Reference, score: LogitScore) -> Ranks:
        """From what travels with a release: frozen bins, and quantiles where it has them.

        Raises:
            SettingError: the release says nothing about this score.
        """
        known = list(_quantiles(reference, score))
        streams = {s.name: s for s in reference.streams if isinstance(s, NumericStream)}
        if score == "energy" and OOD_STREAM in streams:
            known += _up_to_edges(streams[OOD_STREAM])
        elif score == "msp" and CONFIDENCE_STREAM in streams:
            known += [(1.0 - up, -edge) for up, edge in _up_to_edges(streams[CONFIDENCE_STREAM])]
        if len(known) < 2:
            raise SettingError(f"this release calibrates no {score}")
        shares, scores = np.array(sorted(known)).T
        # Two sources may differ in the last digits about where a quantile lies.
        return cls(np.maximum.accumulate(scores), shares.clip(0.0, 1.0))

    def of_scores(self, scores: Values) -> Floats:
        """float64[n] in [0, 1]; NaN where a score is NaN."""
        finite = ~np.isnan(scores)
        found = np.interp(np.where(finite, scores, 0.0), self._scores, self._shares)
        return np.where(finite, found, np.nan)


def _quantiles(reference: Reference, score: LogitScore) -> tuple[tuple[float, float], ...]:
    """(share of reference rows up to it, quantile) of a score; empty where there are none."""
    for calibration in reference.ood or ():
        if calibration.score == score:
            return tuple(zip(OOD_LEVELS, calibration.quantiles, strict=True))
    return ()


def _up_to_edges(stream: NumericStream) -> list[tuple[float, float]]:
    """(share of reference rows below it, edge) of each frozen edge."""
    return list(zip(np.cumsum(stream.histogram[:-1]).tolist(), stream.edges, strict=True))


def _not_decreasing(values: Values) -> bool:
    return bool((np.diff(values) >= 0).all())


def _exactly(number: float) -> float:
    """Without the last digits, in which 0.99 x 100 is more than 99."""
    return round(number, 9)
