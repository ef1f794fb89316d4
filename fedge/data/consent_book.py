"""Which subjects withdrew which purposes, as the agent keeps it.

The state file is what counts; the file for the workers is made from it, and made again at
every start. Until a worker has looked at that file it may still mark rows as before: so
the agent asks this book as well, before it uses what a worker marked.
"""

from __future__ import annotations

import threading
from pathlib import Path

from fedge.data.consent import WITHDRAWABLE, write_withdrawals
from fedge.data.subjects import NO_SUBJECT
from fedge.errors import SettingError
from fedge.statefile import StateFile


class ConsentBook:
    """Withdrawals by pseudonym; nothing of it is forgotten.

    Args:
        state: the gateway's one file of truth.
        path: the file that workers read.

    Raises:
        StateError: the disk refused.
    """

    def __init__(self, state: StateFile, path: Path) -> None:
        self._state, self._path = state, path
        self._one = threading.Lock()
        state.ensure(
            "CREATE TABLE IF NOT EXISTS withdrawals ("
            " subject BLOB PRIMARY KEY, purposes INTEGER NOT NULL) WITHOUT ROWID"
        )
        self._bits = {bytes(s): int(p) for s, p in state.rows("SELECT * FROM withdrawals")}
        if self._bits:
            write_withdrawals(path, self._bits)

    def withdraw(self, pseudonym: bytes, purposes: int) -> None:
        """Note that a subject withdrew purposes (bits); on disk when it returns, for workers too.

        Raises:
            SettingError: one of the purposes cannot be withdrawn, or there is no subject.
            StateError: the disk refused; the agent may know already, a worker not yet.
        """
        if pseudonym == NO_SUBJECT or not purposes or purposes & ~WITHDRAWABLE:
            raise SettingError("a subject withdraws monitoring, training or escalation")
        with self._one:
            bits = self._bits.get(pseudonym, 0) | purposes
            # A whole new one: readers in other threads take no lock.
            self._bits = {**self._bits, pseudonym: bits}
            with self._state.transaction() as db:
                db.execute("INSERT OR REPLACE INTO withdrawals VALUES (?, ?)", (pseudonym, bits))
            write_withdrawals(self._path, self._bits)

    def withdrawn(self, pseudonym: bytes) -> int:
        """The purposes (bits) that a subject withdrew."""
        return self._bits.get(pseudonym, 0)
