"""How records leave the block store: erased, too old, over the quota, or damaged.

Whatever goes, goes everywhere in the store: rows, labels, the sketch of the window, and
the file, in an order that a kill cannot spoil. The state file changes first, in one
transaction; the file that no row names any more is deleted after it, at the latest by
the next start. Who may have what removed, and saying so, is decided elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedge.data.parts import (
    DamagedPartError,
    Integers,
    decode_part,
    encode_part,
    read_part,
    remove_files,
    subjects,
    write_part,
)
from fedge.data.window_table import Part, WindowTable
from fedge.errors import StateError
from fedge.records import sha256_hex
from fedge.statefile import StateFile

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"
"""The folder of damaged parts, beside those of the blocks."""

Also = Callable[[int], None]
"""Is told a number of records, and writes what must be true together with their removal."""

_NO_SLOTS: Integers = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed.

    Attributes:
        records: rows.
        blocks, windows: those that held them, in order.
    """

    records: int
    blocks: tuple[int, ...]
    windows: tuple[int, ...]


class Removal:
    """The half of a block store that deletes.

    `also` runs inside the very transaction that removes; a removal is no part of a larger one,
    because files are deleted only once it is on the disk.
    """

    def __init__(self, folder: Path, state: StateFile, table: WindowTable) -> None:
        self._folder, self._state, self._table = folder, state, table

    @property
    def bytes_on_disk(self) -> int:
        """Size of all parts, damaged ones included."""
        return self._table.bytes() + sum(size for _, size in self._table.apart())

    @property
    def damaged(self) -> int:
        """Windows lost to damaged files, ever."""
        return self._table.count("damaged")

    @property
    def evicted(self) -> int:
        """Windows that the quota pushed out, ever."""
        return self._table.count("evicted")

    def erase(
        self,
        *,
        slots: Integers = _NO_SLOTS,
        subject: bytes | None = None,
        also: Also = lambda records: None,
    ) -> Erased:
        """Remove rows by slot and by subject; gone from the disk when it returns.

        Other rows of the same windows stay as they are. The slots stay numbered, and whatever
        brings an erased one back, a later label or the same rows again, is refused. Called
        again after a kill or a refusal of the disk, it finishes what was begun.

        Args:
            slots: int64 [n], also such that are not stored (yet).
            subject: a pseudonym.
            also: told how many rows left each window.

        Raises:
            StateError: the disk refused.
        """
        self._alone()
        named = np.unique(slots)
        with self._state.transaction():
            self._table.bury(named.tolist())
            for slot in named.tolist():
                self._table.drop_sketches(*self._table.windows_around(slot))
            if subject is not None:
                # Sketches also count rows that were not kept, whose subject nobody knows now.
                self._table.drop_sketches()
        changed = [
            (part, records)
            for part in self._table.parts()
            if (records := self._take_out(part, named, subject, also))
        ]
        self._remove_apart(self._table.apart())
        return Erased(
            records=sum(records for _, records in changed),
            blocks=tuple(sorted({part.block for part, _ in changed})),
            windows=tuple(part.window for part, _ in changed),
        )

    def bury(self, slots: Iterable[int]) -> None:
        """Refuse rows and labels of these slots from now on; joins the caller's transaction."""
        self._table.bury(slots)

    def expire(self, before: float, also: Also = lambda records: None) -> Erased:
        """Remove every block whose newest row arrived before `before`; gone when it returns.

        Args:
            before: seconds since the epoch.
            also: told how many rows went; not called where no block did.

        Raises:
            StateError: the disk refused.
        """
        self._alone()
        self._remove_apart(self._table.apart(before))
        with self._state.transaction():
            gone = self._table.parts_of_blocks(self._table.blocks_older_than(before))
            erased = self._forget(gone, also)
        self._delete(part.name for part in gone)
        return erased

    def evict(
        self, max_bytes: int, reserved_blocks: Collection[int], also: Also = lambda records: None
    ) -> Erased:
        """Remove the oldest windows until the store fits into `max_bytes`; counted.

        A window counts for what it was written to take at most (`Part.room`), because when one
        goes is public: neither how well rows compress nor how many were kept may decide it.

        Args:
            reserved_blocks: their windows stay, also where the store remains too large.
            also: told how many rows went; not called where no window did.

        Raises:
            StateError: the disk refused.
        """
        self._alone()
        if self.bytes_on_disk > max_bytes:
            self._remove_apart(self._table.apart())
        with self._state.transaction():
            kept = self._table.parts()
            gone, excess = [], sum(part.counted for part in kept) - max_bytes
            for part in kept:
                if excess <= 0:
                    break
                if part.block not in reserved_blocks:
                    gone.append(part)
                    excess -= part.counted
            self._table.count("evicted", len(gone))
            erased = self._forget(gone, also)
        self._delete(part.name for part in gone)
        return erased

    def arrived_by(self, now: float) -> None:
        """Correct arrival times that lie after `now`: a clock that ran ahead keeps nothing."""
        self._table.arrived_by(now)

    def put_apart(self, part: Part, error: DamagedPartError) -> None:
        """Give up a window whose part is damaged; the file is kept aside until it is too old.

        Raises:
            StateError: the disk refused.
        """
        log.error("window %d is lost: %s", part.window, error)
        path, name = self._folder / part.name, Path(part.name).name
        with self._state.transaction():
            self._table.forget(part)
            self._table.count("damaged", 1)
            if not path.exists():
                return
            self._table.set_apart(name, part)
            try:
                (self._folder / QUARANTINE).mkdir(mode=0o700, exist_ok=True)
                path.replace(self._folder / QUARANTINE / name)
            except OSError as refusal:
                raise StateError(f"cannot put {path} apart: {refusal}") from refusal

    def _take_out(self, part: Part, named: Integers, subject: bytes | None, also: Also) -> int:
        """Write a window's part without the rows to be erased; answers how many they were."""
        # The window may have been cut again or removed since it was listed.
        with self._state.transaction():
            now = self._table.part(part.window)
            if now is None or not now.rows or not self._may_hold(now, named, subject):
                return 0
            try:
                rows = decode_part(self._folder / now.name, now.rows, now.dtype)
            except DamagedPartError as error:
                self.put_apart(now, error)
                return 0
            gone = np.isin(rows.slots, named)
            if subject is not None:
                gone |= (rows.subjects == np.frombuffer(subject, np.uint8)).all(axis=1)
            records = int(gone.sum())
            if not records:
                return 0
            left = rows.where(~gone)
            data = encode_part(left)
            name = f"{now.block}/{now.window:012d}-{sha256_hex(data)[:16]}.parquet"
            write_part(self._folder / name, data)
            self._table.put(replace(now, name=name, rows=len(left), bytes=len(data)))
            self._table.bury(rows.slots[gone].tolist())
            self._table.drop_sketches(now.window, now.window)
            also(records)
        self._delete([now.name])
        return records

    def _may_hold(self, part: Part, named: Integers, subject: bytes | None) -> bool:
        """A look that is cheaper than reading the whole part."""
        if part.first_slot is None or part.last_slot is None:
            return False
        if ((named >= part.first_slot) & (named <= part.last_slot)).any():
            return True
        if subject is None:
            return False
        try:
            table = read_part(self._folder / part.name, part.rows, "slot", "subject")
        except DamagedPartError:
            return True  # reading it whole finds that out again, and deals with it
        found = subjects(table) == np.frombuffer(subject, np.uint8)
        return bool(found.all(axis=1).any())

    def _forget(self, parts: list[Part], also: Also) -> Erased:
        for part in parts:
            self._table.forget(part)
        self._table.forget_old_tombstones()
        records = sum(part.rows for part in parts)
        if parts:
            also(records)
        return Erased(
            records=records,
            blocks=tuple(sorted({part.block for part in parts})),
            windows=tuple(part.window for part in parts),
        )

    def _remove_apart(self, found: list[tuple[str, int]]) -> None:
        """Delete damaged parts: what is in them nobody can tell, so an erasure takes them all."""
        self._table.forget_apart(name for name, _ in found)
        self._delete(f"{QUARANTINE}/{name}" for name, _ in found)

    def _delete(self, names: Iterable[str]) -> None:
        # Beside a writer: it must not find its folder gone between making and using it.
        with self._state.transaction():
            remove_files(self._folder / name for name in names)

    def _alone(self) -> None:
        if self._state.in_transaction:
            raise RuntimeError("records are not removed inside a transaction of others")
