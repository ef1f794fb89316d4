"""A verdict follows from stored facts alone, is read by people, and leads to one action."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from fakes.drifting_sites import REFERENCE, SHA, Site, gateway

from fedge.config import DriftSettings, PolicyRule, PolicySettings, ServerSettings
from fedge.drift.fleet.interventions import Intervention, InterventionKind, hold_of
from fedge.drift.fleet.monitor import FleetAssessment, StoredFacts, Verdict, assess
from fedge.drift.fleet.policy import DEFAULTS, decide, severity
from fedge.drift.words import Action, Cause, Scope, Severity
from fedge.errors import SettingError
from fedge.records import CategoricalStream, FeatureCounts, WindowReport

Reports = dict[str, list[WindowReport]]


def fleet(windows: int = 34) -> Reports:
    """Gateways 0 and 1 drift in every stream, 2 in one that sticks, 3 never."""
    reports = {
        gateway(g): Site(seed=80 + g, shift=(-1.5,) * 8).stream(windows, onset=at)
        for g, at in {0: 14.4, 1: 15.2, 3: None}.items()
    }
    return {**reports, gateway(2): stuck(Site(seed=82, differ=0.0).stream(windows), 16)}


def stuck(reports: list[WindowReport], onset: int, column: int = 2) -> list[WindowReport]:
    """From `onset` on, one feature's every row lies in bin 13 of 16."""
    rows = 200
    piled = [0] * 15
    for level, node, sign in ((0, 0, 1), (1, 1, 1), (2, 3, -1), (3, 6, 1)):
        piled[2**level - 1 + node] = sign * rows
    changed = list(reports)
    for index in range(onset, len(reports)):
        old = reports[index].features[column]
        noise = [
            a - b for a, b in zip(reports[index].features[0].counts, _mean(reports), strict=True)
        ]
        counts = tuple(p + n for p, n in zip([*piled, 0], noise, strict=True))
        features = list(reports[index].features)
        features[column] = old.model_copy(update={"counts": counts})
        changed[index] = reports[index].model_copy(update={"features": tuple(features)})
    return changed


def _mean(reports: list[WindowReport]) -> list[int]:
    """Mean counts of the first feature: what is left of a window is noise."""
    columns = zip(*(report.features[0].counts for report in reports), strict=True)
    return [round(sum(column) / len(reports)) for column in columns]


def judge(reports: Reports, settings: DriftSettings, *done: Intervention) -> FleetAssessment:
    return assess(reports, {SHA: REFERENCE}, settings, (), StoredFacts(interventions=done))


def by_gateway(assessment: FleetAssessment) -> dict[str, Verdict]:
    return {verdict.gateway: verdict for verdict in assessment.verdicts}


def done(assessment: FleetAssessment, at: float = 5000.0) -> tuple[Intervention, ...]:
    """Everything that is due, carried out."""
    return tuple(
        Intervention(
            episode=one.episode,
            gateway=one.gateway,
            action=one.action,
            window=one.window,
            at=at,
            by="policy",
            reason=one.reason,
        )
        for one in assessment.due
    )


def lifted(hold: Intervention, window: int, *, at: float | None = None) -> Intervention:
    """A lift when `window` was the last that had arrived; at its close, or later."""
    closed = 1001.0 + window if at is None else at
    return hold.model_copy(
        update={"action": "lift", "window": window, "at": closed, "by": "Ada", "reason": "new"}
    )


class TestReplay:
    def test_order_of_facts_does_not_matter(self, demo: DriftSettings) -> None:
        """Reports, gateways and interventions in any order give the same bytes."""
        reports = fleet()
        first = judge(reports, demo)
        facts = [*done(first), lifted(done(first)[0], 25)]
        straight = judge(reports, demo, *facts).to_bytes()
        rng = random.Random(1)
        for _ in range(2):
            mixed = [(name, rng.sample(own, len(own))) for name, own in reports.items()]
            rng.shuffle(mixed)
            rng.shuffle(facts)
            assert judge(dict(mixed), demo, *facts).to_bytes() == straight

    def test_another_process_says_the_same(self, demo: DriftSettings, tmp_path: Path) -> None:
        """The stored facts, read elsewhere, give the same canonical bytes."""
        reports = fleet()
        stored = {g: [r.to_bytes().decode() for r in own] for g, own in reports.items()}
        (tmp_path / "facts.json").write_text(json.dumps(stored))
        (tmp_path / "reference.json").write_bytes(REFERENCE.to_bytes())
        script = (
            "import json, sys; from pathlib import Path\n"
            "from fedge.config import DriftSettings\n"
            "from fedge.drift.fleet.monitor import assess\n"
            "from fedge.records import Reference, WindowReport\n"
            "here = Path(sys.argv[1])\n"
            "facts = json.loads((here / 'facts.json').read_text())\n"
            "reports = {g: [WindowReport.from_bytes(r) for r in own] for g, own in facts.items()}\n"
            "reference = Reference.from_bytes((here / 'reference.json').read_bytes())\n"
            "settings = DriftSettings(baseline_windows=12, gather_windows=10)\n"
            f"found = assess(reports, {{'{SHA}': reference}}, settings, ())\n"
            "sys.stdout.buffer.write(found.to_bytes())\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True
        ).stdout

        assert said == judge(reports, demo).to_bytes()

    def test_assessments_of_before_are_still_read(self, demo: DriftSettings) -> None:
        """One without cause, scope and action is read; what it did not say is not made up."""
        stored = json.loads(judge(fleet(), demo).to_bytes())
        new = {"needed_windows", "notes", "since_window", "findings", "cause", "scope", "severity"}
        for verdict in stored["verdicts"]:
            for name in new | {"action", "evidence", "held"}:
                del verdict[name]
        del stored["cohort_action"], stored["due"]
        read = FleetAssessment.from_bytes(json.dumps(stored))

        assert {v.cause for v in read.verdicts} == {None}
        assert {v.severity for v in read.verdicts} == {"unknown"}
        assert all(v.sentence for v in read.verdicts)


class TestWhatIsSaid:
    def test_sentences(self, demo: DriftSettings) -> None:
        """Drift says since when, what moved, why, where and what follows; unknown says why."""
        verdicts = by_gateway(judge(fleet(), demo))
        drifted, healthy = verdicts[gateway(0)].sentence, verdicts[gateway(3)].sentence
        early = judge({gateway(3): fleet()[gateway(3)][:7]}, demo).verdicts[0]

        assert "Drift since window 14" in drifted and "covariate shift" in drifted
        assert "retrained" in drifted and "accuracy cannot be estimated" in drifted
        assert healthy.startswith("Stable on release 1")
        assert early.sentence.startswith("Unknown: ") and "7 of 12" in early.sentence
        assert early.needed_windows == 5

    def test_a_stuck_sensor_is_one(self, demo: DriftSettings) -> None:
        """It is named, held apart, and no other gateway is."""
        found = judge(fleet(), demo)
        verdict = by_gateway(found)[gateway(2)]

        assert (verdict.cause, verdict.scope) == ("sensor", "gateway")
        assert verdict.evidence is not None
        assert [name for name, _ in verdict.evidence.faults] == ["n2"]
        assert [one.gateway for one in found.due] == [gateway(2)]

    def test_nothing_is_decided_before_it_settled(self, demo: DriftSettings) -> None:
        """Right after an alarm a sensor is only watched; more windows decide."""
        settings = demo.model_copy(update={"policy": PolicySettings(settle_windows=5)})
        reports = {g: own[:20] for g, own in fleet().items()}

        assert by_gateway(judge(reports, settings))[gateway(2)].action == "watch"
        assert judge(reports, settings).due == ()
        assert judge(fleet(), settings).due != ()


class TestInterventions:
    def test_each_is_due_once(self, demo: DriftSettings) -> None:
        """What is stored as done is not asked for again."""
        first = judge(fleet(), demo)

        assert len(first.due) == 1
        assert judge(fleet(), demo, *done(first)).due == ()

    def test_a_held_gateway_joins_no_cohort(self, demo: DriftSettings) -> None:
        """While it is held, nobody trains on what it says; the others go on."""
        settings = demo.model_copy(
            update={"policy": PolicySettings(rules=(PolicyRule(action="retrain-gateway"),))}
        )
        free = judge(fleet(), settings)
        hold = done(judge(fleet(), demo))[0]
        held = judge(fleet(), settings, hold)

        assert free.cohort is not None and gateway(2) in {m.gateway for m in free.cohort}
        assert held.cohort is not None and gateway(2) not in {m.gateway for m in held.cohort}
        assert by_gateway(held)[gateway(2)].held == hold.action

    def test_a_quarantine_lasts_until_somebody_lifts_it(self, demo: DriftSettings) -> None:
        """Windows of that time count for nothing; the next one begins a new baseline."""
        reports = fleet(60)
        settings = demo.model_copy(
            update={"policy": PolicySettings(rules=(PolicyRule(action="quarantine"),))}
        )
        early = {g: own[:26] for g, own in reports.items()}
        hold = next(d for d in done(judge(early, settings)) if d.gateway == gateway(2))
        assert hold.action == "quarantine" and hold.window == 25

        during = by_gateway(judge(reports, settings, hold))[gateway(2)]
        after = [
            judge({gateway(2): reports[gateway(2)][:n]}, settings, hold, lifted(hold, 40))
            for n in (42, 53, 54)
        ]
        assert (during.state, during.held) == ("drift", "quarantine")
        assert "until somebody lifts it" in during.sentence
        assert [a.verdicts[0].state for a in after] == ["unknown", "unknown", "stable"]
        assert [a.episodes[0].state for a in after] == ["re-baselining", "closed", "closed"]
        assert after[-1].verdicts[0].held is None

    def test_windows_that_waited_on_the_gateway_are_under_quarantine_too(
        self, demo: DriftSettings
    ) -> None:
        """Measured before the lift, received after it: they form no baseline."""
        reports = fleet(60)[gateway(2)]
        settings = demo.model_copy(
            update={"policy": PolicySettings(rules=(PolicyRule(action="quarantine"),))}
        )
        (hold,) = done(judge({gateway(2): reports[:26]}, settings))
        lift = lifted(hold, 30, at=1041.0)  # windows 31 to 40 were still in the spool

        states = [
            judge({gateway(2): reports[:n]}, settings, hold, lift).verdicts[0].state
            for n in (53, 54)
        ]
        assert states == ["unknown", "stable"]

    def test_recalibrating_begins_a_new_baseline(self, demo: DriftSettings) -> None:
        """The same model on the new normal: unknown while it is learnt, then stable, then alert."""
        settings = demo.model_copy(
            update={"policy": PolicySettings(rules=(PolicyRule(action="recalibrate"),))}
        )
        site = Site(seed=90)
        reports = [*site.stream(45, onset=14.0)]
        site.shift = (-1.5,) * 8
        reports += site.stream(9, onset=0.0, first=45)
        opened = judge({gateway(1): reports[:20]}, settings)
        (fact,) = done(opened)
        assert fact.action == "recalibrate" and fact.window == opened.episodes[0].opened_window

        states = {
            n: judge({gateway(1): reports[:n]}, settings, fact) for n in (20, fact.window + 13, 45)
        }
        found = [states[n].verdicts[0].state for n in states]
        assert found[0] == "unknown" and found[-1] == "stable"
        assert states[45].episodes[0].state == "closed"
        again = judge({gateway(1): reports}, settings, fact)
        assert [e.state for e in again.episodes] == ["closed", "open"]
        assert again.episodes[1].opened_window >= 45
        assert [one.episode for one in again.due] in ([], [again.episodes[1].id])

    def test_the_gravest_hold_counts_and_a_lift_ends_all(self) -> None:
        """Check and quarantine together are a quarantine; lifted, the gateway is free."""
        facts = [
            Intervention(
                episode="e", gateway=gateway(1), action=action, window=n, at=n, by="x", reason=""
            )
            for n, action in enumerate(("check-sensor", "quarantine", "check-sensor"))
        ]
        hold = hold_of(gateway(1), reversed(facts))

        assert hold is not None and hold.action == "quarantine"
        assert hold_of(gateway(1), [*facts, lifted(facts[2], 9)]) is None
        assert hold_of(gateway(2), facts) is None


def test_who_counts_on_other_bins_is_no_comparison(demo: DriftSettings) -> None:
    """A gateway that names another reference tells nothing of the scope here, and harms nobody."""
    names = tuple(f"c{k}" for k in range(3))
    other = CategoricalStream(name="n0", categories=names, histogram=(0.25,) * 4)
    foreign = REFERENCE.model_copy(update={"streams": (other, *REFERENCE.streams[1:])})
    reports = {g: own for g, own in fleet().items() if g in (gateway(0), gateway(1))}
    first = FeatureCounts(name="n0", kind="categorical", counts=(50,) * 4, sigma2=1)
    reports[gateway(1)] = [
        r.model_copy(update={"reference_sha256": "f" * 64, "features": (first, *r.features[1:])})
        for r in reports[gateway(1)]
    ]
    found = by_gateway(assess(reports, {SHA: REFERENCE, "f" * 64: foreign}, demo, ()))

    assert {verdict.state for verdict in found.values()} == {"drift"}
    assert {verdict.scope for verdict in found.values()} == {"unknown"}


@pytest.mark.parametrize("lengths", [(), (0,), (1, -2)])
def test_sums_are_over_at_least_one_window(lengths: tuple[int, ...]) -> None:
    """A setting under which nothing could be tested is refused where it is read."""
    with pytest.raises(SettingError, match="lengths"):
        DriftSettings.parse({"lengths": list(lengths)}, Path())


class TestPolicy:
    def test_words_of_settings_and_verdicts_are_the_same(self) -> None:
        """A rule can name everything that a verdict can say, and nothing else."""
        fields = PolicyRule.model_fields
        for name, words in (("cause", Cause), ("scope", Scope), ("severity", Severity)):
            assert set(get_args(fields[name].annotation)) == {*get_args(words), "any"}
        assert set(get_args(fields["action"].annotation)) == set(get_args(Action))
        assert set(get_args(InterventionKind)) - {"lift"} <= set(get_args(Action))

    def test_every_combination_has_an_action(self) -> None:
        """The table has no hole, and retraining a fleet needs a fleet's drift."""
        for cause in get_args(Cause):
            for scope in get_args(Scope):
                for grade in get_args(Severity):
                    action = decide(
                        PolicySettings(), cause=cause, scope=scope, severity=grade, effect=2.0
                    )
                    assert action in get_args(Action)
                    assert (action == "retrain-fleet") <= (scope == "fleet")
                    assert (action in ("check-sensor", "quarantine")) == (cause == "sensor")

    def test_the_operators_rules_come_first(self) -> None:
        """The first rule that fits decides, and only where the movement is large enough."""
        settings = PolicySettings(
            rules=(
                PolicyRule(cause="covariate", min_effect=1.0, action="check-sensor"),
                PolicyRule(cause="covariate", action="none"),
            )
        )

        def action(effect: float) -> Action:
            return decide(
                settings, cause="covariate", scope="fleet", severity="high", effect=effect
            )

        assert [action(0.5), action(1.5)] == ["none", "check-sensor"]
        assert DEFAULTS[-1].action == "retrain-gateway"

    def test_rules_are_read_from_toml(self, tmp_path: Path) -> None:
        """`[[drift.policy.rules]]` works; a word that no verdict says is refused by name."""
        file = tmp_path / "server.toml"
        text = (
            'data_dir = "d"\npolicy = "p"\n[[drift.policy.rules]]\ncause = "{}"\naction = "watch"'
        )
        file.write_text(text.format("ood"))
        assert ServerSettings.load(file).drift.policy.rules[0].cause == "ood"

        file.write_text(text.format("gremlins"))
        with pytest.raises(SettingError, match=r"rules\.0\.cause"):
            ServerSettings.load(file)

    def test_severity_needs_an_estimate_to_be_low(self) -> None:
        """Nobody can say: unknown. A loss, or a far shift of the inputs: high."""

        def grade(cause: Cause, effect: float, loss: float | None) -> Severity:
            return severity(PolicySettings(), cause=cause, effect=effect, loss=loss)

        assert grade("covariate", 0.3, None) == "unknown"
        assert grade("covariate", 0.3, 0.01) == "low"
        assert grade("covariate", 0.3, 0.2) == "high"
        assert grade("covariate", 1.5, 0.01) == "high"
        assert grade("label", 1.5, 0.01) == "low"
        assert grade("sensor", 3.0, 0.01) == "low"
