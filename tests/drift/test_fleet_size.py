"""Tests of a fleet reject as often as they say, alarm as rarely as asked, and see what moved."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.drift.fleet import (
    Shares,
    Sized,
    alarm_windows,
    episodes,
    judged,
    rejections,
    size_counts,
    size_reference,
    sizes,
    upper_bound,
)
from benchmarks.drift.simulated import (
    HAAR,
    RHO,
    ROWS,
    Fleet,
    Rows,
    Simulated,
    bin_covariance,
    make_reference,
)
from fedge.config import DriftSettings
from fedge.drift.fleet import multivariate
from fedge.drift.fleet.dependence import estimate
from fedge.drift.fleet.judge import judge
from fedge.drift.fleet.scores import COORDINATES, KINDS, score_sheet
from fedge.drift.fleet.season import fitted
from fedge.profiles.counts import window_event

FLEET = Fleet.of(DriftSettings())


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_simulated_counts_vary_like_rows(correlation: float) -> None:
    """The covariance that counts are drawn with is that of counted rows."""
    rng = np.random.default_rng(0)
    exact = size_counts(rng, correlation, 900)[-1][:, :10]
    expected = bin_covariance(norm.ppf(np.arange(1, 10) / 10), correlation, ROWS)
    seen = np.cov(exact.T)
    assert np.abs(seen - expected).max() < 0.15 * np.diag(expected).max()
    assert np.diag(seen) == pytest.approx(np.diag(expected), rel=0.2)
    assert exact.mean(axis=0) == pytest.approx(ROWS / 10, rel=0.05)


@pytest.fixture(scope="module")
def measured() -> dict[bool, Shares]:
    """Shares of 1,600 null windows with rows of AR(1) 0.9, with noise and without."""
    return sizes(0.9, 8, 200)


def test_single_windows_have_their_nominal_size(measured: dict[bool, Shares]) -> None:
    """Every kind of statistic, with noise and without: 5 % is 4 to 6 %, within chance."""
    for shares in measured.values():
        single = {name: share[0] for (name, length), share in shares.items() if length == 1}

        assert set(single) == {*KINDS[:4], "shape", "cells", "joint"}
        for name, share in single.items():
            room = 0.02 if name in ("cells", "joint") else 0.013
            assert share == pytest.approx(0.05, abs=room), name


def test_long_sums_never_reject_too_often(measured: dict[bool, Shares]) -> None:
    """Sums over a day's half err on the quiet side, if at all."""
    for shares in measured.values():
        late = [share[0] for (_, length), share in shares.items() if length >= 6]

        assert max(late) < 0.08 and np.mean(late) < 0.055


def test_counts_without_noise_can_be_judged() -> None:
    """No noise is no division by zero: a cell that never varies is never evidence."""
    sheet = score_sheet(size_reference())
    counts = size_counts(np.random.default_rng(1), 0.0, 200)
    settings = DriftSettings(lengths=(1, 3))

    shares = rejections(counts, Sized(sheet, 0.0), settings)
    assert all(np.isfinite(share).all() for share in shares.values())


@pytest.mark.parametrize("rows", [Rows(0.0, 1.0), Rows(0.9, 0.5), Rows(0.0, 1.0, common=True)])
def test_a_wandering_fleet_rarely_alarms(rows: Rows) -> None:
    """Four gateways for a month: at most one episode (0.1 to be expected)."""
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(4):
        verdict = judged(Simulated(FLEET, rows, rng).track(168 + 720), FLEET)
        found += episodes(alarm_windows(verdict, FLEET), 12)

    assert found <= 1


def test_a_site_away_from_the_middle_widens_as_it_wanders() -> None:
    """Scales vary with the locations at sites that lie to one side, and no more than they are
    taken to: long sums of such scales are no larger than others."""
    rng = np.random.default_rng(9)
    rows, spreads = Rows(0.0, 1.0, common=True), []
    for _ in range(3):
        fleet = Simulated(FLEET, rows, rng, differ=0.6)
        found = judged(fleet.track(168 + 720), FLEET)
        rate = found.baseline.rate
        far = [
            n
            for n, one in enumerate(FLEET.sheet.statistics)
            if one.name == "scale" and 2.5 < abs(rate[n - 1]) < 4.0
        ]
        spreads.append(np.nanstd(found.tests.z[:, -1, far]))

    assert np.mean(spreads) < 1.2


@pytest.mark.parametrize(("inflation", "within"), [(3.5, 3), (20.0, 6)])
def test_a_small_shift_of_one_feature_is_seen(inflation: float, within: int) -> None:
    """Half a standard deviation in one of fifty features, by the setting that keeps quiet."""
    rng = np.random.default_rng(8)
    rows = Rows((inflation - 1) / (inflation + 1))
    seen = 0
    for _ in range(6):
        track = Simulated(FLEET, rows, rng).track(180 + within, onset=180, shift=0.5)
        raised = judged(track, FLEET).raised
        if raised is not None and raised.findings[0].stream == "f0":
            assert 178 <= raised.first <= 183
            seen += 1

    assert seen >= 4


def test_two_peaks_are_found_by_shape() -> None:
    """A column that falls into two peaks keeps location and scale, and alarms all the same."""
    settings = DriftSettings()
    fleet = Fleet.of(settings, features=8)
    weights = score_sheet(make_reference(8)).weights[0][:2, :-1] @ HAAR
    # A change of the bin shares that location, scale and the number of rows cannot see.
    fixed = np.vstack([weights, np.ones(16)])
    peaks = np.array([-1, -1, 1, 1, 1, 1, -1, -1] * 2, dtype=np.float64)
    blind = peaks - np.linalg.pinv(fixed) @ (fixed @ peaks)
    moved = 0.9 * ROWS / 16 * (HAAR @ blind / np.abs(blind).max())
    rng = np.random.default_rng(9)
    for _ in range(3):
        track = Simulated(fleet, Rows(), rng).track(192)
        scores = fleet.sheet.weights[0][:, :-1] @ moved
        assert np.abs(scores).max() < 1e-6
        change = fleet.sheet.coordinates_of(
            [np.append(moved, 0.0)[None]] * len(fleet.sheet.weights),
            np.ones((1, len(fleet.sheet.weights))),
        )[0]
        count = len(fleet.sheet.statistics)
        track.scores[180:, count : count + COORDINATES] += change[0, :COORDINATES]
        raised = judged(track, fleet).raised

        assert raised is not None and 180 <= raised.index <= 188
        assert raised.findings[0].stream == "f0"
        assert raised.findings[0].statistic == "shape"


def test_many_small_shifts_are_found_together() -> None:
    """Every feature moves by an eighth of a sd: all together alarm before any one does."""
    rng = np.random.default_rng(10)
    locations = np.flatnonzero(FLEET.sheet.kinds == KINDS.index("location"))
    step = 0.125 * ROWS * 16 / (2 * math.sqrt(math.pi))
    for _ in range(2):
        track = Simulated(FLEET, Rows(), rng).track(186)
        track.scores[180:, locations] += step * rng.choice([-1.0, 1.0], len(locations))
        verdict = judged(track, FLEET)

        assert verdict.raised is not None and 180 <= verdict.raised.index <= 183
        assert not verdict.tests.alarms[: verdict.raised.index - 168 + 1].any()
        assert {finding.statistic for finding in verdict.raised.findings} == {"joint"}


def test_short_baselines_say_what_they_cannot_test() -> None:
    """Twelve windows allow no test of several scores, and the windows that lack are named."""
    settings = DriftSettings(baseline_windows=12)
    fleet = Fleet.of(settings, features=8)
    track = Simulated(fleet, Rows(), np.random.default_rng(11)).track(30)
    verdict = judge(track, fleet.sheet, settings, np.arange(30) < 12)

    assert verdict.several.tests == ()
    assert [length for length, _ in verdict.several.untested] == list(settings.lengths)
    lacking = dict(verdict.several.untested)[1]
    longer = np.arange(60) < 12 + lacking
    track = Simulated(fleet, Rows(), np.random.default_rng(11)).track(60)
    again = judge(track, fleet.sheet, settings, longer)
    assert {test.length for test in again.several.tests} == {1}


def test_groups_cover_every_stream() -> None:
    """Each number has its shape, each category its cells, and all locations are joint."""
    found = multivariate.groups(FLEET.sheet)
    names = [name for name, _ in found]

    assert (names.count("shape"), names.count("cells"), names.count("joint")) == (52, 1, 1)
    assert all(len(columns) == COORDINATES for name, columns in found if name == "shape")


def test_copies_lend_no_degrees_of_freedom() -> None:
    """Thirty series that are one series are worth one, thirty of their own are worth thirty."""
    rng = np.random.default_rng(12)
    mean = fitted(np.zeros(168, dtype=np.int64), np.ones(168))
    kinds = np.zeros(30, dtype=np.int64)
    own = rng.normal(size=(168, 30))
    copies = np.repeat(own[:, :1], 30, axis=1) + 0.01 * own

    (many,) = estimate(own, mean, (1,), kinds)
    (one,) = estimate(copies, mean, (1,), kinds)
    assert many.pooled_degrees[0] > 20 * 167
    assert one.pooled_degrees[0] < 1.1 * 167


def test_slow_wander_raises_long_sums_more() -> None:
    """Inflation grows with the length that is summed, towards what the wander truly adds."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(13)
    shocks = rng.normal(size=(300, 40)) * math.sqrt(1 - 0.9**2)
    wander = lfilter([1.0], [1.0, -0.9], shocks, axis=0)[-168:]
    series = rng.normal(size=(168, 40)) + wander
    mean = fitted(np.zeros(168, dtype=np.int64), np.ones(168))
    residuals = series - mean @ (mean.T @ series)
    found = estimate(residuals, mean, (1, 3, 12), np.zeros(40, dtype=np.int64))

    levels = [float(one.inflation.mean()) for one in found]
    # Unit wander: 1 + 1.10, 1 + 3.01 and 1 + 8.88 for a sum far from its baseline.
    assert levels == pytest.approx([2.1, 4.0, 9.9], rel=0.25)


def test_a_bound_on_a_rate_is_above_the_count() -> None:
    """Nothing seen bounds the mean by three, ten seen by seventeen."""
    assert upper_bound(0) == pytest.approx(2.996, abs=0.01)
    assert upper_bound(10) == pytest.approx(16.96, abs=0.01)
    assert episodes(np.array([3, 4, 9, 40]), 12) == 2
    assert window_event(FLEET.sheet.reference, RHO).sigma2 == FLEET.sigma2
