"""Effect sizes are what their names say, and their intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm, wasserstein_distance

from fedge.drift import Effect, Histograms
from fedge.drift.effects import wasserstein_of_rows
from fedge.errors import NonFiniteValueError

RNG = np.random.default_rng(0)
EDGES = norm.ppf(np.linspace(0, 1, 21)[1:-1])
NAMES = ("psi", "jensen_shannon", "hellinger", "wasserstein")


def cells(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(EDGES, values, side="right"), minlength=20)


def shares(shift: float) -> np.ndarray:
    return np.diff(norm.cdf(np.concatenate([[-np.inf], EDGES, [np.inf]]), loc=shift))


def by_name(effects: tuple[Effect, ...]) -> dict[str, Effect]:
    return {effect.name: effect for effect in effects}


def test_values_agree_with_their_definitions() -> None:
    """Against scipy and the formulas, on histograms without empty cells."""
    p, q = RNG.integers(50, 500, 12).astype(float), RNG.integers(50, 500, 12).astype(float)
    positions = np.sort(RNG.normal(size=12))
    found = by_name(Histograms.of(p, q).all(positions, unit=2.0))
    p, q = p / p.sum(), q / q.sum()

    assert found["psi"].value == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=0.01)
    assert found["jensen_shannon"].value == pytest.approx(jensenshannon(p, q, base=2))
    assert found["hellinger"].value == pytest.approx(
        float(np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2))
    )
    distance = wasserstein_distance(positions, positions, p, q) / 2
    assert found["wasserstein"].value == pytest.approx(distance)


def test_wasserstein_of_rows_agrees_with_scipy() -> None:
    for shift, rows in ((0.0, 3000), (0.4, 3000), (5.0, 700)):
        x, y = np.sort(RNG.normal(size=2000)), np.sort(RNG.normal(shift, 1.5, size=rows))
        found = wasserstein_of_rows(x, y, unit=0.5, grid=300)

        assert found.value == pytest.approx(2 * wasserstein_distance(x, y), rel=0.02)
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 1.5])
def test_intervals_hold_the_truth(shift: float) -> None:
    """With and without a change, of few rows and many, nearly all of the 95 % intervals do; of few
    rows and a change so large that cells empty, PSI has a few less."""
    q = shares(shift)
    positions = norm.ppf(np.arange(0.025, 1, 0.05))
    truth = by_name(
        Histograms.of(shares(0.0), q, reference_rows=1e9, current_rows=1e9).all(positions)
    )
    for rows in (300, 3000):
        inside = dict.fromkeys(NAMES, 0)
        for _ in range(200):
            x = RNG.multinomial(2 * rows, shares(0.0)).astype(float)
            y = RNG.multinomial(rows, q).astype(float)
            for name, effect in by_name(Histograms.of(x, y).all(positions)).items():
                inside[name] += effect.low <= truth[name].value <= effect.high
        assert min(inside.values()) >= 168, inside


def test_chance_is_what_no_change_makes() -> None:
    """The figure without any change is `chance` on average, at any number of rows."""
    positions = norm.ppf(np.arange(0.025, 1, 0.05))
    for rows in (200, 5000):
        psi, distance, chance = [], [], []
        for _ in range(150):
            x, y = (cells(RNG.normal(size=rows)).astype(float) for _ in range(2))
            found = by_name(Histograms.of(x, y).all(positions))
            psi.append(found["psi"].value)
            distance.append(found["wasserstein"].value)
            chance.append((found["psi"].chance, found["wasserstein"].chance))
        expected = np.mean(chance, axis=0)
        assert np.mean(psi) == pytest.approx(expected[0], rel=0.15)
        assert np.mean(distance) == pytest.approx(expected[1], rel=0.15)


def test_rows_alike_widen_intervals() -> None:
    """Counts that are worth fewer independent rows say less."""
    x, y = cells(RNG.normal(size=5000)), cells(RNG.normal(1.0, size=5000))
    sure = Histograms.of(x, y).psi()
    unsure = Histograms.of(x, y, reference_rows=500, current_rows=500).psi()

    assert unsure.high - unsure.low > 2 * (sure.high - sure.low)
    assert unsure.chance == pytest.approx(10 * sure.chance)


def test_empty_cells_are_large_and_finite() -> None:
    """A category that came or went is a large effect, not an infinite one; one cell is none."""
    apart = by_name(Histograms.of(np.array([500.0, 0.0]), np.array([0.0, 500.0])).all())
    same = Histograms.of(np.array([500.0, 0.0]), np.array([80.0, 0.0])).all()

    assert 5 < apart["psi"].value < 50
    assert apart["jensen_shannon"].value == pytest.approx(1.0)
    assert apart["hellinger"].value == pytest.approx(1.0)
    for effect in (*apart.values(), *same):
        assert all(map(math.isfinite, (effect.value, effect.low, effect.high, effect.chance)))
    assert [effect.value for effect in same] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("counts", [[0.0, 0.0], [math.nan, 1.0], [-1.0, 5.0], [math.inf, 1.0]])
def test_no_histogram_is_refused(counts: list[float]) -> None:
    """Nothing counted is no "no change"."""
    with pytest.raises(NonFiniteValueError):
        Histograms.of(np.array(counts), np.array([1.0, 2.0]))
