"""Taking up a chain that a witness kept, after a gateway's state was lost or put back.

The tables of the ledger are made anew from the entries, as if this process had written
them itself. What was granted and neither settled nor noted as lost is not in the chain:
its charge stands, and its blocks release nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedge.errors import StateError
from fedge.privacy.chain import Chain
from fedge.privacy.charges import events_nano
from fedge.privacy.entries import (
    Adopted,
    AnyEntry,
    Excluded,
    Lost,
    Opened,
    Recovered,
    RunReserved,
    Settled,
    WindowReserved,
    read_entry,
)
from fedge.privacy.merkle import leaf_hash, root_of
from fedge.privacy.quotas import Use
from fedge.privacy.replay import Totals, replay
from fedge.privacy.reservations import Reservation, Reservations
from fedge.privacy.tables import LedgerTables
from fedge.records import SignedHead


def check_chain_of(
    entries: Sequence[bytes], head: SignedHead, *, gateway: str | None, simulated: bool
) -> Totals:
    """Check that a chain adds up, is this gateway's, and goes at least as far as a head.

    Args:
        gateway: fingerprint; None where the ledger knows none.

    Raises:
        StateError: it is not.
    """
    totals = replay(entries)
    if totals.created is None:
        raise StateError("a ledger is recovered from its entries, and there are none")
    if totals.simulated != simulated or head.simulated != simulated:
        raise StateError("a real and a simulated ledger never follow from one another")
    for named in (totals.created.gateway, head.gateway):
        if gateway is not None and named not in (None, gateway):
            raise StateError(f"the ledger to recover is that of gateway {named}")
    if head.size > len(entries) or root_of(totals.hashes[: head.size]).hex() != head.root:
        raise StateError(f"the entries to recover are not those of the head of {head.size}")
    return totals


def begins_with(chain: Chain, entries: Sequence[bytes]) -> bool:
    """Whether a chain holds these entries as its first ones."""
    if chain.size < len(entries):
        return False
    return chain.root(len(entries)) == root_of(map(leaf_hash, entries)).hex()


def rebuild(
    entries: Sequence[bytes], chain: Chain, tables: LedgerTables, reservations: Reservations
) -> None:
    """Hold these entries and the tables that follow from them; joins the transaction."""
    reservations.clear()
    tables.clear()
    chain.replace(entries)
    for data in entries:
        _take_in(read_entry(data), tables, reservations)


def _take_in(entry: AnyEntry, tables: LedgerTables, reservations: Reservations) -> None:
    match entry:
        case Adopted():
            tables.adopt(entry.policy, entry.approval)
        case Opened():
            tables.add_block(entry.block, entry.policy)
        case WindowReserved():
            nano = events_nano(entry.events, tables.policy_of(entry.block).alpha)
            made = Reservation(entry.reservation, "window", (entry.block,), entry.events)
            subject = f"{entry.window}/{entry.purpose}"
            reservations.add(made, subject, {entry.block: nano}, window=entry.window)
        case RunReserved():
            _take_in_run(entry, tables, reservations)
        case Settled():
            reservations.add_part(entry.reservation, entry.key, entry.event)
            reservations.settle_part(entry.reservation, entry.key, entry.artefact_sha256)
        case Lost():
            reservations.add_part(entry.reservation, entry.key, entry.event)
            reservations.lose_part(entry.reservation, entry.key)
        case Excluded():
            tables.add_exclusion(entry.block, entry.what)
        case Recovered():
            tables.recover(entry.through_block)


def _take_in_run(entry: RunReserved, tables: LedgerTables, reservations: Reservations) -> None:
    uses: dict[int, list[Use]] = {}
    for block in entry.blocks:
        alpha, prices = tables.policy_of(block).alpha, dict.fromkeys(entry.uses, 0)
        for purpose, event in zip(entry.uses, entry.events, strict=True):
            prices[purpose] += events_nano((event,), alpha)
        uses[block] = [Use(purpose, entry.task, nano) for purpose, nano in prices.items()]
    charges = {block: sum(use.nano for use in parts) for block, parts in uses.items()}
    made = Reservation(entry.reservation, "run", entry.blocks, entry.events)
    reservations.add(made, entry.run_id, charges, uses=uses)
