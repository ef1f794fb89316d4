"""The durable outbox of a gateway: sealed envelopes that wait to be taken.

An envelope is sealed once, when it is put in, and its bytes never change: a
retry resends them. `push` envelopes are sent to the coordinator and removed
when it acknowledged; `reply` envelopes answer a courier and stay, so that a
round that is asked again gets the stored answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedge.identity import Envelope, EnvelopeKind, Identity
from fedge.statefile import StateFile

Channel = Literal["push", "reply"]


@dataclass(frozen=True, slots=True)
class Spooled:
    """One envelope that waits. `seq` is its sequence number, never used twice."""

    seq: int
    kind: str
    envelope: bytes


class Spool:
    """Sealed envelopes in the gateway's state file.

    Args:
        state: the gateway's one file of truth.
        identity: signs what is put in.
        clock: seconds since the epoch.
        max_bytes: quota of waiting `push` envelopes; beyond it the oldest report goes, counted.
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
        state.ensure(
            "CREATE TABLE IF NOT EXISTS spool (channel TEXT NOT NULL, seq INTEGER NOT NULL,"
            " kind TEXT NOT NULL, key TEXT UNIQUE, state TEXT NOT NULL, created REAL NOT NULL,"
            " envelope BLOB NOT NULL, detail TEXT NOT NULL DEFAULT '',"
            " PRIMARY KEY (channel, seq))",
            "CREATE TABLE IF NOT EXISTS spool_counters (name TEXT PRIMARY KEY, value INTEGER)",
        )

    def put(
        self, kind: EnvelopeKind, payload: bytes, *, key: str | None = None, channel: Channel
    ) -> bytes:
        """Seal `payload` and keep it; joins the caller's transaction. Answers the envelope.

        A `key` that is known already answers the stored envelope and adds nothing.
        """
        with self._state.transaction() as db:
            if key is not None and (stored := self.stored(key)) is not None:
                return stored
            # Each channel counts for itself: what went another way must not look like a gap.
            seq = self._count(f"next_{channel}")
            envelope = Envelope.seal(
                self._identity, kind, seq, payload, simulated=self._simulated
            ).to_bytes()
            db.execute(
                "INSERT INTO spool VALUES (?, ?, ?, ?, 'waiting', ?, ?, '')",
                (channel, seq, kind, key, self._clock(), envelope),
            )
            if channel == "push":
                self._enforce_quota()
            return envelope

    def put_status(self, payload: bytes) -> None:
        """Like `put` for a status, unless one still waits: an outage leaves one, not thousands."""
        query = "SELECT 1 FROM spool WHERE kind = 'status' AND state = 'waiting'"
        with self._state.transaction() as db:
            if db.execute(query).fetchone() is None:
                self.put("status", payload, channel="push")

    def stored(self, key: str) -> bytes | None:
        """The envelope that was put in under `key`."""
        rows = self._state.rows("SELECT envelope FROM spool WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    def waiting(self, limit: int = 64) -> list[Spooled]:
        """What is to be pushed, oldest first."""
        rows = self._state.rows(
            "SELECT seq, kind, envelope FROM spool WHERE channel = 'push' AND state = 'waiting'"
            " ORDER BY seq LIMIT ?",
            limit,
        )
        return [Spooled(int(s), str(k), bytes(e)) for s, k, e in rows]

    def acknowledge(self, seq: int) -> None:
        """The coordinator stored it: it may go."""
        with self._state.transaction() as db:
            db.execute("DELETE FROM spool WHERE seq = ? AND channel = 'push'", (seq,))

    def quarantine(self, seq: int, why: str) -> None:
        """The coordinator refused it for good: keep it aside, go on with the next."""
        with self._state.transaction() as db:
            db.execute(
                "UPDATE spool SET state = 'refused', detail = ? WHERE channel = 'push' AND seq = ?",
                (why, seq),
            )

    @property
    def depth(self) -> int:
        """Envelopes waiting to be pushed."""
        query = "SELECT COUNT(*) FROM spool WHERE channel = 'push' AND state = 'waiting'"
        return int(self._state.rows(query)[0][0])

    @property
    def refused(self) -> int:
        """Envelopes that the coordinator refused for good and that are kept aside."""
        query = "SELECT COUNT(*) FROM spool WHERE channel = 'push' AND state = 'refused'"
        return int(self._state.rows(query)[0][0])

    @property
    def dropped(self) -> int:
        """Envelopes that the quota pushed out."""
        query = "SELECT value FROM spool_counters WHERE name = 'dropped'"
        rows = self._state.rows(query)
        return int(rows[0][0]) if rows else 0

    def _count(self, name: str) -> int:
        """Draw the next value of a counter: 0, 1, 2, ..."""
        with self._state.transaction() as db:
            db.execute("INSERT OR IGNORE INTO spool_counters VALUES (?, 0)", (name,))
            (value,) = db.execute(
                "SELECT value FROM spool_counters WHERE name = ?", (name,)
            ).fetchone()
            db.execute("UPDATE spool_counters SET value = value + 1 WHERE name = ?", (name,))
            return int(value)

    def _enforce_quota(self) -> None:
        with self._state.transaction() as db:
            query = "SELECT COALESCE(SUM(LENGTH(envelope)), 0) FROM spool WHERE channel = 'push'"
            while db.execute(query).fetchone()[0] > self._max_bytes:
                # What was refused goes first, then the oldest.
                oldest = db.execute(
                    "SELECT seq FROM spool WHERE channel = 'push'"
                    " ORDER BY state = 'waiting', seq LIMIT 1"
                ).fetchone()
                db.execute("DELETE FROM spool WHERE channel = 'push' AND seq = ?", oldest)
                self._count("dropped")
