"""What the observation ring promises its producers and its one consumer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedge.errors import StateError
from fedge.serving.ring import LABEL, OBSERVATION, RingReader, RingWriter
from fedge.serving.scoring import Scores

FEATURES, INPUTS, CAPACITY = 2, 3, 7


def block_of(slots: Any, now: float) -> Any:
    return slots // 5


def batch(first: int, rows: int) -> tuple[Any, Scores]:
    """Rows whose every value can be told from their number."""
    numbers = np.arange(first, first + rows, dtype=np.float32)
    return numbers[:, None].repeat(INPUTS, 1), Scores(
        logits=np.zeros((rows, 2), np.float32),
        features=-numbers[:, None].repeat(FEATURES, 1),
        predictions=numbers.astype(np.int32) % 10,
        confidence=numbers / 2,
        ood=numbers / 4,
    )


def writer(path: Path, capacity: int = CAPACITY) -> RingWriter:
    return RingWriter(path, features=FEATURES, inputs=INPUTS, capacity=capacity)


def append(ring: RingWriter, first: int, rows: int, release: int = 1) -> int:
    inputs, scores = batch(first, rows)
    return ring.append_batch(block_of, release, 1.5, inputs, scores)


class RingMachine(RuleBasedStateMachine):
    """Whatever the order of calls, the ring does what a list would do."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "ring.bin"
        # Two producers take turns, as in a swap.
        self.writers = [writer(path), writer(path)]
        self.reader = RingReader(path)
        self.appended: list[tuple[int, int]] = []  # (kind, slot) of every record, by position
        self.slots = self.dropped = self.dropped_labels = 0
        self.position = self.released = 0

    @rule(producer=st.integers(0, 1), rows=st.integers(1, 9))
    def append_rows(self, producer: int, rows: int) -> None:
        room = CAPACITY - (len(self.appended) - self.released)
        assert append(self.writers[producer], self.slots, rows) == self.slots
        stored = min(rows, room)
        self.appended += [(OBSERVATION, self.slots + row) for row in range(stored)]
        self.dropped += rows - stored
        self.slots += rows

    @rule(producer=st.integers(0, 1), slots=st.lists(st.integers(0, 50), min_size=1, max_size=4))
    def append_labels(self, producer: int, slots: list[int]) -> None:
        room = CAPACITY - (len(self.appended) - self.released)
        labels = np.zeros(len(slots), np.int32)
        taken = self.writers[producer].append_labels(np.array(slots), labels)
        assert taken == (len(slots) <= room)
        if taken:
            self.appended += [(LABEL, slot) for slot in slots]
        else:
            self.dropped_labels += len(slots)

    @rule(limit=st.integers(1, 10))
    def read(self, limit: int) -> None:
        rows, end = self.reader.read(self.position, limit)
        wanted = self.appended[self.position : self.position + limit]
        assert list(zip(rows["kind"], rows["slot"], strict=True)) == wanted
        seen = rows[rows["kind"] == OBSERVATION]
        assert np.array_equal(seen["inputs"], seen["slot"][:, None].repeat(INPUTS, 1))
        assert np.array_equal(seen["features"], -seen["slot"][:, None].repeat(FEATURES, 1))
        assert np.array_equal(seen["block"], seen["slot"] // 5)
        self.position = end
        later = [slot for kind, slot in self.appended[end:] if kind == OBSERVATION]
        assert self.reader.next_slot == (later[0] if later else self.slots)

    @rule()
    def release(self) -> None:
        self.reader.release(self.position)
        self.released = self.position

    @invariant()
    def counters_agree(self) -> None:
        assert self.writers[0].next_slot == self.writers[1].next_slot == self.slots
        assert self.reader.dropped == self.dropped
        assert self.reader.dropped_labels == self.dropped_labels

    def teardown(self) -> None:
        for side in (*self.writers, self.reader):
            side.close()
        self.folder.cleanup()


RingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRing = RingMachine.TestCase


def test_a_new_consumer_goes_on_where_the_last_one_released(tmp_path: Path) -> None:
    """What was read but not released is read again after a crash of the consumer."""
    ring = writer(tmp_path / "ring.bin")
    append(ring, 0, 5)
    first = RingReader(tmp_path / "ring.bin")
    _, position = first.read(0, 2)
    first.release(position)
    first.read(position, 3)
    first.close()

    second = RingReader(tmp_path / "ring.bin")
    assert second.position == 2 and second.next_slot == 2
    assert second.read(2, 10)[0]["slot"].tolist() == [2, 3, 4]


def test_a_foreign_position_is_refused(tmp_path: Path) -> None:
    """A consumer whose ring was replaced notices, instead of reading other rows."""
    append(writer(tmp_path / "ring.bin"), 0, 5)
    reader = RingReader(tmp_path / "ring.bin")
    reader.release(3)
    for position in (2, 6):
        with pytest.raises(StateError, match="another ring"):
            reader.read(position, 1)


def test_skipped_slots_are_never_given_out_again(tmp_path: Path) -> None:
    """After its ring was lost, a gateway goes on counting where its ledger stood."""
    ring = writer(tmp_path / "ring.bin")
    reader = RingReader(tmp_path / "ring.bin")
    reader.never_below(1000)
    assert reader.next_slot == 1000 and reader.dropped == 1000
    assert append(ring, 1000, 2) == 1000
    reader.never_below(7)
    assert append(ring, 1002, 1) == 1002


@pytest.mark.parametrize("damage", ["magic", "short", "long", "empty", "missing"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    """Bytes that are no ring are never served from."""
    path = tmp_path / "ring.bin"
    writer(path).close()
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        damaged = {"magic": b"X" + data[1:], "short": data[:-8], "long": data + b"0", "empty": b""}
        path.write_bytes(damaged[damage])
    with pytest.raises(StateError):
        RingReader(path)


def test_rows_of_another_size_are_refused(tmp_path: Path) -> None:
    """A release with other features than the ring was made for does not start."""
    writer(tmp_path / "ring.bin").close()
    with pytest.raises(StateError, match="holds rows of 2 features and 3 inputs"):
        RingWriter(tmp_path / "ring.bin", features=FEATURES + 1, inputs=INPUTS, capacity=8)


@given(counters=st.lists(st.integers(0, 2**60), min_size=4, max_size=4))
@settings(max_examples=30)
def test_a_half_written_state_is_never_seen(counters: list[int]) -> None:
    """A producer killed while it writes the new state leaves the old one in force."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ring.bin"
        ring = writer(path)
        append(ring, 0, 3)
        inner = ring._ring
        before = inner.state()
        inner._states[(int(inner._generation[0]) + 1) % 2] = counters
        assert RingReader(path)._ring.state() == before
        assert append(ring, 3, 1) == 3
        ring.close()


PRODUCER = """
import sys; sys.path.insert(0, sys.argv[3])
import numpy as np
from pathlib import Path
from test_ring import append, writer
ring, rng = writer(Path(sys.argv[1]), 512), np.random.default_rng(int(sys.argv[2]))
print("on", flush=True)
while True:
    append(ring, 0, int(rng.integers(1, 9)), release=int(sys.argv[2]))
"""


def produce(path: Path, release: int) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    producer = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, str(path), str(release), here], stdout=subprocess.PIPE
    )
    assert producer.stdout is not None and producer.stdout.readline() == b"on\n"
    return producer


def test_killed_producers_lose_nothing(tmp_path: Path) -> None:
    """Two producers at once, killed again and again: every slot is a record or is counted."""
    path = tmp_path / "ring.bin"
    writer(path, 512).close()
    reader, slots, position = RingReader(path), [np.empty(0, np.int64)], 0
    producers: list[subprocess.Popen[bytes]] = []
    rng = np.random.default_rng(0)
    try:
        for release in range(1, 7):
            producers.append(produce(path, release))
            until = time.monotonic() + rng.uniform(0.02, 0.1)
            while time.monotonic() < until:
                rows, position = reader.read(position, 200)
                reader.release(position)
                slots.append(rows["slot"])
                assert set(rows["kind"].tolist()) <= {OBSERVATION}
                assert np.isin(rows["release"], range(1, 7)).all()
            if len(producers) > 1:  # one keeps going while the other dies
                os.kill(producers[-2].pid, signal.SIGKILL)
    finally:
        for producer in producers:
            producer.kill()
            producer.wait()
            producer.stdout.close()  # type: ignore[union-attr]
    rows, position = reader.read(position, 10_000)
    seen = np.concatenate([*slots, rows["slot"]])
    assert (np.diff(seen) > 0).all(), "a slot was given out twice"
    assert len(seen) > 100
    assert len(seen) + reader.dropped == reader.next_slot
