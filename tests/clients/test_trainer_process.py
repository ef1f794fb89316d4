"""The trainer as a process: records in through a pipe, noised answers out, nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.digits_base import base_weights, camera_records, plan

from fedge.errors import RunFailedError
from fedge.models.weights import weights_to_bytes
from fedge.privacy.grants import Grant
from fedge.records import TrainingPlan
from fedge.tasks.camera import LENS
from fedge.tasks.digits import CODE
from fedge_client.trainer import TrainerProcess, _pack, _unpack


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "task.json").write_bytes(CODE.schema.to_bytes())
    (tmp_path / "weights.npz").write_bytes(weights_to_bytes(base_weights()))
    return tmp_path


def test_records_cross_the_pipe_with_their_subjects() -> None:
    """What the store knew is what the session is given; what nobody knew stays unknown."""
    records = camera_records(LENS, 1, count=5)
    people = replace(records, subjects=np.arange(80, dtype=np.uint8).reshape(5, 16))

    there = _unpack(_pack(people))
    np.testing.assert_array_equal(there.subjects, people.subjects)
    np.testing.assert_array_equal(there.inputs, people.inputs)
    assert _unpack(_pack(records)).subjects is None


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [False, True])
def test_a_round_and_an_evaluation(release: Path, sampled: bool) -> None:
    """The system's noise under real grants: a whole round is drawn, and its grant is used up."""
    settings = {"sample_above": 50, "sample": 20} if sampled else {}
    made = plan(steps=3, records=60, **settings)
    trainer = TrainerProcess(
        release, made, camera_records(LENS, 1, count=60), log_path=release / "trainer.log"
    )
    zero = np.zeros(26, dtype=np.float32)
    try:
        once = Grant(1, "train/0", made.round_event, simulated=False)
        change = trainer.round(zero, once)
        evaluated = trainer.evaluate(
            change, Grant(1, "evaluate", made.evaluation_event, simulated=False)
        )
    finally:
        trainer.close()

    assert made.sampling == ("poisson" if sampled else "full")
    assert change.shape == (26,) and np.isfinite(change).all() and change.any()
    assert once.remaining == 0
    assert isinstance(evaluated, int)


@pytest.mark.slow
def test_a_plan_for_another_model_ends_the_trainer(release: Path) -> None:
    """An adapter of another size is refused where the model is known; nothing is answered."""
    wrong: TrainingPlan = plan(27, records=60)

    with pytest.raises(RunFailedError):
        TrainerProcess(
            release, wrong, camera_records(LENS, 1, count=60), log_path=release / "trainer.log"
        )
    assert "the plan trains 27 values" in (release / "trainer.log").read_text()
