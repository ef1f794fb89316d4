"""Lower bounds on epsilon: right in closed cases, sound on average, never fooled by NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from fedge.audit.estimators import (
    ErrorRates,
    Guesses,
    best_threshold,
    counted_epsilon,
    error_rates,
    gaussian_epsilon,
    gaussian_mu,
    guess_extremes,
    one_run_epsilon,
    one_run_p_value,
    upper_proportion,
)
from fedge.errors import NonFiniteValueError, SettingError

DELTA = 1e-5
PROPORTION = st.integers(1, 400).flatmap(
    lambda trials: st.tuples(st.integers(0, trials), st.just(trials))
)


class TestProportion:
    @given(trials=st.integers(1, 5000), confidence=st.floats(0.5, 0.999))
    def test_no_success_at_all(self, trials: int, confidence: float) -> None:
        """Closed form: the upper bound p solves (1 - p)^n = 1 - confidence."""
        expected = 1 - (1 - confidence) ** (1 / trials)

        assert upper_proportion(0, trials, confidence) == pytest.approx(expected, rel=1e-9)
        assert upper_proportion(trials, trials, confidence) == 1.0

    @given(PROPORTION, st.floats(0.5, 0.999))
    def test_the_bound_is_just_not_too_unlikely(
        self, counted: tuple[int, int], confidence: float
    ) -> None:
        """At the bound, as few successes or fewer have a probability of 1 - confidence."""
        successes, trials = counted
        bound = upper_proportion(successes, trials, confidence)
        if successes < trials:
            assert binom.cdf(successes, trials, bound) == pytest.approx(1 - confidence, rel=1e-6)

    @pytest.mark.parametrize(
        ("successes", "trials", "confidence"), [(3, 2, 0.9), (-1, 2, 0.9), (0, 0, 0.9), (1, 2, 1.0)]
    )
    def test_what_is_no_proportion_is_refused(
        self, successes: int, trials: int, confidence: float
    ) -> None:
        """More successes than trials, no trial, certainty."""
        with pytest.raises(SettingError):
            upper_proportion(successes, trials, confidence)


class TestManyRuns:
    @given(st.floats(0.01, 20.0))
    def test_randomised_response(self, epsilon: float) -> None:
        """Its error rates show its epsilon exactly, when they are known exactly."""
        wrong = 1 / (1 + math.exp(epsilon))
        rates = ErrorRates(false_positive=wrong, false_negative=wrong)

        assert counted_epsilon(rates, 0.0) == pytest.approx(epsilon, rel=1e-6)

    @given(st.floats(0.05, 6.0), st.floats(-3.0, 3.0))
    def test_a_gaussian_mechanism(self, mu: float, threshold: float) -> None:
        """Whatever the threshold, its error rates show its mu; and never more than its epsilon."""
        rates = ErrorRates(
            false_positive=float(norm.sf(threshold)), false_negative=float(norm.cdf(threshold - mu))
        )

        assert gaussian_mu(rates) == pytest.approx(mu, abs=1e-6)
        assert counted_epsilon(rates, DELTA) <= gaussian_epsilon(mu, DELTA) + 1e-9

    @given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
    def test_guessing_shows_nothing(self, false_positive: float, share: float) -> None:
        """Errors that add up to one or more are those of a coin."""
        rates = ErrorRates(
            false_positive=false_positive,
            false_negative=min(1.0, 1 - false_positive + share * false_positive),
        )

        assert counted_epsilon(rates, DELTA) == 0.0
        assert gaussian_mu(rates) <= 1e-6

    @given(st.floats(0.05, 9.0))
    def test_epsilon_of_mu_gives_delta_back(self, mu: float) -> None:
        """The tight conversion: at the answer, the privacy profile is delta, from above."""
        epsilon = gaussian_epsilon(mu, DELTA)
        tail = norm.logcdf(-epsilon / mu - mu / 2)
        delta = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon + tail)

        assert delta == pytest.approx(DELTA, rel=1e-5)

    def test_known_conversion(self) -> None:
        """A table value: mu 1 at delta 1e-5 is epsilon 4.377; no noise left is out of reach."""
        assert gaussian_epsilon(1.0, DELTA) == pytest.approx(4.377, abs=1e-3)
        assert gaussian_epsilon(0.0, DELTA) == 0.0

    @pytest.mark.parametrize("mu", [0.5, 1.5, 3.0])
    def test_bounds_hold_as_often_as_they_say(self, mu: float) -> None:
        """Over many audits of a known mechanism, at most one in twenty exceeds the truth."""
        rng = np.random.default_rng(2)
        audits, above = 200, 0
        found = []
        for _ in range(audits):
            rates = error_rates(rng.normal(mu, 1, 400), rng.normal(0, 1, 400), 0.95)
            found.append(gaussian_mu(rates))
            above += found[-1] > mu
        assert above <= 20  # binomial(200, 1/20) exceeds it once in a thousand
        assert np.mean(found) > 0.75 * mu - 0.3

    def test_the_threshold_is_tested_on_other_runs(self) -> None:
        """Scores that only seem apart on the half where it is chosen show nothing."""
        scores = np.tile([0.0, 1.0], 50)
        lucky_with, lucky_without = scores.copy(), scores.copy()
        lucky_with[::2], lucky_without[::2] = 9.0, -9.0

        rates = error_rates(lucky_with, lucky_without, 0.95)
        assert gaussian_mu(rates) == 0.0

    def test_the_best_threshold_separates(self) -> None:
        """Between two clouds that do not overlap, and nothing above it is from without."""
        with_it, without = np.linspace(5, 6, 40), np.linspace(0, 1, 40)
        threshold = best_threshold(with_it, without, 0.95)

        assert 1.0 <= threshold < 5.0

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_score_that_is_not_finite_is_refused(self, bad: float) -> None:
        """A training that broke is no evidence for privacy."""
        scores = np.array([0.0, 1.0, 2.0, bad])

        with pytest.raises(NonFiniteValueError):
            error_rates(scores, np.zeros(4), 0.95)
        with pytest.raises(SettingError):
            error_rates(np.zeros(3), np.zeros(3), 0.95)


class TestOneRun:
    @given(made=st.integers(20, 2000), confidence=st.floats(0.8, 0.99))
    def test_all_right_without_delta(self, made: int, confidence: float) -> None:
        """Closed form: (e^eps / (1 + e^eps))^r = 1 - confidence."""
        rate = (1 - confidence) ** (1 / made)
        guesses = Guesses(canaries=made, made=made, right=made)

        found = one_run_epsilon(guesses, 0.0, confidence)
        assert found == pytest.approx(math.log(rate / (1 - rate)), abs=1e-6)

    @pytest.mark.parametrize(
        ("right", "made", "expected"),
        [(100, 100, 3.49), (200, 200, 4.19), (500, 500, 5.11), (450, 500, 1.95), (400, 500, 1.20)],
    )
    def test_known_values(self, right: int, made: int, expected: float) -> None:
        """At 95 % without delta."""
        guesses = Guesses(canaries=made, made=made, right=right)

        assert one_run_epsilon(guesses, 0.0, 0.95) == pytest.approx(expected, abs=5e-3)

    @settings(max_examples=60)
    @given(
        canaries=st.integers(1, 500), made=st.floats(0, 1), right=st.floats(0, 1),
        delta=st.sampled_from([0.0, 1e-6, 1e-3]),
    )  # fmt: skip
    def test_p_values_are_probabilities_that_grow_with_epsilon(
        self, canaries: int, made: float, right: float, delta: float
    ) -> None:
        """More privacy loss makes luck less needed; a delta only helps the training."""
        tried = int(made * canaries)
        guesses = Guesses(canaries=canaries, made=tried, right=int(right * tried))
        values = [one_run_p_value(guesses, epsilon, delta) for epsilon in (0.0, 0.5, 2.0, 8.0)]

        assert all(0.0 <= value <= 1.0 for value in values)
        assert values[0] <= values[-1] + 1e-12
        assert one_run_p_value(guesses, 1.0, 0.0) <= one_run_p_value(guesses, 1.0, delta) + 1e-12

    def test_a_delta_excuses_luck_by_what_the_theorem_says(self) -> None:
        """Added up by hand: the worst of all ways to spend delta on some of the canaries."""
        canaries, made, right, delta, rate = 12, 9, 8, 1e-3, 1 / (1 + math.exp(-1.0))
        mass = [math.comb(made, k) * rate**k * (1 - rate) ** (made - k) for k in range(made + 1)]
        worst = max(sum(mass[max(0, right - i) : right]) / i for i in range(1, canaries + 1))

        found = one_run_p_value(Guesses(canaries=canaries, made=made, right=right), 1.0, delta)
        assert found == pytest.approx(sum(mass[right:]) + 2 * canaries * delta * worst)

    def test_a_coin_shows_nothing(self) -> None:
        """Half right is what anybody gets."""
        assert one_run_epsilon(Guesses(canaries=400, made=400, right=200), DELTA, 0.95) == 0.0

    @pytest.mark.parametrize("epsilon", [0.5, 2.0])
    def test_the_bound_holds_as_often_as_it_says(self, epsilon: float) -> None:
        """Coins guessed by randomised response: at most one audit in twenty exceeds the truth."""
        rng = np.random.default_rng(8)
        rate = 1 / (1 + math.exp(-epsilon))
        right = rng.binomial(300, rate, size=200)
        found = [
            one_run_epsilon(Guesses(canaries=300, made=300, right=int(r)), 0.0, 0.95) for r in right
        ]

        assert sum(bound > epsilon for bound in found) <= 20
        assert np.mean(found) > 0.5 * epsilon

    def test_guesses_are_made_at_both_ends(self) -> None:
        """The highest are guessed in, the lowest out, and nothing between."""
        scores = np.arange(10.0)
        coins = scores >= 8
        guesses = guess_extremes(scores, coins, 0.4)

        assert guesses == Guesses(canaries=10, made=4, right=4)
        assert guess_extremes(scores, ~coins, 0.4).right == 0

    def test_bad_input_is_refused(self) -> None:
        """NaN scores, impossible counts, a share of nothing."""
        coins = np.ones(3, dtype=np.bool_)
        with pytest.raises(NonFiniteValueError):
            guess_extremes(np.array([0.0, np.nan, 1.0]), coins, 1.0)
        with pytest.raises(SettingError):
            guess_extremes(np.zeros(3), coins, 0.0)
        with pytest.raises(SettingError):
            guess_extremes(np.zeros(2), coins, 1.0)
        with pytest.raises(SettingError):
            Guesses(canaries=3, made=2, right=3)
