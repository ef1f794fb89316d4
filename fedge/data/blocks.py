"""A gateway's own records: one Parquet part per window, in a folder per data block.

Rows never leave the host. A part is written once, all or nothing, and the state file
names it: a part that it does not name is left over from a kill and is removed at the
next start. Labels arrive later, by slot, and live in the state file. Which windows may
be read, and what that costs, is decided elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedge.data.parts import encode_part, read_part, write_part
from fedge.errors import StateError, TaskError
from fedge.records import sha256_hex
from fedge.statefile import StateFile

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS block_windows (window INTEGER PRIMARY KEY,"
    " block INTEGER NOT NULL, first_slot INTEGER, last_slot INTEGER, rows INTEGER NOT NULL,"
    " width INTEGER NOT NULL, part TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS block_windows_by_slot ON block_windows (first_slot)",
    "CREATE TABLE IF NOT EXISTS block_labels (slot INTEGER PRIMARY KEY, label INTEGER NOT NULL)",
)
_COLUMNS = "window, block, first_slot, last_slot, rows, part"


@dataclass(frozen=True, slots=True)
class LabelledRecords:
    """Records that have a label, in slot order.

    Attributes:
        slots: int64 [n], strictly increasing arrival slots.
        blocks: int64 [n], the data block of each.
        inputs: float32 [n, D], the flattened model input, as it was served.
        labels: int64 [n], class indices that were fed back.
        predictions: int64 [n], class indices that were served.
    """

    slots: Integers
    blocks: Integers
    inputs: Floats
    labels: Integers
    predictions: Integers

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True, slots=True)
class _Part:
    """One stored window; the slots are None if it has no rows."""

    window: int
    block: int
    first_slot: int | None
    last_slot: int | None
    rows: int
    name: str


class BlockStore:
    """Records on the gateway's own disk.

    Args:
        folder: made if missing, readable by its owner only.
        state: the gateway's one file of truth; knows every part and label.

    Raises:
        StateError: the folder cannot be used.
    """

    def __init__(self, folder: Path, state: StateFile) -> None:
        self._folder, self._state = folder, state
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot make the block store {folder}: {error}") from error
        state.ensure(*_SCHEMA)
        self._remove_leftovers()

    def write_window(
        self,
        block: int,
        window: int,
        slots: Integers,
        inputs: Floats,
        features: Floats,
        predictions: Integers,
    ) -> None:
        """Keep the rows of a closed window; on disk when it returns.

        Windows are written in order. The same call again changes nothing; other rows for the
        newest window replace it, because a window that was cut again after a power failure was
        never made final.

        Args:
            block, window: the block and the number of the window.
            slots: int64 [n], strictly increasing and after all earlier windows; n may be 0.
            inputs: float32 [n, ...] as served. features: float32 [n, F], NaN for missing.
            predictions: int [n], class indices.

        Raises:
            TaskError: shapes or types do not fit each other.
            StateError: it would change an older window or take over another window's slots, or
                the disk refused.
        """
        data = encode_part(slots, inputs, features, predictions)
        name = f"{block}/{window:012d}-{sha256_hex(data)[:16]}.parquet"
        with self._state.transaction() as db:
            if not self._must_write(window, name, slots):
                return
            write_part(self._folder / name, data)
            old = self._part(window)
            if old is not None and old.first_slot is not None:
                db.execute(
                    "DELETE FROM block_labels WHERE slot BETWEEN ? AND ?",
                    (old.first_slot, old.last_slot),
                )
            db.execute(
                "INSERT OR REPLACE INTO block_windows VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    window,
                    block,
                    int(slots[0]) if len(slots) else None,
                    int(slots[-1]) if len(slots) else None,
                    len(slots),
                    math.prod(inputs.shape[1:]),
                    name,
                ),
            )

    def add_labels(self, slots: Integers, labels: Integers) -> int:
        """Join labels (class indices) to stored records; on disk when it returns.

        A record keeps its first label; the same again changes nothing. A label for a slot that
        no stored window holds, or below 0, is refused: it is not stored.

        Returns:
            how many of `slots` now have a label, stored by this or an earlier call.
        """
        if np.shape(slots) != np.shape(labels) or np.ndim(slots) != 1:
            raise TaskError(f"{np.shape(slots)} slots and {np.shape(labels)} labels do not fit")
        known = self._known(slots) & (np.asarray(labels) >= 0)
        pairs = [(int(s), int(c)) for s, c in zip(slots[known], labels[known], strict=True)]
        with self._state.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO block_labels VALUES (?, ?)", pairs)
        return len(pairs)

    def labelled(self, first_window: int, last_window: int, limit: int) -> LabelledRecords:
        """The first `limit` labelled records of windows `first_window` to `last_window`.

        Raises:
            StateError: a part cannot be read.
        """
        found: list[LabelledRecords] = []
        left = limit
        for part in self._parts(first_window, last_window):
            if left <= 0:
                break
            labels = self._labels_of(part, left)
            if len(labels):
                found.append(self._join(part, labels))
                left -= len(labels)
        width = found[0].inputs.shape[1] if found else self._width()
        empty = np.empty(0, dtype=np.int64)
        return LabelledRecords(
            slots=np.concatenate([empty, *(r.slots for r in found)]),
            blocks=np.concatenate([empty, *(r.blocks for r in found)]),
            inputs=np.concatenate(
                [np.empty((0, width), dtype=np.float32), *(r.inputs for r in found)]
            ),
            labels=np.concatenate([empty, *(r.labels for r in found)]),
            predictions=np.concatenate([empty, *(r.predictions for r in found)]),
        )

    def blocks_of(self, first_window: int, last_window: int) -> tuple[int, ...]:
        """The blocks that hold the stored ones among these windows, in order."""
        return tuple(sorted({part.block for part in self._parts(first_window, last_window)}))

    def window_of(self, slot: int) -> int | None:
        """The stored window whose first and last row enclose `slot`; None if there is none."""
        part = self._part_at(slot)
        return None if part is None else part.window

    # --- the state file -----------------------------------------------------------------

    def _must_write(self, window: int, name: str, slots: Integers) -> bool:
        old = self._part(window)
        if old is not None and old.name == name:
            return False
        ((newest,),) = self._state.rows("SELECT MAX(window) FROM block_windows")
        if isinstance(newest, int) and newest > window:
            raise StateError(f"window {window} cannot be written after window {newest}")
        ((last,),) = self._state.rows(
            "SELECT MAX(last_slot) FROM block_windows WHERE window < ?", window
        )
        if len(slots) and isinstance(last, int) and slots[0] <= last:
            raise StateError(f"window {window} begins at slot {slots[0]}, {last} is taken")
        return True

    def _part(self, window: int) -> _Part | None:
        return next(iter(self._parts(window, window)), None)

    def _parts(self, first_window: int, last_window: int) -> list[_Part]:
        rows = self._state.rows(
            f"SELECT {_COLUMNS} FROM block_windows WHERE window BETWEEN ? AND ? ORDER BY window",
            first_window,
            last_window,
        )
        return [_Part(*row) for row in rows]

    def _part_at(self, slot: int) -> _Part | None:
        rows = self._state.rows(
            f"SELECT {_COLUMNS} FROM block_windows WHERE first_slot <= ?"
            " ORDER BY first_slot DESC LIMIT 1",
            int(slot),
        )
        part = _Part(*rows[0]) if rows else None
        if part is None or part.last_slot is None or slot > part.last_slot:
            return None
        return part

    def _known(self, slots: Integers) -> npt.NDArray[np.bool_]:
        """Which slots are rows of a stored window."""
        known = np.zeros(len(slots), dtype=np.bool_)
        parts: dict[int, Integers] = {}
        for index, slot in enumerate(slots.tolist()):
            part = self._part_at(slot)
            if part is None:
                continue
            if part.window not in parts:
                parts[part.window] = self._slots(part)
            rows = parts[part.window]
            at = int(np.searchsorted(rows, slot))
            known[index] = at < len(rows) and rows[at] == slot
        return known

    def _labels_of(self, part: _Part, limit: int) -> Integers:
        """The first labels of a window, int64 [n, 2]: slot and label, in slot order."""
        rows = self._state.rows(
            "SELECT slot, label FROM block_labels WHERE slot BETWEEN ? AND ? ORDER BY slot LIMIT ?",
            part.first_slot,
            part.last_slot,
            limit,
        )
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def _width(self) -> int:
        rows = self._state.rows("SELECT width FROM block_windows ORDER BY window DESC LIMIT 1")
        return rows[0][0] if rows else 0

    # --- files --------------------------------------------------------------------------

    def _slots(self, part: _Part) -> Integers:
        if part.first_slot is None or part.last_slot is None:
            return np.empty(0, dtype=np.int64)
        if part.last_slot - part.first_slot + 1 == part.rows:
            return np.arange(part.first_slot, part.last_slot + 1, dtype=np.int64)
        slots: Integers = read_part(self._folder / part.name, "slot")["slot"].to_numpy()
        return slots

    def _join(self, part: _Part, labels: Integers) -> LabelledRecords:
        """The rows of `part` that `labels` (int64 [n, 2]: slot and label) name."""
        at = np.searchsorted(self._slots(part), labels[:, 0])
        table = read_part(self._folder / part.name, "input", "prediction")
        inputs = table["input"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return LabelledRecords(
            slots=labels[:, 0],
            blocks=np.full(len(labels), part.block, dtype=np.int64),
            inputs=inputs.reshape(part.rows, -1)[at],
            labels=labels[:, 1],
            predictions=table["prediction"].to_numpy()[at],
        )

    def _remove_leftovers(self) -> None:
        """A kill may leave parts that no row names; they hold records, so they go."""
        named = {str(name) for (name,) in self._state.rows("SELECT part FROM block_windows")}
        for path in self._folder.glob("*/*"):
            if path.relative_to(self._folder).as_posix() not in named:
                path.unlink(missing_ok=True)
