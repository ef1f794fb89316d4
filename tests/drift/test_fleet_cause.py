"""Cause and scope of drifts whose truth is known, from noised reports alone."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import pytest

from benchmarks.drift.causes import GATEWAYS, Past, named, play
from benchmarks.drift.worlds import BASELINE, KINDS, Kind, Rows, Site, Trouble, World
from fedge.config import DriftSettings, PolicyRule, PolicySettings
from fedge.drift.fleet.interventions import Intervention
from fedge.drift.fleet.labelled import LabelledWindow, error_change, error_rise
from fedge.drift.fleet.monitor import FleetAssessment, StoredFacts, assess

BY_NAME = {kind.name: kind for kind in KINDS}


@lru_cache(maxsize=1)
def world() -> tuple[World, Past]:
    """A fleet before anything happened; played once for all tests."""
    made = World(5)
    return made, {n: Site(made, n).windows(0, BASELINE) for n in range(GATEWAYS)}


@cache
def judged(kind: Kind, everywhere: bool) -> FleetAssessment:
    made, past = world()
    return play(kind, made, past, everywhere)


@pytest.mark.parametrize(
    "name",
    ["shift of three", "one class grows by half", "unfamiliar rows", "another truth", "dead"],
)
@pytest.mark.parametrize("everywhere", [False, True])
def test_cause_and_scope_are_named(name: str, everywhere: bool) -> None:
    """Each kind of drift, at one gateway of eight or at all, is called by its name."""
    kind = BY_NAME[name]
    found = list(named(kind, judged(kind, everywhere), everywhere))

    assert sum(one.right for one in found) >= 0.85 * len(found), [one.said for one in found]


@pytest.mark.parametrize(
    "name",
    [
        "stuck",
        "saturated",
        "offset",
        "unit change",
        "silent",
        "dead amid weather",
        "stuck amid weather",
        "other unit amid weather",
    ],
)
def test_a_broken_sensor_is_no_drift_of_the_world(name: str) -> None:
    """One feature alone with the mark of a fault: the sensor is checked, none is retrained."""
    verdict = judged(BY_NAME[name], False).verdicts[0]

    assert (verdict.cause, verdict.scope) == ("sensor", "gateway")
    assert verdict.action in ("check-sensor", "quarantine")
    assert verdict.evidence is not None and len(verdict.evidence.faults) == 1
    assert judged(BY_NAME[name], False).cohort is None


@pytest.mark.parametrize("name", ["shift of all", "shift of three", "scatter"])
def test_what_moves_together_is_no_sensor(name: str) -> None:
    """Several features at once are the world or the lens: never a sensor, never a quarantine."""
    for everywhere in (False, True):
        for verdict in judged(BY_NAME[name], everywhere).verdicts:
            assert verdict.cause in (None, "covariate")
            assert verdict.action not in ("check-sensor", "quarantine")


def test_without_histograms_by_class_nothing_is_called_label_shift() -> None:
    """A reference that cannot say how classes look: not label, and the verdict says so."""
    made, past = world()
    plain = made.reference.model_copy(update={"class_histograms": None, "confusion": None})
    poor = World.__new__(World)
    poor.__dict__.update(made.__dict__ | {"reference": plain})
    verdict = play(BY_NAME["one class grows by half"], poor, past, False).verdicts[0]

    assert verdict.cause == "covariate"
    assert "cannot say" in verdict.sentence


def test_concept_drift_shows_in_labels_alone() -> None:
    """The same inputs and another truth: no stream moves, the labelled errors do."""
    verdict = judged(BY_NAME["another truth"], False).verdicts[0]

    assert [f.stream for f in verdict.findings] == ["labels"]
    assert verdict.evidence is not None
    before, after = verdict.evidence.errors_before, verdict.evidence.errors_after
    assert before is not None and after is not None and after > before + 0.1
    assert "Labelled errors" in verdict.sentence


def test_small_losses_that_each_got_a_new_baseline_add_up() -> None:
    """Two steps of low severity: the second is judged against what the release began with."""
    made = World(6)
    site = Site(made, 0)

    def step(size: float, accuracy: float) -> Trouble:
        def trouble(_: Site, rng: np.random.Generator, rows: Rows) -> Rows:
            return made.answer(rng, rows.values + size, rows.labels, accuracy)

        return trouble

    played = site.windows(0, 28) + site.windows(28, 40, step(1.0, 0.86))
    played += site.windows(68, 16, step(2.0, 0.82))
    reports = [report for report, _ in played]
    rule = PolicyRule(severity="low", action="recalibrate")
    policy = PolicySettings(high_effect=9.0, high_loss=0.03, rules=(rule,))
    settings = DriftSettings(baseline_windows=24, policy=policy)

    def judge(windows: int, *facts: Intervention) -> FleetAssessment:
        own = {site.gateway: reports[:windows]}
        references = {made.sha256: made.reference}
        return assess(own, references, settings, (), StoredFacts(interventions=facts))

    (due,) = judge(44).due
    fact = Intervention(**due.model_dump(), at=1.0, by="policy")
    first, second = judge(44).verdicts[0], judge(84, fact).verdicts[0]

    assert (first.severity, second.severity) == ("low", "high")
    assert second.evidence is not None and second.evidence.accuracy_before is not None
    assert second.evidence.accuracy_before == pytest.approx(0.9, abs=0.02)


def series(rates: list[float], labels: int = 100, sigma2: float = 18.0) -> list[LabelledWindow]:
    rng = np.random.default_rng(3)
    found = []
    for window, rate in enumerate(rates):
        wrong = int(rng.binomial(labels, rate))
        noise = np.rint(rng.normal(0, sigma2**0.5, 2)).astype(int)
        right = labels - wrong
        found.append(LabelledWindow(window, right + int(noise[0]), wrong + int(noise[1]), sigma2))
    return found


class TestLabelledErrors:
    settings = DriftSettings(baseline_windows=24)

    def test_no_rise_without_one(self) -> None:
        """A steady error rate raises nothing, nor does one that falls."""
        assert error_rise(series([0.1] * 200), self.settings) is None
        assert error_rise(series([0.3] * 30 + [0.05] * 30), self.settings) is None

    def test_a_rise_is_dated(self) -> None:
        """A rise is found within the summed lengths, and its beginning near the truth."""
        rise = error_rise(series([0.1] * 40 + [0.4] * 14), self.settings)

        assert rise is not None
        assert 40 <= rise.opened_window <= 51 and abs(rise.first_window - 40) <= 1
        assert rise.before == pytest.approx(0.1, abs=0.03)

    def test_nothing_is_said_before_the_baseline(self) -> None:
        """Too few labelled windows, or windows without labels, are no rise."""
        assert error_rise(series([0.9] * 24), self.settings) is None
        assert error_rise([LabelledWindow(w, 0, 0, 18.0) for w in range(60)], self.settings) is None
        assert error_change(series([0.5] * 5), 10) is None

    def test_order_and_repetition_change_nothing(self) -> None:
        """Labels that arrive late or twice count once, where they belong."""
        straight = series([0.1] * 40 + [0.4] * 14)
        shuffled = [*straight[::-1], *straight[:7]]

        assert error_rise(shuffled, self.settings) == error_rise(straight, self.settings)
