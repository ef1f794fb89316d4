"""Recovering a ledger whose state was wiped, put back, or went on in two places.

The coordinator keeps every entry, so the chain is fetched from there, checked against a head
that this gateway's own key has signed, and taken up again; from then on no block known so
far has anything left. What waited to be sent and derives from records is given up and counted,
and numbers go on above all that the coordinator has seen. All of it is one transaction: a kill
leaves it undone, and the next start does it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from fedge.errors import OutboundError, StateError
from fedge.privacy.entries import Exclusion, RecoveryReason
from fedge.privacy.ledger import Ledger
from fedge.privacy.merkle import Frontier, leaf_hash
from fedge.records import AuditBatch, LedgerStanding, WitnessedHead
from fedge.statefile import StateFile
from fedge_client.agent.audit import AuditTrail
from fedge_client.agent.label_report import LabelReporter
from fedge_client.agent.post import Get
from fedge_client.agent.spool import Spool
from fedge_client.agent.watch_state import WatchState

log = logging.getLogger(__name__)

MAX_PAGE_BYTES = 8 * 2**20


class Recoverer:
    """Recovers one gateway's ledger.

    Args:
        audit: goes on handing over after the entries that the coordinator has.
        labels: planned label reports are given up.
        still: while the context is open no window is made final; afterwards the watcher goes on
            from what its state says.
        present_block: the block in which records now arrive.
        given_out: no arrival slot from there on was given to a row yet.
        block_slots: arrival slots of a block; 0 where blocks are cut by the clock.
    """

    def __init__(
        self,
        state: StateFile,
        ledger: Ledger,
        *,
        spool: Spool,
        audit: AuditTrail,
        labels: LabelReporter,
        still: Callable[[], AbstractContextManager[WatchState]],
        present_block: Callable[[], int],
        given_out: Callable[[], int],
        block_slots: int,
    ) -> None:
        self._state, self._ledger, self._spool = state, ledger, spool
        self._audit, self._labels, self._still = audit, labels, still
        self._present_block, self._given_out = present_block, given_out
        self._block_slots = block_slots

    def __call__(self, found: LedgerStanding, get: Get) -> None:
        """Take up the chain that the coordinator confirmed.

        Raises:
            OutboundError: it could not be fetched; try again later.
            RecordError: numbers are claimed that can never have been used. Nothing changed.
            StateError: what came is not that chain, or the disk refused. Nothing changed.
        """
        witnessed = found.witnessed
        if witnessed is None:
            raise StateError("no head was confirmed from which the ledger could be recovered")
        entries = list(_fetched(found.gateway, witnessed, get))
        reason = self._reason(entries)
        log.error("the state was %s: recovering the ledger, no known block may spend more", reason)
        with self._still() as watch, self._state.transaction():
            self._take_up(entries, witnessed, reason)
            self._spool.start_over(found.next_seq)
            self._audit.go_on_from(len(entries))
            self._labels.forget_planned()
            # What was given out so far lies in blocks that have nothing left.
            block_start = (self._ledger.recovered_through + 1) * self._block_slots
            # Charged windows whose reports never arrived are known to the ledger alone.
            next_window = max(found.next_window, self._ledger.next_window)
            watch.go_on_from(next_window, max(block_start, self._given_out()))

    def _take_up(
        self, entries: list[bytes], witnessed: WitnessedHead, reason: RecoveryReason
    ) -> None:
        """Replace the chain; what was left out of the guarantee stays left out of it."""
        excluded: list[tuple[int, Exclusion]] = [
            (int(block), what)
            for block, what in self._state.rows("SELECT block, what FROM ledger_exclusions")
        ]
        self._ledger.recover(entries, witnessed, self._present_block(), reason)
        for block, what in excluded:
            self._ledger.exclude(block, what)

    def _reason(self, entries: list[bytes]) -> RecoveryReason:
        own = self._ledger.entries()
        if own[0] != entries[0] or not self._ledger.spendings():
            return "wiped"
        common = min(len(own), len(entries))
        return "restored" if list(own[:common]) == entries[:common] else "forked"


def _fetched(gateway: str, witnessed: WitnessedHead, get: Get) -> Iterator[bytes]:
    """The entries below a confirmed head, page by page.

    Raises:
        StateError: they are not those that the head was signed for.
    """
    size, frontier = witnessed.head.size, Frontier()
    while frontier.size < size:
        status, body = get(f"/v1/ledgers/{gateway}/entries?from={frontier.size}", MAX_PAGE_BYTES)
        if status != 200:
            raise OutboundError(f"ledger entries from {frontier.size} on: HTTP {status}")
        page = AuditBatch.from_bytes(body)
        if page.first_seq != frontier.size:
            raise StateError(f"the coordinator answers entries from {page.first_seq} on")
        for entry in page.entries[: size - frontier.size]:
            frontier = frontier.appended(leaf_hash(entry))
            yield entry
    if frontier.root.hex() != witnessed.head.root:
        raise StateError("the coordinator's entries are not those of the head that it shows")
