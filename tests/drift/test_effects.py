"""Effect sizes are what their names say, and their intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm, wasserstein_distance

from fedge.drift import Effect, Histograms
from fedge.drift.distances import Steps, distances
from fedge.drift.effects import divergences
from fedge.errors import NonFiniteValueError

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
    rng = np.random.default_rng(1)
    p, q = rng.integers(50, 500, 12).astype(float), rng.integers(50, 500, 12).astype(float)
    positions = np.sort(rng.normal(size=12))
    found = by_name(Histograms.of(p, q).all(positions, unit=2.0))
    p, q = p / p.sum(), q / q.sum()

    assert found["psi"].value == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=0.01)
    assert found["jensen_shannon"].value == pytest.approx(jensenshannon(p, q, base=2))
    assert found["hellinger"].value == pytest.approx(
        float(np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2))
    )
    distance = wasserstein_distance(positions, positions, p, q) / 2
    assert found["wasserstein"].value == pytest.approx(distance)


def test_distance_of_rows_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    for shift, rows in ((0.0, 3000), (0.4, 3000), (5.0, 700)):
        x, y = np.sort(rng.normal(size=2000)), np.sort(rng.normal(shift, 1.5, size=rows))
        found = distances([Steps.of_rows(x, y, unit=0.5, grid=300)])[0]

        assert found.value == pytest.approx(2 * wasserstein_distance(x, y), rel=0.02)
        assert found.low <= found.value <= found.high


def test_many_at_once_are_what_each_is_alone() -> None:
    """Histograms of different lengths, some with empty cells; rows of different numbers."""
    pairs = []
    rng = np.random.default_rng(6)
    for size in (2, 5, 20):
        first = (np.arange(size) == 0).astype(float)
        both = (rng.poisson(1, size) + first, rng.poisson(1, size) + first)
        pairs.append(Histograms.of(*both, reference_rows=50.0 * size))
    sides = [np.sort(rng.normal(size=size)) for size in (2, 40, 700)]
    steps = [Steps.of_rows(x, y, grid=20) for x in sides for y in sides]

    for three, pair in zip(divergences(pairs), pairs, strict=True):
        for effect, alone in zip(three, pair.all(), strict=True):
            assert effect.name == alone.name
            assert (effect.value, effect.low, effect.high, effect.chance) == pytest.approx(
                (alone.value, alone.low, alone.high, alone.chance), abs=1e-12
            )
    for one, other in zip(distances(steps), (distances([s])[0] for s in steps), strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-12)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 1.5])
def test_intervals_hold_the_truth(shift: float) -> None:
    """With and without a change, of few rows and many, nearly all of the 95 % intervals do; of few
    rows and a change so large that cells empty, PSI has a few less."""
    rng = np.random.default_rng(3)
    q = shares(shift)
    positions = norm.ppf(np.arange(0.025, 1, 0.05))
    truth = by_name(
        Histograms.of(shares(0.0), q, reference_rows=1e9, current_rows=1e9).all(positions)
    )
    for rows in (300, 3000):
        inside = dict.fromkeys(NAMES, 0)
        for _ in range(200):
            x = rng.multinomial(2 * rows, shares(0.0)).astype(float)
            y = rng.multinomial(rows, q).astype(float)
            for name, effect in by_name(Histograms.of(x, y).all(positions)).items():
                inside[name] += effect.low <= truth[name].value <= effect.high
        assert min(inside.values()) >= 160, inside


def test_chance_is_what_no_change_makes() -> None:
    """The figure without any change is `chance` on average, at any number of rows."""
    rng = np.random.default_rng(4)
    positions = norm.ppf(np.arange(0.025, 1, 0.05))
    for rows in (200, 5000):
        psi, distance, chance = [], [], []
        for _ in range(150):
            x, y = (cells(rng.normal(size=rows)).astype(float) for _ in range(2))
            found = by_name(Histograms.of(x, y).all(positions))
            psi.append(found["psi"].value)
            distance.append(found["wasserstein"].value)
            chance.append((found["psi"].chance, found["wasserstein"].chance))
        expected = np.mean(chance, axis=0)
        assert np.mean(psi) == pytest.approx(expected[0], rel=0.15)
        assert np.mean(distance) == pytest.approx(expected[1], rel=0.15)


def test_rows_alike_widen_intervals() -> None:
    """Counts that are worth fewer independent rows say less."""
    rng = np.random.default_rng(5)
    x, y = cells(rng.normal(size=5000)), cells(rng.normal(1.0, size=5000))
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
