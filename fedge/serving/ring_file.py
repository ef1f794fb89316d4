"""The file under the observation ring: layout, creation, and the header's atomic state.

One page of header, then `capacity` fixed-size records. What changes together
(head, next arrival slot, drop counters) is kept twice; one aligned 8-byte store
of `generation` switches to the other copy, so that a process may be killed
between any two instructions and the file still tells one consistent story.
The file outlives processes, not a power failure: it is never synced.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedge.errors import StateError

MAGIC, VERSION, PAGE = b"FEDGRING", 1, 4096

_FIXED = struct.Struct("<8sIIIIQ")
"""Magic, version, bytes of a record, features, inputs, capacity."""
# A cache line apart: the two sides must not slow each other down.
_GENERATION, _TAIL, _STATES = 64, 128, 192

Records = npt.NDArray[Any]


class RingState(NamedTuple):
    """What producers publish together.

    Attributes:
        head: position after the last record; positions count 0, 1, 2, ... for ever.
        next_slot: arrival slot of the next row.
        dropped: rows that got a slot but no record, because the ring was full.
        dropped_labels: labels that were turned away, because the ring was full.
    """

    head: int
    next_slot: int
    dropped: int
    dropped_labels: int


def record_dtype(features: int, inputs: int) -> np.dtype[Any]:
    """The record of a task with so many monitored features and input values per row."""
    return np.dtype(
        [
            ("kind", "u1"),
            ("release", "<u4"),
            ("block", "<i8"),
            ("slot", "<i8"),
            ("time", "<f8"),
            ("label", "<i4"),
            ("prediction", "<i4"),
            ("confidence", "<f4"),
            ("ood", "<f4"),
            ("features", "<f4", (features,)),
            ("inputs", "<f4", (inputs,)),
        ],
        align=True,
    )


def create_ring(path: Path, *, features: int, inputs: int, capacity: int) -> None:
    """Make an empty ring file unless there is one; two processes may try at once.

    Raises:
        StateError: the disk refused.
    """
    if path.exists():
        return
    dtype = record_dtype(features, inputs)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    header = _FIXED.pack(MAGIC, VERSION, dtype.itemsize, features, inputs, capacity)
    try:
        with part.open("wb") as file:
            # Blocks are taken now: a full disk must not become a SIGBUS while serving.
            os.posix_fallocate(file.fileno(), 0, PAGE + capacity * dtype.itemsize)
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(part)
    except OSError as error:
        raise StateError(f"cannot create the ring {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


class RingFile:
    """A mapped ring file.

    Attributes:
        records: structured array view, one element per place in the ring.

    Raises:
        StateError: missing, of another version, or not of the size that it claims.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("r+b")
        except OSError as error:
            raise StateError(f"cannot open the ring {path}: {error}") from error
        try:
            self._map(os.fstat(self._file.fileno()).st_size)
        except BaseException:
            self._file.close()
            raise
        self._order = threading.Lock()
        self._order.acquire()

    def _map(self, size: int) -> None:
        if size < PAGE:
            raise StateError(f"{self.path} is no ring: {size} bytes")
        self._memory = mmap.mmap(self._file.fileno(), size)
        fixed: tuple[bytes, int, int, int, int, int] = _FIXED.unpack_from(self._memory)
        magic, version, itemsize, self.features, self.inputs, self.capacity = fixed
        dtype = record_dtype(self.features, self.inputs)
        if (magic, version, itemsize) != (MAGIC, VERSION, dtype.itemsize):
            raise StateError(f"{self.path} is no ring of version {VERSION}")
        if size != PAGE + self.capacity * dtype.itemsize or self.capacity < 1:
            raise StateError(f"{self.path} is damaged: {size} bytes for {self.capacity} records")
        self._generation = self._words(_GENERATION, (1,))
        self._tail = self._words(_TAIL, (1,))
        self._states = self._words(_STATES, (2, len(RingState._fields)))
        self.records: Records = np.ndarray(self.capacity, dtype, self._memory, PAGE)

    def _words(self, offset: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint64]:
        """Header words as numpy sees them: its stores are single, `struct`'s are not."""
        strides = (64, 8)[-len(shape) :]
        return np.ndarray(shape, np.uint64, self._memory, offset, strides)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other producers out; the kernel lets go when the holder dies."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def state(self) -> RingState:
        """The state that was published last."""
        while True:
            generation = int(self._generation[0])
            self._fence()
            state = RingState(*self._states[generation % 2].tolist())
            self._fence()
            # Unchanged: nobody can have begun to overwrite this copy.
            if int(self._generation[0]) == generation:
                return state

    def publish(self, state: RingState) -> None:
        """Make `state`, and all records written before, visible at once. Needs the lock."""
        generation = int(self._generation[0]) + 1
        self._states[generation % 2] = state
        self._fence()
        self._generation[0] = generation

    @property
    def tail(self) -> int:
        """Position of the oldest record that is still needed."""
        return int(self._tail[0])

    @tail.setter
    def tail(self, position: int) -> None:
        self._fence()
        self._tail[0] = position

    def places(self, position: int, count: int) -> list[slice]:
        """Where `count` records from `position` lie: one slice, or two at the wrap."""
        start = position % self.capacity
        end = start + count
        if end <= self.capacity:
            return [slice(start, end)]
        return [slice(start, self.capacity), slice(0, end - self.capacity)]

    def close(self) -> None:
        """Unmap; views that a caller still holds keep the memory alive."""
        del self.records, self._states, self._tail, self._generation
        with contextlib.suppress(BufferError):
            self._memory.close()
        self._file.close()

    def _fence(self) -> None:
        """Order the stores before against those after, also where the processor would not (arm64).

        A release followed by an acquire of one lock is a full barrier there.
        """
        self._order.release()
        self._order.acquire()
