"""A gateway's own records: one Parquet part per window, in a folder per data block.

Rows never leave the host. A part is written once, all or nothing, and the state file
names it: a part that it does not name is left over from a kill and is removed at the
next start. Labels arrive later, by slot, and live in the state file. Only rows that may
be kept are given here; which windows may be read, and what that costs, is decided
elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedge.data.parts import (
    Bytes,
    DamagedPartError,
    Floats,
    Integers,
    Numbers,
    Rows,
    column,
    encode_part,
    most_bytes,
    purposes,
    read_part,
    remove_files,
    subjects,
    vectors,
    write_part,
)
from fedge.data.removal import QUARANTINE, Erased, Removal
from fedge.data.subjects import PSEUDONYM_BYTES
from fedge.data.window_table import Part, WindowTable
from fedge.errors import StateError, TaskError
from fedge.records import sha256_hex
from fedge.statefile import StateFile

__all__ = ["Answers", "BlockStore", "Erased", "LabelledRecords"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledRecords:
    """Records that have a label, in slot order.

    Attributes:
        slots: int64 [n], strictly increasing arrival slots.
        blocks: int64 [n], the data block of each.
        inputs: [n, D], the flattened model input as it was served, in its own type.
        labels: int64 [n], class indices that were fed back.
        predictions: int64 [n], class indices that were served.
        subjects: uint8 [n, 16], pseudonyms, all zeros where a record is about nobody; None: not
            known, every record stands for itself.
    """

    slots: Integers
    blocks: Integers
    inputs: Numbers
    labels: Integers
    predictions: Integers
    subjects: Bytes | None = None

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True, slots=True)
class Answers:
    """How the labelled rows of one window were answered.

    Attributes:
        slots: int64 [n], strictly increasing arrival slots.
        right: bool [n], whether the label agrees with the prediction that was served.
        purposes: uint8 [n], what each row might serve when it was kept; 0 where nobody noted it.
        subjects: uint8 [n, 16], pseudonyms.
    """

    slots: Integers
    right: npt.NDArray[np.bool_]
    purposes: Bytes
    subjects: Bytes


class BlockStore(Removal):
    """Records on the gateway's own disk.

    Args:
        folder: made if missing, readable by its owner only.
        state: the gateway's one file of truth; knows every part and label.
        clock: seconds since the epoch; asked where a caller does not know when rows arrived.

    Raises:
        StateError: the folder cannot be used.
    """

    def __init__(
        self, folder: Path, state: StateFile, clock: Callable[[], float] = time.time
    ) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot make the block store {folder}: {error}") from error
        super().__init__(folder, state, WindowTable(state))
        self._clock = clock
        self._adopt_older_parts()
        self.remove_leftovers()
        self._check_sizes()

    def write_window(
        self,
        block: int,
        window: int,
        slots: Integers,
        inputs: Numbers,
        features: Floats,
        predictions: Numbers,
        subjects: Bytes | None = None,
        purposes: Bytes | None = None,
        *,
        arrived: float | None = None,
        present: int | None = None,
    ) -> None:
        """Keep the rows of a closed window; on disk when it returns.

        Windows are written in order. The same call again changes nothing; other rows for the
        newest window replace it, because a window that was cut again after a power failure was
        never made final. Rows that were erased before stay away.

        Args:
            block, window: the block and the number of the window.
            slots: int64 [n], strictly increasing and after all earlier windows; n may be 0.
            inputs: [n, ...] as served, numbers or booleans; no values per row if they have no
                fixed size. features: float32 [n, F], NaN for missing.
            predictions: int [n], class indices.
            subjects: uint8 [n, 16], pseudonyms; None: about nobody.
            purposes: uint8 [n], what each row may serve; None: not known.
            arrived: when the newest row arrived, seconds since the epoch; None: just now.
            present: rows of the window that might have been kept; the quota counts it as if all
                were. None: it counts the bytes of the file.

        Raises:
            TaskError: shapes or types do not fit each other.
            StateError: it would change an older window or take over another window's slots, or
                the disk refused.
        """
        subjects = _nobody(len(slots)) if subjects is None else subjects
        purposes = np.zeros(len(slots), np.uint8) if purposes is None else purposes
        given = Rows(slots, inputs, features, predictions, subjects, purposes)
        room = None if present is None else most_bytes(given, present)
        with self._state.transaction():
            erased = self._table.erased(slots)
            rows = given.where(~erased) if erased.any() else given
            data = encode_part(rows)
            part = Part(
                window=window,
                block=block,
                first_slot=int(slots[0]) if len(slots) else None,
                last_slot=int(slots[-1]) if len(slots) else None,
                rows=len(rows),
                width=rows.width,
                name=f"{block}/{window:012d}-{sha256_hex(data)[:16]}.parquet",
                dtype=rows.inputs.dtype.str,
                arrived=self._clock() if arrived is None else arrived,
                bytes=len(data),
                room=room,
            )
            self._replace(part, data, slots)

    def add_labels(self, slots: Integers, labels: Integers) -> int:
        """Join labels (class indices) to stored records; on disk when it returns.

        A record keeps its first label; the same again changes nothing. A label for a slot that
        no stored window holds, erased ones included, or below 0, is refused: it is not stored.

        Returns:
            how many of `slots` now have a label, stored by this or an earlier call.
        """
        if np.shape(slots) != np.shape(labels) or np.ndim(slots) != 1:
            raise TaskError(f"{np.shape(slots)} slots and {np.shape(labels)} labels do not fit")
        with self._state.transaction():
            known = self._known(slots) & (np.asarray(labels) >= 0)
            pairs = [(int(s), int(c)) for s, c in zip(slots[known], labels[known], strict=True)]
            self._table.add_labels(pairs)
        return len(pairs)

    def labelled(self, first_window: int, last_window: int, limit: int) -> LabelledRecords:
        """The first `limit` labelled records of windows `first_window` to `last_window`.

        A window whose part is damaged is put apart, and holds none from then on.

        Raises:
            StateError: the disk refused.
        """
        found: list[LabelledRecords] = []
        left = limit
        # Nobody erases while this reads.
        with self._state.transaction():
            for part in self._table.parts(first_window, last_window):
                if left <= 0:
                    break
                labels = self._table.labels_of(part, left)
                if not len(labels):
                    continue
                try:
                    found.append(self._join(part, labels))
                except DamagedPartError as error:
                    self.put_apart(part, error)
                    continue
                left -= len(labels)
            width, dtype = self._shape(found)
        empty = np.empty(0, dtype=np.int64)
        return LabelledRecords(
            slots=np.concatenate([empty, *(r.slots for r in found)]),
            blocks=np.concatenate([empty, *(r.blocks for r in found)]),
            inputs=np.concatenate([np.empty((0, width), dtype), *(r.inputs for r in found)]),
            labels=np.concatenate([empty, *(r.labels for r in found)]),
            predictions=np.concatenate([empty, *(r.predictions for r in found)]),
            subjects=np.concatenate(
                [_nobody(0), *(r.subjects for r in found if r.subjects is not None)]
            ),
        )

    def answers(self, window: int) -> Answers:
        """The labelled rows of a window; none where it is gone, or its part is damaged.

        Raises:
            StateError: the disk refused.
        """
        # Nobody erases while this reads.
        with self._state.transaction():
            part = self._table.part(window)
            if part is not None and part.rows:
                labels = self._table.labels_of(part, part.rows)
                try:
                    return self._answered(part, labels)
                except DamagedPartError as error:
                    self.put_apart(part, error)
        none = np.empty(0, dtype=np.int64)
        return Answers(none, none.astype(np.bool_), none.astype(np.uint8), _nobody(0))

    def blocks_of(self, first_window: int, last_window: int) -> tuple[int, ...]:
        """The blocks that hold the stored ones among these windows, in order."""
        return tuple(sorted({part.block for part in self._table.parts(first_window, last_window)}))

    def window_of(self, slot: int) -> int | None:
        """The stored window whose first and last row enclose `slot`; None if there is none."""
        part = self._table.part_at(slot)
        return None if part is None else part.window

    def erased(self, slots: Integers) -> npt.NDArray[np.bool_]:
        """Which of `slots` were erased: whatever brings them back, they count for nothing."""
        return self._table.erased(slots)

    def _replace(self, part: Part, data: bytes, slots: Integers) -> None:
        """Keep a window's part instead of an earlier one; nothing where it is kept already."""
        old = self._table.part(part.window)
        if old is not None and old.name == part.name:
            return
        self._check_order(part.window, slots)
        write_part(self._folder / part.name, data)
        if old is not None:
            self._table.forget_labels_of(old)
        self._table.put(part)

    # --- reading ------------------------------------------------------------------------

    def _check_order(self, window: int, slots: Integers) -> None:
        newest = self._table.newest_window()
        if newest is not None and newest > window:
            raise StateError(f"window {window} cannot be written after window {newest}")
        last = self._table.last_slot_before(window)
        if len(slots) and last is not None and slots[0] <= last:
            raise StateError(f"window {window} begins at slot {slots[0]}, {last} is taken")

    def _known(self, slots: Integers) -> npt.NDArray[np.bool_]:
        """Which slots are rows of a stored window."""
        known = np.zeros(len(slots), dtype=np.bool_)
        parts: dict[int, Integers] = {}
        for index, slot in enumerate(slots.tolist()):
            part = self._table.part_at(slot)
            if part is None:
                continue
            if part.window not in parts:
                try:
                    parts[part.window] = self._slots(part)
                except DamagedPartError as error:
                    self.put_apart(part, error)
                    continue
            rows = parts[part.window]
            at = int(np.searchsorted(rows, slot))
            known[index] = at < len(rows) and rows[at] == slot
        return known

    def _slots(self, part: Part) -> Integers:
        if part.first_slot is None or part.last_slot is None:
            return np.empty(0, dtype=np.int64)
        if part.last_slot - part.first_slot + 1 == part.rows:
            return np.arange(part.first_slot, part.last_slot + 1, dtype=np.int64)
        return column(read_part(self._folder / part.name, part.rows, "slot"), "slot")

    def _join(self, part: Part, labels: Integers) -> LabelledRecords:
        """The rows of `part` that `labels` (int64 [n, 2]: slot and label) name."""
        names = ("slot", "input", "prediction", "subject")
        table = read_part(self._folder / part.name, part.rows, *names)
        at = np.searchsorted(column(table, "slot"), labels[:, 0])
        has_inputs = "input" in table.schema.names
        empty = np.empty((part.rows, 0), np.dtype(part.dtype))
        return LabelledRecords(
            slots=labels[:, 0],
            blocks=np.full(len(labels), part.block, dtype=np.int64),
            inputs=(vectors(table, "input") if has_inputs else empty)[at],
            labels=labels[:, 1],
            predictions=column(table, "prediction")[at],
            subjects=subjects(table)[at],
        )

    def _answered(self, part: Part, labels: Integers) -> Answers:
        """How the rows that `labels` (int64 [n, 2]: slot and label) name were answered."""
        names = ("slot", "prediction", "purposes", "subject")
        table = read_part(self._folder / part.name, part.rows, *names)
        at = np.searchsorted(column(table, "slot"), labels[:, 0])
        return Answers(
            slots=labels[:, 0],
            right=column(table, "prediction")[at] == labels[:, 1],
            purposes=purposes(table)[at],
            subjects=subjects(table)[at],
        )

    def _shape(self, found: list[LabelledRecords]) -> tuple[int, np.dtype[np.generic]]:
        """Width and type of inputs: those found, else the newest window's."""
        if found:
            return found[0].inputs.shape[1], found[0].inputs.dtype
        newest = self._table.newest_window()
        part = None if newest is None else self._table.part(newest)
        return (0, np.dtype(np.float32)) if part is None else (part.width, np.dtype(part.dtype))

    # --- starting -----------------------------------------------------------------------

    def _adopt_older_parts(self) -> None:
        """Note what the first version did not: when rows arrived at the latest, and sizes."""
        with self._state.transaction() as db:
            for part in self._table.parts():
                if part.bytes is not None and part.arrived is not None:
                    continue
                try:
                    facts = (self._folder / part.name).stat()
                except FileNotFoundError:
                    facts = None
                written = self._clock() if facts is None else facts.st_mtime
                size = 0 if facts is None else facts.st_size
                db.execute(
                    "UPDATE block_windows SET arrived = ?, bytes = ? WHERE window = ?",
                    (written, size, part.window),
                )

    def _check_sizes(self) -> None:
        """Parts that are gone or cut short are known before anything relies on them."""
        for part in self._table.parts():
            path = self._folder / part.name
            size = path.stat().st_size if path.exists() else None
            if size != part.bytes:
                self.put_apart(part, DamagedPartError(f"{path} has {size} bytes, not {part.bytes}"))

    def remove_leftovers(self) -> None:
        """Delete files that no row names: a kill or a full disk left them, and they hold records.

        Raises:
            StateError: the disk refused.
        """
        with self._state.transaction():
            named = self._table.names()
            named |= {f"{QUARANTINE}/{name}" for name, _ in self._table.apart()}
            found = [path for path in self._folder.glob("*/*") if path.is_file()]
            remove_files(p for p in found if p.relative_to(self._folder).as_posix() not in named)


def _nobody(rows: int) -> Bytes:
    """Pseudonyms, uint8 [rows, 16], of records that are about nobody."""
    return np.zeros((rows, PSEUDONYM_BYTES), dtype=np.uint8)
