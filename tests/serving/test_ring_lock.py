"""The ring's writers exclude each other, and none waits for more than a running append."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.gateways import wait_until

from fedge.records.purposes import MONITORING
from fedge.serving.marks import Marks
from fedge.serving.record_ids import BlockOf
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import BUSY, SHARED, RingFile, RowLayout
from fedge.serving.ring_lock import CLAIM_EVERY, RingLock
from fedge.serving.ring_opening import _in_use
from fedge.serving.ring_reader import RingReader

LAYOUT = RowLayout(classes=2, features=3, inputs=0)
CAPACITY = 2**17
"""So many rows that no test fills half of it: none is dropped."""
MARKS = Marks(MONITORING)
PATIENCE_S = 60.0

Start = Callable[[Callable[[], None]], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ring.bin"
    open_ring(path).close()
    return path


def open_ring(path: Path) -> RingWriter:
    return RingWriter(path, LAYOUT, CAPACITY)


def one_block(slot: int, now: float) -> int:
    return 0


def append(ring: RingWriter, who: int, rows: int = 1, block_of: BlockOf = one_block) -> range:
    """Append rows of which each value tells whose they are; answers their slots."""
    logits, features = (np.full((rows, n), who, np.float32) for n in (2, 3))
    first = ring.append(block_of, who, 0.0, MARKS, logits, logits, features)
    return range(first, first + rows)


def rows_of(path: Path) -> dict[int, int]:
    """Whose row each slot is; fails where a row is lost, is there twice, or is of two writers."""
    reader = RingReader(path)
    rows, _ = reader.read(0, CAPACITY)
    assert reader.dropped == 0
    assert rows["slot"].tolist() == list(range(reader.given_out))
    assert (rows["logits"] == rows["release"][:, None]).all()
    assert (rows["features"] == rows["release"][:, None]).all()
    reader.close()
    return dict(zip(rows["slot"].tolist(), rows["release"].tolist(), strict=True))


def ended(child: int) -> int:
    """Wait until a child has ended; answers its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stop_here(slot: int, now: float) -> int:
    """A `block_of` that stops its process within an append, under the lock."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return 0


def test_two_writers_at_once_lose_and_repeat_nothing(path: Path, start: Start) -> None:
    """They come and go, so that each of them is alone for a while, and then is not."""

    def write(who: int) -> None:
        rng = np.random.default_rng(who)
        for _ in range(40):
            ring = open_ring(path)
            for _ in range(int(rng.integers(1, 3 * CLAIM_EVERY))):
                append(ring, who, int(rng.choice([1, 1, 1, 4])))
            ring.close()
        os._exit(0)

    children = [start(lambda: write(1)), start(lambda: write(2))]
    assert [ended(child) for child in children] == [0, 0]
    owners = rows_of(path)
    assert set(owners.values()) == {1, 2}


def test_a_writer_that_is_joined_again_and_again_loses_nothing(path: Path, start: Start) -> None:
    """A newcomer comes in at any moment of an append of the one that was alone."""

    def write() -> None:
        ring = open_ring(path)
        while True:
            append(ring, 1)

    child, reader = start(write), RingReader(path)
    slots, position = [np.empty(0, np.int64)], 0
    for _ in range(200):
        ring = open_ring(path)
        for _ in range(3):
            append(ring, 2)
        ring.close()
        rows, position = reader.read(position, CAPACITY)
        reader.release(position)
        assert (rows["logits"] == rows["release"][:, None]).all()
        slots.append(rows["slot"])
    os.kill(child, signal.SIGKILL)
    ended(child)
    rows, _ = reader.read(position, CAPACITY)
    seen = np.concatenate([*slots, rows["slot"]])
    assert (np.diff(seen) > 0).all() and len(seen) + reader.dropped == reader.given_out


@pytest.mark.parametrize("stopped", [False, True])
def test_a_newcomer_does_not_wait_for_an_idle_owner(
    path: Path, start: Start, stopped: bool
) -> None:
    """Not until it writes again, nor until it runs again: a wait would be for ever."""
    told, tell = os.pipe()

    def write() -> None:
        ring = open_ring(path)
        for _ in range(9):
            append(ring, 1)
        os.write(tell, b".")
        signal.pause()

    child = start(write)
    assert os.read(told, 1) == b"."
    if stopped:
        os.kill(child, signal.SIGSTOP)
        os.waitpid(child, os.WUNTRACED)
    ring = open_ring(path)
    assert [*append(ring, 2)] == [9]
    assert ring.append_labels(np.array([9]), np.array([1], np.int32))
    os.close(told)
    os.close(tell)


@pytest.mark.parametrize("signalled", [signal.SIGCONT, signal.SIGKILL])
def test_a_newcomer_waits_for_a_running_append(
    path: Path, start: Start, signalled: signal.Signals
) -> None:
    """Until it is finished, or its process killed: then nothing of it is left."""

    def owner() -> None:
        ring = open_ring(path)
        append(ring, 1)
        append(ring, 1, block_of=stop_here)
        os._exit(0)

    def newcomer() -> None:
        append(open_ring(path), 2)
        os._exit(0)

    first = start(owner)
    os.waitpid(first, os.WUNTRACED)
    second = start(newcomer)
    words = RingFile(path).words
    wait_until(lambda: words[SHARED] == 1, PATIENCE_S, "the newcomer asks")
    time.sleep(0.05)
    assert os.waitpid(second, os.WNOHANG) == (0, 0), "it came in within another's append"
    os.kill(first, signalled)
    assert ended(second) == 0 and ended(first) == (-9 if signalled == signal.SIGKILL else 0)
    survived = [1, 1, 2] if signalled == signal.SIGCONT else [1, 2]
    assert [*rows_of(path).values()] == survived


def test_a_kill_within_an_append_keeps_nobody_out(path: Path, start: Start) -> None:
    """The next writer is alone, as if there had been none."""

    def write() -> None:
        append(open_ring(path), 1, block_of=stop_here)

    for _ in range(3):
        child = start(write)
        os.waitpid(child, os.WUNTRACED)
        os.kill(child, signal.SIGKILL)
        ended(child)
        ring = RingFile(path)
        assert ring.words[BUSY]
        lock = RingLock(ring)
        assert lock.alone and not ring.words[BUSY]
        lock.close()
        writer = open_ring(path)
        append(writer, 2)
        writer.close()
    assert [*rows_of(path).values()] == [2, 2, 2]


def test_the_last_writer_is_alone_again(path: Path) -> None:
    """Who closes gives up its part; the other finds out after some appends."""
    ring = RingFile(path)
    first = RingLock(ring)
    assert first.alone
    second = RingLock(ring)
    assert not second.alone
    for _ in range(3 * CLAIM_EVERY):
        for lock in (first, second):
            with lock.held():
                assert not lock.alone
    first.close()
    for _ in range(CLAIM_EVERY):
        with second.held():
            pass
    assert second.alone
    second.close()
    assert RingLock(ring).alone


def test_a_ring_is_in_use_until_its_writer_closes_it(path: Path) -> None:
    """Alone or not: a ring that somebody writes into is not replaced."""
    first, second = open_ring(path), open_ring(path)
    assert _in_use(path)
    first.close()
    assert _in_use(path)
    second.close()
    assert not _in_use(path)


def test_a_forked_child_is_a_writer_of_its_own(path: Path, start: Start) -> None:
    """It and its parent append at once and lose nothing; what one lets go, the other keeps."""
    ring = open_ring(path)
    append(ring, 1)

    def write() -> None:
        for _ in range(2_000):
            append(ring, 2)
        ring.close()
        os._exit(0)

    child = start(write)
    for _ in range(2_000):
        append(ring, 1)
    assert ended(child) == 0
    assert _in_use(path), "its parent still writes"
    owners = [*rows_of(path).values()]
    assert owners.count(1) == 2_001 and owners.count(2) == 2_000
