"""A gateway that says nothing any more is not stable, and everybody sees since when."""

from __future__ import annotations

import pytest
from fakes.drifting_sites import REFERENCE, SHA, Site, gateway

from fedge.config import DriftSettings
from fedge.drift.fleet.interventions import Intervention
from fedge.drift.fleet.monitor import FleetAssessment, StoredFacts, Verdict, assess
from fedge.drift.fleet.silence import aged, in_words, silent_after
from fedge.records import WindowReport

HOUR = 3600.0
ONE = gateway(1)


def judge(
    reports: list[WindowReport],
    settings: DriftSettings,
    *done: Intervention,
    now: float | None = None,
    heard: float | None = None,
) -> FleetAssessment:
    stored = StoredFacts(interventions=done, heard={} if heard is None else {ONE: heard}, now=now)
    return assess({ONE: reports}, {SHA: REFERENCE}, settings, (), stored)


def verdict(*args: object, **named: object) -> Verdict:
    return judge(*args, **named).verdicts[0]  # type: ignore[arg-type]


class TestSilence:
    def test_the_last_verdict_does_not_outlast_the_gateway(self, demo: DriftSettings) -> None:
        """Stable to the end of the stated time, unknown right after it, with the reason."""
        reports = Site(seed=1).stream(20)
        last = reports[-1].closed_at
        limit = demo.silent_windows * HOUR

        heard = verdict(reports, demo, now=last + limit)
        silent = verdict(reports, demo, now=last + limit + 1)
        assert (heard.state, heard.report_age_s) == ("stable", limit)
        assert (silent.state, silent.severity) == ("unknown", "unknown")
        assert silent.sentence == "Unknown: no report for 6 h."
        assert silent.notes[-1] == f"before that: {heard.reason}"

    def test_drift_is_not_withdrawn_by_silence(self, demo: DriftSettings) -> None:
        """What was found stays found, with its age."""
        reports = Site(seed=1).stream(20, onset=14.0)
        silent = verdict(reports, demo, now=reports[-1].closed_at + 1000 * HOUR)

        assert silent.state == "drift"
        assert silent.report_age_s == 1000 * HOUR

    def test_the_centres_clock_counts(self, demo: DriftSettings) -> None:
        """A gateway whose own clock runs a year ahead is as silent as any other."""
        year, now = 365 * 24 * HOUR, 1e6
        reports = [
            r.model_copy(update={"opened_at": now + year, "closed_at": now + year + r.window})
            for r in Site(seed=1).stream(20)
        ]

        assert verdict(reports, demo, now=now, heard=now - 7 * HOUR).state == "unknown"
        assert verdict(reports, demo, now=now, heard=now - 5 * HOUR).state == "stable"

    def test_slow_gateways_are_waited_for_longer(self, demo: DriftSettings) -> None:
        """A gateway's own windows count where they take longer than the setting says."""
        assert silent_after([0.0, 1.0, 2.0], demo) == 6 * HOUR
        assert silent_after([0.0, 5 * HOUR, 10 * HOUR, 90 * HOUR], demo) == 30 * HOUR
        assert silent_after([], demo) == silent_after([7.0], demo) == 6 * HOUR
        # Days of one report each, long ago, do not make today's hours slow.
        early = [24 * HOUR * day for day in range(40)]
        assert silent_after([*early, *(early[-1] + HOUR * h for h in range(1, 30))], demo) == (
            6 * HOUR
        )

    def test_the_same_facts_and_moment_give_the_same_bytes(self, demo: DriftSettings) -> None:
        """Without a moment no age is told; with one the answer is replayed, and read back."""
        reports = Site(seed=1).stream(20)
        at = judge(reports, demo, now=2e4)

        assert verdict(reports, demo).report_age_s is None
        assert judge(reports[::-1], demo, now=2e4).to_bytes() == at.to_bytes()
        assert FleetAssessment.from_bytes(at.to_bytes()) == at
        assert at.at == 2e4


class TestReadLater:
    def test_a_stored_verdict_ages(self, demo: DriftSettings) -> None:
        """Stored while it was new, read when the gateway was silent; each reading anew."""
        reports = Site(seed=1).stream(20)
        last = reports[-1].closed_at
        stored = verdict(reports, demo, now=last)

        once = aged(stored, last + 7 * HOUR)
        twice = aged(once, last + 50 * HOUR)
        assert [stored.state, once.state, twice.state] == ["stable", "unknown", "unknown"]
        assert [once.reason, twice.reason] == ["no report for 7 h", "no report for 2 d"]
        assert once.notes == twice.notes

    def test_a_monitor_that_stopped_leaves_no_stable_verdict(self, demo: DriftSettings) -> None:
        """Reports arrive, nobody judges them: the verdict is as old as the judging."""
        reports = Site(seed=1).stream(20)
        at = reports[-1].closed_at
        stored = verdict(reports, demo, now=at)

        later = aged(stored, at + 7 * HOUR, heard=at + 6.9 * HOUR, judged_at=at)
        assert later.sentence == "Unknown: not judged for 7 h."
        assert aged(stored, at + HOUR, heard=at + HOUR, judged_at=at).state == "stable"

    def test_what_was_stored_before_has_no_age(self, demo: DriftSettings) -> None:
        """A verdict without these facts is left as it was."""
        old = verdict(Site(seed=1).stream(20), demo)
        old = old.model_copy(update={"last_report_at": None, "silent_after_s": None})

        assert aged(old, 1e9, heard=1.0, judged_at=1.0) == old

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(0.0, "0 s"), (59.9, "59 s"), (60.0, "1 min"), (7200.0, "2 h"), (2.6e5, "3 d")],
    )
    def test_in_words(self, seconds: float, words: str) -> None:
        """Rounded down to the largest unit that fits."""
        assert in_words(seconds) == words


@pytest.mark.parametrize(("action", "said"), [("quarantine", "lifted"), ("check-sensor", "lifted")])
def test_after_a_lift_the_next_window_is_waited_for(
    action: str, said: str, demo: DriftSettings
) -> None:
    """Reports have arrived, so nobody says that there are none."""
    reports = Site(seed=1).stream(20)
    hold = Intervention(
        episode="e",
        gateway=ONE,
        action=action,
        window=15,
        at=1.0,
        by="policy",
        reason="",  # type: ignore[arg-type]
    )
    lift = hold.model_copy(update={"action": "lift", "window": 19, "at": 2.0, "by": "Ada"})

    assert verdict(reports, demo, hold, lift).reason == f"{said}; waits for the next window"
    assert verdict([], demo).reason == "no report has arrived"


def test_after_recalibrating_the_next_window_is_waited_for(demo: DriftSettings) -> None:
    """A new baseline that has no window yet says so."""
    fact = Intervention(
        episode="e", gateway=ONE, action="recalibrate", window=19, at=1.0, by="policy", reason=""
    )
    found = verdict(Site(seed=1).stream(20), demo, fact)

    assert (found.state, found.reason) == ("unknown", "recalibrated; waits for the next window")
