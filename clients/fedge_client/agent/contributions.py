"""How many records of a subject count in a block: the first ones, up to the policy's limit.

Where the privacy unit is a subject, what exceeds the limit is a null record: in no count, in
no training, nowhere kept. Counting goes on after an erasure, else a subject could
contribute again what it contributed before. Only the block that is being filled has counts.
They name nobody: a subject stands there under a hash of its pseudonym and the block, so that
what was erased is not found by its pseudonym, nor one block's counts by another's. Which rows
there are, and what they may be used for, is the watcher's part.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from fedge.data.subjects import PSEUDONYM_BYTES
from fedge.statefile import StateFile

Bytes = npt.NDArray[np.uint8]


class Contributions:
    """Counts of subjects in the gateway's state file."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        state.ensure(
            # By subject first: a window asks once for each of its subjects.
            "CREATE TABLE IF NOT EXISTS contributions (block INTEGER NOT NULL,"
            " subject BLOB NOT NULL, window INTEGER NOT NULL, records INTEGER NOT NULL,"
            " PRIMARY KEY (block, subject, window)) WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS contributions_by_window ON contributions (block, window)",
        )

    def within(self, block: int, window: int, subjects: Bytes, limit: int) -> npt.NDArray[np.bool_]:
        """Which of a window's rows count, bool[n]; asked again it answers the same.

        A window that is cut again, because it was never made final, replaces what it had.

        Args:
            block, window: neither before those asked about last, unless they are those.
            subjects: uint8[n, 16] in slot order; all zero for a row about nobody, which is a
                unit of its own and always counts.
            limit: records of one subject that count in the block.

        Raises:
            StateError: the disk refused.
        """
        counted = np.ones(len(subjects), dtype=np.bool_)
        about = np.flatnonzero(subjects.any(axis=1))
        distinct, which = np.unique(subjects[about], axis=0, return_inverse=True)
        names, which = [_name(block, one.tobytes()) for one in distinct], which.ravel()
        with self._state.transaction() as db:
            db.execute("DELETE FROM contributions WHERE block < ?", (block,))
            db.execute("DELETE FROM contributions WHERE block = ? AND window >= ?", (block, window))
            before = np.array([self._before(block, name) for name in names], np.int64)
            counted[about] = before[which] + _ranks(which) < limit
            kept = np.bincount(which[counted[about]], minlength=len(names)).tolist()
            db.executemany(
                "INSERT INTO contributions VALUES (?, ?, ?, ?)",
                [
                    (block, name, window, records)
                    for name, records in zip(names, kept, strict=True)
                    if records
                ],
            )
        return counted

    def _before(self, block: int, name: bytes) -> int:
        ((records,),) = self._state.rows(
            "SELECT COALESCE(SUM(records), 0) FROM contributions WHERE block = ? AND subject = ?",
            block,
            name,
        )
        return int(records)


def _name(block: int, pseudonym: bytes) -> bytes:
    """What stands for a subject in a block's counts."""
    made = hashlib.blake2b(
        block.to_bytes(8, "big") + pseudonym, digest_size=PSEUDONYM_BYTES, person=b"contributions"
    )
    return made.digest()


def _ranks(which: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """How many earlier rows have the same number, int64[n]."""
    order = np.argsort(which, kind="stable")
    in_order = which[order]
    starts = np.searchsorted(in_order, in_order)
    ranks = np.empty(len(which), dtype=np.int64)
    ranks[order] = np.arange(len(which)) - starts
    return ranks
