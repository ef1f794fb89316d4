"""A season is no drift, drift in a season is, and what no season baseline knows is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.drifting_sites import NUMERIC, REFERENCE, SHA, Site, gateway

from fedge.config import DriftSettings
from fedge.drift.fleet.monitor import assess
from fedge.drift.fleet.season import ROUNDS, baseline_end, calendar, fitted, missing
from fedge.drift.fleet.watch import ReleaseWatch, watch_gateway
from fedge.records import Season, WindowReport

HOUR, DAY = 3600.0, 86_400.0
BY_HOUR = DriftSettings(baseline_windows=96, season="hour")
MONDAY = 4 * DAY  # the first Monday after the epoch


def at(report: WindowReport, start: float, length: float = HOUR) -> WindowReport:
    return report.model_copy(update={"opened_at": start, "closed_at": start + length})


def daily(site: Site, windows: int, *, swing: float, onset: int = 10**6) -> list[WindowReport]:
    """Hourly windows whose every stream follows the sun by `swing` reference sd; from `onset` on
    the fault is there too."""
    still = site.mean.copy()
    reports = []
    for window in range(windows):
        site.mean = still + swing * np.sin(2 * np.pi * window / 24)
        report = site.report(window, faulty=float(window >= onset))
        reports.append(at(report, window * HOUR))
    return reports


def judged(reports: list[WindowReport], settings: DriftSettings) -> ReleaseWatch:
    return watch_gateway(gateway(1), reports, {SHA: REFERENCE}, settings).releases[1]


def test_days_are_no_drift_once_hours_are_compared() -> None:
    """A daily swing hides a fault or alarms without a season; by hours it does neither."""
    shift = (0.5, *(0.0,) * (NUMERIC - 1))
    for seed in range(4):
        quiet = judged(daily(Site(seed=seed, slots=600), 240, swing=1.0), BY_HOUR)
        assert quiet.baseline is not None and quiet.baseline.cells is not None
        assert len(quiet.baseline.cells) == 24
        assert quiet.alarm is None

        site = Site(seed=seed, slots=600, shift=shift)
        moved = judged(daily(site, 240, swing=1.0, onset=200), BY_HOUR)
        assert moved.alarm is not None
        assert 200 <= moved.alarm.opened_window <= 206
        assert moved.alarm.findings[0].stream == "n0"

        site = Site(seed=seed, slots=600, shift=shift)
        plain = BY_HOUR.model_copy(update={"season": "none"})
        blind = judged(daily(site, 240, swing=1.0, onset=200), plain)
        assert blind.alarm is None or not 200 <= blind.alarm.opened_window <= 206


def test_baseline_waits_until_every_hour_was_met() -> None:
    """Cannot certify, and how many windows are missing, until each hour came on three days."""
    settings = BY_HOUR.model_copy(update={"baseline_windows": 30})
    reports = daily(Site(seed=1), 80, swing=0.5)

    early = judged(reports[:20], settings)
    assert early.baseline is None and early.needed == 10
    assert "cannot certify" in early.problem and "20 of 30" in early.problem
    short = judged(reports[:50], settings)
    assert short.baseline is None and short.needed == 22
    assert "cannot certify: 22 more needed" in short.problem and "02:00 UTC on 1" in short.problem
    whole = judged(reports[:72], settings)
    assert whole.baseline is not None and whole.baseline.windows == 72


def test_an_hour_without_baseline_is_not_judged() -> None:
    """A site that worked by day only and now works at night: windows named, not judged."""
    settings = BY_HOUR.model_copy(update={"baseline_windows": 40})
    reports = [r for r in daily(Site(seed=2), 24 * 6, swing=0.3) if 8 <= r.window % 24 < 18]
    night = [r for r in daily(Site(seed=2), 24 * 7, swing=0.3, onset=24 * 6) if r.window >= 24 * 6]
    found = judged([*reports, *(r for r in night if r.window % 24 < 8)], settings)

    assert found.alarm is None
    assert {one.reason for one in found.skipped} == {
        f"no baseline for {hour:02d}:00 UTC" for hour in range(8)
    }
    assert np.isnan(found.heat[-8:]).all()


def test_a_gateway_that_nothing_can_be_compared_with_is_unknown() -> None:
    """Days were the baseline and it works at night now: not stable, whatever the rows say."""
    settings = BY_HOUR.model_copy(update={"baseline_windows": 40})
    reports = daily(Site(seed=2), 24 * 9, swing=0.3)
    days = [r for r in reports if r.window < 24 * 6 and 8 <= r.window % 24 < 18]
    nights = [r for r in reports if r.window >= 24 * 6 and r.window % 24 < 8]

    def state(windows: list[WindowReport]) -> str:
        (verdict,) = assess({gateway(1): windows}, {SHA: REFERENCE}, settings, ()).verdicts
        return verdict.state

    assert state(days) == "stable"
    assert judged([*days, *nights], settings).tested == judged(days, settings).tested
    assert state([*days, *nights]) == "unknown"


def test_a_single_night_does_not_hold_up_the_baseline() -> None:
    """An hour that came once is waited for some days, then left without a baseline."""
    settings = BY_HOUR.model_copy(update={"baseline_windows": 40})
    reports = daily(Site(seed=3), 24 * 12, swing=0.3)
    kept = [r for r in reports if 8 <= r.window % 24 < 18 or r.window == 27]

    assert judged(kept[:42], settings).baseline is None
    found = judged(kept, settings)
    assert found.baseline is not None and found.baseline.cells is not None
    assert found.baseline.cells.tolist() == list(range(8, 18))
    assert {one.reason: one.windows for one in found.skipped} == {
        "no baseline for 03:00 UTC": (27,)
    }


def test_windows_too_far_apart_for_a_season_are_never_a_baseline() -> None:
    """One window in five weeks meets no weekday often enough: cannot certify, whatever comes."""
    settings = DriftSettings(baseline_windows=7, season="weekday")
    site = Site(seed=4)
    reports = [at(site.report(k), MONDAY + k * 36 * DAY) for k in range(12)]
    found = judged(reports, settings)

    assert found.baseline is None and found.alarm is None
    assert "cannot certify" in found.problem and found.needed > 0


@pytest.mark.parametrize(
    ("season", "start", "cell"),
    [
        ("none", 0.0, 0),
        ("hour", 0.0, 0),
        ("hour", 5 * HOUR, 5),
        ("hour", 23.9 * HOUR, 0),
        ("weekday", MONDAY, 0),
        ("weekday", MONDAY - DAY, 6),
        ("weekday", MONDAY + 7 * DAY - HOUR, 6),
        ("weekday", 1_700_000_000.0, 1),  # 14 November 2023 was a Tuesday
    ],
)
def test_windows_lie_where_their_middle_lies(season: Season, start: float, cell: int) -> None:
    """Hours and weekdays of UTC, by the middle of a window."""
    report = at(Site(seed=1).report(0), start)

    assert calendar([report], season).cell.tolist() == [cell]


def test_one_monday_says_nothing_about_mondays() -> None:
    """Weekdays need three weeks, however many windows a day has."""
    report = Site(seed=1).report(0)
    when = calendar([at(report, MONDAY + k * HOUR) for k in range(21 * 24)], "weekday")

    assert missing(calendar([at(report, MONDAY)] * 24, "weekday"), "weekday") == {0: ROUNDS - 1}
    end = baseline_end(when, "weekday", 48)
    assert end == 24 * 20 + 1
    assert baseline_end(calendar([report] * 60, "none"), "none", 48) == 48


def test_fitting_takes_one_dimension_per_cell() -> None:
    """Columns are orthonormal, whatever the windows' rows."""
    cells = np.array([0, 1, 2] * 5)
    unit = fitted(cells, np.linspace(1.0, 9.0, 15))

    assert unit.shape == (15, 3)
    assert unit.T @ unit == pytest.approx(np.eye(3))
