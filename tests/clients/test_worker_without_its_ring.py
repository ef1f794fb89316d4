"""A ring that is damaged, for other rows, or refused by the disk: requests are answered all the
same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.gateways import TASK
from fakes.kills import KillPoints, killed
from fakes.supervisors import SupervisedGateway

from fedge.errors import TaskError
from fedge.serving.marks import Marks
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_opening import open_writer
from fedge.serving.ring_reader import RingReader

OTHER = RowLayout(classes=9, features=9, inputs=9)


def damaged(path: Path) -> None:
    path.write_bytes(b"\xff" * 8192)


def refused(path: Path) -> None:
    """Nobody can write there, not even root."""
    path.mkdir()


@pytest.mark.parametrize(("spoil", "observed"), [(damaged, True), (refused, False)])
def test_serving_goes_on(tmp_path: Path, spoil: Callable[[Path], None], observed: bool) -> None:
    """Where it can be, the ring is made anew; where not, rows are served unobserved."""
    with SupervisedGateway(tmp_path) as gateway:
        path = gateway.settings.state_dir / "ring.bin"
        spoil(path)
        gateway.install("A", 1)
        assert gateway.release() == 1
        assert path.is_file() == observed
        if observed:
            reader = RingReader(path)
            assert len(reader.read(0, 10)[0]) == 1
            reader.close()


def test_a_ring_for_other_rows_is_replaced_and_its_slots_are_not_reused(tmp_path: Path) -> None:
    """After the operator chose another task, record ids go on where they stopped."""
    path = tmp_path / "ring.bin"
    before = RingWriter(path, OTHER, 64)
    row = np.zeros((1, 9), dtype=np.float32)
    for _ in range(3):
        before.append(lambda slot, now: 0, 1, 1.0, Marks(7), row, row, row)
    before.close()

    after = open_writer(path, RowLayout.of(TASK), 64)
    assert after.next_slot == 3
    after.close()


def test_a_ring_in_use_is_not_taken_away(tmp_path: Path) -> None:
    """A release on trial with other rows is refused while the present one's worker writes."""
    path = tmp_path / "ring.bin"
    present = RingWriter(path, OTHER, 64)

    def trial(_: KillPoints) -> None:
        with pytest.raises(TaskError, match="is writing"):
            open_writer(path, RowLayout.of(TASK), 64)

    assert not killed(trial, 1)
    assert path.exists()
    present.close()
