"""The durable outbox of a gateway: sealed envelopes that wait to be taken.

An envelope is sealed once, when it is put in; once it may have been sent its bytes never
change: a retry resends them. `push` envelopes are sent to the coordinator, the most
important first, and removed when it acknowledged; `reply` envelopes answer a courier and
stay for the last few runs, so that a round that is asked again gets the stored answer.

Everything together stays within a quota of bytes. What it pushes out is counted: per kind,
gap records say which numbers will never come. Talking to the coordinator is the sender's.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from fedge.errors import RecordError
from fedge.identity import Envelope, EnvelopeKind, Identity
from fedge.records import GapRecord
from fedge.statefile import StateFile

log = logging.getLogger(__name__)

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

CONTENT_KINDS = ("labels", "report")
"""Kinds that are pushed and derive from records: they are sent only when the ledger entries that
charge for them are."""

KEPT_RUNS = 3
"""Runs whose replies are kept. One that is asked for a reply of an older run refuses: the
ledger knows it as settled, so no second noise is drawn."""

PAGE_BYTES, ROW_BYTES, INDEX_BYTES, TAIL_BYTES = 4096, 200, 120, 1024


def disk_bytes(envelope_bytes: int) -> int:
    """What an entry takes in the state file, at most, with indices and unused ends of pages."""
    row = envelope_bytes + ROW_BYTES
    if row > PAGE_BYTES - 40:
        return row + TAIL_BYTES  # SQLite fills further pages and leaves part of one unused
    return PAGE_BYTES // ((PAGE_BYTES - 8) // row) + INDEX_BYTES


@dataclass(frozen=True, slots=True)
class Spooled:
    """One envelope that waits. `seq` is its sequence number, never used twice."""

    seq: int
    kind: str
    envelope: bytes


class Spool:
    """Sealed envelopes in the gateway's state file, whichever version of it wrote them.

    Args:
        state: the gateway's one file of truth.
        identity: signs what is put in.
        clock: seconds since the epoch.
        max_bytes: quota of everything that the spool keeps on disk. Beyond it goes, in this
            order: what was set aside, replies of earlier runs, then of what waits the least
            important, and of that the oldest. Gap records and the replies of the latest run
            are kept in any case: they are few.
        simulated: marks every envelope, so that a real coordinator refuses it.
    """

    def __init__(
        self,
        state: StateFile,
        identity: Identity,
        clock: Callable[[], float],
        *,
        max_bytes: int,
        simulated: bool = False,
    ) -> None:
        self._state, self._identity, self._clock = state, identity, clock
        self._max_bytes, self._simulated = max_bytes, simulated
        self._in_flight: int | None = None
        with state.transaction() as db:
            _prepare_tables(db)

    @property
    def max_bytes(self) -> int:
        return self._max_bytes

    # --- putting in -------------------------------------------------------------------

    def put(
        self,
        kind: EnvelopeKind,
        payload: bytes,
        *,
        key: str | None = None,
        channel: Channel,
        entries: int = 0,
    ) -> bytes:
        """Seal `payload` and keep it; joins the caller's transaction. Answers the envelope.

        A `key` that is known already answers the stored envelope and adds nothing. The quota
        may push out others, or this one.

        Args:
            entries: size of the ledger whose last entry settles this payload; it waits for them.
        """
        with self._state.transaction() as db:
            if key is not None and (stored := self.stored(key)) is not None:
                return stored
            # Each channel counts for itself: what went another way must not look like a gap.
            seq = self._draw(f"next_{channel}")
            envelope = self._seal(kind, seq, payload)
            self._insert(db, channel, seq, kind, key, envelope, entries=entries)
            if channel == "reply":
                self._prune_replies(db)
            if channel == "push" and disk_bytes(len(envelope)) > self._max_bytes:
                # One that fits nowhere must not push out all the others first.
                self._drop(db, "seq = ?", seq)
            self._enforce_quota(db)
            return envelope

    def put_status(self, payload: bytes) -> None:
        """Like `put` for a status, unless one still waits: an outage leaves one, not thousands."""
        query = (
            "SELECT 1 FROM spool WHERE channel = 'push' AND state = 'waiting' AND kind = 'status'"
        )
        with self._state.transaction() as db:
            if db.execute(query).fetchone() is None:
                self.put("status", payload, channel="push")

    def stored(self, key: str) -> bytes | None:
        """The envelope that was put in under `key`."""
        rows = self._state.rows("SELECT envelope FROM spool WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    # --- sending ----------------------------------------------------------------------

    def waiting(
        self, limit: int = 64, *, without: Collection[int] = (), cleared: int | None = None
    ) -> list[Spooled]:
        """What is to be pushed next: by importance, then by age.

        Nothing starves: the oldest of each kind is in every answer, so that each moves by one
        entry per `limit` even while more important ones come in as fast as they are sent. Of
        gap records about one kind only the oldest is shown, so that the next one can grow.

        Args:
            limit: at most so many, and at least one of each kind.
            without: numbers to leave out.
            cleared: leave out what derives from records, but for that which so many ledger
                entries charge for; None leaves out all of it.
        """
        marks = ",".join("?" * len(without))
        shown = (
            "channel = 'push' AND state = 'waiting' AND NOT (kind = 'gap' AND EXISTS ("
            "SELECT 1 FROM spool AS older WHERE older.channel = 'push' AND older.kind = 'gap'"
            " AND older.state = 'waiting' AND older.detail = spool.detail"
            f" AND older.seq < spool.seq)) AND seq NOT IN ({marks})"
            " AND (kind NOT IN ('labels', 'report') OR entries <= ?)"
        )
        chosen = (*without, -1 if cleared is None else cleared)
        query = (
            f"SELECT seq, kind, CAST(envelope AS BLOB) FROM spool WHERE channel = 'push' AND"
            f" (seq IN (SELECT seq FROM spool WHERE {shown} ORDER BY priority, seq LIMIT ?)"
            f" OR seq IN (SELECT MIN(seq) FROM spool WHERE {shown} GROUP BY kind))"
            " ORDER BY priority, seq"
        )
        values = (*chosen, max(1, limit - len(PRIORITIES)), *chosen)
        return [Spooled(int(s), str(k), bytes(e)) for s, k, e in self._state.rows(query, *values)]

    def hand_out(self, seq: int) -> bytes | None:
        """The bytes to send of an envelope that waits; from now on they are fixed.

        Until it is acknowledged, refused or given back, the quota leaves it alone.

        Returns:
            None if it no longer waits, or if its stored bytes are damaged: then it is set
            aside and counted.
        """
        with self._state.transaction() as db:
            row = db.execute(
                "SELECT kind, CAST(envelope AS BLOB), handed FROM spool"
                " WHERE channel = 'push' AND seq = ? AND state = 'waiting'",
                (seq,),
            ).fetchone()
            if row is None:
                return None
            kind, envelope, handed = str(row[0]), bytes(row[1]), int(row[2])
            fault = self._fault(seq, kind, envelope)
            if fault:
                log.error("spooled envelope %d (%s) is damaged, set aside: %s", seq, kind, fault)
                self._set_aside(db, seq, "corrupt", fault)
                self._draw("corrupt")
                return None
            if kind == "gap" and not handed:
                # Only gap records are ever extended, so only they need a write here.
                db.execute("UPDATE spool SET handed = 1 WHERE channel = 'push' AND seq = ?", (seq,))
            self._in_flight = seq
            return envelope

    def acknowledge(self, seq: int) -> None:
        """The coordinator stored it: it may go."""
        with self._state.transaction() as db:
            self._remove(db, "push", seq)
            self._in_flight = None

    def quarantine(self, seq: int, why: str) -> None:
        """The coordinator refused it for good: keep it aside, go on with the next."""
        with self._state.transaction() as db:
            self._set_aside(db, seq, "refused", why)
            self._in_flight = None

    def give_back(self) -> None:
        """What was handed out was not taken: it waits again."""
        self._in_flight = None

    # --- after the state was lost or put back -----------------------------------------

    def never_below(self, seq: int) -> None:
        """Use no number below `seq` from now on; joins the caller's transaction."""
        with self._state.transaction() as db:
            for name in ("next_push", "next_reply"):
                db.execute("INSERT OR IGNORE INTO spool_counters VALUES (?, 0)", (name,))
                db.execute(
                    "UPDATE spool_counters SET value = MAX(value, ?) WHERE name = ?", (seq, name)
                )

    def start_over(self, seq: int) -> None:
        """Go on with numbers from `seq`, without what a ledger that is no more had charged for.

        Everything that waits is given up, and counted; the ledger still has its entries. What was
        given up before stays told, under new numbers. Joins the caller's transaction.
        """
        with self._state.transaction() as db:
            self.never_below(seq)
            gaps = db.execute(
                "SELECT seq, CAST(envelope AS BLOB) FROM spool WHERE kind = 'gap'"
                " AND state = 'waiting' ORDER BY seq"
            ).fetchall()
            told = [self._read_gap(int(number), bytes(data)) for number, data in gaps]
            db.execute(
                "DELETE FROM spool WHERE channel = 'reply' OR state <> 'waiting' OR kind = 'gap'"
            )
            for gap in filter(None, told):
                number = self._draw("next_push")
                envelope = self._seal("gap", number, gap.to_bytes())
                self._insert(db, "push", number, "gap", None, envelope, gap.kind)
            while self._drop(db, "kind <> 'gap'"):
                pass
            _count_bytes(db)

    def forget_set_aside(self, kind: EnvelopeKind) -> None:
        """Delete what was set aside of one kind; joins the caller's transaction."""
        with self._state.transaction() as db:
            db.execute("DELETE FROM spool WHERE kind = ? AND state <> 'waiting'", (kind,))
            _count_bytes(db)

    # --- figures, all public facts ----------------------------------------------------

    @property
    def depth(self) -> int:
        """Envelopes waiting to be pushed."""
        return self._count_push("state = 'waiting'")

    @property
    def refused(self) -> int:
        """Envelopes that the coordinator refused for good and that are kept aside."""
        return self._count_push("state = 'refused'")

    @property
    def gaps(self) -> int:
        """Gap records waiting to be pushed."""
        return self._count_push("state = 'waiting' AND kind = 'gap'")

    @property
    def dropped(self) -> int:
        """Envelopes that the quota pushed out, ever."""
        return self._counter("dropped")

    @property
    def corrupt(self) -> int:
        """Envelopes whose stored bytes were damaged, ever."""
        return self._counter("corrupt")

    @property
    def bytes_kept(self) -> int:
        """What counts towards the quota: everything that the spool keeps on disk."""
        return self._counter("bytes")

    def waiting_bytes(self, kind: EnvelopeKind) -> int:
        """What the waiting envelopes of one kind take of the quota."""
        query = (
            "SELECT COALESCE(SUM(size), 0) FROM spool"
            " WHERE channel = 'push' AND state = 'waiting' AND priority = ? AND kind = ?"
        )
        return int(self._state.rows(query, PRIORITIES[kind], kind)[0][0])

    # --- rows -------------------------------------------------------------------------

    def _seal(self, kind: EnvelopeKind, seq: int, payload: bytes) -> bytes:
        sealed = Envelope.seal(self._identity, kind, seq, payload, simulated=self._simulated)
        return sealed.to_bytes()

    def _fault(self, seq: int, kind: str, data: bytes) -> str:
        """What is wrong with stored bytes; empty if they are what was put in."""
        try:
            envelope = Envelope.from_bytes(data)
            envelope.verify(self._identity.public_key)
        except RecordError as error:
            return str(error)
        if (envelope.header.seq, envelope.header.kind) != (seq, kind):
            return f"holds number {envelope.header.seq}, a {envelope.header.kind}"
        return ""

    def _insert(
        self,
        db: sqlite3.Connection,
        channel: Channel,
        seq: int,
        kind: EnvelopeKind,
        key: str | None,
        envelope: bytes,
        detail: str = "",
        entries: int = 0,
    ) -> None:
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
        self._add_bytes(db, size)

    def _remove(self, db: sqlite3.Connection, channel: Channel, seq: int) -> None:
        found = db.execute(
            "DELETE FROM spool WHERE channel = ? AND seq = ? RETURNING size", (channel, seq)
        ).fetchone()
        if found is not None:
            self._add_bytes(db, -int(found[0]))

    def _set_aside(self, db: sqlite3.Connection, seq: int, state: str, why: str) -> None:
        db.execute(
            "UPDATE spool SET state = ?, detail = ? WHERE channel = 'push' AND seq = ?",
            (state, why, seq),
        )

    def _add_bytes(self, db: sqlite3.Connection, size: int) -> None:
        db.execute("UPDATE spool_counters SET value = value + ? WHERE name = 'bytes'", (size,))

    def _count_push(self, which: str) -> int:
        query = f"SELECT COUNT(*) FROM spool WHERE channel = 'push' AND {which}"
        return int(self._state.rows(query)[0][0])

    def _counter(self, name: str) -> int:
        rows = self._state.rows("SELECT value FROM spool_counters WHERE name = ?", name)
        return int(rows[0][0]) if rows else 0

    def _draw(self, name: str) -> int:
        """The next value of a counter: 0, 1, 2, ..."""
        with self._state.transaction() as db:
            db.execute("INSERT OR IGNORE INTO spool_counters VALUES (?, 0)", (name,))
            (value,) = db.execute(
                "UPDATE spool_counters SET value = value + 1 WHERE name = ? RETURNING value",
                (name,),
            ).fetchone()
            return int(value) - 1

    # --- the quota --------------------------------------------------------------------

    def _prune_replies(self, db: sqlite3.Connection) -> None:
        """Keep the replies of the last runs; a reply's key begins with its run's id."""
        rows = db.execute(
            "SELECT seq FROM spool WHERE channel = 'reply' AND substr(key, 1, instr(key, '/'))"
            " NOT IN (SELECT substr(key, 1, instr(key, '/')) AS run FROM spool"
            " WHERE channel = 'reply' GROUP BY run ORDER BY MAX(seq) DESC LIMIT ?)",
            (KEPT_RUNS,),
        ).fetchall()
        for (seq,) in rows:
            self._remove(db, "reply", int(seq))

    def _enforce_quota(self, db: sqlite3.Connection) -> None:
        while self._counter("bytes") > self._max_bytes:
            if not (
                self._drop(db, "state = 'refused'")
                or self._drop(db, "state = 'corrupt'")
                or self._drop_reply(db)
                or any(
                    self._drop(db, "state = 'waiting' AND priority = ? AND kind <> 'gap'", priority)
                    for priority in sorted(set(PRIORITIES.values()), reverse=True)
                )
            ):
                return

    def _drop_reply(self, db: sqlite3.Connection) -> bool:
        found = db.execute(
            "SELECT seq FROM spool WHERE channel = 'reply' AND substr(key, 1, instr(key, '/'))"
            " <> (SELECT substr(key, 1, instr(key, '/')) FROM spool WHERE channel = 'reply'"
            " ORDER BY seq DESC LIMIT 1) ORDER BY seq LIMIT 1"
        ).fetchone()
        if found is not None:
            self._remove(db, "reply", int(found[0]))
        return found is not None

    def _drop(self, db: sqlite3.Connection, which: str, *values: int) -> bool:
        """Push out the oldest envelope among `which`, if there is one, and count it."""
        found = db.execute(
            "SELECT seq, kind, created FROM spool WHERE channel = 'push' AND seq IS NOT ?"
            f" AND {which} ORDER BY seq LIMIT 1",
            (self._in_flight, *values),
        ).fetchone()
        if found is None:
            return False
        seq, kind, at = int(found[0]), found[1], float(found[2])
        self._remove(db, "push", seq)
        self._draw("dropped")
        gap = GapRecord(kind=kind, count=1, first_seq=seq, last_seq=seq, first_at=at, last_at=at)
        self._record_gap(db, gap)
        return True

    def _record_gap(self, db: sqlite3.Connection, gap: GapRecord) -> None:
        """Extend the gap record of this kind that nobody saw yet, or begin one.

        That one keeps its number: until it is handed out, its bytes are nobody's but ours.
        """
        waiting = db.execute(
            "SELECT seq, CAST(envelope AS BLOB), size FROM spool WHERE channel = 'push'"
            " AND kind = 'gap' AND state = 'waiting' AND handed = 0 AND detail = ?"
            " ORDER BY seq DESC LIMIT 1",
            (gap.kind,),
        ).fetchone()
        earlier = None if waiting is None else self._read_gap(int(waiting[0]), bytes(waiting[1]))
        if waiting is None or earlier is None:
            seq = self._draw("next_push")  # a damaged one is set aside when it is handed out
            envelope = self._seal("gap", seq, gap.to_bytes())
            self._insert(db, "push", seq, "gap", None, envelope, gap.kind)
            return
        seq = int(waiting[0])
        envelope = self._seal("gap", seq, earlier.extended(gap.first_seq, gap.first_at).to_bytes())
        size = disk_bytes(len(envelope))
        self._add_bytes(db, size - int(waiting[2]))
        db.execute(
            "UPDATE spool SET envelope = ?, size = ? WHERE channel = 'push' AND seq = ?",
            (envelope, size, seq),
        )

    def _read_gap(self, seq: int, envelope: bytes) -> GapRecord | None:
        """The record inside a waiting gap envelope; None if its bytes are damaged."""
        if self._fault(seq, "gap", envelope):
            return None
        return GapRecord.from_bytes(Envelope.from_bytes(envelope).payload)


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
    if "entries" not in columns:
        db.execute("ALTER TABLE spool ADD COLUMN entries INTEGER NOT NULL DEFAULT 0")
    db.execute(
        "CREATE INDEX IF NOT EXISTS spool_order"
        " ON spool (channel, state, priority, seq, kind, detail)"
    )
    _count_bytes(db)


def _count_bytes(db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT OR REPLACE INTO spool_counters SELECT 'bytes', COALESCE(SUM(size), 0) FROM spool"
    )
