"""The file under the observation ring: layout, creation, and the header's atomic state.

One page of header, then `capacity` fixed-size records. What changes together
(head, next arrival slot, drop counters) is kept twice; one aligned 8-byte store
of `generation` switches to the other copy, so that a process may be killed
between any two instructions and the file still tells one consistent story.
The file outlives processes, not a power failure: it is never synced. It stays
on its machine, so numbers have the machine's own byte order.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedge.errors import StateError
from fedge.records import TaskSchema
from fedge.records.task import Datatype
from fedge.serving.marks import SUBJECT_BYTES

MAGIC, VERSION, PAGE = b"FEDGRING", 3, 4096

_FIXED = struct.Struct("=8sIIIII8sQ")
"""Magic, version, bytes of a record, classes, features, inputs, their type, capacity."""

# Header words (8 bytes each). A cache line apart: the two sides must not slow each other down.
GENERATION, BUSY, SHARED = 8, 9, 10
"""The writers'; the last two are `ring_lock`'s."""
TAIL, FLOOR, RELEASED = 16, 17, 18
"""The consumer's."""
STATE_PLACES = (192, 256)
"""Bytes from the file's start at which the two copies of the state lie."""

RECORD_HEAD = struct.Struct(f"@BBIqqddi{SUBJECT_BYTES}s")
"""A record before its arrays: kind, purposes, release, block, slot, time, steady, label, subject.

`time` is the wall clock's, `steady` the host's monotonic one's: windows close by the second, which
no correction of the first moves.
"""
STATE = struct.Struct("@5Q")

ORDERED_STORES = platform.machine().lower() in ("x86_64", "amd64", "i686")
"""Stores become visible in program order (x86); elsewhere they are fenced."""

VALUE_TYPES: dict[Datatype, str] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""How a value of each datatype is stored; BYTES has no fixed size and is not."""

Records = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How large one row's record is.

    Attributes:
        classes, features, inputs: logits, monitored features and input values of a row;
            `inputs` is 0 where they are not kept.
        values: numpy type of an input value, e.g. `<f4`.
    """

    classes: int
    features: int
    inputs: int
    values: str = "<f4"

    @classmethod
    def of(cls, task: TaskSchema) -> RowLayout:
        """The layout of a task's rows."""
        values = VALUE_TYPES.get(task.input.datatype)
        return cls(
            classes=len(task.classes),
            features=len(task.features),
            inputs=0 if values is None else task.input.size,
            values=values or "|u1",
        )

    def __str__(self) -> str:
        return (
            f"{self.classes} classes, {self.features} features and "
            f"{self.inputs} inputs of type {self.values}"
        )


class RingState(NamedTuple):
    """What producers publish together.

    Attributes:
        head: position after the last record; positions count 0, 1, 2, ... for ever.
        next_slot: arrival slot of the next row.
        dropped: rows that got a slot but no record, because the ring was filling up.
        dropped_labels: labels that were turned away, because their places were full.
        labels: how many of the records are labels.
    """

    head: int
    next_slot: int
    dropped: int
    dropped_labels: int
    labels: int


HEAD_DTYPE = np.dtype(
    {
        "names": ["kind", "purposes", "release", "block", "slot", "time", "steady", "label"],
        "formats": ["u1", "u1", "u4", "i8", "i8", "f8", "f8", "i4"],
        "offsets": [0, 1, 4, 8, 16, 24, 32, 40],
        "itemsize": 64,
    }
)
"""The numbers at the front of a record, in a cache line; no record is smaller."""


def record_dtype(layout: RowLayout) -> np.dtype[Any]:
    """The record of a row."""
    return np.dtype(
        [
            ("kind", "u1"),
            ("purposes", "u1"),
            ("release", "u4"),
            ("block", "i8"),
            ("slot", "i8"),
            ("time", "f8"),
            ("steady", "f8"),
            ("label", "i4"),
            ("subject", "u1", (SUBJECT_BYTES,)),
            ("logits", "f4", (layout.classes,)),
            ("features", "f4", (layout.features,)),
            ("inputs", layout.values, (layout.inputs,)),
        ],
        align=True,
    )


class Spans(NamedTuple):
    """Where a record's arrays lie, in bytes from its start; `inputs` is empty if not kept.

    Logits end where features begin; inputs may need a gap before them.
    """

    logits: int
    features: int
    features_end: int
    inputs: int
    inputs_end: int

    @classmethod
    def of(cls, layout: RowLayout) -> Spans:
        fields: Mapping[str, Any] = record_dtype(layout).fields or {}
        logits, features, inputs = (fields[n][1] for n in ("logits", "features", "inputs"))
        size = layout.inputs * np.dtype(layout.values).itemsize
        return cls(logits, features, features + 4 * layout.features, inputs, inputs + size)


def label_places(places: int) -> int:
    """How many of a ring's places labels may take: a ninth, one at least."""
    return max(1, places // 9)


def create_ring(path: Path, layout: RowLayout, capacity: int, *, first_slot: int = 0) -> None:
    """Make an empty ring file unless there is one; two processes may try at once.

    Args:
        capacity: observations that it holds. Labels get an eighth as many places beside them,
            so that none of them takes an observation's.
        first_slot: of the first row; those below count as dropped.

    Raises:
        StateError: the disk refused.
    """
    if path.exists():
        return
    size = record_dtype(layout).itemsize
    places = capacity + max(1, capacity // 8)
    part = path.with_name(f".{path.name}.part")
    header = _FIXED.pack(
        MAGIC,
        VERSION,
        size,
        layout.classes,
        layout.features,
        layout.inputs,
        layout.values.encode(),
        places,
    )
    try:
        with _alone(path.parent):
            if path.exists():
                return
            try:
                # One name for all: what a killed process left of it is written over.
                # It holds records: nobody else on the host may read it, whatever the folder allows.
                handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(handle, "wb") as file:
                    os.fchmod(handle, 0o600)  # also where a part was left behind
                    # Blocks are taken now: a full disk must not become a SIGBUS while serving.
                    os.posix_fallocate(file.fileno(), 0, PAGE + places * size)
                    file.write(header.ljust(8 * FLOOR, b"\0") + struct.pack("=Q", first_slot))
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StateError(f"cannot create the ring {path}: {error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others out who make files in `folder`; the kernel lets go when the holder dies."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class RingFile:
    """A mapped ring file.

    Attributes:
        records: structured array view, one element per place in the ring.
        capacity: places in the ring.
        rows, labels: how many of them observations and labels may take.
        words: the header as native 8-byte words. CPython copies one of them with a single
            8-byte move, which an aligned address makes atomic.
        memory: the whole file.

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
        self.handle = self._file.fileno()
        self._order = threading.Lock()
        self._order.acquire()

    def _map(self, size: int) -> None:
        if size < PAGE:
            raise StateError(f"{self.path} is no ring: {size} bytes")
        self.memory = mmap.mmap(self._file.fileno(), size)
        fixed: tuple[bytes, int, int, int, int, int, bytes, int] = _FIXED.unpack_from(self.memory)
        magic, version, itemsize, classes, features, inputs, values, self.capacity = fixed
        text = values.rstrip(b"\0").decode("ascii", "replace")
        if (magic, version) != (MAGIC, VERSION) or text not in VALUE_TYPES.values():
            raise StateError(f"{self.path} is no ring of version {VERSION}")
        self.layout = RowLayout(classes, features, inputs, text)
        # Sizes first: a dtype of damaged counts could ask for any amount of memory.
        if size != PAGE + self.capacity * itemsize or self.capacity < 2:
            raise StateError(f"{self.path} is damaged: {size} bytes for {self.capacity} records")
        counts = max(classes, features, inputs)
        if counts > size or record_dtype(self.layout).itemsize != itemsize:
            raise StateError(f"{self.path} is damaged: rows of {itemsize} bytes")
        self.labels = label_places(self.capacity)
        self.rows = self.capacity - self.labels
        self.words = memoryview(self.memory)[:PAGE].cast("Q")
        self.records: Records = np.ndarray(
            self.capacity, record_dtype(self.layout), self.memory, PAGE
        )
        self._bytes: npt.NDArray[np.uint8] = np.ndarray(
            (self.capacity, itemsize), np.uint8, self.memory, PAGE
        )

    def state(self) -> RingState:
        """The state that was published last, no slot below the consumer's floor."""
        words = self.words
        while True:
            generation = words[GENERATION]
            self.fence()
            state = RingState(*STATE.unpack_from(self.memory, STATE_PLACES[generation % 2]))
            self.fence()
            # Unchanged: nobody can have begun to overwrite this copy.
            if words[GENERATION] == generation:
                break
        missing = words[FLOOR] - state.next_slot
        if missing > 0:
            state = state._replace(
                next_slot=state.next_slot + missing, dropped=state.dropped + missing
            )
        return state

    def publish(self, state: RingState) -> None:
        """Make `state`, and all records written before, visible at once. Needs the lock."""
        generation = self.words[GENERATION] + 1
        STATE.pack_into(self.memory, STATE_PLACES[generation % 2], *state)
        self.fence()
        self.words[GENERATION] = generation

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        mine = os.fstat(self.handle)
        return (found.st_ino, found.st_dev) == (mine.st_ino, mine.st_dev)

    @property
    def tail(self) -> int:
        """Position of the oldest record that is still needed."""
        return self.words[TAIL]

    @tail.setter
    def tail(self, position: int) -> None:
        self.fence()
        self.words[TAIL] = position

    @property
    def released(self) -> int:
        """Observations that lie before `tail`, since the ring was made; the consumer's to set."""
        return self.words[RELEASED]

    @released.setter
    def released(self, observations: int) -> None:
        self.words[RELEASED] = observations

    @property
    def floor(self) -> int:
        """No slot below it is given out any more; the consumer's to set, without the lock."""
        return self.words[FLOOR]

    @floor.setter
    def floor(self, slot: int) -> None:
        self.words[FLOOR] = slot

    def places(self, position: int, count: int) -> list[slice]:
        """Where `count` records from `position` lie: one slice, or two at the wrap."""
        start = position % self.capacity
        end = start + count
        if end <= self.capacity:
            return [slice(start, end)]
        return [slice(start, self.capacity), slice(0, end - self.capacity)]

    def heads(self, place: slice) -> Records:
        """A copy of the numbers at the front of records."""
        front = np.ascontiguousarray(self._bytes[place, : HEAD_DTYPE.itemsize])
        return front.view(HEAD_DTYPE)[:, 0]

    def clear(self, places: slice | npt.NDArray[np.int64], *, start: int = 0) -> None:
        """Write zeros over records, from byte `start` of each on."""
        self._bytes[places, start:] = 0

    def close(self) -> None:
        """Unmap; views that a caller still holds keep the memory alive."""
        del self.records, self._bytes
        self.words.release()
        with contextlib.suppress(BufferError):
            self.memory.close()
        self._file.close()

    def fence(self) -> None:
        """Order the stores before against those after, also where the processor would not (arm64).

        A release followed by an acquire of one lock is a full barrier there.
        """
        if not ORDERED_STORES:
            self._order.release()
            self._order.acquire()
