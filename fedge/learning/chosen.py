"""Applying a recorded choice of an adapter: to the settings, to a run, and to a release.

The study itself is `fedge.learning.choice`; nothing here needs torch. A record applies where
a run would train what was studied, under the noise that was studied: for the same task, the
same bound and unit, and as much of the budget left for training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fedge.config import TrainingSettings
from fedge.errors import ChoiceError, RecordError, SettingError
from fedge.learning.planning import noise_multiplier, plan_training
from fedge.records import CHOICE_FILE, AdapterChoice, PrivacyPolicy, RunSpec, sha256_hex
from fedge.records.choices import DECIDED

NOT_RECORDED = "not recorded"
"""What is said of an adapter that no recorded study chose."""

AGAIN = "run `python -m fedge.learning.choice --server server.toml` again and name its file"
_SAME_NOISE = 1e-6
"""Relative: both are computed from integers, by whichever version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenTraining:
    """How to train, and what decided it.

    Attributes:
        settings: with everything filled in that the choice decides.
        choice: None where `[training]` names none.
    """

    settings: TrainingSettings
    choice: AdapterChoice | None

    @property
    def described(self) -> str:
        """One line for people."""
        if self.choice is None:
            return f"{self.settings.adapter}; why is {NOT_RECORDED}: [training] names no choice"
        return self.choice.describe()


def chosen_training(training: TrainingSettings, policy: PrivacyPolicy, task: str) -> ChosenTraining:
    """`[training]` with its recorded choice applied; as it is where it names none.

    What the settings leave out of adapter, clip, learning rate, rounds and steps, the choice
    decides. What they set must be what it chose.

    Raises:
        ChoiceError: the file cannot be read or was changed, is of another task or budget, or
            the settings train something else. Says what, and what to do.
        SettingError: the policy leaves nothing for training.
    """
    if training.choice is None:
        return ChosenTraining(settings=training, choice=None)
    choice = read_choice(training.choice)
    try:
        return ChosenTraining(settings=_applied(choice, training, policy, task), choice=choice)
    except ChoiceError as error:
        raise ChoiceError(f"the adapter's choice {training.choice} {error}; {AGAIN}") from error


def read_choice(path: Path) -> AdapterChoice:
    """Read a study's record.

    Raises:
        ChoiceError: it cannot be read, is no such record, or is not as the study wrote it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ChoiceError(f"cannot read the adapter's choice {path}: {error}; {AGAIN}") from error
    try:
        return choice_from(data)
    except RecordError as error:
        raise ChoiceError(f"{path} is no adapter's choice: {error}; {AGAIN}") from error


def choice_from(data: bytes) -> AdapterChoice:
    """The record in these bytes, whose hash is then the record's.

    Raises:
        RecordError: they are none, or not in the form that a study writes.
    """
    choice = AdapterChoice.from_bytes(data)
    if choice.to_bytes() != data:
        raise RecordError("it is not in the form that the study wrote")
    return choice


def _applied(
    choice: AdapterChoice, training: TrainingSettings, policy: PrivacyPolicy, task: str
) -> TrainingSettings:
    """`training` with what was chosen filled in."""
    best = choice.chosen
    if choice.task != task:
        raise ChoiceError(f"was made for task {choice.task}, these settings are for {task}")
    for name in DECIDED:
        own, chosen = getattr(training, name), getattr(best, name)
        if name in training.model_fields_set and own != chosen:
            raise ChoiceError(f"chose {name} {chosen}, [training] says {own}: leave it out there")
    for name in ("epsilon", "delta", "unit", "max_records"):
        studied, own = getattr(choice, name), getattr(policy, name)
        if studied != own:
            raise ChoiceError(f"was made at {name} {studied}, the policy says {own}")
    filled = training.model_copy(update={name: getattr(best, name) for name in DECIDED})
    noise = noise_multiplier(plan_training(policy, filled, best.dimension))
    if not math.isclose(noise, best.noise_multiplier, rel_tol=_SAME_NOISE):
        raise ChoiceError(
            f"was made under noise of {best.noise_multiplier:.4g} clips, a run now has "
            f"{noise:.4g}: the policy or [training] leaves another budget for training"
        )
    return filled


def check_recorded(data: bytes | None, spec: RunSpec | None) -> AdapterChoice | None:
    """Whether a release carries the choice that its run names, and was trained so.

    Args:
        data: the record that it carries; None where it carries none.
        spec: of its run; None for a first release, which no adapter was trained for.

    Raises:
        ChoiceError: it carries another record than the run names, or one that does not fit
            what the run trained.
    """
    named = None if spec is None else spec.choice_sha256
    carried = None if data is None else sha256_hex(data)
    if named != carried:
        raise ChoiceError(
            f"the run names the adapter's choice {_start(named)}, the release carries "
            f"{_start(carried)}"
        )
    if data is None or spec is None:
        return None
    try:
        choice = choice_from(data)
    except RecordError as error:
        raise ChoiceError(f"the adapter's choice of {spec.run_id}: {error}") from error
    if choice.task != spec.task:
        raise ChoiceError(f"{spec.run_id} is of task {spec.task}, its choice of {choice.task}")
    if differs := choice.chosen.differs(spec.plan):
        raise ChoiceError(f"{spec.run_id} was trained otherwise than chosen: {differs}")
    return choice


def carried_choice(release: Path, spec: RunSpec | None) -> AdapterChoice | None:
    """The choice in a release's folder, checked against its run; None where neither has one.

    Raises:
        ChoiceError: as of `check_recorded`, or the file cannot be read.
    """
    try:
        data = (release / CHOICE_FILE).read_bytes()
    except FileNotFoundError:
        return check_recorded(None, spec)
    except OSError as error:
        raise ChoiceError(f"cannot read {release / CHOICE_FILE}: {error}") from error
    return check_recorded(data, spec)


def choice_object(sha256: str) -> str:
    """Where the centre's object store keeps a choice that a run names."""
    return f"choices/{sha256}.json"


def _start(sha256: str | None) -> str:
    return "none" if sha256 is None else sha256[:16]


def shipped_choice(task: str) -> bytes | None:
    """The record that fedge brings for one of its own tasks; None where it brings none."""
    found = files("fedge.tasks").joinpath("choices", f"{task}.json")
    return found.read_bytes() if found.is_file() else None


def shipped_fits(task: str, training: TrainingSettings, policy: PrivacyPolicy) -> bytes | None:
    """The shipped record, where settings like these could name it; else None."""
    data = shipped_choice(task)
    if data is None:
        return None
    try:
        _applied(choice_from(data), training, policy, task)
    except (ChoiceError, SettingError):
        return None
    return data
