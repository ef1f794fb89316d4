"""One SQLite file that survives power loss: the home of a process's facts.

WAL with `synchronous=FULL`: a transaction that returned is on the disk. One
process owns the file and one lock serialises its threads. What the tables mean
belongs to the modules that create them; each asks for its own table once, with
`ensure`, inside the same file, so that facts which must change together can.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedge.errors import StateError


class StateFile:
    """An exclusively owned SQLite file with re-entrant immediate transactions.

    Args:
        path: the file; its folder must exist. A lock file beside it keeps a second
            owner out for as long as this object is open.

    Raises:
        StateError: another process owns the file, or it is no readable database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        self._owner = path.with_suffix(path.suffix + ".lock").open("a")
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._owner.close()
            raise StateError(f"{path} is in use by another process") from error
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            # Deleted content must not linger in free pages.
            self._db.execute("PRAGMA secure_delete=ON")
        except sqlite3.DatabaseError as error:
            self._owner.close()
            raise StateError(f"{path} cannot be read as a state file: {error}") from error

    def ensure(self, *statements: str) -> None:
        """Run `CREATE TABLE IF NOT EXISTS` statements in one transaction."""
        with self.transaction() as db:
            for statement in statements:
                db.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when it returns. A nested one joins the outer one."""
        with self._lock:
            if self._depth:
                self._depth += 1
                try:
                    yield self._db
                finally:
                    self._depth -= 1
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a read."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._owner.close()
