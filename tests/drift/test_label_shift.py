"""Class shares from predictions, and what they explain."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.label_shift import ClassShares, NotEstimable, bbse

RATES = np.array([[0.9, 0.1, 0.05], [0.05, 0.8, 0.15], [0.05, 0.1, 0.8]])
"""P(predicted | true): one column a class."""
BEFORE = np.array([0.4, 0.4, 0.2])
AFTER = np.array([0.1, 0.3, 0.6])
BINS = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
"""Bin shares of a feature by class."""


def draw(seed: int, rows: int, shares: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
    """Counts by predicted class and by bin of rows with these class shares."""
    rng = np.random.default_rng(seed)
    classes = rng.multinomial(rows, shares)
    predicted = sum(rng.multinomial(n, RATES[:, k]) for k, n in enumerate(classes))
    bins = sum(rng.multinomial(n, BINS[k]) for k, n in enumerate(classes))
    return np.asarray(predicted), np.asarray(bins)


def reference(seed: int, rows: int = 4000) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    classes = rng.multinomial(rows, BEFORE)
    confusion = np.array([rng.multinomial(n, RATES[:, k]) for k, n in enumerate(classes)]).T
    return confusion, np.array([rng.multinomial(n, BINS[k]) for k, n in enumerate(classes)])


def shares_of(found: ClassShares | NotEstimable) -> ClassShares:
    assert isinstance(found, ClassShares)
    return found


def test_recovers_the_shares_of_hidden_classes() -> None:
    """Predicted counts and the confusion matrix give back the true shares."""
    confusion, _ = reference(0)
    found = shares_of(bbse(confusion, draw(1, 4000, AFTER)[0]))

    assert found.shares == pytest.approx(AFTER, abs=0.05)
    assert found.weights == pytest.approx(AFTER / BEFORE, rel=0.2)
    assert found.shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("noise", [0.0, 900.0])
def test_intervals_hold_the_truth_as_often_as_they_say(noise: float) -> None:
    """At 95 %, with noised counts too, each share's interval misses about one time in twenty."""
    rng = np.random.default_rng(5)
    held = []
    for seed in range(200):
        predicted = draw(1000 + seed, 1500, AFTER)[0] + rng.normal(0, np.sqrt(noise), 3)
        found = shares_of(bbse(reference(seed, 1500)[0], predicted, noise=noise))
        held.append((found.low <= AFTER) & (found.high >= AFTER))

    assert 0.91 <= np.mean(held) <= 0.99


@pytest.mark.parametrize(
    ("confusion", "predicted"),
    [
        (np.full((2, 2), 50), np.array([10, 90])),  # predictions do not depend on the class
        (np.diag([50, 0]), np.array([10, 90])),  # a class without a row
        (np.diag([50, 50]), np.array([0, 0])),  # no row now
        (np.diag([50, 50]), np.array([np.nan, 3])),
        (np.array([[6, 4], [4, 6]]), np.array([3, 2])),  # too few to tell
    ],
)
def test_what_cannot_be_solved_is_unknown(
    confusion: NDArray[np.float64], predicted: NDArray[np.float64]
) -> None:
    """No shares are made up; the reason is told."""
    found = bbse(confusion, predicted)

    assert isinstance(found, NotEstimable)
    assert found.why


def test_noise_may_make_counts_negative() -> None:
    """Noised counts below zero give shares between 0 and 1 all the same."""
    found = shares_of(bbse(reference(0)[0], np.array([-40, 300, 700]), noise=900.0))

    assert (found.shares >= 0).all()
    assert found.shares.sum() == pytest.approx(1.0)
