"""Verdicts, episodes and cohorts follow from stored facts alone."""

from __future__ import annotations

import random
from typing import Literal

import pytest
from fakes.drifting_sites import REFERENCE, SHA, Site, gateway

from fedge.config import DriftSettings
from fedge.drift.fleet.episodes import RunFact
from fedge.drift.fleet.monitor import FleetAssessment, Verdict, assess
from fedge.records import WindowReport

Reports = dict[str, list[WindowReport]]


def judge(reports: Reports, settings: DriftSettings, *runs: RunFact) -> FleetAssessment:
    return assess(reports, {SHA: REFERENCE}, settings, runs)


def run(
    assessment: FleetAssessment,
    state: Literal["running", "failed", "published"],
    release: int | None = None,
    run_id: str = "run-1",
) -> RunFact:
    return RunFact(
        run_id=run_id,
        created_at=1.0,
        episodes=tuple(e.id for e in assessment.episodes),
        state=state,
        release=release,
    )


def verdict(reports: list[WindowReport], settings: DriftSettings) -> Verdict:
    return judge({gateway(1): reports}, settings).verdicts[0]


def test_unknown_until_the_baseline_is_complete(demo: DriftSettings) -> None:
    """Before, at and right after the last baseline window: unknown, then stable."""
    reports = Site(seed=1).stream(14)

    assert [verdict(reports[:n], demo).state for n in (1, 11, 12, 13)] == [
        "unknown",
        "unknown",
        "unknown",
        "stable",
    ]
    assert "7 of 12" in verdict(reports[:7], demo).reason
    assert verdict(reports[:7], demo).certifiable_false_alarms_per_month is None


@pytest.mark.parametrize("onset", [0.8, 1.0, 2.5, 6.0, 9.3, 11.0, 11.4, 11.8])
def test_fault_inside_the_baseline_is_never_stable(onset: float, demo: DriftSettings) -> None:
    """A fault that begins among the baseline windows is drift once they are complete."""
    for seed in range(4):
        reports = Site(seed=seed).stream(30, onset=onset)
        states = [verdict(reports[:n], demo).state for n in range(1, 31)]

        assert "stable" not in states
        assert states[:11] == ["unknown"] * 11
        assert states[-1] == "drift"


def test_unknown_for_want_of_anything(demo: DriftSettings) -> None:
    """No report, an unknown reference, or windows without records are unknown, never stable."""
    site = Site(seed=2)
    full = site.stream(12)
    hollow = [site.report(w, dropped=200) for w in range(12, 30)]
    foreign = [r.model_copy(update={"reference_sha256": "e" * 64}) for r in full]

    assert verdict([], demo).state == "unknown"
    assert verdict(full + hollow, demo).state == "unknown"
    assert verdict(hollow, demo).state == "unknown"
    assert verdict(foreign, demo).state == "unknown"


def test_missing_windows_are_shown(demo: DriftSettings) -> None:
    """Skipped window numbers are counted; order and repetition of reports change nothing."""
    reports = Site(seed=3).stream(30)
    some = reports[:5] + reports[8:]
    shuffled = [*some, *some[:4]]
    random.Random(0).shuffle(shuffled)

    assert verdict(some, demo).missing_windows == 3
    assert verdict(shuffled, demo) == verdict(some, demo)


def drifted_fleet() -> Reports:
    """Gateways 0 and 1 drift at windows 14 and 18, 2 at 30 (too late to join), 3 never."""
    onsets = {0: 14.5, 1: 18.2, 2: 30.0, 3: None}
    return {gateway(g): Site(seed=40 + g).stream(34, onset=at) for g, at in onsets.items()}


def test_the_cohort_gathers_then_freezes(demo: DriftSettings) -> None:
    """Nobody before gathering ended; then those who alarmed, and more reports change nothing."""
    reports = drifted_fleet()
    first = judge(reports, demo).episodes[0]
    freeze = first.opened_window + demo.gather_windows
    cohorts = {
        n: judge({g: own[:n] for g, own in reports.items()}, demo).cohort for n in range(13, 35)
    }

    assert all(cohorts[n] is None for n in range(13, freeze + 1))
    cohort = cohorts[freeze + 1]
    assert cohort is not None
    assert [member.gateway for member in cohort] == [gateway(0), gateway(1)]
    assert all(cohorts[n] == cohort for n in range(freeze + 1, 35))
    assert all(member.last_window == freeze for member in cohort)
    assert [m.first_window in (at, at + 1) for m, at in zip(cohort, (14, 18), strict=True)] == [
        True,
        True,
    ]


def test_one_run_at_a_time_and_failures_come_back(demo: DriftSettings) -> None:
    """While a run is on its way nobody is gathered; what failed joins the next cohort."""
    reports = drifted_fleet()
    alone = {g: own[:26] for g, own in reports.items()}
    before = judge(alone, demo)
    failed = run(before, "failed")
    running = judge(reports, demo, run(before, "running"))
    again = judge(reports, demo, failed)
    longer = {
        g: own + Site(seed=40 + i).stream(9, onset=0, first=34)
        for i, (g, own) in enumerate(reports.items())
        if i != 3
    }
    later = judge(longer, demo, failed)

    assert running.cohort is None
    assert [e.state for e in running.episodes] == ["retraining", "retraining", "open"]
    assert again.cohort is None and {e.state for e in again.episodes} == {"open"}
    assert later.cohort is not None
    assert [m.gateway for m in later.cohort] == [gateway(0), gateway(1), gateway(2)]


def test_an_episode_through_its_states(demo: DriftSettings) -> None:
    """open, retraining, released, re-baselining, closed: and no second episode for 40 windows."""
    for seed in range(6):
        site = Site(seed=60 + seed)
        old = site.stream(26, onset=14.4)
        new = site.stream(52, onset=0.0, release=2, first=26)
        opened = judge({gateway(1): old}, demo)
        published = run(opened, "published", 2)

        def state(
            *runs: RunFact, n: int = 0, old: list[WindowReport] = old, new: list[WindowReport] = new
        ) -> list[str]:
            found = judge({gateway(1): old + new[:n]}, demo, *runs)
            return [*(e.state for e in found.episodes), found.verdicts[0].state]

        assert state() == ["open", "drift"]
        assert state(run(opened, "running")) == ["retraining", "drift"]
        assert state(run(opened, "failed")) == ["open", "drift"]
        assert state(published) == ["released", "drift"]
        assert state(published, n=1) == ["re-baselining", "unknown"]
        assert state(published, n=11) == ["re-baselining", "unknown"]
        assert state(published, n=12) == ["closed", "unknown"]
        assert state(published, n=52) == ["closed", "stable"]


def test_a_step_back_is_drift_again(demo: DriftSettings) -> None:
    """Back on the release that drifted, the gateway is drifted: its old baseline still counts."""
    site = Site(seed=70)
    reports = site.stream(26, onset=14.0)
    reports += site.stream(3, onset=0.0, release=2, first=26)
    reports += site.stream(3, onset=0.0, release=1, first=29)
    opened = judge({gateway(1): reports[:26]}, demo)
    found = judge({gateway(1): reports}, demo, run(opened, "published", 2))

    assert [e.state for e in found.episodes] == ["released"]
    assert found.verdicts[0].state == "drift"


def test_assessments_replay(demo: DriftSettings) -> None:
    """The same facts give the same bytes, and the bytes give the assessment back."""
    reports = drifted_fleet()
    found = judge(reports, demo)
    backwards = {g: list(reversed(own)) for g, own in reversed(list(reports.items()))}

    assert judge(backwards, demo).to_bytes() == found.to_bytes()
    assert FleetAssessment.from_bytes(found.to_bytes()) == found
    drifted = next(h for h in found.heat if h.gateway == gateway(0))
    assert len(drifted.z) == 34 and len(drifted.z[0]) == len(REFERENCE.streams)
    assert drifted.limit is not None and 5 < drifted.limit < 7
    assert max(drifted.z[20]) > drifted.limit > max(drifted.z[5])
