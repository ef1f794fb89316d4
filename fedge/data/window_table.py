"""What the state file knows of the kept windows: parts, labels, sketches, erased slots.

Rows in, rows out; everything joins the caller's transaction. A window's labels and its
sketch go wherever its rows go. Files, and which rows may be kept, are the block store's
part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge.statefile import StateFile

Integers = npt.NDArray[np.int64]

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS block_windows (window INTEGER PRIMARY KEY,"
    " block INTEGER NOT NULL, first_slot INTEGER, last_slot INTEGER, rows INTEGER NOT NULL,"
    " width INTEGER NOT NULL, part TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS block_windows_by_slot ON block_windows (first_slot)",
    "CREATE TABLE IF NOT EXISTS block_labels (slot INTEGER PRIMARY KEY, label INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS block_tombstones (slot INTEGER PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS block_quarantine (part TEXT PRIMARY KEY, arrived REAL NOT NULL,"
    " bytes INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS block_counts (what TEXT PRIMARY KEY, count INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS profiles (window INTEGER PRIMARY KEY,"
    " block INTEGER NOT NULL, sketch BLOB NOT NULL)",
)
_ADDED = (
    ("dtype", "TEXT NOT NULL DEFAULT '<f4'"),
    ("arrived", "REAL"),
    ("bytes", "INTEGER"),
    ("room", "INTEGER"),
)
"""Columns that the first version of `block_windows` did not have."""
_COLUMNS = "window, block, first_slot, last_slot, rows, width, part, dtype, arrived, bytes, room"


@dataclass(frozen=True, slots=True)
class Part:
    """One kept window.

    Attributes:
        first_slot, last_slot: of the rows it was written with, also where some were erased
            since; None if it was written without rows.
        rows: that it holds now.
        width: input values of a row. dtype: their numpy type.
        name: of its file, below the store's folder.
        arrived: when its newest row arrived, seconds since the epoch; None where an older
            version did not note it.
        bytes: size of its file; None likewise.
        room: what it counts for towards the quota; None: as much as its file.
    """

    window: int
    block: int
    first_slot: int | None
    last_slot: int | None
    rows: int
    width: int
    name: str
    dtype: str
    arrived: float | None
    bytes: int | None
    room: int | None = None

    @property
    def counted(self) -> int:
        """Bytes that the quota takes it for."""
        return (self.bytes or 0) if self.room is None else self.room


class WindowTable:
    """Reads and writes the rows about kept windows."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        state.ensure(*_SCHEMA)
        present = {name for _, name, *_ in state.rows("PRAGMA table_info(block_windows)")}
        missing = [(name, kind) for name, kind in _ADDED if name not in present]
        if missing:
            state.ensure(*(f"ALTER TABLE block_windows ADD COLUMN {n} {k}" for n, k in missing))

    # --- parts --------------------------------------------------------------------------

    def put(self, part: Part) -> None:
        """Keep or replace a window's row."""
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO block_windows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(part.window, part.block, part.first_slot, part.last_slot, part.rows),
                    *(part.width, part.name, part.dtype, part.arrived, part.bytes, part.room),
                ),
            )

    def part(self, window: int) -> Part | None:
        return next(iter(self.parts(window, window)), None)

    def parts(self, first_window: int = 0, last_window: int = 2**62) -> list[Part]:
        """The kept ones among these windows, oldest first."""
        return self._parts(
            "WHERE window BETWEEN ? AND ? ORDER BY window", first_window, last_window
        )

    def parts_of_blocks(self, blocks: Iterable[int]) -> list[Part]:
        """All kept windows of these blocks, oldest first."""
        chosen = set(blocks)
        return [part for part in self.parts() if part.block in chosen]

    def part_at(self, slot: int) -> Part | None:
        """The window whose first and last row enclose `slot`."""
        found = self._parts("WHERE first_slot <= ? ORDER BY first_slot DESC LIMIT 1", int(slot))
        if not found or found[0].last_slot is None or slot > found[0].last_slot:
            return None
        return found[0]

    def newest_window(self) -> int | None:
        ((newest,),) = self._state.rows("SELECT MAX(window) FROM block_windows")
        return None if newest is None else int(newest)

    def last_slot_before(self, window: int) -> int | None:
        """The last slot that earlier windows took."""
        ((last,),) = self._state.rows(
            "SELECT MAX(last_slot) FROM block_windows WHERE window < ?", window
        )
        return None if last is None else int(last)

    def names(self) -> set[str]:
        """The files that there should be."""
        return {str(name) for (name,) in self._state.rows("SELECT part FROM block_windows")}

    def bytes(self) -> int:
        """Size of all parts together."""
        ((total,),) = self._state.rows("SELECT COALESCE(SUM(bytes), 0) FROM block_windows")
        return int(total)

    def blocks_older_than(self, before: float) -> list[int]:
        """Blocks whose newest row arrived before `before`."""
        rows = self._state.rows(
            "SELECT block FROM block_windows GROUP BY block"
            " HAVING MAX(COALESCE(arrived, 0)) < ? ORDER BY block",
            before,
        )
        return [int(block) for (block,) in rows]

    def arrived_by(self, now: float) -> None:
        """Nothing can have arrived after `now`: what claims to, by a clock that ran ahead, did
        so now."""
        with self._state.transaction() as db:
            db.execute("UPDATE block_windows SET arrived = ? WHERE arrived > ?", (now, now))
            db.execute("UPDATE block_quarantine SET arrived = ? WHERE arrived > ?", (now, now))

    def forget(self, part: Part) -> None:
        """Delete all rows about a window: part, labels, sketch."""
        with self._state.transaction() as db:
            self._state.scrub_later()
            db.execute("DELETE FROM block_windows WHERE window = ?", (part.window,))
            db.execute("DELETE FROM profiles WHERE window = ?", (part.window,))
            self.forget_labels_of(part)

    def _parts(self, condition: str, *values: object) -> list[Part]:
        rows = self._state.rows(f"SELECT {_COLUMNS} FROM block_windows {condition}", *values)
        return [Part(*row) for row in rows]

    # --- labels -------------------------------------------------------------------------

    def add_labels(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Keep labels by slot; one that is there stays as it is."""
        with self._state.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO block_labels VALUES (?, ?)", pairs)

    def labels_of(self, part: Part, limit: int) -> Integers:
        """The first labels of a window, int64 [n, 2]: slot and label, in slot order."""
        rows = self._state.rows(
            "SELECT slot, label FROM block_labels WHERE slot BETWEEN ? AND ? ORDER BY slot LIMIT ?",
            part.first_slot,
            part.last_slot,
            limit,
        )
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def forget_labels_of(self, part: Part) -> None:
        with self._state.transaction() as db:
            db.execute(
                "DELETE FROM block_labels WHERE slot BETWEEN ? AND ?",
                (part.first_slot, part.last_slot),
            )

    # --- sketches -----------------------------------------------------------------------

    def drop_sketches(self, first_window: int = 0, last_window: int = 2**62) -> None:
        """Delete the sketches of these windows: they hold values of their rows."""
        with self._state.transaction() as db:
            db.execute(
                "DELETE FROM profiles WHERE window BETWEEN ? AND ?", (first_window, last_window)
            )

    def windows_around(self, slot: int) -> tuple[int, int]:
        """The windows to one of which `slot` can belong, kept or not: first and last."""
        ((first,),) = self._state.rows(
            "SELECT MAX(window) FROM block_windows WHERE first_slot <= ?", slot
        )
        ((last,),) = self._state.rows(
            "SELECT MIN(window) FROM block_windows WHERE last_slot >= ?", slot
        )
        return 0 if first is None else int(first), 2**62 if last is None else int(last)

    # --- erased slots -------------------------------------------------------------------

    def bury(self, slots: Iterable[int]) -> None:
        """Mark slots as erased, and delete their labels."""
        with self._state.transaction() as db:
            self._state.scrub_later()
            erased = [(int(slot),) for slot in slots]
            db.executemany("INSERT OR IGNORE INTO block_tombstones VALUES (?)", erased)
            db.executemany("DELETE FROM block_labels WHERE slot = ?", erased)

    def erased(self, slots: Integers) -> npt.NDArray[np.bool_]:
        """Which of `slots` were erased."""
        if not len(slots):
            return np.zeros(0, dtype=np.bool_)
        rows = self._state.rows(
            "SELECT slot FROM block_tombstones WHERE slot BETWEEN ? AND ?",
            int(slots.min()),
            int(slots.max()),
        )
        return np.isin(slots, np.array([slot for (slot,) in rows], dtype=np.int64))

    def forget_old_tombstones(self) -> None:
        """Erased slots before every kept window: neither rows nor labels of them can come back."""
        with self._state.transaction() as db:
            db.execute(
                "DELETE FROM block_tombstones"
                " WHERE slot < (SELECT MIN(first_slot) FROM block_windows)"
            )

    # --- damaged parts, and counts ------------------------------------------------------

    def set_apart(self, name: str, part: Part) -> None:
        """Note a damaged file that is now called `name`."""
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO block_quarantine VALUES (?, ?, ?)",
                (name, part.arrived or 0.0, part.bytes or 0),
            )

    def apart(self, before: float = float("inf")) -> list[tuple[str, int]]:
        """Damaged files whose rows arrived before `before`: name and size, oldest first."""
        return [
            (str(name), int(size))
            for name, size in self._state.rows(
                "SELECT part, bytes FROM block_quarantine WHERE arrived < ? ORDER BY arrived",
                before,
            )
        ]

    def forget_apart(self, names: Iterable[str]) -> None:
        with self._state.transaction() as db:
            db.executemany(
                "DELETE FROM block_quarantine WHERE part = ?", [(name,) for name in names]
            )

    def count(self, what: str, more: int = 0) -> int:
        """Add to a count that outlives the process; answers it."""
        with self._state.transaction() as db:
            if more:
                db.execute(
                    "INSERT INTO block_counts VALUES (?, ?)"
                    " ON CONFLICT (what) DO UPDATE SET count = count + excluded.count",
                    (what, more),
                )
            rows = self._state.rows("SELECT count FROM block_counts WHERE what = ?", what)
        return int(rows[0][0]) if rows else 0
