"""How much more sums over consecutive windows vary than sums of independent windows.

Windows of a site are alike: it warms up by day and is cleaned on Mondays. A sum
over 12 windows then strays much further than twelve times one window's noise
says, a single window hardly so. One factor cannot be right for both. Here each
length has its own: the variance of overlapping sums of baseline windows (a
Bartlett kernel as wide as the sum; Newey & West 1987), corrected for what the
subtracted mean took away.

One series says little about long sums. Statistics of one kind lend each other
degrees of freedom as in Smyth's moderated t (2004), as far as their estimates
agree and as far as the series are not copies of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WANDER = 0.9
"""Correlation of neighbouring windows in the slow wander that a certified rate must survive: hourly
windows of a site that warms up and cools down over a day."""

_LEAST_RISE = 2.0
"""Rise of seen wander from single windows to the longest sums from which its strength is told: that
of about 36 windows."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """What sums over one number of windows are like, T statistics.

    Attributes:
        length: windows summed.
        inflation: float64[T], variance over that of independent windows as noise and counting
            alone give it, at least 1.
        degrees: float64[T], degrees of freedom behind `inflation`.
        pooled: float64[T], what all statistics of the same kind say together, not floored.
        pooled_degrees: float64[T], degrees of freedom behind `pooled`.
        own_degrees: float64[T], degrees of freedom of what the statistic says alone.
        wander_seen: how much the estimate rises per unit of slow wander (its variance over that
            of independent windows): small where a baseline is too short to see it.
        hidden: float64[T], part of `inflation` that stands for wander which the baseline hides;
            None where it was not looked for.
    """

    length: int
    inflation: Floats
    degrees: Floats
    pooled: Floats
    pooled_degrees: Floats
    own_degrees: Floats
    wander_seen: float
    hidden: Floats | None = None

    def part(self, count: int) -> Dependence:
        """The same of the first `count` statistics."""
        return Dependence(
            self.length,
            self.inflation[:count],
            self.degrees[:count],
            self.pooled[:count],
            self.pooled_degrees[:count],
            self.own_degrees[:count],
            self.wander_seen,
            None if self.hidden is None else self.hidden[:count],
        )


def estimate(
    residuals: Floats,
    fitted: Floats,
    lengths: Sequence[int],
    kinds: NDArray[np.int64],
) -> tuple[Dependence, ...]:
    """Learn the dependence of baseline windows, for each length.

    Variance of single windows is estimated first: there every window counts. What longer sums add
    is a factor on top of it, in which statistics agree far more than in the variance itself (the
    rows of one sensor may be alike, those of another not).

    Args:
        residuals: float64[W, T], deviations from the baseline in nominal standard deviations.
        fitted: float64[W, C], orthonormal: what fitting the baseline took away.
        lengths: numbers of windows that will be summed, increasing.
        kinds: int64[T], statistics of equal number are taken to be alike.
    """
    windows = len(residuals)
    alone, forms = _Form.of(fitted, 1), [_Form.of(fitted, length) for length in lengths]
    strength = _strength(residuals, alone, forms[-1], kinds)
    single = _pooled(residuals, alone, kinds, strength)
    scale = np.sqrt(np.where(single.shrunk > 0, single.shrunk, 1.0))
    found: list[Dependence] = []
    for length, form in zip(lengths, forms, strict=True):
        one = single
        if bandwidth(windows, length) > 1:
            more = _pooled(residuals / scale, form, kinds, strength)
            one = _Pooled(
                single.shrunk * more.shrunk,
                _both(single.degrees, more.degrees),
                single.pooled * more.pooled,
                _both(single.pooled_degrees, more.pooled_degrees),
            )
        own = np.array([form.degrees(float(w)) for w in strength])
        found.append(Dependence(length, *one, own_degrees=own, wander_seen=form.seen))
    return tuple(_with_unseen(one, found, windows) for one in found)


@dataclass(frozen=True, slots=True)
class _Form:
    """A quadratic form A of residuals and what it makes of windows that are independent but for a
    wander R: traces of A and AR, and of AA, AAR and ARAR."""

    matrix: Floats
    first: tuple[float, float]
    second: tuple[float, float, float]

    @classmethod
    def of(cls, fitted: Floats, length: int) -> _Form:
        """Of the long-run variance over `length` windows; `fitted` as for `estimate`."""
        matrix = long_run_form(fitted, length)
        wandering = matrix @ wander_correlation(len(matrix))
        return cls(
            matrix,
            (float(np.trace(matrix)), float(np.trace(wandering))),
            (
                float((matrix * matrix).sum()),
                float((wandering * matrix).sum()),
                float((wandering * wandering.T).sum()),
            ),
        )

    @property
    def seen(self) -> float:
        """See `Dependence.wander_seen`."""
        return self.first[1] / self.first[0]

    def degrees(self, wander: float) -> float:
        """Degrees of freedom (Satterthwaite) with a wander so strong, in parts of the rest."""
        mean = self.first[0] + wander * self.first[1]
        return mean**2 / (self.second[0] + 2 * wander * self.second[1] + wander**2 * self.second[2])


def _strength(residuals: Floats, alone: _Form, longest: _Form, kinds: NDArray[np.int64]) -> Floats:
    """Variance of the slow wander in parts of the rest, float64[T], the same for all of a kind.

    From how much longer sums vary more than single windows do.
    """
    rise = longest.seen - alone.seen
    strength = np.zeros(len(kinds))
    if rise < _LEAST_RISE:
        return strength
    short = (residuals * (alone.matrix @ residuals)).sum(axis=0) / alone.first[0]
    long = (residuals * (longest.matrix @ residuals)).sum(axis=0) / longest.first[0]
    for kind in np.unique(kinds):
        members = kinds == kind
        level, risen = float(short[members].mean()), float(long[members].mean())
        wander = max(0.0, risen - level) / rise
        strength[members] = wander / max(level - wander * alone.seen, 0.1 * level, 1e-12)
    return strength


def _with_unseen(one: Dependence, every: Sequence[Dependence], windows: int) -> Dependence:
    """Add the slow wander that a finite baseline hides from itself, and floor the inflation.

    How strong the wander is follows from how much the variance rises with the length of the sums,
    the part that is hidden from its correlation (`WANDER`). A baseline too short to tell a wander
    from its own mean is left as it is; `detect.certifiable` speaks about that.
    """
    first, last = every[0], every[-1]
    rise = last.wander_seen - first.wander_seen
    strength = np.zeros(len(one.inflation))
    if rise >= _LEAST_RISE:
        strength = np.maximum(0.0, last.inflation - first.inflation) / rise
    hidden = strength * max(0.0, wander_ratio(one.length, windows) - one.wander_seen)
    return replace(one, inflation=np.maximum(1.0, one.inflation + hidden), hidden=hidden)


def wander_ratio(length: int, windows: int) -> float:
    """Variance that a unit of wander adds to a sum far from its baseline, over that of independent
    windows, the error of the baseline's own mean included."""
    over_baseline = float(wander_correlation(windows).sum()) / windows**2
    wander = float(wander_correlation(length).sum()) + length**2 * over_baseline
    return wander / (length + length**2 / windows)


def bandwidth(windows: int, length: int) -> int:
    """Width of the overlapping sums from which a length is judged: a quarter of the windows at
    most, so that there are some sums to compare."""
    return min(length, 1 + windows // 4)


def long_run_form(fitted: Floats, length: int) -> Floats:
    """The matrix A by which residuals' A residuals estimates the variance of sums, up to scale.

    Dividing by its trace makes the estimate unbiased for independent windows however few they
    are; trace(A)^2 / trace(A^2) are its degrees of freedom.

    Args:
        fitted: float64[W, C], orthonormal: what fitting the baseline took away.
    """
    windows = len(fitted)
    kernel = np.maximum(0.0, 1 - _lags(windows) / bandwidth(windows, length))
    # (1 - F F') K (1 - F F'), without products of large matrices.
    half = fitted @ (fitted.T @ kernel)
    form: Floats = kernel - half - half.T + (half @ fitted) @ fitted.T
    return form


def wander_correlation(windows: int) -> Floats:
    """Correlation of the wander in consecutive windows, float64[windows, windows]."""
    correlation: Floats = np.power(WANDER, _lags(windows), dtype=np.float64)
    return correlation


def _lags(windows: int) -> NDArray[np.int64]:
    return np.abs(np.subtract.outer(np.arange(windows), np.arange(windows)))


def _both(one: Floats, other: Floats) -> Floats:
    """Degrees of a product of two estimates: the variances of their logarithms add up."""
    degrees: Floats = one * other / (one + other)
    return degrees


class _Pooled(NamedTuple):
    """As in `Dependence`, `shrunk` being the inflation without its floor."""

    shrunk: Floats
    degrees: Floats
    pooled: Floats
    pooled_degrees: Floats


def _pooled(residuals: Floats, form: _Form, kinds: NDArray[np.int64], strength: Floats) -> _Pooled:
    """Each statistic's own variance, shrunk to the mean of its kind."""
    trace = form.first[0]
    filtered = form.matrix @ residuals
    own = (residuals * filtered).sum(axis=0) / trace
    found = np.empty((4, len(own)))
    for kind in np.unique(kinds):
        # What cannot vary (a cell that nothing ever falls into, without noise) teaches nothing.
        members = np.flatnonzero(kinds == kind)
        alive = members[own[members] > 0]
        degrees = form.degrees(float(strength[members[0]]))
        found[:, members] = np.array([1.0, degrees, 1.0, degrees])[:, None]
        if alive.size:
            joint = residuals[:, alive].T @ filtered[:, alive] / trace
            found[:, members] = _shrink(own[members], joint, degrees)
    return _Pooled(*found)


def _shrink(own: Floats, joint: Floats, own_degrees: float) -> Floats:
    """Rows as in `_Pooled`, float64[4, k].

    Args:
        own: float64[k], estimates of one kind.
        joint: float64[m, m], covariances of those that vary.
    """
    variances = np.diag(joint)
    pooled = float(variances.mean())
    spread = float(variances.var()) / pooled**2
    prior = np.inf
    if spread * own_degrees > 2:
        # The spread of F(d, d0) by moments, solved for d0; with few degrees it has no moment.
        excess = 2 * (own_degrees - 2) + 4 * spread * own_degrees
        prior = max(4.0, excess / (spread * own_degrees - 2))
    weight = 1.0 if np.isinf(prior) else prior / (prior + own_degrees)
    shrunk = np.maximum(weight * pooled + (1 - weight) * own, 0.0)
    pooled_degrees = own_degrees * _independent(joint, own_degrees)
    degrees = min(own_degrees + prior, pooled_degrees)
    ones = np.ones(len(own))
    return np.stack([shrunk, degrees * ones, pooled * ones, pooled_degrees * ones])


def _independent(joint: Floats, own_degrees: float) -> float:
    """How many independent series so many estimates are worth.

    Estimated variances of two series correlate by their squared correlation r^2, so k of them are
    worth k^2 / (sum of r^2). Chance alone makes r^2 about 1 / degrees, which is subtracted.
    """
    size = len(joint)
    spread = np.sqrt(np.diag(joint))
    squared = float(((joint / np.outer(spread, spread)) ** 2).sum()) - size
    chance = 1 / max(own_degrees, 1.0)
    excess = max(0.0, squared - size * (size - 1) * chance) / max(1 - chance, 0.5)
    return size**2 / (size + excess)
