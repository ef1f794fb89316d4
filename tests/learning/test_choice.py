"""The choice of an adapter: on public data, at the policy's budget, and written down."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.digits_base import base_weights, camera_records, demo_policy, plan

from fedge.config import ServerSettings, TrainingSettings
from fedge.errors import SettingError, TaskError
from fedge.learning import choice
from fedge.learning.choice import candidates_of, choose_adapter
from fedge.learning.chosen import chosen_training
from fedge.learning.planning import run_nano
from fedge.learning.rehearsal import rehearse
from fedge.privacy.policy import write_policy
from fedge.privacy.rdp import cap_nano, telemetry_nano
from fedge.records import AdapterChoice
from fedge.tasks.camera import LENS
from fedge.tasks.code import FaultFamily
from fedge.tasks.digits import CODE, glyphs

QUICK = (
    TrainingSettings(adapter="input", rounds=1, steps=4, records=60),
    TrainingSettings(adapter="head", rounds=1, steps=4, records=60),
)


@pytest.fixture(scope="module")
def chosen() -> AdapterChoice:
    return choose_adapter(CODE, base_weights(), demo_policy(), QUICK, (1, 2), 1_795_000_000.0)


def test_every_candidate_is_written_down(chosen: AdapterChoice) -> None:
    """Figures by seed, what was planned, under which policy, computed by what."""
    assert [c.adapter for c in chosen.candidates] == ["input", "head"]
    assert all(len(c.accuracies) == 2 for c in chosen.candidates)
    assert chosen.policy_sha256 == demo_policy().content_sha256
    assert (chosen.gateways, chosen.records, chosen.seeds) == (5, 60, (1, 2))
    assert {"fedge", "torch", "numpy"} <= set(chosen.versions)
    assert (chosen.unit, chosen.max_records, chosen.at) == ("record", 1, 1_795_000_000.0)
    assert chosen.seal == chosen.expected_seal
    assert AdapterChoice.from_bytes(chosen.to_bytes()) == chosen


def test_the_best_is_chosen(chosen: AdapterChoice) -> None:
    """The highest mean accuracy; of equals the smaller one."""
    first, *others = chosen.ranked
    assert chosen.chosen == first
    assert all(first.accuracy >= other.accuracy for other in others)
    one = chosen.candidates[0]
    tie = chosen.model_copy(update={"candidates": (one.model_copy(update={"dimension": 900}), one)})
    assert tie.chosen.dimension == one.dimension


def test_it_plans_at_the_whole_budget(chosen: AdapterChoice) -> None:
    """Each candidate trained under the noise that a real run of it would have."""
    policy = demo_policy()
    for candidate, settings in zip(chosen.candidates, QUICK, strict=True):
        made = plan(candidate.dimension, **settings.model_dump())
        cost = run_nano(made, policy.alpha) + telemetry_nano(policy)
        assert cost <= cap_nano(policy)
        expected = math.sqrt(made.sigma2 / made.sensitivity2)
        assert candidate.noise_multiplier == pytest.approx(expected)


def test_the_same_study_gives_the_same_record(chosen: AdapterChoice) -> None:
    """Whoever repeats it finds the same figures."""
    again = choose_adapter(CODE, base_weights(), demo_policy(), QUICK[:1], seeds=(1, 2))

    assert again.candidates[0] == chosen.candidates[0]
    assert again.stale == chosen.stale


def test_candidates_that_the_model_lacks_are_left_out() -> None:
    """A model without convolutions is studied without that adapter; with nothing it is an error."""
    weights = {name: v for name, v in base_weights().items() if v.ndim != 4 or "input" in name}
    conv = TrainingSettings(adapter="conv", records=60)

    with pytest.raises(TaskError, match="no candidate"):
        choose_adapter(CODE, weights, demo_policy(), [conv], seeds=(1,))
    with pytest.raises(TaskError, match="no seed"):
        choose_adapter(CODE, base_weights(), demo_policy(), QUICK, seeds=())


@pytest.mark.parametrize("seeds", [(-1,), (1, 2, 1)], ids=["negative", "twice"])
def test_seeds_are_different_faults(seeds: tuple[int, ...]) -> None:
    """One that is there twice would make a mean of fewer faults look like one of more."""
    with pytest.raises(SettingError, match="seeds"):
        choose_adapter(CODE, base_weights(), demo_policy(), QUICK, seeds=seeds)


def test_public_rows_are_public_and_under_one_fault() -> None:
    """Another seed is another fault; a split by position keeps glyphs apart."""
    assert isinstance(CODE, FaultFamily)
    inputs, labels = CODE.faulted_rows(3, 2_000)
    again, _ = CODE.faulted_rows(3, 2_000)
    other, _ = CODE.faulted_rows(4, 2_000)

    np.testing.assert_array_equal(inputs, again)
    assert inputs.shape == (2_000, 1, 8, 8) and len(labels) == 2_000
    assert not np.array_equal(inputs, other)
    public = np.bincount(glyphs("public").labels, minlength=10)
    assert (np.bincount(labels, minlength=10) <= 4 * public).all()


def test_the_command_writes_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One table for people, one file for the record; a policy that cannot be read is said."""
    policy, out = tmp_path / "policy.toml", tmp_path / "adapter-choice.json"
    write_policy(demo_policy(), policy)
    asked = quick_study(monkeypatch)

    assert choice.main(["--policy", str(policy), "--out", str(out), "--seeds", "1"]) == 0
    written = AdapterChoice.from_bytes(out.read_bytes())
    assert written.chosen.adapter == "input" and written.at is not None
    printed = capsys.readouterr()
    assert "input" in printed.out
    assert printed.err == "studying 1 of 1: input, rate 1.2\n"
    assert asked == [choice.CANDIDATES]
    assert choice.main(["--policy", str(tmp_path / "none.toml")]) == 1


def test_a_study_that_is_interrupted_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit status of an interrupt, and no record."""
    policy, out = tmp_path / "policy.toml", tmp_path / "adapter-choice.json"
    write_policy(demo_policy(), policy)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(choice, "choose_adapter", interrupted)
    monkeypatch.setattr(type(CODE), "base_weights", lambda _, seed: base_weights())

    assert choice.main(["--policy", str(policy), "--out", str(out)]) == 130
    assert "interrupted" in capsys.readouterr().err and not out.exists()


def test_where_the_record_cannot_go_is_said_before_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in its place, or none to put it in: not after minutes of work."""
    policy = tmp_path / "policy.toml"
    write_policy(demo_policy(), policy)
    asked = quick_study(monkeypatch)

    for out in (tmp_path, tmp_path / "none" / "adapter-choice.json"):
        assert choice.main(["--policy", str(policy), "--out", str(out)]) == 1
        assert str(out) in capsys.readouterr().err
    assert asked == []


def test_a_study_for_a_centre_applies_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates are planned as that centre plans its runs, whose settings then name the file."""
    write_policy(demo_policy(), tmp_path / "policy.toml")
    file, config = tmp_path / "adapter-choice.json", tmp_path / "server.toml"
    config.write_text(
        'data_dir = "data"\npolicy = "policy.toml"\n[training]\nchoice = "adapter-choice.json"\n'
        "records = 60\nevaluation_rho = 0.002\nsteps = 4\nrounds = 1\n"
    )
    asked = quick_study(monkeypatch)
    assert choice.main(["--server", str(config), "--out", str(file), "--seeds", "1"]) == 0
    own = ServerSettings.load(config).training

    assert asked == [candidates_of(own)]
    assert {(c.records, c.evaluation_rho, c.steps) for c in asked[0]} == {(60, 0.002, 4)}
    assert chosen_training(own, demo_policy(), "digits").settings.adapter == "input"


def test_a_centre_of_another_task_is_not_studied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "server.toml"
    config.write_text('data_dir = "data"\npolicy = "policy.toml"\ntask = "grit"\n')

    assert choice.main(["--server", str(config)]) == 1
    assert "grit" in capsys.readouterr().err


def quick_study(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainingSettings, ...]]:
    """The command studies one candidate of those that it is asked for, which are kept."""
    asked: list[tuple[TrainingSettings, ...]] = []

    def quick(code, weights, policy, candidates, *, seeds, at, tell):
        asked.append(candidates)
        return choose_adapter(code, weights, policy, quick_ones(candidates), seeds, at, tell)

    def quick_ones(candidates):
        return [candidates[0].model_copy(update={"rounds": 1, "steps": 4, "records": 60})]

    monkeypatch.setattr(choice, "choose_adapter", quick)
    monkeypatch.setattr(type(CODE), "base_weights", lambda _, seed: base_weights())
    return asked


def test_a_rehearsal_is_a_whole_run() -> None:
    """Two rounds and an evaluation, the same for the same seed, another for another."""
    made = plan(steps=5, records=50)
    fleet = [camera_records(LENS, 1, gateway, 50) for gateway in range(2)]
    fleet = [replace(records, predictions=np.full(50, -1)) for records in fleet]

    first, again = (rehearse(CODE, base_weights(), made, fleet, 7) for _ in range(2))
    other = rehearse(CODE, base_weights(), made, fleet, 8)

    np.testing.assert_array_equal(first.change, again.change)
    assert first.gain == again.gain
    assert not np.array_equal(first.change, other.change)
    assert first.gain > 0
