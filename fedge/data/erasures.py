"""Erasures that were begun and are not finished, as rows of the state file.

An erasure is written down before its first step and struck out with its last, so that a
kill between two of them is made good at the next start. A row names slots or a
pseudonym; nothing of it is left once it is struck out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedge.statefile import StateFile

Reason = Literal["erasure", "consent"]


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """One that is not finished.

    Attributes:
        slots: int64 [n], of records that were named.
        asked: how many record ids were asked for, whether or not there is a record for each.
        subject: a pseudonym; None where records were named.
        at: when it was asked for, seconds since the epoch.
    """

    number: int
    slots: npt.NDArray[np.int64]
    subject: bytes | None
    reason: Reason
    at: float
    asked: int = 0


class ErasureJournal:
    """Reads and writes pending erasures; writes join the caller's transaction."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        state.ensure(
            "CREATE TABLE IF NOT EXISTS erasures (number INTEGER PRIMARY KEY, at REAL NOT NULL,"
            " reason TEXT NOT NULL, slots BLOB NOT NULL, subject BLOB, records INTEGER NOT NULL)"
        )
        columns = {name for _, name, *_ in state.rows("PRAGMA table_info(erasures)")}
        if "asked" not in columns:  # written by an earlier version
            state.ensure("ALTER TABLE erasures ADD COLUMN asked INTEGER NOT NULL DEFAULT 0")

    def begin(
        self,
        slots: npt.NDArray[np.int64],
        subject: bytes | None,
        reason: Reason,
        at: float,
        *,
        asked: int,
    ) -> PendingErasure:
        """Write one down; on disk when it returns."""
        with self._state.transaction() as db:
            number = db.execute(
                "INSERT INTO erasures (at, reason, slots, subject, records, asked)"
                " VALUES (?, ?, ?, ?, 0, ?)",
                (at, reason, slots.astype("<i8").tobytes(), subject, asked),
            ).lastrowid
        return PendingErasure(int(number or 0), slots, subject, reason, at, asked)

    def found(self, pending: PendingErasure, records: int) -> None:
        """Count records that were erased."""
        with self._state.transaction() as db:
            db.execute(
                "UPDATE erasures SET records = records + ? WHERE number = ?",
                (records, pending.number),
            )

    def end(self, pending: PendingErasure) -> int:
        """Strike one out; answers how many records it found."""
        with self._state.transaction() as db:
            rows = self._state.rows("SELECT records FROM erasures WHERE number = ?", pending.number)
            db.execute("DELETE FROM erasures WHERE number = ?", (pending.number,))
            self._state.scrub_later()
        return int(rows[0][0]) if rows else 0

    def pending(self) -> list[PendingErasure]:
        """All that are not struck out, oldest first."""
        return [
            PendingErasure(
                number, np.frombuffer(slots, "<i8").astype(np.int64), subject, reason, at, asked
            )
            for number, slots, subject, reason, at, asked in self._state.rows(
                "SELECT number, slots, subject, reason, at, asked FROM erasures ORDER BY number"
            )
        ]
