"""Accuracy that a model's confidence promises."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.expected_accuracy import (
    BLIND_SPOT,
    Calibration,
    ExpectedAccuracy,
    calibrate,
    expected_accuracy,
)
from fedge.drift.label_shift import NotEstimable

Floats = NDArray[np.float64]


def rows(seed: int, count: int, *, unsure: float = 0.0) -> tuple[Floats, Floats]:
    """Confidences and whether the model was right: overconfident by the square."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(6, 2 + unsure, count) * 0.5 + 0.5
    return confidence, (rng.random(count) < confidence**2).astype(np.float64)


def calibrated(seed: int, count: int = 3000) -> Calibration:
    found = calibrate(*rows(seed, count))
    assert isinstance(found, Calibration)
    return found


def estimate(calibration: Calibration, confidence: Floats) -> ExpectedAccuracy:
    found = expected_accuracy(calibration, calibration.count(confidence))
    assert isinstance(found, ExpectedAccuracy)
    return found


def test_an_overconfident_model_is_seen_through() -> None:
    """The estimate follows how often the model was right, not how sure it is."""
    confidence, right = rows(1, 3000, unsure=4.0)
    found = [estimate(calibrated(10 + seed), confidence) for seed in range(20)]

    assert np.mean([one.value for one in found]) == pytest.approx(right.mean(), abs=0.03)
    assert np.mean([one.value for one in found]) < confidence.mean() - 0.1
    assert np.mean([one.lost for one in found]) > 0.8


def test_the_interval_holds_what_comes_true() -> None:
    """The expected accuracy of many such rows lies in nearly all 95 % intervals."""
    truth = float((rows(0, 200_000, unsure=1.0)[0] ** 2).mean())
    found = [
        estimate(calibrated(seed, 1500), rows(5000 + seed, 400, unsure=1.0)[0])
        for seed in range(150)
    ]

    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.88


def test_concept_drift_stays_unseen_and_that_is_said() -> None:
    """As sure as ever and always wrong: the estimate stays. Whoever shows it must say so."""
    found = estimate(calibrated(0), rows(1, 2000)[0])

    assert not found.lost
    assert "concept drift" in BLIND_SPOT


def test_rates_never_fall_with_confidence() -> None:
    """Chance dips in few rows are pooled."""
    rates = calibrated(3, 60).rates

    assert (np.diff(rates) >= -1e-12).all()


def test_noised_counts_widen_the_interval() -> None:
    """Noise of known variance makes the estimate less sure, not another one."""
    calibration = calibrated(0)
    counts = calibration.count(rows(1, 500)[0])
    plain = expected_accuracy(calibration, counts)
    noised = expected_accuracy(calibration, counts, noise=900.0)
    assert isinstance(plain, ExpectedAccuracy)
    assert isinstance(noised, ExpectedAccuracy)

    assert noised.value == plain.value
    assert noised.high - noised.low > 1.5 * (plain.high - plain.low)


def test_too_little_is_unknown() -> None:
    """Few labels, no row, or counts that are missing give no figure."""
    assert isinstance(calibrate(*rows(0, 20)), NotEstimable)
    assert isinstance(calibrate(np.full(100, 0.9), np.full(100, np.nan)), NotEstimable)
    calibration = calibrated(0)
    nothing = np.zeros(len(calibration.rows))
    assert isinstance(expected_accuracy(calibration, nothing), NotEstimable)
    assert isinstance(expected_accuracy(calibration, nothing + np.nan), NotEstimable)
