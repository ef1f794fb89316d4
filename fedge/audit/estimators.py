"""Lower bounds on epsilon from what an attacker guesses right.

Two kinds of experiment. Many runs: scores of trainings with and without one record; a
threshold is chosen on one half of them and its error rates are bounded on the other, so
that choosing it costs no confidence. One run: each of many canaries is in it by a fair
coin, and a right guess about many coins at once is evidence. No data, model or ledger is
touched here, and no randomness is drawn.

A bound of 0 says that nothing was shown; NaN scores are refused, never "no leak".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom, norm

from fedge.errors import NonFiniteValueError, SettingError

Floats = npt.NDArray[np.float64]

_LARGEST_EPSILON = 100.0
"""Nothing that is audited here can show more; keeps searches finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRates:
    """Upper confidence bounds on the two errors of one guess, each with half of 1 - confidence.

    Attributes:
        false_positive: probability of guessing "with" where the record was left out.
        false_negative: probability of guessing "without" where it was in.
    """

    false_positive: float
    false_negative: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Guesses:
    """What was guessed about the canaries of one run.

    Attributes:
        canaries: fair coins that were thrown.
        made: coins on which a guess was made.
        right: of them.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries or self.canaries < 1:
            raise SettingError(f"{self.right} right of {self.made} of {self.canaries} guesses")


# --- one proportion -----------------------------------------------------------------------


def upper_proportion(successes: int, trials: int, confidence: float) -> float:
    """The largest probability at which at most `successes` are not too rare.

    One-sided and exact (Clopper and Pearson, "The use of confidence or fiducial limits", 1934).
    """
    if not 0 <= successes <= trials or trials < 1 or not 0 < confidence < 1:
        raise SettingError(f"no proportion: {successes} of {trials} at {confidence}")
    if successes == trials:
        return 1.0
    return float(beta.ppf(confidence, successes + 1, trials - successes))


# --- many runs ----------------------------------------------------------------------------


def error_rates(scores_with: Floats, scores_without: Floats, confidence: float) -> ErrorRates:
    """Error rates of the best threshold, chosen on even runs and bounded on odd ones.

    "With" is guessed where a score exceeds the threshold.

    Args:
        scores_with, scores_without: float64 [n], higher where the record seems to be in; at
            least 4 of each.

    Raises:
        NonFiniteValueError: a score is NaN or infinite.
        SettingError: too few scores.
    """
    scores_with, scores_without = _checked(scores_with), _checked(scores_without)
    threshold = best_threshold(scores_with[::2], scores_without[::2], confidence)
    tested_with, tested_without = scores_with[1::2], scores_without[1::2]
    each = (1 + confidence) / 2  # both bounds hold at once
    return ErrorRates(
        false_positive=upper_proportion(
            int((tested_without > threshold).sum()), len(tested_without), each
        ),
        false_negative=upper_proportion(
            int((tested_with <= threshold).sum()), len(tested_with), each
        ),
    )


def best_threshold(scores_with: Floats, scores_without: Floats, confidence: float) -> float:
    """The threshold at which these scores give the largest Gaussian bound."""
    candidates = np.unique(np.concatenate([scores_with, scores_without]))
    each = (1 + confidence) / 2
    above = len(scores_without) - np.searchsorted(np.sort(scores_without), candidates, "right")
    below = np.searchsorted(np.sort(scores_with), candidates, "right")
    false_positive = _upper(above, len(scores_without), each)
    false_negative = _upper(below, len(scores_with), each)
    bounds = norm.isf(false_positive) - norm.ppf(false_negative)
    return float(candidates[int(np.argmax(bounds))])


def counted_epsilon(rates: ErrorRates, delta: float) -> float:
    """Epsilon that any mechanism with these error rates has at least, at `delta`.

    Both directions of (epsilon, delta)-DP: 1 - FN <= e^eps FP + delta, and the same with the
    errors exchanged (Kairouz, Oh, Viswanath, "The composition theorem for differential
    privacy", 2015, section 2).
    """
    pairs = (
        (rates.false_positive, rates.false_negative),
        (rates.false_negative, rates.false_positive),
    )
    found = [math.log((1 - delta - other) / one) for one, other in pairs if one + delta + other < 1]
    return max(0.0, *found) if found else 0.0


def gaussian_mu(rates: ErrorRates) -> float:
    """Mu that a Gaussian mechanism with these error rates has at least.

    mu = Phi^-1(1 - FP) - Phi^-1(FN) (Dong, Roth, Su, "Gaussian Differential Privacy", 2022,
    section 2.3; as an audit: Nasr and others, "Tight Auditing of Differentially Private Machine
    Learning", 2023). Exact for full-batch Gaussian noise, an approximation for sampled batches.
    """
    if rates.false_positive >= 1 or rates.false_negative >= 1:
        return 0.0
    return max(0.0, float(norm.isf(rates.false_positive) - norm.ppf(rates.false_negative)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon at `delta` of a mechanism that is exactly mu-GDP.

    The root of delta = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2) (Balle and Wang,
    "Improving the Gaussian Mechanism for Differential Privacy", 2018, theorem 8).

    Raises:
        SettingError: `mu` is negative or NaN, or `delta` is not between 0 and 1.
    """
    if not mu >= 0 or not 0 < delta < 1:
        raise SettingError(f"need mu >= 0 and 0 < delta < 1, not {mu=}, {delta=}")
    if mu == 0:
        return 0.0

    def exceeds(epsilon: float) -> bool:
        second = math.exp(epsilon + float(norm.logcdf(-epsilon / mu - mu / 2)))
        return float(norm.cdf(-epsilon / mu + mu / 2)) - second > delta

    return _largest(exceeds)


# --- one run ------------------------------------------------------------------------------


def one_run_epsilon(guesses: Guesses, delta: float, confidence: float) -> float:
    """Epsilon at `delta` that these guesses show.

    Inverts `one_run_p_value`: every smaller epsilon would make them too lucky.
    """
    if not 0 < confidence < 1 or not 0 <= delta < 1:
        raise SettingError(f"need 0 < confidence < 1 and 0 <= delta < 1: {confidence=}, {delta=}")
    return _largest(lambda epsilon: one_run_p_value(guesses, epsilon, delta) < 1 - confidence)


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are at most, were the training (epsilon, delta)-DP.

    Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", 2023
    (arXiv 2305.08846), theorem 5.2: with W binomial of `made` trials that succeed with
    e^eps / (1 + e^eps), P[W >= right] + 2 m delta max_i P[right - i <= W < right] / i.
    """
    rate = 1 / (1 + math.exp(-epsilon))
    lucky = float(binom.sf(guesses.right - 1, guesses.made, rate))
    if delta == 0 or guesses.right == 0:
        return min(1.0, lucky)
    below = np.arange(1, guesses.right + 1)
    masses = np.cumsum(binom.pmf(guesses.right - below, guesses.made, rate))
    return min(1.0, lucky + 2 * guesses.canaries * delta * float((masses / below).max()))


def guess_extremes(scores: Floats, present: npt.NDArray[np.bool_], share: float) -> Guesses:
    """Guess "in" for the highest scores and "out" for the lowest, nothing between.

    Args:
        scores: float64 [m], higher where a canary seems to be in.
        present: bool [m], the coins.
        share: of the canaries about which a guess is made, in (0, 1]; half of them each way.

    Raises:
        NonFiniteValueError: a score is NaN or infinite.
        SettingError: `share` is out of range, or scores and coins do not fit.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != np.shape(present) or scores.ndim != 1 or not 0 < share <= 1:
        raise SettingError(f"{np.shape(scores)} scores, {np.shape(present)} coins, {share=}")
    if not np.isfinite(scores).all():
        raise NonFiniteValueError("a canary's score is not finite")
    each = max(1, int(len(scores) * share / 2))
    order = np.argsort(scores, kind="stable")
    right = int(present[order[-each:]].sum()) + int((~present[order[:each]]).sum())
    return Guesses(canaries=len(scores), made=2 * each, right=right)


# --- within -------------------------------------------------------------------------------


def _checked(scores: Floats) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < 4:
        raise SettingError(f"need at least 4 scores, got {values.shape}")
    if not np.isfinite(values).all():
        raise NonFiniteValueError("a training's score is not finite")
    return values


def _upper(successes: npt.NDArray[np.int64], trials: int, confidence: float) -> Floats:
    """`upper_proportion` for many numbers of successes at once."""
    bounds = np.ones(len(successes))
    some = successes < trials
    bounds[some] = beta.ppf(confidence, successes[some] + 1, trials - successes[some])
    return bounds


def _largest(holds: Callable[[float], bool]) -> float:
    """The largest epsilon up to which `holds`, by bisection; rounded down."""
    if not holds(0.0):
        return 0.0
    if holds(_LARGEST_EPSILON):
        return _LARGEST_EPSILON
    low, high = 0.0, _LARGEST_EPSILON
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
