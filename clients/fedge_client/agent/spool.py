"""The durable outbox of a gateway: sealed envelopes that wait to be taken.

An envelope is sealed once, when it is put in; once it may have been sent its bytes never
change: a retry resends them. `push` envelopes are sent to the coordinator, the most
important first, and removed when it acknowledged; `reply` envelopes answer a courier and
stay for the last few runs, so that a round that is asked again gets the stored answer.

Everything together stays within a quota of bytes (`spool_quota`). What it pushes out is counted:
per kind, gap records say which numbers will never come (`spool_gaps`). The tables and the
sealing are `spool_rows`. Talking to the coordinator is the sender's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from fedge.identity import EnvelopeKind, Identity
from fedge.statefile import StateFile
from fedge_client.agent.spool_gaps import SpoolGaps
from fedge_client.agent.spool_quota import KEPT_RUNS, SpoolQuota
from fedge_client.agent.spool_rows import PRIORITIES, Channel, SpoolRows, disk_bytes

__all__ = ["CONTENT_KINDS", "KEPT_RUNS", "Channel", "Spool", "Spooled", "disk_bytes"]

log = logging.getLogger(__name__)

CONTENT_KINDS = ("labels", "report")
"""Kinds that are pushed and derive from records: they are sent only when the ledger entries that
charge for them are."""


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
        self._state = state
        self._rows = SpoolRows(state, identity, clock, simulated=simulated)
        self._gaps = SpoolGaps(self._rows)
        self._quota = SpoolQuota(self._rows, self._gaps, max_bytes)

    @property
    def max_bytes(self) -> int:
        """The quota, in bytes on disk."""
        return self._quota.max_bytes

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
            seq, envelope = self._rows.add(db, channel, kind, payload, key=key, entries=entries)
            if channel == "reply":
                self._quota.prune_replies(db)
            if channel == "push" and disk_bytes(len(envelope)) > self.max_bytes:
                # One that fits nowhere must not push out all the others first.
                self._quota.drop(db, "seq = ?", seq)
            self._quota.enforce(db)
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
            fault = self._rows.fault(seq, kind, envelope)
            if fault:
                log.error("spooled envelope %d (%s) is damaged, set aside: %s", seq, kind, fault)
                self._rows.set_aside(db, seq, "corrupt", fault)
                self._rows.draw("corrupt")
                return None
            if kind == "gap" and not handed:
                # Only gap records are ever extended, so only they need a write here.
                self._rows.mark_handed(db, seq)
            self._quota.spared = seq
            return envelope

    def acknowledge(self, seq: int) -> None:
        """The coordinator stored it: it may go."""
        with self._state.transaction() as db:
            self._rows.remove(db, "push", seq)
            self._quota.spared = None

    def quarantine(self, seq: int, why: str) -> None:
        """The coordinator refused it for good: keep it aside, go on with the next."""
        with self._state.transaction() as db:
            self._rows.set_aside(db, seq, "refused", why)
            self._quota.spared = None

    def give_back(self) -> None:
        """What was handed out was not taken: it waits again."""
        self._quota.spared = None

    # --- after the state was lost or put back -----------------------------------------

    def never_below(self, seq: int) -> None:
        """Use no number below `seq` from now on; joins the caller's transaction.

        Raises:
            RecordError: so many numbers can never have been used.
        """
        with self._state.transaction() as db:
            self._rows.never_below(db, seq)

    def start_over(self, seq: int) -> None:
        """Go on with numbers from `seq`, without what a ledger that is no more had charged for.

        Everything that waits is given up, and counted; the ledger still has its entries. What was
        given up before stays told, under new numbers. Joins the caller's transaction.

        Raises:
            RecordError: so many numbers can never have been used.
        """
        with self._state.transaction() as db:
            self._rows.never_below(db, seq)
            told = self._gaps.waiting(db)
            self._rows.remove_all(db, "channel = 'reply' OR state <> 'waiting' OR kind = 'gap'")
            for gap in told:
                self._gaps.begin(db, gap)
            while self._quota.drop(db, "kind <> 'gap'"):
                pass

    def forget_set_aside(self, kind: EnvelopeKind) -> None:
        """Delete what was set aside of one kind; joins the caller's transaction."""
        with self._state.transaction() as db:
            self._rows.remove_all(db, "kind = ? AND state <> 'waiting'", kind)

    # --- figures, all public facts ----------------------------------------------------

    @property
    def depth(self) -> int:
        """Envelopes waiting to be pushed."""
        return self._rows.count_push("state = 'waiting'")

    @property
    def refused(self) -> int:
        """Envelopes that the coordinator refused for good and that are kept aside."""
        return self._rows.count_push("state = 'refused'")

    @property
    def gaps(self) -> int:
        """Gap records waiting to be pushed."""
        return self._rows.count_push("state = 'waiting' AND kind = 'gap'")

    @property
    def dropped(self) -> int:
        """Envelopes that the quota pushed out, ever."""
        return self._rows.counter("dropped")

    @property
    def corrupt(self) -> int:
        """Envelopes whose stored bytes were damaged, ever."""
        return self._rows.counter("corrupt")

    @property
    def bytes_kept(self) -> int:
        """What counts towards the quota: everything that the spool keeps on disk."""
        return self._rows.counter("bytes")

    def waiting_bytes(self, kind: EnvelopeKind) -> int:
        """What the waiting envelopes of one kind take of the quota."""
        query = (
            "SELECT COALESCE(SUM(size), 0) FROM spool"
            " WHERE channel = 'push' AND state = 'waiting' AND priority = ? AND kind = ?"
        )
        return int(self._state.rows(query, PRIORITIES[kind], kind)[0][0])
