"""False alarms stay inside their budget, real shifts do not stay unseen."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.drifting_sites import NUMERIC, REFERENCE, SHA, Site, gateway
from scipy.stats import norm

from fedge.config import DriftSettings
from fedge.drift.fleet.baseline import Track, fit
from fedge.drift.fleet.detect import certifiable, month_of_tests, scan, threshold
from fedge.drift.fleet.jump import baseline_jump
from fedge.drift.fleet.scores import KINDS, score_sheet
from fedge.drift.fleet.watch import ReleaseWatch, watch_gateway
from fedge.errors import RecordError
from fedge.records import WindowReport

ANY = np.array([[-np.inf] * 30, [np.inf] * 30])
"""Scores without bounds."""


def watch(site: Site, settings: DriftSettings, windows: int, **faults: float) -> ReleaseWatch:
    reports = site.stream(windows, **faults)
    return watch_gateway(gateway(site.seed), reports, {SHA: REFERENCE}, settings).releases[1]


def test_scores_are_what_they_say() -> None:
    """Without noise, location is the mean bin and scale the mean distance from the middle."""
    site = Site(seed=1, differ=0.0, rho=50.0)
    sheet = score_sheet(REFERENCE)
    report = site.report(0)
    scores, noise = sheet.scores([report])
    wide = Site(seed=1, differ=0.0, rho=0.0281).report(0)

    counts = np.array(report.features[0].counts[:-1])
    weights = np.repeat([4.0, 2.0, 1.0, 0.5], [1, 2, 4, 8])
    assert scores[0, 0] == pytest.approx(weights @ counts)
    assert noise[0, 0] == pytest.approx(30 * report.features[0].sigma2)
    assert noise[0, 1] == pytest.approx(14 * report.features[0].sigma2)
    assert sheet.scores([wide])[1][0, 0] == pytest.approx(30 * wide.features[0].sigma2)


def test_report_that_does_not_fit_is_refused() -> None:
    """Features of another name, number or width are an error, never silently misread."""
    sheet = score_sheet(REFERENCE)
    report = Site(seed=1).report(0)
    renamed = report.features[0].model_copy(update={"name": "other"})
    narrow = report.features[0].model_copy(update={"counts": (1, 2)})

    for features in (
        report.features[1:],
        (renamed, *report.features[1:]),
        (narrow, *report.features[1:]),
    ):
        with pytest.raises(RecordError):
            sheet.scores([report.model_copy(update={"features": features})])


def test_no_false_alarm_with_short_baselines(demo: DriftSettings) -> None:
    """Sites that differ by half a standard deviation: 2,400 windows without drift, no alarm."""
    alarms = [watch(Site(seed=seed), demo, 72).alarm for seed in range(40)]

    assert alarms == [None] * 40


def test_no_false_alarm_with_cut_and_lossy_windows(demo: DriftSettings) -> None:
    """Windows that were cut short or lost slots to load are no drift."""
    rng = np.random.default_rng(5)
    for seed in range(12):
        site = Site(seed=100 + seed, differ=1.0)
        reports = []
        for window in range(70):
            slots = int(rng.integers(1, 200)) if rng.random() < 0.3 else 200
            dropped = int(rng.integers(0, slots + 1)) if rng.random() < 0.2 else 0
            reports.append(site.report(window, slots=slots, dropped=dropped))
        found = watch_gateway(gateway(seed), reports, {SHA: REFERENCE}, demo).releases[1]
        assert found.baseline is not None
        assert found.alarm is None


def clocked(site: Site, windows: int, *, onset: int = 10**6, quiet: int = 0) -> list[WindowReport]:
    """Windows that the clock closed: 40 to 400 requests each, `quiet` of every ten nearly none."""
    rng = np.random.default_rng(site.seed)
    slots = [int(rng.integers(40, 400)) if w % 10 >= quiet else w % 3 for w in range(windows)]
    return [
        site.report(w, slots=count, faulty=float(w >= onset), timed=True)
        for w, count in enumerate(slots)
    ]


def judged(reports: list[WindowReport], settings: DriftSettings) -> ReleaseWatch:
    return watch_gateway(gateway(1), reports, {SHA: REFERENCE}, settings).releases[1]


def test_windows_of_the_clock_form_a_baseline(demo: DriftSettings) -> None:
    """However many requests each held: no false alarm over 40 sites, and a shift is found."""
    quiet = [judged(clocked(Site(seed=seed), 60), demo) for seed in range(40)]
    assert all(found.baseline is not None and found.alarm is None for found in quiet)

    moved = [judged(clocked(Site(seed=seed), 60, onset=40), demo) for seed in range(10)]
    assert all(found.alarm and 38 <= found.alarm.first_window <= 42 for found in moved)


def test_an_empty_window_of_the_clock_is_no_baseline(demo: DriftSettings) -> None:
    """Silence shows nothing of how a site is: such windows fill no baseline and stay unknown."""
    site = Site(seed=3)
    reports = [site.report(w, slots=0, timed=True) for w in range(60)]
    found = judged(reports, demo)
    assert found.baseline is None and found.baseline_windows == 0

    later = [site.report(w, slots=0, timed=True) for w in range(30, 50)]
    found = judged([*clocked(site, 30), *later], demo)
    assert found.baseline is not None and found.alarm is None
    assert 2 * found.recent_rows < found.window_rows


def test_a_window_of_few_rows_weighs_little(demo: DriftSettings) -> None:
    """Nights in which next to nothing arrives do not drown in noise what the days show."""

    def largest(reports: list[WindowReport], length: int) -> float:
        settings = demo.model_copy(
            update={"lengths": (length,), "baseline_windows": 4 * length, "min_effect": 0.01}
        )
        return float(np.nanmax(judged(reports, settings).heat[-1]))

    every, days = [], []
    for seed in range(12):
        site = Site(seed=seed, shift=(0.4,) * NUMERIC)
        reports = clocked(site, 120, onset=100, quiet=7)
        every.append(largest(reports, 10))
        days.append(largest([report for report in reports if report.slots > 10], 3))
    assert np.mean(every) > 0.9 * np.mean(days)


@pytest.mark.parametrize("wander", [0.08, 0.16])
def test_no_false_alarm_when_a_site_wanders(wander: float) -> None:
    """Windows that wander by 0.5 and 1 noise sd (correlation 0.9) against a week's baseline."""
    settings = DriftSettings(baseline_windows=168)
    for seed in range(3):
        assert watch(Site(seed=seed, wander=wander), settings, 268).alarm is None


def test_lens_fault_within_two_windows(demo: DriftSettings) -> None:
    """A fault that moves every stream is always seen, wherever in a window it falls."""
    for seed in range(25):
        onset = 13 + seed % 20 + seed / 25
        found = watch(Site(seed=200 + seed), demo, int(onset) + 3, onset=onset)
        assert found.alarm is not None
        assert found.alarm.opened_window <= int(onset) + 2
        assert abs(found.alarm.first_window - int(onset)) <= 1


def test_small_shift_adds_up() -> None:
    """0.5 sd in one stream of nine is seen by sums where no single window shows it."""
    settings = DriftSettings(baseline_windows=168)
    found = [
        watch(
            Site(seed=s, differ=0.2, shift=(0.5, *(0.0,) * (NUMERIC - 1))), settings, 188, onset=168
        )
        for s in range(4)
    ]

    for one in found:
        assert one.alarm is not None and one.alarm.findings[0].stream == "n0"
        assert one.alarm.findings[0].length > 1
        assert {f.stream for f in one.alarm.findings} == {"n0"}


def test_large_but_meaningless_is_no_alarm() -> None:
    """A shift below the smallest effect does not alarm, however certain it is."""
    settings = DriftSettings(baseline_windows=12, min_effect=2.0)

    assert watch(Site(seed=3), settings, 40, onset=20).alarm is None


def test_missing_values_alarm(demo: DriftSettings) -> None:
    """A sensor that falls silent changes its stream's missing count, and that alarms."""
    reports = Site(seed=4, differ=0.0).stream(24)
    for index in range(18, 24):
        silent = reports[index].features[2]
        silent = silent.model_copy(update={"counts": (*(0,) * 15, 200)})
        features = [*reports[index].features[:2], silent, *reports[index].features[3:]]
        reports[index] = reports[index].model_copy(update={"features": tuple(features)})
    found = watch_gateway(gateway(4), reports, {SHA: REFERENCE}, demo).releases[1]

    assert found.alarm is not None
    assert [(f.stream, f.statistic) for f in found.alarm.findings] == [("n2", "missing")]


def test_threshold_shares_the_budget() -> None:
    """With endless degrees of freedom, threshold times tests is the setting."""
    settings = DriftSettings()
    limit = threshold(settings, 35, np.inf)

    expected = settings.false_alarms_per_month
    assert 2 * norm.sf(limit) * month_of_tests(settings, 35) == pytest.approx(expected, rel=1e-6)
    assert threshold(settings, 35, 20.0) > limit


def test_short_baselines_say_so() -> None:
    """The shorter the baseline, the higher the false-alarm rate that it can vouch for."""
    rates = {}
    for windows in (12, 48, 168):
        settings = DriftSettings(baseline_windows=windows)
        found = [watch(Site(seed=s), settings, windows).certifiable for s in range(4)]
        rates[windows] = float(np.median([rate for rate in found if rate is not None]))

    assert rates[12] > 100 * rates[168]
    assert rates[12] > rates[48] > rates[168]
    assert rates[168] == pytest.approx(1.0, abs=1.0)


def test_windows_that_say_nothing_are_named(demo: DriftSettings) -> None:
    """Unknown or other references and changed streams: counted by reason, never judged."""
    reports = Site(seed=5).stream(30)
    narrow = reports[20].model_copy(update={"features": reports[20].features[1:]})
    unknown = reports[21].model_copy(update={"reference_sha256": "e" * 64})
    other = reports[22].model_copy(update={"reference_sha256": "f" * 64})
    changed = [*reports[:20], narrow, unknown, other, *reports[23:]]
    references = {SHA: REFERENCE, "f" * 64: REFERENCE}
    found = watch_gateway(gateway(5), changed, references, demo).releases[1]

    assert {one.reason: one.windows for one in found.skipped} == {
        "its streams are not those of its reference": (20,),
        "its reference is not known": (21,),
        "counted on another reference of the same release": (22,),
    }
    assert [report.window for report in found.reports] == [*range(20), *range(23, 30)]
    assert found.alarm is None and found.needed == 0


def test_a_short_baseline_names_what_is_missing(demo: DriftSettings) -> None:
    """Until it is complete the baseline says how many windows it still needs, and then none."""
    reports = Site(seed=6).stream(14)
    needed = [judged(reports[:n], demo).needed for n in (1, 7, 11, 12, 14)]
    unfit = judged([r.model_copy(update={"reference_sha256": "e" * 64}) for r in reports], demo)

    assert needed == [11, 5, 1, 0, 0]
    assert "cannot certify: 5 more needed" in judged(reports[:7], demo).problem
    assert unfit.baseline is None and unfit.needed == 12
    assert sum(len(one.windows) for one in unfit.skipped) == 14


def test_rows_that_are_alike_do_not_make_a_jump() -> None:
    """Windows that vary three times as much as counting explains hold no jump in their baseline."""
    rng = np.random.default_rng(1)
    settings = DriftSettings()
    for _ in range(10):
        track = Track(
            window=np.arange(168),
            rows=np.full(168, 1.0),
            planned=np.full(168, 1.0),
            full=np.ones(168, dtype=np.bool_),
            scores=3.0 * rng.normal(size=(168, 30)),
            noise=np.ones((168, 30)),
        )
        baseline = fit(track, np.zeros(30), np.zeros(30, dtype=np.bool_), 10)
        assert baseline_jump(track, baseline, np.ones(30), settings, ANY) is None

        track.scores[150:, 3] += 15.0
        jump = baseline_jump(track, baseline, np.ones(30), settings, ANY)
        assert jump is not None and jump.index == 150
        assert np.flatnonzero(jump.alarms).tolist() == [3]


@pytest.mark.parametrize("windows", [60, 168])
def test_wander_is_no_jump(windows: int) -> None:
    """A site that drifts to and fro by whole standard deviations, as weather does, has no jump; a
    fault on top of that is one."""
    settings = DriftSettings(baseline_windows=windows)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        path = np.zeros((windows, 30))
        for at in range(1, windows):
            path[at] = 0.9 * path[at - 1] + rng.normal(size=30)
        track = Track(
            window=np.arange(windows),
            rows=np.full(windows, 1.0),
            planned=np.full(windows, 1.0),
            full=np.ones(windows, dtype=np.bool_),
            scores=2.0 * path + rng.normal(size=(windows, 30)),
            noise=np.ones((windows, 30)),
        )
        baseline = fit(track, np.zeros(30), np.zeros(30, dtype=np.bool_), 10)
        assert baseline_jump(track, baseline, np.ones(30), settings, ANY) is None

        track.scores[windows // 2 :, 3] += 60.0
        jump = baseline_jump(track, baseline, np.ones(30), settings, ANY)
        assert jump is not None and jump.index == windows // 2


def test_no_effect_is_larger_than_it_can_be() -> None:
    """Noise feigns fewer missing rows than none: by more than four standard deviations here, of
    which no more is left than what the baseline was thought to miss."""
    sheet = score_sheet(REFERENCE)
    site, settings = Site(seed=3), DriftSettings(baseline_windows=12)
    usable = site.stream(20)
    scores, noise = sheet.scores(usable)
    rows = np.array([report.slots for report in usable], dtype=np.float64)
    missing = np.flatnonzero(sheet.kinds == KINDS.index("missing"))
    scores[12:, missing] = -0.6 * rows[0]
    scores[12:, 0] = 40.0 * rows[0]
    track = Track(np.arange(20), rows, rows, rows > 0, scores, noise)
    baseline = fit(track[:12], sheet.row_variance, sheet.share, len(REFERENCE.streams))
    found = scan(track[12:], baseline, sheet.unit, settings, 4.0, sheet.bounds)

    low, high = sheet.bounds
    assert np.nanmin(found.z[:, :, missing]) < -4
    least = np.nanmin(found.effect[:, :, missing], axis=(0, 1))
    assert least == pytest.approx(-np.maximum(baseline.rate, 0)[missing] / sheet.unit[missing])
    assert found.alarms[:, 0, 0].all()
    assert np.nanmax(np.abs(found.effect[:, :, 0])) <= (high[0] - low[0]) / sheet.unit[0]


def test_inflation_is_unbiased_and_floored() -> None:
    """Independent windows: the pooled inflation is about 1, and none is ever below 1."""
    rng = np.random.default_rng(0)
    pooled = []
    for _ in range(200):
        noise = np.ones((12, 30))
        track = Track(
            window=np.arange(12),
            rows=np.full(12, 1.0),
            planned=np.full(12, 1.0),
            full=np.ones(12, dtype=np.bool_),
            scores=rng.normal(size=(12, 30)),
            noise=noise,
        )
        baseline = fit(track, np.zeros(30), np.zeros(30, dtype=np.bool_), 10)
        pooled.append(baseline.pooled_inflation)
        assert (baseline.inflation >= 1).all()
        assert certifiable(DriftSettings(), 30, baseline, 6.0) >= 0.5

    assert np.mean(pooled) == pytest.approx(1.0, abs=0.03)
