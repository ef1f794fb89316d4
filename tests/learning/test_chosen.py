"""A recorded choice decides what is trained, or says why it does not apply."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.choices import choice_of, studied
from fakes.digits_base import demo_policy
from fakes.runs import run_spec

from fedge.config import ServerSettings, TrainingSettings
from fedge.errors import ChoiceError, RecordError, SettingError
from fedge.learning.chosen import (
    carried_choice,
    check_recorded,
    choice_from,
    chosen_training,
    read_choice,
    shipped_choice,
    shipped_fits,
)
from fedge.records import AdapterChoice, PrivacyPolicy, RunSpec, canonical

POLICY = demo_policy()
CHOICE = choice_of(
    POLICY,
    studied(POLICY, learning_rate=1.2),
    studied(POLICY, 650, adapter="head").model_copy(update={"accuracies": (0.5, 0.6)}),
)
GOLDEN = Path(__file__).parents[1] / "golden" / "adapter-choice-1.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "adapter-choice.json"
    path.write_bytes(CHOICE.to_bytes())
    return path


def refused(
    training: TrainingSettings, policy: PrivacyPolicy = POLICY, task: str = "digits"
) -> str:
    """What is said about settings that do not go with their choice."""
    with pytest.raises(ChoiceError) as found:
        chosen_training(training, policy, task)
    return str(found.value)


# --- what is trained --------------------------------------------------------------------


def test_what_the_settings_leave_out_the_choice_decides(file: Path) -> None:
    chosen = chosen_training(TrainingSettings(choice=file, records=200), POLICY, "digits")

    assert TrainingSettings().learning_rate != 1.2
    assert (chosen.settings.adapter, chosen.settings.learning_rate) == ("input", 1.2)
    assert (chosen.settings.records, chosen.choice) == (200, CHOICE)
    assert CHOICE.content_sha256[:16] in chosen.described


def test_settings_that_say_the_same_are_taken(file: Path) -> None:
    same = TrainingSettings(choice=file, adapter="input", clip=0.5, learning_rate=1.2)
    assert chosen_training(same, POLICY, "digits").settings.learning_rate == 1.2


@pytest.mark.parametrize(
    "own",
    [{"adapter": "head"}, {"clip": 1.0}, {"learning_rate": 2.4}, {"rounds": 3}, {"steps": 10}],
    ids=lambda own: next(iter(own)),
)
def test_settings_that_say_otherwise_are_an_error(file: Path, own: dict[str, object]) -> None:
    """Which setting, what it says, what was chosen, which file, and what to do."""
    said = refused(TrainingSettings(choice=file, **own))  # type: ignore[arg-type]

    ((name, value),) = own.items()
    assert f"chose {name} " in said and f"says {value}" in said
    assert str(file) in said and "fedge.learning.choice --server" in said


def test_without_a_choice_the_settings_hold_and_that_is_said() -> None:
    own = TrainingSettings(adapter="conv")
    chosen = chosen_training(own, POLICY, "digits")

    assert (chosen.settings, chosen.choice) == (own, None)
    assert "conv" in chosen.described and "not recorded" in chosen.described


def test_server_toml_names_it_beside_itself(tmp_path: Path, file: Path) -> None:
    """A relative path starts at the settings' folder, and what the file leaves out stays open."""
    config = tmp_path / "server.toml"
    config.write_text(
        'data_dir = "d"\npolicy = "p.toml"\n[training]\nchoice = "adapter-choice.json"\n'
    )
    training = ServerSettings.load(config).training

    assert training.choice == file
    assert chosen_training(training, POLICY, "digits").settings.learning_rate == 1.2


# --- when it does not apply -------------------------------------------------------------


def test_another_task(file: Path) -> None:
    said = refused(TrainingSettings(choice=file), task="grit")
    assert "for task digits" in said and "for grit" in said


def test_another_epsilon(file: Path) -> None:
    said = refused(TrainingSettings(choice=file), demo_policy(1.0))
    assert "epsilon 3.0, the policy says 1.0" in said


def test_another_unit(file: Path) -> None:
    subject = POLICY.model_copy(update={"unit": "subject", "max_records": 4})
    assert "unit record, the policy says subject" in refused(TrainingSettings(choice=file), subject)


def test_as_much_for_monitoring_but_not_for_training(file: Path) -> None:
    """The same epsilon, of which the evaluation takes more: another noise than was studied."""
    assert "under noise of" in refused(TrainingSettings(choice=file, evaluation_rho=0.02))


def test_a_policy_that_leaves_training_the_same_is_no_other_budget(file: Path) -> None:
    """Only what a run's noise depends on counts, not the length of a block."""
    longer = POLICY.block.model_copy(update={"value": 7})
    other = POLICY.model_copy(update={"block": longer})
    assert other.content_sha256 != CHOICE.policy_sha256

    assert chosen_training(TrainingSettings(choice=file), other, "digits").choice == CHOICE


def test_nothing_there_and_nonsense(tmp_path: Path) -> None:
    assert "none.json" in refused(TrainingSettings(choice=tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}")
    assert "bad.json" in refused(TrainingSettings(choice=tmp_path / "bad.json"))
    (tmp_path / "text.json").write_bytes(b"\xff\xfe no json")
    assert "text.json" in refused(TrainingSettings(choice=tmp_path / "text.json"))


def edited(change: Callable[[dict], object]) -> bytes:  # type: ignore[type-arg]
    values = json.loads(CHOICE.to_bytes())
    change(values)
    return canonical(values)


@pytest.mark.parametrize(
    "data",
    [
        edited(lambda v: v["candidates"][1].update(accuracies=[0.9, 0.9])),
        edited(lambda v: v.update(task="grit")),
        edited(lambda v: v.update(at=1.0)),
        edited(lambda v: v["versions"].update(fedge="9")),
        edited(lambda v: v.pop("seal")),
        edited(lambda v: v.update(more=1)),
        json.dumps(json.loads(CHOICE.to_bytes()), indent=1).encode(),
        CHOICE.to_bytes() + b"\n",
    ],
    ids=["figures", "task", "time", "versions", "unsealed", "more", "spread-out", "blank"],
)
def test_an_edited_file_is_refused(file: Path, data: bytes) -> None:
    """One byte that the study did not write, wherever it is."""
    file.write_bytes(data)
    assert str(file) in refused(TrainingSettings(choice=file))


def test_figures_that_are_none_are_refused() -> None:
    """Too few of them, or beyond what a share can be."""
    short = CHOICE.candidates[0].model_copy(update={"accuracies": (0.5,)})
    with pytest.raises(ValueError, match="each seed"):
        choice_of(POLICY, short)
    for wrong in (float("nan"), 1.5, -0.1):
        values = CHOICE.candidates[0].model_dump() | {"accuracies": (0.5, wrong)}
        with pytest.raises(ValueError, match="accuracies"):
            type(CHOICE.candidates[0])(**values)


@pytest.mark.parametrize(
    "hostile",
    [
        {"at": 1e18},
        {"at": -1.0},
        {"at": float("nan")},
        {"versions": {"fedge": "0.1\x1b[2J"}},
        {"versions": {"fedge\nall is well": "0.1"}},
        {"versions": {"fedge": "9" * 65}},
    ],
    ids=["no-date", "before-time", "no-number", "cursor", "line", "long"],
)
def test_what_would_be_printed_wrong_is_no_record(hostile: dict[str, object]) -> None:
    """Anybody can seal a file: times have a date, and versions are words."""
    with pytest.raises(ValueError, match=next(iter(hostile))):
        choice_of(POLICY, CHOICE.chosen, **hostile)


@pytest.mark.parametrize(
    "beyond",
    [
        {"rounds": 17},
        {"steps": 10_001},
        {"clip": 1e7},
        {"learning_rate": 1e7},
        {"dimension": 2**31},
    ],
    ids=lambda beyond: next(iter(beyond)),
)
def test_what_no_plan_can_hold_was_never_tried(beyond: dict[str, object]) -> None:
    """So the file is refused, and not the settings, which never said it."""
    (name,) = beyond
    with pytest.raises(ValueError, match=name):
        type(CHOICE.chosen)(**(CHOICE.chosen.model_dump() | beyond))


# --- earlier files ----------------------------------------------------------------------


def test_a_file_of_the_first_version_is_read_and_keeps_its_bytes() -> None:
    """Written before times, units and seals were; its hash is that of the file."""
    data = GOLDEN.read_bytes()
    choice = choice_from(data)

    assert (choice.schema_version, choice.at, choice.seal) == (1, None, None)
    assert choice.to_bytes() == data and choice.chosen.adapter == "input"
    assert "not recorded" in choice.describe()


def test_a_first_version_holds_no_later_field() -> None:
    values = json.loads(GOLDEN.read_bytes()) | {"at": 1.0}
    with pytest.raises(RecordError, match="at needs schema_version 2"):
        AdapterChoice.from_bytes(canonical(values))


def test_specifications_without_a_choice_keep_their_bytes() -> None:
    """Earlier gateways and reviewers read runs that name none."""
    plain = run_spec()
    named = plain.model_copy(update={"choice_sha256": "ab" * 32})

    assert b"choice" not in plain.to_bytes()
    assert RunSpec.from_bytes(plain.to_bytes()) == plain
    assert RunSpec.from_bytes(named.to_bytes()) == named


# --- a run and its release --------------------------------------------------------------


def fitting_run() -> tuple[RunSpec, bytes]:
    spec = run_spec()
    best = CHOICE.chosen.model_copy(
        update={name: getattr(spec.plan, name) for name in ("adapter", "clip", "learning_rate")}
        | {name: getattr(spec.plan, name) for name in ("rounds", "steps", "dimension")}
    )
    choice = choice_of(POLICY, best, task=spec.task)
    return spec.model_copy(update={"choice_sha256": choice.content_sha256}), choice.to_bytes()


def test_a_release_carries_what_its_run_names() -> None:
    spec, data = fitting_run()

    assert check_recorded(data, spec) == choice_from(data)
    assert check_recorded(None, run_spec()) is None
    assert check_recorded(None, None) is None


def test_a_release_with_another_choice_than_its_run() -> None:
    """None where one is named, one where none is, or another one."""
    spec, data = fitting_run()
    wrong = [(None, spec), (data, run_spec()), (data, None), (CHOICE.to_bytes(), spec)]

    for carried, run in wrong:
        with pytest.raises(ChoiceError, match="carries"):
            check_recorded(carried, run)


def test_a_run_that_trained_something_else() -> None:
    """The named study chose another rate than the run's plan has."""
    spec, data = fitting_run()
    plan = spec.plan.model_copy(update={"learning_rate": 9.0})
    with pytest.raises(ChoiceError, match=r"learning_rate is 9\.0"):
        check_recorded(data, spec.model_copy(update={"plan": plan}))
    with pytest.raises(ChoiceError, match="of task other"):
        check_recorded(data, spec.model_copy(update={"task": "other"}))


def test_the_file_in_a_release(tmp_path: Path) -> None:
    spec, data = fitting_run()
    with pytest.raises(ChoiceError, match="carries none"):
        carried_choice(tmp_path, spec)
    (tmp_path / "adapter-choice.json").write_bytes(data)

    assert carried_choice(tmp_path, spec) == choice_from(data)
    (tmp_path / "adapter-choice.json").unlink()
    (tmp_path / "adapter-choice.json").mkdir()
    with pytest.raises(ChoiceError, match="cannot read"):
        carried_choice(tmp_path, spec)


# --- what fedge brings ------------------------------------------------------------------


def test_the_shipped_record_is_whole_and_fits_the_demonstrations_policy(tmp_path: Path) -> None:
    """Sealed, dated, under the bound that a demonstration runs at; nothing else ships one."""
    from fedge.demo.centre import DELTA, EPSILON

    data = shipped_choice("digits")
    assert data is not None and shipped_choice("grit") is None
    (tmp_path / "c.json").write_bytes(data)
    choice = read_choice(tmp_path / "c.json")

    assert (choice.task, choice.epsilon, choice.delta) == ("digits", EPSILON, DELTA)
    assert choice.seal is not None and choice.at is not None and len(choice.seeds) >= 10
    assert shipped_fits("digits", TrainingSettings(), POLICY) == data
    assert shipped_fits("digits", TrainingSettings(), demo_policy(1.0)) is None
    assert shipped_fits("digits", TrainingSettings(adapter="head"), POLICY) is None


def test_the_default_adapter_is_the_one_that_the_study_chose() -> None:
    data, default = shipped_choice("digits"), TrainingSettings()
    assert data is not None
    best = choice_from(data).chosen
    assert (default.adapter, default.clip) == (best.adapter, best.clip)
    assert (default.rounds, default.steps) == (best.rounds, best.steps)


def test_a_policy_without_room_is_no_fit() -> None:
    """What leaves nothing for training is a wrong setting, not a wrong choice."""
    with pytest.raises(SettingError) as found:
        from fedge.learning.planning import plan_training

        plan_training(POLICY, TrainingSettings(evaluation_rho=0.9), 26)
    assert not isinstance(found.value, ChoiceError)
    assert shipped_fits("digits", TrainingSettings(evaluation_rho=0.9), POLICY) is None
