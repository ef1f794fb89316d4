"""The rows of the spool: its tables in the gateway's state file, and what is sealed into them.

Every write to these tables stands here, and so does the one use of the gateway's key for
envelopes: a number is drawn, its envelope sealed and stored in one step, so that no number is
ever used for two. Which envelopes come in, leave or are given up is decided by the callers.
Each call joins the transaction that its caller opened; `db` is that transaction's connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Literal

from fedge.errors import RecordError
from fedge.identity import Envelope, EnvelopeKind, Identity
from fedge.statefile import StateFile

Channel = Literal["push", "reply"]

PRIORITIES: dict[EnvelopeKind, int] = {
    "audit": 0,
    "gap": 0,
    "report": 1,
    "labels": 1,
    "update": 1,
    "counts": 1,
    "status": 2,
}
"""Importance of each kind: 0 is sent first and given up last."""

LARGEST_STEP = 2**40
"""More numbers than any gateway uses: who says that so many were used would use up all of them."""

PAGE_BYTES, ROW_BYTES, INDEX_BYTES, TAIL_BYTES = 4096, 200, 120, 1024


def disk_bytes(envelope_bytes: int) -> int:
    """What an entry takes in the state file, at most, with indices and unused ends of pages."""
    row = envelope_bytes + ROW_BYTES
    if row > PAGE_BYTES - 40:
        return row + TAIL_BYTES  # SQLite fills further pages and leaves part of one unused
    return PAGE_BYTES // ((PAGE_BYTES - 8) // row) + INDEX_BYTES


class SpoolRows:
    """Sealed envelopes and counters in the state file, whichever version of it wrote them.

    Args:
        state: the gateway's one file of truth.
        identity: signs what is put in.
        clock: seconds since the epoch.
        simulated: marks every envelope, so that a real coordinator refuses it.
    """

    def __init__(
        self, state: StateFile, identity: Identity, clock: Callable[[], float], *, simulated: bool
    ) -> None:
        self._state, self._identity, self._clock = state, identity, clock
        self._simulated = simulated
        with state.transaction() as db:
            _prepare_tables(db)

    # --- envelopes --------------------------------------------------------------------

    def add(
        self,
        db: sqlite3.Connection,
        channel: Channel,
        kind: EnvelopeKind,
        payload: bytes,
        *,
        key: str | None = None,
        detail: str = "",
        entries: int = 0,
    ) -> tuple[int, bytes]:
        """Seal `payload` under the channel's next number and let it wait.

        Args:
            detail: of a gap record, the kind that it counts.
            entries: size of the ledger whose last entry settles this payload.

        Returns:
            the number, and the envelope's bytes.
        """
        # Each channel counts for itself: what went another way must not look like a gap.
        seq = self.draw(f"next_{channel}")
        envelope = self._seal(kind, seq, payload)
        size = disk_bytes(len(envelope))
        db.execute(
            "INSERT INTO spool"
            " (channel, seq, kind, key, state, created, envelope, detail, priority, size, handed,"
            " entries) VALUES (?, ?, ?, ?, 'waiting', ?, ?, ?, ?, ?, 0, ?)",
            (
                *(channel, seq, kind, key, self._clock(), envelope, detail),
                *(PRIORITIES[kind], size, entries),
            ),
        )
        _add_bytes(db, size)
        return seq, envelope

    def seal_again(
        self, db: sqlite3.Connection, seq: int, kind: EnvelopeKind, payload: bytes
    ) -> None:
        """Give a number another payload; only while nobody can have seen its envelope."""
        envelope = self._seal(kind, seq, payload)
        size = disk_bytes(len(envelope))
        (before,) = db.execute(
            "SELECT size FROM spool WHERE channel = 'push' AND seq = ?", (seq,)
        ).fetchone()
        _add_bytes(db, size - int(before))
        db.execute(
            "UPDATE spool SET envelope = ?, size = ? WHERE channel = 'push' AND seq = ?",
            (envelope, size, seq),
        )

    def fault(self, seq: int, kind: str, data: bytes) -> str:
        """What is wrong with stored bytes; empty if they are what was put in."""
        try:
            envelope = Envelope.from_bytes(data)
            envelope.verify(self._identity.public_key)
        except RecordError as error:
            return str(error)
        if (envelope.header.seq, envelope.header.kind) != (seq, kind):
            return f"holds number {envelope.header.seq}, a {envelope.header.kind}"
        return ""

    def mark_handed(self, db: sqlite3.Connection, seq: int) -> None:
        """Note that an envelope may have been seen: its bytes are fixed from now on."""
        db.execute("UPDATE spool SET handed = 1 WHERE channel = 'push' AND seq = ?", (seq,))

    def set_aside(self, db: sqlite3.Connection, seq: int, state: str, why: str) -> None:
        """Let an envelope wait no longer, but keep it, as `refused` or `corrupt`."""
        db.execute(
            "UPDATE spool SET state = ?, detail = ? WHERE channel = 'push' AND seq = ?",
            (state, why, seq),
        )

    def remove(self, db: sqlite3.Connection, channel: Channel, seq: int) -> None:
        """Delete one envelope; nothing happens where it is gone."""
        found = db.execute(
            "DELETE FROM spool WHERE channel = ? AND seq = ? RETURNING size", (channel, seq)
        ).fetchone()
        if found is not None:
            _add_bytes(db, -int(found[0]))

    def remove_all(self, db: sqlite3.Connection, which: str, *values: object) -> None:
        """Delete every envelope that an SQL condition names."""
        db.execute(f"DELETE FROM spool WHERE {which}", values)
        _count_bytes(db)

    # --- counters ---------------------------------------------------------------------

    def count_push(self, which: str) -> int:
        """How many envelopes to be pushed an SQL condition names."""
        query = f"SELECT COUNT(*) FROM spool WHERE channel = 'push' AND {which}"
        return int(self._state.rows(query)[0][0])

    def counter(self, name: str) -> int:
        """The next value of a counter, which is how often it was drawn; `bytes` is a sum."""
        rows = self._state.rows("SELECT value FROM spool_counters WHERE name = ?", name)
        return int(rows[0][0]) if rows else 0

    def draw(self, name: str) -> int:
        """The next value of a counter: 0, 1, 2, ..."""
        with self._state.transaction() as db:
            db.execute("INSERT OR IGNORE INTO spool_counters VALUES (?, 0)", (name,))
            (value,) = db.execute(
                "UPDATE spool_counters SET value = value + 1 WHERE name = ? RETURNING value",
                (name,),
            ).fetchone()
            return int(value) - 1

    def never_below(self, db: sqlite3.Connection, seq: int) -> None:
        """Use no number below `seq` from now on, in either channel.

        Raises:
            RecordError: it is more than `LARGEST_STEP` ahead.
        """
        if seq > self.counter("next_push") + LARGEST_STEP:
            raise RecordError(f"envelope {seq} can never have been sent")
        for name in ("next_push", "next_reply"):
            db.execute("INSERT OR IGNORE INTO spool_counters VALUES (?, 0)", (name,))
            db.execute(
                "UPDATE spool_counters SET value = MAX(value, ?) WHERE name = ?", (seq, name)
            )

    def _seal(self, kind: EnvelopeKind, seq: int, payload: bytes) -> bytes:
        sealed = Envelope.seal(self._identity, kind, seq, payload, simulated=self._simulated)
        return sealed.to_bytes()


def _prepare_tables(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an earlier version up to date, in one transaction."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS spool (channel TEXT NOT NULL, seq INTEGER NOT NULL,"
        " kind TEXT NOT NULL, key TEXT UNIQUE, state TEXT NOT NULL, created REAL NOT NULL,"
        " envelope BLOB NOT NULL, detail TEXT NOT NULL DEFAULT '',"
        " PRIMARY KEY (channel, seq))"
    )
    db.execute("CREATE TABLE IF NOT EXISTS spool_counters (name TEXT PRIMARY KEY, value INTEGER)")
    columns = {str(row[1]) for row in db.execute("PRAGMA table_info(spool)")}
    if "priority" not in columns:
        _add_priorities(db)
    if "entries" not in columns:
        db.execute("ALTER TABLE spool ADD COLUMN entries INTEGER NOT NULL DEFAULT 0")
    db.execute(
        "CREATE INDEX IF NOT EXISTS spool_order"
        " ON spool (channel, state, priority, seq, kind, detail)"
    )
    _count_bytes(db)


def _add_priorities(db: sqlite3.Connection) -> None:
    """Add importance, size and whether an envelope was seen to rows that lack them."""
    for column in ("priority", "size", "handed"):
        db.execute(f"ALTER TABLE spool ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    for kind, priority in PRIORITIES.items():
        db.execute("UPDATE spool SET priority = ? WHERE kind = ?", (priority, kind))
    # Whatever lies here may have been sent.
    db.execute("UPDATE spool SET handed = 1")
    sizes = db.execute("SELECT rowid, LENGTH(envelope) FROM spool").fetchall()
    db.executemany(
        "UPDATE spool SET size = ? WHERE rowid = ?",
        [(disk_bytes(int(length)), rowid) for rowid, length in sizes],
    )


def _add_bytes(db: sqlite3.Connection, size: int) -> None:
    db.execute("UPDATE spool_counters SET value = value + ? WHERE name = 'bytes'", (size,))


def _count_bytes(db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT OR REPLACE INTO spool_counters SELECT 'bytes', COALESCE(SUM(size), 0) FROM spool"
    )
