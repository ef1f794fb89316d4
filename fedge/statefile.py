"""One SQLite file that survives power loss: the home of a process's facts.

WAL with `synchronous=FULL`: a transaction that returned is on the disk. One
process owns the file and one lock serialises its threads. What the tables mean
belongs to the modules that create them; each asks for its own table once, with
`ensure`, inside the same file, so that facts which must change together can.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedge.errors import StateError

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = _DAMAGED | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
}
"""The disk or the file; anything else is wrong use by our own code."""


class StateFile:
    """An exclusively owned SQLite file with re-entrant immediate transactions.

    Args:
        path: the file; its folder must exist. A lock file beside it keeps a second
            owner out for as long as this object is open.

    Raises:
        StateError: another process owns the file, or it is damaged; says what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self._owner = path.with_suffix(path.suffix + ".lock").open("a")
        except OSError as error:
            raise StateError(f"cannot use {path}: {error}") from error
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
            # Nor may content get into a folder of the system's choice: a scrub takes as much
            # memory as the file is large, which the quotas bound, and gives it back.
            self._db.execute("PRAGMA temp_store=MEMORY")
            ((found,),) = self._db.execute("PRAGMA quick_check(1)").fetchall()
            if found != "ok":
                raise self._damage(str(found))
        except (sqlite3.DatabaseError, StateError) as error:
            self._owner.close()
            if isinstance(error, StateError):
                raise
            raise self._failure(error) from error

    def ensure(self, *statements: str) -> None:
        """Run the statements that make or widen a module's tables, in one transaction."""
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
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._depth = 1
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                self._roll_back()
                if isinstance(error, sqlite3.Error) and _code(error) in _REFUSED:
                    raise self._failure(error) from error
                raise
            finally:
                self._depth = 0

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a read."""
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                if _code(error) in _REFUSED:
                    raise self._failure(error) from error
                raise

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, of which the caller may be a part."""
        with self._lock:
            return self._depth > 0

    def checkpoint(self) -> None:
        """Move everything into the main file and empty the write-ahead log.

        Raises:
            StateError: the disk refused; nothing is lost.
            RuntimeError: inside a transaction.
        """
        with self._lock:
            if self._depth:
                raise RuntimeError("a checkpoint cannot be a part of a transaction")
            ((busy, _, _),) = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
            if busy:
                raise StateError(f"{self.path}: something else reads it, its log stays")

    def scrub_later(self) -> None:
        """Ask for a scrub, because something was deleted; joins the caller's transaction."""
        with self.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS scrub_due (one INTEGER PRIMARY KEY)")
            db.execute("INSERT OR IGNORE INTO scrub_due VALUES (1)")

    def scrub(self) -> None:
        """Leave no byte of what was deleted, in the file or its log, if anybody asked for that.

        `secure_delete` alone does not do it: a page that was split or merged keeps copies of its
        rows in its gaps. So the file is written anew, which takes as long as it is large. Asking
        outlives a kill: whoever scrubs next makes it good.

        Raises:
            StateError: the disk refused; nothing is lost.
            RuntimeError: inside a transaction.
        """
        with self._lock:
            self.checkpoint()
            if not self.rows("SELECT name FROM sqlite_master WHERE name = 'scrub_due'"):
                return
            if self.rows("SELECT one FROM scrub_due"):
                self.rows("VACUUM")
                self.checkpoint()
                self.rows("DELETE FROM scrub_due")
                self.checkpoint()

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._owner.close()

    def _roll_back(self) -> None:
        # Where the disk fails, SQLite may have rolled back by itself, or may fail again here:
        # the transaction then ends with the connection, and the first error is the one to tell.
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _failure(self, error: sqlite3.Error) -> StateError:
        """The error that says who must act: whoever frees the disk, or restores the file."""
        if _code(error) in _DAMAGED:
            return self._damage(str(error))
        return StateError(f"{self.path}: {error}")

    def _damage(self, found: str) -> StateError:
        return StateError(
            f"{self.path} is damaged ({found}): stop the gateway, keep a copy of the folder and"
            " restore the file from a backup. It holds what was already spent of the privacy"
            " budget: a gateway without it must be set up anew, with a new identity"
        )


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
