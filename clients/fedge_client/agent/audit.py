"""The ledger's way to the centre: its entries, in order and byte for byte, in batches.

Each batch goes under a head that the gateway signs for the ledger as it stands with the last
of its entries, so that the centre can confirm it. Reviews work from the centre only if it
holds every entry. The ledger itself keeps them, so an outage loses none: a batch goes into the
spool when there is room for it, and no more than one that is not full waits there.
"""

from __future__ import annotations

from collections.abc import Callable

from fedge.identity import Identity
from fedge.privacy.heads import sign_head
from fedge.privacy.ledger import Ledger
from fedge.privacy.merkle import Frontier, leaf_hash
from fedge.records import SignedHead
from fedge.statefile import StateFile
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.spool import Spool, disk_bytes

BATCH_BYTES = 16 * 2**10
"""A batch is full when another entry would exceed this; it holds one entry at least."""

BATCH_ENTRIES = 256
SPOOL_SHARE = 4
"""Waiting batches take one part in so many of the spool's quota: the rest is for reports."""


class AuditTrail:
    """Hands over ledger entries after the last one handed over, through the gate.

    Args:
        state: the gateway's one file of truth.
        ledger: whose entries are handed over.
        gate: the only way out.
        spool: asked how much waits.
        identity: signs heads.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        state: StateFile,
        ledger: Ledger,
        gate: EgressGate,
        spool: Spool,
        identity: Identity,
        clock: Callable[[], float],
    ) -> None:
        self._state, self._ledger, self._gate, self._spool = state, ledger, gate, spool
        self._identity, self._clock = identity, clock
        self._frontier = Frontier()
        state.ensure(
            "CREATE TABLE IF NOT EXISTS audit_trail ("
            " only INTEGER PRIMARY KEY CHECK (only = 1), next_seq INTEGER NOT NULL)",
            "INSERT OR IGNORE INTO audit_trail VALUES (1, 0)",
        )

    @property
    def next_seq(self) -> int:
        """Number of the first ledger entry that was not handed over."""
        return int(self._state.rows("SELECT next_seq FROM audit_trail")[0][0])

    def go_on_from(self, seq: int) -> None:
        """Hand over from entry `seq` on, also what was handed over; joins the transaction."""
        with self._state.transaction() as db:
            self._frontier = Frontier()  # the ledger may be another one of the same size
            self._spool.forget_set_aside("audit")
            db.execute("UPDATE audit_trail SET next_seq = ?", (seq,))

    def resend_from(self, seq: int) -> None:
        """Hand over again what lies from entry `seq` on, unless it still waits in the spool.

        For entries that the centre does not have: its database was put back, or the spool lost
        them.
        """
        with self._state.transaction():
            if seq < self.next_seq and self._spool.waiting_bytes("audit") == 0:
                self.go_on_from(seq)

    def hand_over(self) -> int:
        """Put entries into the spool, full batches first; answers how many.

        What does not fill a batch is handed over only while no batch waits: an outage leaves
        one small batch, not one for each look.
        """
        taken = 0
        while entries := self._hand_over_batch():
            taken += entries
        return taken

    def _hand_over_batch(self) -> int:
        with self._state.transaction() as db:
            first_seq = self.next_seq
            batch, full = self._next_batch(first_seq)
            if not batch or not self._has_room(sum(map(len, batch)), full=full):
                return 0
            self._gate.audit(first_seq, batch, self._head(first_seq, batch))
            db.execute("UPDATE audit_trail SET next_seq = ?", (first_seq + len(batch),))
            return len(batch)

    def _has_room(self, size: int, *, full: bool) -> bool:
        waiting = self._spool.waiting_bytes("audit")
        if waiting == 0:
            return True
        return full and waiting + disk_bytes(size) <= self._spool.max_bytes // SPOOL_SHARE

    def _head(self, first_seq: int, batch: list[bytes]) -> SignedHead:
        """The signed head of the ledger as it stands with the last of these entries."""
        frontier = self._frontier
        if frontier.size != first_seq:
            frontier = Frontier()
            for body in self._ledger.entries_from(0, first_seq):
                frontier = frontier.appended(leaf_hash(body))
        for body in batch:
            frontier = frontier.appended(leaf_hash(body))
        self._frontier = frontier
        return sign_head(
            self._identity,
            frontier.size,
            frontier.root.hex(),
            self._clock(),
            simulated=self._ledger.simulated,
        )

    def _next_batch(self, first_seq: int) -> tuple[list[bytes], bool]:
        """The next entries, and whether they fill a batch."""
        batch: list[bytes] = []
        size = 0
        for body in self._ledger.entries_from(first_seq, BATCH_ENTRIES):
            size += len(body) + 1
            if batch and size > BATCH_BYTES:
                return batch, True
            batch.append(body)
        return batch, len(batch) == BATCH_ENTRIES
