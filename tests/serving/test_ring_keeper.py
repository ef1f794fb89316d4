"""No row gets the id of another one, whatever becomes of the ring between two looks at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedge.errors import StateError
from fedge.serving.marks import Marks
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import PAGE, RowLayout
from fedge.serving.ring_keeper import RingKeeper
from fedge.serving.ring_opening import open_writer
from fedge.serving.ring_reader import RingReader
from fedge.serving.slot_floor import SlotFloor, raise_floor, read_floor

LAYOUT = RowLayout(classes=3, features=2, inputs=4)
CAPACITY = 64


def serve(ring: RingWriter | None, rows: int = 1) -> range:
    """Append rows; answers the slots that they got."""
    assert ring is not None
    given = [np.zeros((rows, n), np.float32) for n in (4, 3, 2)]
    first = ring.append(lambda slot, now: 0, 1, 1.0, Marks(7), *given)
    return range(first, first + rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.bin"


@pytest.fixture
def keeper(path: Path) -> RingKeeper:
    keeper = RingKeeper(path, LAYOUT, CAPACITY)
    keeper.open()
    return keeper


def looked(keeper: RingKeeper) -> bool:
    """Look as a worker does; says whether that led to another ring."""
    found = keeper.look()
    if found is not None:
        keeper.take(found)
    return found is not None


def damage(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: PAGE + 100])


@pytest.mark.parametrize("spoil", [damage, remove, cut])
def test_a_lost_ring_is_followed_by_higher_slots(
    path: Path, keeper: RingKeeper, spoil: Callable[[Path], None]
) -> None:
    """Also without an agent, and with more rows than the ring could hold."""
    given = [*serve(keeper.ring, 40)]
    for _ in range(30):
        given += serve(keeper.ring, 40)
        assert not looked(keeper)
    given += serve(keeper.ring, 40)  # since the last look
    assert keeper.ring is not None
    keeper.ring.close()
    spoil(path)
    after = RingKeeper(path, LAYOUT, CAPACITY).open()
    given += serve(after, 40)
    assert len(set(given)) == len(given)
    reader = RingReader(path)
    assert reader.dropped + reader.waiting == reader.given_out, "what is missing is counted"


def test_a_ring_taken_away_under_a_worker_is_followed(path: Path, keeper: RingKeeper) -> None:
    """The next look finds out; rows in between count as dropped."""
    given = [*serve(keeper.ring, 10)]
    path.unlink()
    given += serve(keeper.ring, 5)
    assert looked(keeper) and not looked(keeper)
    given += serve(keeper.ring, 3)
    assert len(set(given)) == len(given)
    reader = RingReader(path)
    rows, _ = reader.read(0, 99)
    assert rows["slot"].tolist() == given[-3:]
    assert reader.dropped == given[-3], "all slots before"


def test_two_workers_meet_in_the_new_ring(path: Path, keeper: RingKeeper) -> None:
    """The first of them makes it, the other goes over to it."""
    other = RingKeeper(path, LAYOUT, CAPACITY)
    other.open()
    given = [*serve(keeper.ring, 10), *serve(other.ring, 10)]
    path.unlink()
    assert looked(keeper)
    given += [*serve(keeper.ring, 5), *serve(other.ring, 5)]
    assert looked(other)
    given += [*serve(other.ring, 5), *serve(keeper.ring, 5)]
    assert len(set(given)) == len(given)


def test_a_refused_ring_is_tried_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each look tries, the log says it once; then rows are observed."""
    path.mkdir()
    keeper, used = RingKeeper(path, LAYOUT, CAPACITY), []
    keeper.use = used.append
    with pytest.raises(StateError):
        keeper.open()
    for _ in range(3):
        assert not looked(keeper)
    assert caplog.text.count("nothing is observed") == 1
    path.rmdir()
    assert looked(keeper) and used == [keeper.ring]
    assert [*serve(keeper.ring)] == [0]


def test_a_ring_that_fell_back_gives_out_no_slot_again(path: Path, keeper: RingKeeper) -> None:
    """As after a power failure: the ring is never synced, the note is."""
    before = path.read_bytes()
    given = [*serve(keeper.ring, 50)]
    for _ in range(4):
        given += serve(keeper.ring, 50)
        looked(keeper)
    assert keeper.ring is not None
    keeper.ring.close()
    path.write_bytes(before)
    given += serve(open_writer(path, LAYOUT, CAPACITY), 5)
    assert len(set(given)) == len(given)


def test_a_whole_ring_goes_on_without_a_gap(path: Path, keeper: RingKeeper) -> None:
    """What is reserved is skipped only where the ring is lost."""
    slots = [*serve(keeper.ring, 3)]
    looked(keeper)
    assert keeper.ring is not None
    keeper.ring.close()
    slots += serve(RingKeeper(path, LAYOUT, CAPACITY).open())
    assert slots == [0, 1, 2, 3]


def test_the_note_never_falls(path: Path) -> None:
    """Whoever comes later with less changes nothing; a damaged one counts as none."""
    raise_floor(path, SlotFloor(100, 200))
    raise_floor(path, SlotFloor(50, 150))
    assert read_floor(path) == SlotFloor(100, 200)
    for text in (b"", b"[]", b"{}", b'{"given_out": 9, "reserved": 3}', b"\xff"):
        path.with_name("slots.floor").write_bytes(text)
        assert read_floor(path) == SlotFloor()
    raise_floor(path, SlotFloor(1, 2))
    assert read_floor(path) == SlotFloor(1, 2)


def test_a_disk_that_refuses_the_note_stops_nothing(
    path: Path, keeper: RingKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """The process itself still knows what it gave out."""
    note = path.with_name("slots.floor")
    note.unlink()
    note.mkdir()
    given: list[int] = []
    for _ in range(9):
        given += serve(keeper.ring, 60)
        assert not looked(keeper)
    assert caplog.text.count("slots are not noted") == 1
    path.unlink()
    assert looked(keeper)
    given += serve(keeper.ring, 60)
    assert len(set(given)) == len(given)
