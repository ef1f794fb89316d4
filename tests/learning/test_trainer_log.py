"""The trainer's log says what went wrong, and quotes no record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.digits_base import base_weights, camera_records, grant, plan

from fedge.data.blocks import LabelledRecords
from fedge.errors import RunFailedError
from fedge.models.weights import weights_to_bytes
from fedge.tasks.camera import HEALTHY
from fedge.tasks.digits import SCHEMA
from fedge_client.trainer import TrainerProcess

CANARY = "Canary-record-T6"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a trainer reads of a release."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "task.json").write_bytes(SCHEMA.to_bytes())
    (folder / "weights.npz").write_bytes(weights_to_bytes(base_weights()))
    return folder


def test_an_error_that_quotes_a_record_is_logged_without_its_text(
    release: Path, tmp_path: Path
) -> None:
    """Libraries put values into their errors; kind and place are enough to find the bug."""
    good, log = camera_records(HEALTHY, 1, count=20), tmp_path / "trainer.log"
    records: LabelledRecords = replace(good, inputs=np.full((20, 64), CANARY))
    with pytest.raises(RunFailedError, match="ended"):
        TrainerProcess(release, plan(), records, log_path=log)

    assert "ValueError" in log.read_text() and "session.py" in log.read_text()
    assert CANARY not in log.read_text()


def test_an_error_of_ours_is_logged_in_words(release: Path, tmp_path: Path) -> None:
    """They quote settings, sizes and names, which an operator needs, and no record."""
    records, log = camera_records(HEALTHY, 1, count=20), tmp_path / "trainer.log"
    made = plan()
    trainer = TrainerProcess(release, made, records, log_path=log)
    with pytest.raises(RunFailedError):
        trainer.round(np.zeros(3, np.float32), grant(made.round_event))
    trainer.close()

    assert "ERROR" in log.read_text() and "Traceback" not in log.read_text()
