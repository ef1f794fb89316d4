"""Subject mode: one person moves training by one clip, and the evaluation by at most m."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes.digits_base import BLOCK, ExactNoise, base_weights, camera_records, grant

from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.errors import SettingError
from fedge.learning.planning import plan_training, run_nano
from fedge.learning.session import TrainingSession
from fedge.learning.units import units_of
from fedge.privacy.policy import new_policy
from fedge.privacy.rdp import cap_nano, telemetry_nano
from fedge.records import PrivacyPolicy, TrainingPlan
from fedge.tasks.camera import LENS
from fedge.tasks.digits import CODE

M, PEOPLE, ROWS = 3, 8, 40
ZERO = np.zeros(26, dtype=np.float32)


def subject_policy(max_records: int = M) -> PrivacyPolicy:
    """The demonstration's budget, about people."""
    record = new_policy(
        epsilon=3.0, delta=1e-5, block=BLOCK, telemetry_rho=0.0281, window_rho=0.0281
    )
    return record.model_copy(update={"unit": "subject", "max_records": max_records})


def subject_plan(**settings: object) -> TrainingPlan:
    asked = TrainingSettings(**{"steps": 2, "records": ROWS, **settings})  # type: ignore[arg-type]
    return plan_training(subject_policy(), asked, 26)


def people_records(nobody: int = 0) -> LabelledRecords:
    """Rows of eight people in turn; the last `nobody` rows are about nobody."""
    subjects = np.zeros((ROWS, 16), dtype=np.uint8)
    subjects[:, 0] = 1 + np.arange(ROWS) % PEOPLE
    subjects[ROWS - nobody :] = 0
    return replace(camera_records(LENS, seed=5, count=ROWS), subjects=subjects)


def exact_sums(records: LabelledRecords, plan: TrainingPlan) -> list[np.ndarray]:
    noise = ExactNoise()
    session = TrainingSession(CODE, base_weights(), plan, records, noise)
    session.round(ZERO, grant(plan.round_event))
    session.evaluate(ZERO, grant(plan.evaluation_event))
    return noise.exact


def without(records: LabelledRecords, rows: np.ndarray) -> LabelledRecords:
    """`rows` as null records, which keep their place."""
    return replace(records, labels=np.where(rows, -1, records.labels))


def test_the_first_m_records_of_a_person_count() -> None:
    """By slot; what comes later is a null record, whatever it holds."""
    plan, records = subject_plan(), people_records()
    later = np.arange(ROWS) >= M * PEOPLE

    units = units_of(records, np.ones(ROWS, dtype=bool), plan)

    assert units.number == PEOPLE
    np.testing.assert_array_equal(units.counts, ~later)
    whole, nulled = exact_sums(records, plan), exact_sums(without(records, later), plan)
    for one, other in zip(whole, nulled, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_person_in_two_blocks_is_two_units() -> None:
    """The bound is per block: each block has m records of everybody."""
    records = people_records()
    records.blocks[ROWS // 2 :] = 1

    units = units_of(records, np.ones(ROWS, dtype=bool), subject_plan())

    assert units.number == 2 * PEOPLE
    assert int(units.counts.sum()) == 40


def test_a_record_about_nobody_stands_for_itself() -> None:
    """Rows without a pseudonym are never taken for one person."""
    units = units_of(people_records(nobody=10), np.ones(ROWS, dtype=bool), subject_plan())

    assert units.number == PEOPLE + 10
    assert units.counts[-10:].all()


@pytest.mark.parametrize("person", range(0, PEOPLE, 3))
def test_a_person_moves_a_sum_by_at_most_one_clip(person: int) -> None:
    """However many records: the exact sum changes by no more than is charged."""
    plan, records = subject_plan(), people_records()
    theirs = np.arange(ROWS) % PEOPLE == person

    whole, nulled = exact_sums(records, plan), exact_sums(without(records, theirs), plan)

    moved = whole[0] - nulled[0]
    assert 0 < int((moved * moved).sum()) <= plan.sensitivity2
    assert abs(whole[-1].item() - nulled[-1].item()) <= M


def test_records_are_added_before_they_are_clipped() -> None:
    """A person with three records gets one clip, not three."""
    plan, records = subject_plan(clip=1e-3), people_records()
    one_person = replace(records, subjects=np.ones((ROWS, 16), dtype=np.uint8))

    sums = exact_sums(one_person, plan)

    assert int((sums[0] * sums[0]).sum()) <= plan.sensitivity2


def test_the_evaluation_is_noised_for_m_records() -> None:
    """Sensitivity m, at the charge that was set; the whole run stays under the cap."""
    policy, plan = subject_policy(), subject_plan(evaluation_rho=0.005)
    event = plan.evaluation_event

    assert (plan.unit, plan.max_records) == ("subject", M)
    assert event.sensitivity2 == M * M
    assert event.sensitivity2 / (2 * event.sigma2) <= 0.005
    assert run_nano(plan, policy.alpha) <= cap_nano(policy) - telemetry_nano(policy)


def test_m_belongs_to_subjects() -> None:
    """A plan that bounds records knows no m."""
    with pytest.raises(ValueError, match="max_records"):
        TrainingPlan.model_validate(subject_plan().model_dump() | {"unit": "record"})


def test_records_of_an_older_store_stand_for_themselves() -> None:
    """Where no subject was ever kept, each record is a unit."""
    records = replace(people_records(), subjects=None)

    assert units_of(records, np.ones(ROWS, dtype=bool), subject_plan()).number == ROWS


def test_a_subject_plan_without_room_is_refused() -> None:
    """An m so large that the evaluation takes everything is a setting error."""
    with pytest.raises(SettingError):
        plan_training(subject_policy(), TrainingSettings(evaluation_rho=0.9), 26)
