"""What the observation ring promises its producers and its one consumer."""

from __future__ import annotations

import os
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedge.errors import StateError
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving import ring as ring_module
from fedge.serving.marks import NOBODY, Marks
from fedge.serving.ring import LABEL, OBSERVATION, RingWriter
from fedge.serving.ring_file import (
    GENERATION,
    RECORD_HEAD,
    STATE,
    STATE_PLACES,
    RowLayout,
    create_ring,
    record_dtype,
)
from fedge.serving.ring_reader import RingReader

CLASSES, FEATURES, INPUTS, CAPACITY = 2, 2, 3, 23
LABEL_PLACES, PLACES = 2, 25
LAYOUT = RowLayout(CLASSES, FEATURES, INPUTS)
ALL = INFERENCE | MONITORING | TRAINING
ANNA, BERT = b"a" * 16, b"b" * 16


def block_of(slot: int, now: float) -> int:
    return slot // 5


def batch(first: int, rows: int) -> tuple[Any, Any, Any]:
    """Inputs, logits and features of which each value can be told from the row's number."""
    numbers = np.arange(first + 1, first + rows + 1, dtype=np.float32)[:, None]
    return numbers.repeat(INPUTS, 1), numbers.repeat(CLASSES, 1) / 2, -numbers.repeat(FEATURES, 1)


def writer(path: Path, capacity: int = CAPACITY) -> RingWriter:
    return RingWriter(path, LAYOUT, capacity)


def append(
    ring: RingWriter,
    first: int,
    rows: int,
    release: int = 1,
    *,
    purposes: int = ALL,
    subject: bytes = NOBODY,
) -> int:
    return ring.append(block_of, release, 1.5, Marks(purposes, subject), *batch(first, rows))


def kept_of(first: int, rows: int, waiting: int, capacity: int) -> list[int]:
    """Which slots a ring hands over, said as plainly as the rule is."""
    kept: list[int] = []
    for slot in range(first, first + rows):
        full = (waiting + len(kept)) / capacity
        every = 8 if full >= 7 / 8 else 4 if full >= 3 / 4 else 2 if full >= 1 / 2 else 1
        if full < 1 and slot % every == 0:
            kept.append(slot)
    return kept


def check_content(rows: Any) -> None:
    """Each observation is the row that `batch` made for its slot."""
    numbers = rows["slot"][:, None].astype(np.float32) + 1
    assert np.array_equal(rows["inputs"], numbers.repeat(INPUTS, 1))
    assert np.array_equal(rows["logits"], numbers.repeat(CLASSES, 1) / 2)
    assert np.array_equal(rows["features"], -numbers.repeat(FEATURES, 1))
    assert np.array_equal(rows["block"], rows["slot"] // 5)
    assert (rows["time"] == 1.5).all() and (rows["label"] == -1).all()


class RingMachine(RuleBasedStateMachine):
    """Whatever the order of calls, the ring does what a list would do."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ring.bin"
        # Two producers take turns, as in a swap.
        self.writers = [writer(self.path), writer(self.path)]
        self.reader = RingReader(self.path)
        self.appended: list[tuple[int, int]] = []  # (kind, slot) of every record, by position
        self.slots = self.dropped = self.dropped_labels = 0
        self.position = self.released = 0

    def waiting(self, kind: int) -> int:
        return sum(other == kind for other, _ in self.appended[self.released :])

    @rule(producer=st.integers(0, 1), rows=st.integers(1, 9))
    def append_rows(self, producer: int, rows: int) -> None:
        kept = kept_of(self.slots, rows, self.waiting(OBSERVATION), CAPACITY)
        assert append(self.writers[producer], self.slots, rows) == self.slots
        self.appended += [(OBSERVATION, slot) for slot in kept]
        self.dropped += rows - len(kept)
        self.slots += rows

    @rule(producer=st.integers(0, 1), slots=st.lists(st.integers(0, 50), min_size=1, max_size=3))
    def append_labels(self, producer: int, slots: list[int]) -> None:
        room = LABEL_PLACES - self.waiting(LABEL)
        labels = np.zeros(len(slots), np.int32)
        taken = self.writers[producer].append_labels(np.array(slots), labels)
        assert taken == (len(slots) <= room)
        if taken:
            self.appended += [(LABEL, slot) for slot in slots]
        else:
            self.dropped_labels += len(slots)

    @rule(missing=st.integers(-2, 3))
    def skip(self, missing: int) -> None:
        self.reader.never_below(max(0, self.slots + missing))
        self.slots, self.dropped = (
            self.slots + max(0, missing),
            self.dropped + max(0, missing),
        )

    @rule(limit=st.integers(1, 10))
    def read(self, limit: int) -> None:
        rows, end = self.reader.read(self.position, limit)
        wanted = self.appended[self.position : self.position + limit]
        assert list(zip(rows["kind"], rows["slot"], strict=True)) == wanted
        check_content(rows[rows["kind"] == OBSERVATION])
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

    @invariant()
    def free_places_are_empty(self) -> None:
        waiting = len(self.appended) - self.released
        places = np.arange(self.released + waiting, self.released + PLACES) % PLACES
        size = record_dtype(LAYOUT).itemsize
        data = np.frombuffer(self.path.read_bytes()[4096:], np.uint8).reshape(PLACES, size)
        assert not data[places].any()

    def teardown(self) -> None:
        for side in (*self.writers, self.reader):
            side.close()
        self.folder.cleanup()


RingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRing = RingMachine.TestCase


def test_a_new_consumer_goes_on_where_the_last_one_released(tmp_path: Path) -> None:
    """What was read but not released is read again after a crash of the consumer."""
    ring = writer(tmp_path / "ring.bin", 16)
    append(ring, 0, 5)
    first = RingReader(tmp_path / "ring.bin")
    _, position = first.read(0, 2)
    first.release(position)
    first.read(position, 3)
    first.close()

    second = RingReader(tmp_path / "ring.bin")
    assert second.position == 2 and second.next_slot == 2
    assert second.read(2, 10)[0]["slot"].tolist() == [2, 3, 4]


def test_heads_are_the_numbers_of_the_same_records(tmp_path: Path) -> None:
    """The short way to read answers positions and public facts as the long one does."""
    ring = writer(tmp_path / "ring.bin", 16)
    short, long = RingReader(tmp_path / "ring.bin"), RingReader(tmp_path / "ring.bin")
    position = 0
    for _ in range(9):  # past the end of the file and on from its start
        append(ring, ring.next_slot, 4, subject=ANNA)
        ring.append_labels(np.array([1]), np.array([1], np.int32))
        heads, rows = short.read_heads(position, 99), long.read(position, 99)
        assert heads[1] == rows[1] and short.next_slot == long.next_slot
        for name in heads[0].dtype.names:
            assert np.array_equal(heads[0][name], rows[0][name])
        position = heads[1]
        short.release(position)


def test_a_foreign_position_is_refused(tmp_path: Path) -> None:
    """A consumer whose ring was replaced notices, instead of reading other rows."""
    append(writer(tmp_path / "ring.bin", 16), 0, 5)
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


@pytest.mark.parametrize("damage", ["magic", "version", "short", "long", "empty", "missing"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    """Bytes that are no ring are never served from."""
    path = tmp_path / "ring.bin"
    writer(path).close()
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        damaged = {
            "magic": b"X" + data[1:],
            "version": data[:8] + b"\x01\0\0\0" + data[12:],
            "short": data[:-8],
            "long": data + b"0",
            "empty": b"",
        }
        path.write_bytes(damaged[damage])
    with pytest.raises(StateError):
        RingReader(path)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 47), byte=st.integers(0, 255))
def test_a_damaged_header_never_breaks_a_consumer(place: int, byte: int) -> None:
    """Whatever one byte of the fixed header becomes: the ring is refused, or is as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ring.bin"
        writer(path).close()
        data = bytearray(path.read_bytes())
        same = data[place] == byte
        data[place] = byte
        path.write_bytes(data)
        try:
            reader = RingReader(path)
        except StateError:
            assert not same
        else:
            reader.close()


def test_rows_of_another_layout_are_refused(tmp_path: Path) -> None:
    """A release with other features than the ring was made for does not start."""
    writer(tmp_path / "ring.bin").close()
    for other in (
        RowLayout(CLASSES, FEATURES + 1, INPUTS),
        RowLayout(CLASSES, FEATURES, INPUTS, "<f8"),
    ):
        with pytest.raises(StateError, match="holds rows of 2 classes, 2 features and 3 inputs"):
            RingWriter(tmp_path / "ring.bin", other, 8)


@pytest.mark.parametrize("values", ["|b1", "|u1", "<i8", "<f2", "<f4", "<f8"])
def test_inputs_come_back_in_their_own_type(tmp_path: Path, values: str) -> None:
    """Every element type of the protocol with a size is kept as it was sent."""
    layout = RowLayout(CLASSES, FEATURES, INPUTS, values)
    ring = RingWriter(tmp_path / "ring.bin", layout, 64)
    inputs = np.array([[0, 1, 1], [1, 0, 1]], values)
    for rows in (inputs, inputs[:1]):
        ring.append(block_of, 1, 1.5, Marks(ALL), rows, *batch(0, len(rows))[1:])
    rows, _ = RingReader(tmp_path / "ring.bin").read(0, 10)
    assert rows["inputs"].dtype == np.dtype(values)
    assert np.array_equal(rows["inputs"], np.concatenate([inputs, inputs[:1]]))


def test_inputs_without_a_size_are_not_kept(tmp_path: Path) -> None:
    """Texts are served; in the ring there is room for their features only."""
    ring = RingWriter(tmp_path / "ring.bin", RowLayout(CLASSES, FEATURES, 0, "|u1"), 64)
    texts = np.array([["one", "two"]], object)
    assert [
        ring.append(block_of, 1, 1.5, Marks(ALL), texts.repeat(n, 0), *batch(0, n)[1:])
        for n in (1, 2)
    ] == [0, 1]
    rows, _ = RingReader(tmp_path / "ring.bin").read(0, 10)
    assert rows["inputs"].shape == (3, 0) and rows["features"][1].tolist() == [-1.0, -1.0]


def test_a_filling_ring_keeps_every_second_fourth_eighth_slot(tmp_path: Path) -> None:
    """Rows are chosen by arrival slot as the ring fills up, and all others are counted."""
    one_by_one, at_once = writer(tmp_path / "one", 64), writer(tmp_path / "all", 64)
    for slot in range(400):
        append(one_by_one, slot, 1)
    append(at_once, 0, 400)
    wanted = kept_of(0, 400, 0, 64)
    assert len(wanted) == 64 and wanted[:33] == [*range(32), 32] and wanted[-1] % 8 == 0
    for name in ("one", "all"):
        reader = RingReader(tmp_path / name)
        assert reader.read(0, 100)[0]["slot"].tolist() == wanted
        assert reader.dropped == 400 - 64 and reader.next_slot == 400


@settings(max_examples=30, deadline=None)
@given(content=st.lists(st.floats(width=32), min_size=40, max_size=40))
def test_content_has_no_say_in_what_is_dropped(content: list[float]) -> None:
    """Two streams that differ in every value leave the same slots in the ring."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ring.bin"
        ring = writer(path, 16)
        for value in content:
            arrays = (np.full((1, n), value, np.float32) for n in (INPUTS, CLASSES, FEATURES))
            ring.append(block_of, 1, 1.5, Marks(ALL), *arrays)
        assert RingReader(path).read(0, 99)[0]["slot"].tolist() == kept_of(0, 40, 0, 16)
        ring.close()


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.integers(1, 12), st.integers(0, 9), st.integers(0, 30)), max_size=40
    )
)
def test_labels_have_no_say_in_what_is_dropped(calls: list[tuple[int, int, int]]) -> None:
    """The same rows, with and without labels between them, leave the same slots in the ring."""
    with tempfile.TemporaryDirectory() as folder:
        kept, dropped, labels_taken = [], [], 0
        for labelled in (False, True):
            path = Path(folder) / f"ring-{labelled}.bin"
            ring, reader, slots, position = writer(path, 32), RingReader(path), [], 0
            for rows, labels, read in calls:
                if labelled and labels:
                    given = np.zeros(labels, np.int64), np.ones(labels, np.int32)
                    labels_taken += labels * ring.append_labels(*given)
                append(ring, ring.next_slot, rows)
                # The consumer comes as far as the same observation, labels or not.
                while read and position < reader._ring.state().head:
                    records, position = reader.read(position, 1)
                    observed = records["slot"][records["kind"] == OBSERVATION].tolist()
                    slots += observed
                    read -= len(observed)
                reader.release(position)
            records, _ = reader.read(position, 99)
            slots += records["slot"][records["kind"] == OBSERVATION].tolist()
            kept.append(slots)
            dropped.append(reader.dropped)
            ring.close()
        assert kept[0] == kept[1] and dropped[0] == dropped[1]


@pytest.mark.parametrize("capacity", [1, 5, 8, 64, 71])
def test_labels_take_their_own_places_and_no_others(tmp_path: Path, capacity: int) -> None:
    """An eighth as many as observations have: full, they turn labels away, and all rows fit."""
    ring = writer(tmp_path / "ring.bin", capacity)
    one = np.zeros(1, np.int64), np.zeros(1, np.int32)
    assert sum(ring.append_labels(*one) for _ in range(capacity)) == max(1, capacity // 8)
    for slot in range(8 * capacity):
        append(ring, slot, 1)
    reader = RingReader(tmp_path / "ring.bin")
    kinds = reader.read(0, 2 * capacity)[0]["kind"]
    assert np.count_nonzero(kinds == OBSERVATION) == capacity
    assert reader.dropped_labels == capacity - max(1, capacity // 8)
    reader.release(reader.waiting)
    assert ring.append_labels(*one)


def test_a_consumer_killed_while_it_releases_miscounts_nothing(tmp_path: Path) -> None:
    """The next one finds out how many observations are gone, whatever was written last."""
    path = tmp_path / "ring.bin"
    ring = writer(path, 16)
    append(ring, 0, 8)
    ring.append_labels(np.array([1, 2]), np.array([1, 1], np.int32))
    ring._ring.tail = 10  # as a kill would leave it
    assert RingReader(path).position == 10
    for slot in range(8, 17):  # more than half full with the rows before
        append(ring, slot, 1)
    assert RingReader(path).read(10, 99)[0]["slot"].tolist() == kept_of(8, 9, 0, 16)


@pytest.mark.parametrize("rows", [1, 3])
def test_only_what_the_purposes_ask_for_is_written(tmp_path: Path, rows: int) -> None:
    """No inputs without training, nothing but public facts without monitoring and training."""
    ring = writer(tmp_path / "ring.bin", 64)
    for place, purposes in enumerate((ALL, INFERENCE | MONITORING, INFERENCE)):
        append(ring, place * rows, rows, purposes=purposes, subject=ANNA)
    records, _ = RingReader(tmp_path / "ring.bin").read(0, 64)
    assert records["purposes"].tolist() == [ALL] * rows + [3] * rows + [1] * rows
    check_content(records[:rows])
    watched, served = records[rows : 2 * rows], records[2 * rows :]
    assert not watched["inputs"].any() and watched["logits"].all() and watched["features"].all()
    for name in ("inputs", "logits", "features", "subject"):
        assert not served[name].any()
    assert served["slot"].tolist() == list(range(2 * rows, 3 * rows))


def test_wiping_leaves_nothing_of_a_subject(tmp_path: Path) -> None:
    """The file holds no byte of what was wiped; other records and all slots stay as they were."""
    path = tmp_path / "ring.bin"
    ring = writer(path, 64)
    append(ring, 0, 4, subject=ANNA)
    append(ring, 4, 2, subject=BERT)
    append(ring, 6, 1, subject=ANNA)
    ring.append_labels(np.array([1, 5]), np.array([1, 1], np.int32))
    reader = RingReader(path)
    reader.release(2)
    anna = np.frombuffer(ANNA, np.uint8)

    def match(rows: Any) -> Any:
        return (rows["subject"] == anna).all(axis=1) | (rows["slot"] == 1)

    assert reader.wipe(match) == 3 and reader.wipe(match) == 0
    data = path.read_bytes()
    assert ANNA not in data and BERT in data
    for number in (1, 2, 3, 4, 7):
        assert (-np.full(FEATURES, number, np.float32)).tobytes() not in data
    rows, _ = reader.read(2, 64)
    assert rows["slot"].tolist()[:5] == [2, 3, 4, 5, 6]
    assert rows["purposes"].tolist()[:5] == [0, 0, ALL, ALL, 0]
    check_content(rows[2:4])
    assert rows["kind"].tolist() == [OBSERVATION] * 5 + [0, LABEL]
    assert rows["slot"][-1] == 5 and rows["label"][-1] == 1


def test_what_was_never_published_is_cleared(tmp_path: Path) -> None:
    """A producer killed before it published leaves no row behind for ever."""
    path = tmp_path / "ring.bin"
    ring = writer(path, 16)
    append(ring, 0, 2)
    ring._publish = lambda *_: None  # type: ignore[method-assign]  # as a kill would
    append(ring, 2, 3, subject=ANNA)
    assert ANNA in path.read_bytes()

    again = writer(path, 16)
    assert ANNA not in path.read_bytes()
    assert append(again, 2, 1) == 2


@given(counters=st.lists(st.integers(0, 2**60), min_size=5, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_half_written_state_is_never_seen(counters: list[int]) -> None:
    """A producer killed while it writes the new state leaves the old one in force."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ring.bin"
        ring = writer(path)
        append(ring, 0, 3)
        inner = ring._ring
        before = inner.state()
        STATE.pack_into(inner.memory, STATE_PLACES[(inner.words[GENERATION] + 1) % 2], *counters)
        assert RingReader(path)._ring.state() == before
        assert append(ring, 3, 1) == 3
        ring.close()


def test_killed_producers_lose_nothing(
    tmp_path: Path, start: Callable[[Callable[[], None]], int]
) -> None:
    """Two producers at once, killed again and again: every slot is a record or is counted."""
    path = tmp_path / "ring.bin"
    writer(path, 512).close()
    reader, slots, position = RingReader(path), [np.empty(0, np.int64)], 0

    def produce(release: int) -> None:
        ring, rng = writer(path, 512), np.random.default_rng(release)
        while True:
            rows = int(rng.choice([1, 1, 1, 2, 9]))
            append(ring, ring.next_slot, rows, release=release)

    producers: list[int] = []
    rng = np.random.default_rng(0)
    for release in range(1, 25):
        producers.append(start(lambda: produce(release)))  # noqa: B023  # it has its own copy
        until = time.monotonic() + rng.uniform(0.01, 0.04)
        while time.monotonic() < until:
            rows, position = reader.read(position, 200)
            reader.release(position)
            slots.append(rows["slot"])
            assert set(rows["kind"].tolist()) <= {OBSERVATION}
            assert np.isin(rows["release"], range(1, 25)).all()
        if len(producers) > 1:  # one keeps going while the other dies
            os.kill(producers[-2], signal.SIGKILL)
            os.waitpid(producers[-2], 0)
    os.kill(producers[-1], signal.SIGKILL)
    os.waitpid(producers[-1], 0)
    rows, position = reader.read(position, 10_000)
    seen = np.concatenate([*slots, rows["slot"]])
    assert (np.diff(seen) > 0).all(), "a slot was given out twice"
    assert len(seen) > 100
    assert len(seen) + reader.dropped == reader.next_slot


class Watched:
    """Something that is written to, with a look before each write."""

    def __init__(self, target: Any, look: Callable[[], None]) -> None:
        self.target, self.look = target, look

    def __getitem__(self, place: Any) -> Any:
        return self.target[place]

    def __setitem__(self, place: Any, value: Any) -> None:
        self.look()
        self.target[place] = value


class WatchedStruct:
    """A `struct.Struct` that packs into watched memory, with a look before."""

    def __init__(self, target: struct.Struct, look: Callable[[], None]) -> None:
        self.target, self.look = target, look

    def pack_into(self, memory: Any, *values: Any) -> None:
        self.look()
        self.target.pack_into(getattr(memory, "target", memory), *values)


def _ignored(_: object) -> None:
    """For a lambda whose value nobody wants."""


REQUESTS = (1, 1, 3, 1, 6, 9, 1)


def serve_until(path: Path, stop_at: int) -> int:
    """Append requests and labels; killed before write `stop_at`. Answers how many there were."""
    writes = 0

    def look() -> None:
        nonlocal writes
        writes += 1
        if writes == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    ring = writer(path, 16)
    ring._memory, ring._words = Watched(ring._memory, look), Watched(ring._words, look)
    ring._fields = {name: Watched(field, look) for name, field in ring._fields.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_module, "RECORD_HEAD", WatchedStruct(RECORD_HEAD, look))
        patch.setattr(ring_module, "STATE", WatchedStruct(STATE, look))
        for rows in REQUESTS:
            append(ring, ring.next_slot, rows, subject=ANNA)
        ring.append_labels(np.array([1, 2]), np.array([1, 0], np.int32))
    return writes


def test_a_kill_between_any_two_writes_leaves_one_story(
    tmp_path: Path, start: Callable[[Callable[[], None]], int]
) -> None:
    """Killed before each of its writes in turn, a producer leaves whole requests and nothing else.

    Each is a process of its own on the same ring, as a supervisor starts them.
    """
    writes = serve_until(tmp_path / "whole.bin", 0)
    assert writes > 60
    path = tmp_path / "ring.bin"
    writer(path, 16).close()
    reader, slots, position, given_out = RingReader(path), [-1], 0, 0
    for stop_at in range(1, writes + 1):
        before = reader.next_slot
        child = start(lambda: _ignored(serve_until(path, stop_at)))  # noqa: B023  # as above
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        rows, position = reader.read(position, 99)
        seen = rows[rows["kind"] == OBSERVATION]
        check_content(seen)
        assert (seen["subject"] == ord("a")).all()
        assert reader.next_slot - before in np.cumsum([0, *REQUESTS]), "half a request"
        given_out += reader.next_slot - before
        slots += seen["slot"].tolist()
        reader.release(position)
    assert (np.diff(slots) > 0).all() and len(slots) - 1 + reader.dropped == given_out
    # The next producer removes what the killed one had begun.
    writer(path, 16).close()
    assert ANNA not in path.read_bytes()


def test_a_stuck_agent_never_delays_a_producer(
    tmp_path: Path, start: Callable[[Callable[[], None]], int]
) -> None:
    """Stopped at any point of its work, the consumer holds nothing that an append waits for."""
    path = tmp_path / "ring.bin"
    ring = writer(path, 256)

    def consume() -> None:
        reader, position = RingReader(path), 0
        while True:
            reader.never_below(0)
            _, position = reader.read(position, 50)
            reader.wipe(lambda records: records["slot"] % 7 == 0)
            reader.release(position)

    consumer = start(consume)
    rng = np.random.default_rng(0)
    for _ in range(40):
        time.sleep(float(rng.uniform(0, 0.003)))  # so that it is stopped somewhere else
        os.kill(consumer, signal.SIGSTOP)
        os.waitpid(consumer, os.WUNTRACED)
        before = ring.next_slot
        for _ in range(60):  # an append that waited would wait for ever: it is still stopped
            append(ring, ring.next_slot, int(rng.integers(1, 9)))
        assert ring.next_slot >= before + 60
        os.kill(consumer, signal.SIGCONT)
    assert os.waitpid(consumer, os.WNOHANG) == (0, 0)


def test_a_ring_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """It holds records, whatever the folder and the umask allow."""
    mask = os.umask(0)
    try:
        create_ring(tmp_path / "ring.bin", LAYOUT, capacity=8)
    finally:
        os.umask(mask)

    assert (tmp_path / "ring.bin").stat().st_mode & 0o777 == 0o600
