"""Labels that begin long after a release: nothing is compared with the noise before them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fakes.drifting_sites import REFERENCE, SHA, Site, gateway

from fedge.config import DriftSettings
from fedge.drift.fleet.episodes import Episode, freeze_cohort
from fedge.drift.fleet.history import history_of
from fedge.drift.fleet.labelled import (
    LabelledWindow,
    begun,
    error_change,
    error_rise,
    error_standing,
)
from fedge.drift.fleet.monitor import StoredFacts, Verdict, assess

SETTINGS = DriftSettings(baseline_windows=24)


def series(
    labels: list[int], rate: float | list[float] = 0.1, sigma2: float = 18.0, seed: int = 3
) -> list[LabelledWindow]:
    """Noised pairs of windows with so many labelled rows each."""
    rng = np.random.default_rng(seed)
    rates = rate if isinstance(rate, list) else [rate] * len(labels)
    found = []
    for window, (count, wrong_rate) in enumerate(zip(labels, rates, strict=True)):
        wrong = int(rng.binomial(count, wrong_rate))
        noise = np.rint(rng.normal(0, sigma2**0.5, 2)).astype(int)
        pair = (count - wrong + int(noise[0]), wrong + int(noise[1]))
        found.append(LabelledWindow(window, *pair, sigma2))
    return found


class TestBeginning:
    @pytest.mark.parametrize("seed", range(10))
    def test_noise_is_no_label(self, seed: int) -> None:
        """A year of hourly windows without a label: none is made up."""
        assert begun(series([0] * 8760, seed=seed)) == []

    @pytest.mark.parametrize("labels", [100, 20, 3])
    def test_labels_from_the_start_begin_at_the_start(self, labels: int) -> None:
        """Many or few of them: no window is taken from the baseline."""
        for seed in range(10):
            found = begun(series([labels] * 1000, seed=seed))
            assert [one.window for one in found] == list(range(1000))

    @pytest.mark.parametrize(("labels", "off"), [(100, 0), (20, 2)])
    def test_late_labels_begin_where_they_do(self, labels: int, off: int) -> None:
        """Known to the window where labels are many, near it where they are few."""
        for seed in range(10):
            found = begun(series([0] * 60 + [labels] * 40, seed=seed))
            assert abs(found[0].window - 60) <= off

    def test_what_comes_later_moves_no_beginning(self) -> None:
        """Once labels show, more windows, more labels or none at all change nothing about it."""
        straight = series([0] * 50 + [20] * 30 + [200] * 30 + [0] * 90)
        first = begun(straight[:80])[0].window

        assert {begun(straight[:n])[0].window for n in range(80, 200, 7)} == {first}
        assert begun(straight[::-1]) == begun([*straight, *straight[:9]]) == begun(straight)

    def test_no_window_no_label(self) -> None:
        """Nothing sent is nothing begun."""
        assert begun([]) == []


class TestLateBaseline:
    # Before labels there is noise alone; then one answer in ten is wrong, later four.
    turned = series([0] * 40 + [100] * 50, [0.1] * 70 + [0.4] * 20)

    def test_a_rise_is_found_against_labels_alone(self) -> None:
        """The baseline begins with the labels, and the rise is dated as without the noise."""
        rise = error_rise(self.turned, SETTINGS)

        assert rise is not None
        assert rise.before == pytest.approx(0.1, abs=0.03)
        assert abs(rise.first_window - 70) <= 1
        assert rise == error_rise(self.turned[40:], SETTINGS)

    def test_steady_answers_raise_nothing(self) -> None:
        """The first labels are no rise over noise."""
        for seed in range(10):
            late = series([0] * 40 + [100] * 60, 0.2, seed=seed)
            assert error_rise(late, SETTINGS) is None

    def test_the_time_before_labels_is_no_time_before(self) -> None:
        """A change is measured between labels and labels, and without any it is not."""
        change = error_change(self.turned, 70)

        assert change == error_change(self.turned[40:], 70)
        assert change is not None and change[0] == pytest.approx(0.3, abs=0.05)
        assert error_change(self.turned, 40) is None

    def test_unknown_until_there_are_enough(self) -> None:
        """The note says from where, and how many are needed; then stable; then drift."""
        early, whole = self.turned[:50], self.turned[:68]

        assert error_standing(self.turned[:40], SETTINGS).state == "unknown"
        assert error_standing(early, SETTINGS).state == "unknown"
        assert error_standing(early, SETTINGS).notes == (
            "labels began at window 40; baseline of labelled errors is from there",
            "concept drift is not judged yet: 15 more labelled windows needed",
        )
        assert error_standing(whole, SETTINGS).state == "stable"
        assert error_standing(self.turned, SETTINGS).state == "drift"

    def test_labels_that_stop_leave_nothing_stable(self) -> None:
        """Of the last windows nobody can say."""
        stopped = error_standing(series([100] * 40 + [0] * 12), SETTINGS)

        assert stopped.state == "unknown" and "in the latest windows" in stopped.notes[0]
        assert error_standing(series([100] * 52), SETTINGS).state == "stable"


def test_the_verdict_says_where_labels_began(demo: DriftSettings) -> None:
    """Inputs are judged all the while; of concept drift the verdict is unknown till it can tell."""
    reports = Site(seed=1).stream(60)
    labels = series([0] * 30 + [100] * 30)

    def at(windows: int) -> Verdict:
        stored = StoredFacts(labels={gateway(1): labels[:windows]})
        own = {gateway(1): reports[:windows]}
        return assess(own, {SHA: REFERENCE}, demo, (), stored).verdicts[0]

    assert [(at(n).state, at(n).concept) for n in (20, 35, 43)] == [
        ("stable", "unknown"),
        ("stable", "unknown"),
        ("stable", "stable"),
    ]
    assert "labels began at window 30; baseline of labelled errors is from there" in at(35).notes
    unlabelled = assess({gateway(1): reports}, {SHA: REFERENCE}, demo, ()).verdicts[0]
    assert unlabelled.concept == "unknown"
    assert not any("label" in note for note in unlabelled.notes)


def test_who_alarmed_by_labels_is_not_taken_for_one_without_an_alarm(demo: DriftSettings) -> None:
    """A fleet is retrained with whoever had not alarmed by then, not with one that is watched."""
    everyone = [gateway(n) for n in range(4)]
    histories = {
        g: history_of(g, Site(seed=n).stream(40), {SHA: REFERENCE}, demo, ())
        for n, g in enumerate(everyone)
    }
    first = histories[everyone[0]]
    closed = dict(zip(first.numbers, first.closed_at, strict=True))

    def opened(who: str, window: int, stream: str) -> Episode:
        return Episode(
            id=f"{who}-1-{window}",
            gateway=who,
            release=1,
            opened_window=window,
            opened_at=closed[window],
            first_window=window,
            streams=(stream,),
            findings=(),
            state="open",
        )

    actions = {everyone[0]: "retrain-fleet", everyone[1]: "watch", everyone[3]: "watch"}
    cohort = freeze_cohort(
        [
            opened(everyone[0], 14, "n0"),
            opened(everyone[1], 16, "labels"),
            opened(everyone[3], 35, "labels"),  # after the gathering
        ],
        histories,
        demo,
        (),
        lambda onset, moment: SimpleNamespace(  # type: ignore[arg-type, return-value]
            action=actions[onset.gateway], still=()
        ),
    )

    assert cohort is not None and cohort.action == "retrain-fleet"
    assert [member.gateway for member in cohort.members] == [everyone[n] for n in (0, 2, 3)]
