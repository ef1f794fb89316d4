"""The trainer as a process: records in through a pipe, noised answers out, nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.digits_base import base_weights, camera_records, plan
from fakes.gateways import wait_until

from fedge.errors import RunFailedError
from fedge.models.weights import weights_to_bytes
from fedge.privacy.grants import Grant
from fedge.records import TrainingPlan
from fedge.tasks.camera import LENS
from fedge.tasks.digits import CODE
from fedge_client import trainer as trainer_module
from fedge_client.trainer import TrainerProcess, _pack, _unpack

NEVER_DONE = """
import sys
from fedge_client.trainer import _receive, _send
taken = [_receive(sys.stdin.buffer) for _ in range(2)]
_send(sys.stdout.buffer, b"ready")
taken = [_receive(sys.stdin.buffer) for _ in range(3)]
sys.stderr.write("under way")
sys.stderr.flush()
while True:
    __import__("time").sleep(60)
"""
"""A trainer whose round takes for ever."""


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


def test_a_round_under_way_ends_with_its_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends the trainer, because records were erased, does not wait for the round: the round
    fails, and the trainer is gone with its records when the call returns."""
    monkeypatch.setattr(trainer_module, "END_S", 0.01)
    children = _never_done(monkeypatch)
    log, made = tmp_path / "trainer.log", plan(records=5)
    trainer = TrainerProcess(tmp_path, made, camera_records(LENS, 1, count=5), log_path=log)
    grant = Grant(1, "train/0", made.round_event, simulated=False)
    failed: list[BaseException] = []

    def courier() -> None:
        try:
            trainer.round(np.zeros(26, dtype=np.float32), grant)
        except RunFailedError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for work in (courier, trainer.close)]
    try:
        threads[0].start()
        wait_until(lambda: "under way" in log.read_text(), what="the round is under way")
        threads[1].start()
        for thread in threads:
            thread.join(30)
        assert children[0].returncode is not None and len(failed) == 1
    finally:
        children[0].kill()
    with pytest.raises(RunFailedError):  # asked after its end
        trainer.round(
            np.zeros(26, np.float32), Grant(1, "train/1", made.round_event, simulated=False)
        )


def _never_done(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Start `NEVER_DONE` in place of trainers; answers those that were started."""
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def popen(_: object, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start([sys.executable, "-c", NEVER_DONE], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return started


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
