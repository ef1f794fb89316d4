"""Rows that leave the block store: erased, too old, over the quota; no byte stays on the disk."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.kills import KillPoints, killed
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedge.data.blocks import BlockStore
from fedge.errors import StateError
from fedge.statefile import StateFile

CANARY = np.array([0x5EEDCAFE], dtype="<u4").view("<f4")[0]
"""A value whose bytes occur nowhere by chance."""
CANARY_BYTES = CANARY.tobytes()
CANARY_LABEL = 0x5ECA11ED
SKETCH = b"a sketch that holds the value " + CANARY_BYTES
WHO, OTHER = b"w" * 16, b"o" * 16


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def who(*subjects: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(subjects), np.uint8).reshape(-1, 16)


def put(
    store: BlockStore,
    window: int,
    slots: np.ndarray,
    subjects: np.ndarray | None = None,
    *,
    canaries: tuple[int, ...] = (),
    arrived: float | None = 0.0,
) -> None:
    """Write a window of block `window // 2`, whose rows tell their slot; some hold the canary."""
    inputs = np.repeat(slots[:, None].astype(np.float32), 3, axis=1)
    features = inputs[:, :2].copy()
    for array in (inputs, features):
        array[np.isin(slots, canaries)] = CANARY
    store.write_window(
        window // 2, window, slots, inputs, features, slots % 4, subjects, arrived=arrived
    )


def sketch(state: StateFile, window: int) -> None:
    with state.transaction() as db:
        db.execute("INSERT INTO profiles VALUES (?, ?, ?)", (window, window // 2, SKETCH))


def sketched(state: StateFile) -> list[int]:
    return [window for (window,) in state.rows("SELECT window FROM profiles ORDER BY window")]


def on_disk(home: Path) -> bytes:
    """Every byte of every file, write-ahead log included."""
    return b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def traces(home: Path) -> tuple[bool, bool]:
    """Whether the canary's value, or its label, is anywhere on the disk."""
    data = on_disk(home)
    return CANARY_BYTES in data, CANARY_LABEL.to_bytes(4, "big") in data


def stored(store: BlockStore) -> list[int]:
    """Slots of all rows, whether they have a label or not."""
    found: list[int] = []
    for part in store._table.parts():
        found.extend(store._slots(part).tolist())
    return found


class TestErasing:
    def test_no_byte_of_an_erased_row_is_left(
        self, store: BlockStore, state: StateFile, tmp_path: Path
    ) -> None:
        """Value, label and sketch are gone from files, tables and log; neighbours are intact."""
        put(store, 0, ints(0, 1, 2, 3), canaries=(1,))
        put(store, 1, ints(4, 5, 6))
        store.add_labels(ints(0, 1, 4), ints(2, CANARY_LABEL, 3))
        for window in (0, 1):
            sketch(state, window)
        state.checkpoint()
        assert traces(tmp_path) == (True, True)
        told: list[int] = []

        erased = store.erase(slots=ints(1), also=told.append)
        state.scrub()

        assert (erased.records, erased.blocks, erased.windows) == (1, (0,), (0,))
        assert told == [1]
        assert b"sketch that" in on_disk(tmp_path)
        assert sketched(state) == [1]
        with state.transaction() as db:
            db.execute("DELETE FROM profiles")
            state.scrub_later()
        state.scrub()
        assert traces(tmp_path) == (False, False)
        assert stored(store) == [0, 2, 3, 4, 5, 6]
        left = store.labelled(0, 1, 9)
        assert left.slots.tolist() == [0, 4] and left.labels.tolist() == [2, 3]
        assert left.inputs[:, 0].tolist() == [0.0, 4.0]

    def test_a_subject_is_erased_from_every_window(
        self, store: BlockStore, state: StateFile, tmp_path: Path
    ) -> None:
        """All rows of it, and none of others."""
        put(store, 0, ints(0, 1, 2), who(WHO, OTHER, WHO), canaries=(0, 2))
        put(store, 1, ints(3, 4), who(OTHER, OTHER))
        put(store, 2, ints(7, 9), who(bytes(16), WHO), canaries=(9,))
        store.add_labels(ints(0, 1, 9), ints(CANARY_LABEL, 1, CANARY_LABEL))
        sketch(state, 1)

        erased = store.erase(subject=WHO)
        state.scrub()

        assert (erased.records, erased.blocks, erased.windows) == (3, (0, 1), (0, 2))
        assert traces(tmp_path) == (False, False)
        assert stored(store) == [1, 3, 4, 7]
        assert WHO not in on_disk(tmp_path) and OTHER in on_disk(tmp_path)
        # Rows that were not kept were sketched too, and nobody knows any more whose they were.
        assert sketched(state) == []

    def test_an_erased_slot_stays_numbered_and_closed(self, store: BlockStore) -> None:
        """Neither a label nor the same rows, read again from the ring, bring it back."""
        put(store, 0, ints(0, 1, 2))
        store.erase(slots=ints(1))

        assert store.add_labels(ints(0, 1), ints(1, 1)) == 1
        put(store, 0, ints(0, 1, 2))

        assert stored(store) == [0, 2]
        assert store.window_of(1) == 0
        assert store.erased(ints(0, 1, 2)).tolist() == [False, True, False]
        assert store.labelled(0, 0, 9).slots.tolist() == [0]

    def test_a_row_that_is_not_stored_yet_can_be_erased(
        self, store: BlockStore, state: StateFile
    ) -> None:
        """When its window closes it stays away."""
        put(store, 0, ints(0, 1))
        assert store.erase(slots=ints(3, 10**12)).records == 0

        put(store, 1, ints(2, 3, 4), canaries=(3,))

        assert stored(store) == [0, 1, 2, 4]

    def test_a_row_that_was_only_sketched_takes_its_sketch_along(
        self, store: BlockStore, state: StateFile
    ) -> None:
        """Nobody knows its window for sure: all that it can have been in lose theirs."""
        put(store, 0, ints(0, 1))
        put(store, 1, ints())
        put(store, 2, ints(8, 9))
        put(store, 3, ints(10))
        for window in range(4):
            sketch(state, window)

        store.erase(slots=ints(5))

        assert sketched(state) == [3]

    def test_erasing_again_finds_nothing(self, store: BlockStore, state: StateFile) -> None:
        """And writes nothing anew."""
        put(store, 0, ints(0, 1, 2))
        store.erase(slots=ints(0, 1, 2))

        assert store.erase(slots=ints(0, 1, 2)).records == 0
        assert stored(store) == []
        assert store.labelled(0, 0, 9).inputs.shape == (0, 3)

    def test_a_damaged_part_is_erased_whole(
        self, store: BlockStore, folder: Path, tmp_path: Path
    ) -> None:
        """Nobody can tell what is in it, so none of its bytes may stay."""
        put(store, 0, ints(0, 1), canaries=(0, 1))
        put(store, 1, ints(2, 3))
        (part,) = (folder / "0").glob("000000000000-*")
        part.write_bytes(part.read_bytes()[:-20])

        store.erase(slots=ints(1))

        assert traces(tmp_path) == (False, False)
        assert stored(store) == [2, 3]

    def test_it_is_no_part_of_a_larger_transaction(
        self, store: BlockStore, state: StateFile
    ) -> None:
        """A file that is deleted cannot be rolled back."""
        for remove in (
            lambda: store.erase(slots=ints(0)),
            lambda: store.expire(0.0),
            lambda: store.evict(0, ()),
        ):
            with pytest.raises(RuntimeError), state.transaction():
                remove()


class TestRetention:
    def test_a_block_is_deleted_at_its_age(
        self, store: BlockStore, state: StateFile, tmp_path: Path
    ) -> None:
        """Whole, by its newest row: files, labels, sketches; no byte of it is left."""
        put(store, 0, ints(0, 1), canaries=(0, 1), arrived=100.0)
        put(store, 1, ints(2, 3), canaries=(2,), arrived=200.0)
        put(store, 2, ints(4, 5), arrived=300.0)
        store.add_labels(ints(0, 3, 4), ints(CANARY_LABEL, CANARY_LABEL, 1))
        sketch(state, 0)
        told: list[int] = []
        assert store.expire(200.0, also=told.append).windows == ()
        assert traces(tmp_path) == (True, True)

        expired = store.expire(200.5, also=told.append)
        state.scrub()

        assert (expired.records, expired.blocks, expired.windows) == (4, (0,), (0, 1))
        assert told == [4]
        assert traces(tmp_path) == (False, False)
        assert not (tmp_path / "blocks" / "0").exists()
        assert stored(store) == [4, 5]
        assert sketched(state) == []

    def test_a_clock_that_ran_ahead_keeps_nothing_for_ever(self, store: BlockStore) -> None:
        """What claims to have arrived later than now arrived now."""
        put(store, 0, ints(0), arrived=10.0**12)
        store.arrived_by(500.0)

        assert store.expire(500.0).windows == ()
        assert store.expire(501.0).windows == (0,)

    def test_damaged_files_grow_old_too(self, store: BlockStore, folder: Path) -> None:
        """What was put apart is deleted when its block would have been."""
        put(store, 0, ints(0, 2), arrived=100.0)
        (part,) = folder.rglob("*.parquet")
        part.write_bytes(b"damaged")
        store.add_labels(ints(0), ints(1))
        assert len(list((folder / "quarantine").iterdir())) == 1

        store.expire(100.0)
        assert len(list((folder / "quarantine").iterdir())) == 1
        store.expire(101.0)
        assert not (folder / "quarantine").exists()
        assert store.bytes_on_disk == 0

    def test_erased_slots_before_every_window_are_forgotten(
        self, store: BlockStore, state: StateFile
    ) -> None:
        """Tombstones do not pile up for ever."""
        put(store, 0, ints(0, 1))
        put(store, 2, ints(4, 5), arrived=50.0)
        store.erase(slots=ints(1, 4))

        store.expire(10.0)

        assert state.rows("SELECT slot FROM block_tombstones") == [(4,)]


class TestQuota:
    def test_the_oldest_windows_go_first(self, store: BlockStore, folder: Path) -> None:
        """Until the store fits; what went is counted, and what is on disk is what it says."""
        for window in range(6):
            put(store, window, np.arange(100 * window, 100 * window + 100))
        one = store.bytes_on_disk / 6

        evicted = store.evict(int(3.5 * one), ())

        assert evicted.windows == (0, 1, 2)
        assert store.evicted == 3
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert store.bytes_on_disk == sum(path.stat().st_size for path in files) <= 3.5 * one

    def test_what_a_training_reserved_stays(self, store: BlockStore) -> None:
        """The next oldest go instead; if nothing else is left, the store stays too large."""
        for window in range(4):
            put(store, window, np.arange(100 * window, 100 * window + 100))

        assert store.evict(0, (0,)).windows == (2, 3)
        assert store.evict(0, (0,)).windows == ()
        assert store.evict(0, ()).windows == (0, 1)

    def test_a_store_that_fits_is_left_alone(self, store: BlockStore) -> None:
        """And nobody is told of a removal."""
        put(store, 0, ints(0, 1))

        def refuse(records: int) -> None:
            raise AssertionError("nothing was removed")

        assert store.evict(2**30, (), also=refuse).records == 0
        assert store.expire(-1.0, also=refuse).records == 0


# --- faults ---------------------------------------------------------------------------


def prepared(home: Path) -> tuple[StateFile, BlockStore]:
    """Two windows; two rows and labels are canaries, one of them of a subject."""
    state = StateFile(home / "state.sqlite")
    store = BlockStore(home / "blocks", state)
    put(store, 0, ints(0, 1, 2), who(WHO, OTHER, OTHER), canaries=(0,))
    put(store, 2, ints(3, 4, 5), who(OTHER, WHO, OTHER), canaries=(4,))
    store.add_labels(ints(0, 1, 4), ints(CANARY_LABEL, 1, CANARY_LABEL))
    return state, store


WORK: dict[str, tuple[Callable[[BlockStore], object], list[int]]] = {
    "erase": (lambda store: store.erase(slots=ints(0, 4)), [1, 2, 3, 5]),
    "erase-subject": (lambda store: store.erase(subject=WHO), [1, 2, 3, 5]),
    "expire": (lambda store: store.expire(1.0), []),
    "evict": (lambda store: store.evict(0, ()), []),
}


def interrupt(points: KillPoints) -> None:
    """Die around every step that changes a disk."""
    import pathlib

    for owner, name in (
        (os, "fsync"),
        (pathlib.Path, "replace"),
        (pathlib.Path, "unlink"),
        (pathlib.Path, "rmdir"),
    ):
        points.wrap(owner, name)


@pytest.mark.parametrize("work", WORK)
def test_a_kill_at_any_step_is_made_good(tmp_path: Path, work: str) -> None:
    """Whenever it dies: no other row is harmed, and doing it again leaves no trace."""
    remove, left = WORK[work]
    died = 0
    while True:
        home = tmp_path / str(died)
        home.mkdir()
        state, store = prepared(home)
        state.close()

        def child(points: KillPoints, home: Path = home) -> None:
            state = StateFile(home / "state.sqlite")
            store = BlockStore(home / "blocks", state)
            with_transactions(points, state)
            interrupt(points)
            remove(store)
            state.scrub()

        finished = not killed(child, died)
        state = StateFile(home / "state.sqlite")
        try:
            store = BlockStore(home / "blocks", state)
            survivors = stored(store)
            assert set(left) <= set(survivors) <= set(range(6)) or work in ("expire", "evict")
            remove(store)
            state.scrub()
            assert stored(store) == left
            assert traces(home) == (False, False)
            assert store.damaged == 0
            assert list((home / "blocks").rglob(".*")) == []
        finally:
            state.close()
        if finished:
            break
        died += 1
    assert died > 10


def with_transactions(points: KillPoints, state: StateFile) -> None:
    """Die before and after every commit as well."""
    original = state._db

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def execute(self, statement: str, *values: object) -> object:
            if statement in ("COMMIT", "VACUUM") or statement.startswith("PRAGMA wal"):
                points.moment()
                answer = original.execute(statement, *values)
                points.moment()
                return answer
            return original.execute(statement, *values)

    state._db = Watched()  # type: ignore[assignment]


def test_a_kill_while_a_window_is_written_leaves_it_whole_or_not_at_all(tmp_path: Path) -> None:
    """At every fsync, rename and commit; the same window can then be written again."""
    died = 0
    while True:
        home = tmp_path / str(died)
        home.mkdir()
        state, store = prepared(home)
        state.close()

        def child(points: KillPoints, home: Path = home) -> None:
            state = StateFile(home / "state.sqlite")
            store = BlockStore(home / "blocks", state)
            with_transactions(points, state)
            interrupt(points)
            put(store, 4, ints(6, 7))

        finished = not killed(child, died)
        state = StateFile(home / "state.sqlite")
        try:
            store = BlockStore(home / "blocks", state)
            assert stored(store)[6:] in ([], [6, 7])
            put(store, 4, ints(6, 7))
            assert stored(store) == list(range(8))
            assert len([p for p in (home / "blocks").rglob("*") if p.is_file()]) == 3
        finally:
            state.close()
        if finished:
            break
        died += 1
    assert died > 4


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond so many bytes."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


class TestFullDisk:
    def test_nothing_is_lost_and_it_is_tried_again(
        self, tmp_path: Path, full_disk: Callable[[int], None]
    ) -> None:
        """A refused write or erasure is an error that says so; later the same call does it."""
        state, store = prepared(tmp_path)
        try:
            state.checkpoint()
            full_disk(1024)
            with pytest.raises(StateError):
                put(store, 4, np.arange(6, 1000))
            with pytest.raises(StateError):
                store.erase(subject=WHO)
            full_disk(resource.RLIM_INFINITY)

            assert stored(store) == list(range(6))
            assert list((tmp_path / "blocks").rglob(".*")) == []
            assert store.erase(subject=WHO).records == 2
            put(store, 4, np.arange(6, 1000))
            state.scrub()
            assert traces(tmp_path) == (False, False)
        finally:
            state.close()


# --- any order of everything ----------------------------------------------------------


class StoreMachine(RuleBasedStateMachine):
    """A store beside a dictionary: what was erased is never read, the rest is always there."""

    @initialize()
    def start(self) -> None:
        import tempfile

        self.home = Path(tempfile.mkdtemp(prefix="store"))
        self.state = StateFile(self.home / "state.sqlite")
        self.store = BlockStore(self.home / "blocks", self.state)
        self.rows: dict[int, bytes] = {}  # by slot: whose
        self.windows: dict[int, tuple[list[int], float]] = {}
        self.labels: dict[int, int] = {}
        self.gone: set[int] = set()
        self.next_slot = self.next_window = 0

    @rule(
        kept=st.lists(st.booleans(), min_size=0, max_size=6),
        names=st.lists(st.sampled_from([WHO, OTHER, bytes(16)]), min_size=6, max_size=6),
        arrived=st.integers(0, 20),
    )
    def close_window(self, kept: list[bool], names: list[bytes], arrived: int) -> None:
        slots = [self.next_slot + at for at, keep in enumerate(kept) if keep]
        self.next_slot += len(kept)
        subjects = who(*names[: len(slots)])
        put(self.store, self.next_window, ints(*slots), subjects, arrived=float(arrived))
        there = [slot for slot in slots if slot not in self.gone]
        self.windows[self.next_window] = (slots, float(arrived))
        self.rows |= {s: n for s, n in zip(slots, names, strict=False) if s in there}
        self.next_window += 1

    @rule(slot=st.integers(0, 60), label=st.integers(0, 3))
    def label(self, slot: int, label: int) -> None:
        taken = self.store.add_labels(ints(slot), ints(label))
        assert taken == (slot in self.rows)
        if taken:
            self.labels.setdefault(slot, label)

    @rule(slots=st.lists(st.integers(0, 60), max_size=5))
    def erase_records(self, slots: list[int]) -> None:
        found = {slot for slot in slots if slot in self.rows}
        assert self.store.erase(slots=ints(*slots)).records == len(found)
        self.gone |= set(slots)
        self._drop(found)

    @rule(subject=st.sampled_from([WHO, OTHER]))
    def erase_subject(self, subject: bytes) -> None:
        found = {slot for slot, name in self.rows.items() if name == subject}
        assert self.store.erase(subject=subject).records == len(found)
        self.gone |= found
        self._drop(found)

    @rule(before=st.integers(0, 20))
    def expire(self, before: int) -> None:
        newest: dict[int, float] = {}
        for window, (_, arrived) in self.windows.items():
            newest[window // 2] = max(newest.get(window // 2, 0.0), arrived)
        old = [w for w in self.windows if newest[w // 2] < before]
        assert list(self.store.expire(float(before)).windows) == old
        for window in old:
            self._drop(set(self.windows.pop(window)[0]))

    @rule()
    def restart(self) -> None:
        self.state.close()
        self.state = StateFile(self.home / "state.sqlite")
        self.store = BlockStore(self.home / "blocks", self.state)

    @invariant()
    def answers_like_a_dictionary(self) -> None:
        found = self.store.labelled(0, 10**6, 10**6)
        assert found.slots.tolist() == sorted(self.labels)
        assert dict(zip(found.slots.tolist(), found.labels.tolist(), strict=True)) == self.labels
        assert found.inputs[:, :1].ravel().tolist() == sorted(self.labels)
        assert stored(self.store) == sorted(self.rows)

    def _drop(self, slots: set[int]) -> None:
        for slot in slots:
            self.rows.pop(slot, None)
            self.labels.pop(slot, None)

    def teardown(self) -> None:
        import shutil

        if hasattr(self, "state"):
            self.state.close()
            shutil.rmtree(self.home)


TestAnyOrder = StoreMachine.TestCase
TestAnyOrder.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
