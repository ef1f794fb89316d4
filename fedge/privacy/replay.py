"""Checking a chain of ledger entries, and adding it up, from the entries alone.

`replay` needs nothing else: it prices every charge again and refuses a chain in which
one does not follow. Quotas are rules of the house and no part of the bound; they are
counted here and not enforced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fedge.errors import RecordError, SettingError, SignatureError, StateError, UnknownEventError
from fedge.identity import fingerprint
from fedge.privacy.approval import check_approval
from fedge.privacy.charges import Parameters, cap_at, events_nano, parameters, releases, takes_noise
from fedge.privacy.entries import (
    FIRST_HASH,
    Adopted,
    AnyEntry,
    Created,
    Erased,
    Excluded,
    Exclusion,
    Lost,
    Opened,
    Recovered,
    RunReserved,
    Settled,
    WindowReserved,
    read_entry,
)
from fedge.privacy.merkle import Roots
from fedge.privacy.policy import check_policy
from fedge.privacy.rdp import telemetry_nano
from fedge.records import PolicyApproval, PrivacyEvent, PrivacyPolicy


@dataclass
class Totals:
    """What a chain adds up to.

    Attributes:
        created: the first entry; says whose ledger it is.
        adopted, approval: the policy for blocks to be opened, and who allowed it.
        policies: the policy under which each open block was opened.
        epsilons: the smallest epsilon adopted since each open block was opened, its own included:
            its cap is this one's, at its own order and delta.
        training_nano: what runs charged to each block, in nano-RDP at its policy's order.
        uses: the same, apart by (block, purpose, task); what quotas are about.
        window_nano: what was reserved about each window.
        window_block: the block of each window about which something was reserved.
        reserved: the events of each reservation.
        blocks: the blocks that each reservation charged.
        settled: artefact hashes, by reservation and key.
        lost: parts whose noise was lost, by reservation and key.
        used: the events of each reservation that were settled or lost.
        excluded: what the guarantee leaves out, by block.
        erased: record ids that erasures were asked for.
        recovered_through: up to this block nothing is left; -1 before any recovery.
        left: releases of each reservation that were neither settled nor lost, by mechanism.
        hashes: the leaf hash of each entry, 32 bytes.
        roots: over every beginning of the chain.
        latest_block: the largest number that was opened; -1 before the first.
    """

    simulated: bool = False
    schema_version: int = 1
    created: Created | None = None
    adopted: PrivacyPolicy | None = None
    approval: PolicyApproval | None = None
    policies: dict[int, PrivacyPolicy] = field(default_factory=dict)
    epsilons: dict[int, float] = field(default_factory=dict)
    training_nano: dict[int, int] = field(default_factory=dict)
    uses: dict[tuple[int, str, str], int] = field(default_factory=dict)
    window_nano: dict[int, int] = field(default_factory=dict)
    window_block: dict[int, int] = field(default_factory=dict)
    reserved: dict[int, tuple[PrivacyEvent, ...]] = field(default_factory=dict)
    blocks: dict[int, tuple[int, ...]] = field(default_factory=dict)
    settled: dict[tuple[int, str], str] = field(default_factory=dict)
    lost: set[tuple[int, str]] = field(default_factory=set)
    used: dict[int, list[PrivacyEvent]] = field(default_factory=dict)
    excluded: set[tuple[int, Exclusion]] = field(default_factory=set)
    erased: int = 0
    recovered_through: int = -1
    left: dict[int, dict[Parameters, int]] = field(default_factory=dict)
    hashes: list[bytes] = field(default_factory=list)
    roots: Roots = field(default_factory=Roots)
    latest_block: int = -1

    def cap_nano(self, block: int) -> int:
        """What an open block may spend in all, lowered by every policy adopted since."""
        return cap_at(self.policies[block], self.epsilons[block])


def replay(entries: Iterable[bytes]) -> Totals:
    """Check a chain from its first entry on and add it up.

    Raises:
        StateError: an entry is missing, changed or out of order, overdraws its block, or
            settles what was not reserved. Names the entry.
    """
    totals, previous = Totals(), FIRST_HASH
    for seq, data in enumerate(entries):
        try:
            entry = read_entry(data)
        except RecordError as error:
            raise StateError(f"ledger entry {seq}: {error}") from error
        if (entry.seq, entry.previous) != (seq, previous) or entry.to_bytes() != data:
            raise StateError(f"ledger entry {seq} does not follow from the one before it")
        fault = _add(totals, entry)
        if fault:
            raise StateError(f"ledger entry {seq} {fault}")
        previous = entry.hash
        totals.hashes.append(bytes.fromhex(previous))
        totals.roots.append(totals.hashes[-1])
    return totals


def _add(totals: Totals, entry: AnyEntry) -> str:
    """Take `entry` into the totals; says what is wrong with it, if anything."""
    if isinstance(entry, Created) != (entry.seq == 0):
        return "is out of place: a ledger begins once"
    if entry.seq == 0:
        totals.simulated = entry.simulated
    if entry.simulated != totals.simulated:
        return "mixes simulated and real"
    if entry.schema_version < totals.schema_version:
        return "is of an earlier version than the one before it"
    totals.schema_version = entry.schema_version
    try:
        return _RULES[type(entry)](totals, entry)
    except UnknownEventError as error:
        return f"charges what has no price: {error}"


def _create(totals: Totals, entry: Created) -> str:
    if entry.public_key and fingerprint(bytes.fromhex(entry.public_key)) != entry.gateway:
        return "names a key that is not its gateway's"
    totals.created = entry
    return ""


def _adopt(totals: Totals, entry: Adopted) -> str:
    try:
        check_policy(entry.policy)
        if entry.approval is not None:
            check_approval(entry.approval, entry.policy)
    except SettingError as error:
        return f"adopts a policy that carries nothing: {error}"
    except SignatureError as error:
        return f"adopts a policy that was not approved like this: {error}"
    if (entry.policy, entry.approval) == (totals.adopted, totals.approval):
        return "adopts the same policy again"
    totals.adopted, totals.approval = entry.policy, entry.approval
    for block, epsilon in totals.epsilons.items():
        totals.epsilons[block] = min(epsilon, entry.policy.epsilon)
    return ""


def _open(totals: Totals, entry: Opened) -> str:
    if entry.block in totals.policies:
        return f"opens block {entry.block} a second time"
    if entry.block <= totals.recovered_through:
        return f"opens block {entry.block}, which lost its budget"
    if entry.schema_version > 1 and totals.adopted != entry.policy:
        return f"opens block {entry.block} under another policy than the one adopted last"
    try:
        check_policy(entry.policy)
    except SettingError as error:
        return f"opens block {entry.block} under a policy that carries nothing: {error}"
    totals.policies[entry.block] = entry.policy
    totals.epsilons[entry.block] = entry.policy.epsilon
    totals.training_nano[entry.block] = 0
    totals.latest_block = max(totals.latest_block, entry.block)
    return ""


def _reserve_window(totals: Totals, entry: WindowReserved) -> str:
    if fault := _closed(totals, entry.block):
        return fault
    policy = totals.policies[entry.block]
    if totals.window_block.setdefault(entry.window, entry.block) != entry.block:
        return f"puts window {entry.window} into a second block"
    nano = totals.window_nano.get(entry.window, 0) + events_nano(entry.events, policy.alpha)
    if nano > telemetry_nano(policy):
        return f"overdraws the monitoring share of window {entry.window}"
    totals.window_nano[entry.window] = nano
    return _reserve(totals, entry, (entry.block,))


def _reserve_run(totals: Totals, entry: RunReserved) -> str:
    if len(entry.uses) != len(entry.events) or (entry.schema_version > 1 and not entry.purposes):
        return "does not say what each event is for"
    if list(entry.blocks) != sorted(set(entry.blocks)):
        return "names a block twice or out of order"
    for block in entry.blocks:
        if fault := _closed(totals, block):
            return fault
        policy = totals.policies[block]
        nano = totals.training_nano[block] + events_nano(entry.events, policy.alpha)
        if nano + telemetry_nano(policy) > totals.cap_nano(block):
            return f"overdraws block {block}"
        totals.training_nano[block] = nano
        for purpose, event in zip(entry.uses, entry.events, strict=True):
            use = (block, purpose, entry.task)
            totals.uses[use] = totals.uses.get(use, 0) + events_nano((event,), policy.alpha)
    return _reserve(totals, entry, entry.blocks)


def _closed(totals: Totals, block: int) -> str:
    if block not in totals.policies:
        return f"charges block {block}, which was never opened"
    if block <= totals.recovered_through:
        return f"charges block {block}, which lost its budget"
    return ""


def _reserve(totals: Totals, entry: WindowReserved | RunReserved, blocks: tuple[int, ...]) -> str:
    if entry.reservation in totals.reserved:
        return f"uses reservation {entry.reservation} a second time"
    totals.reserved[entry.reservation] = entry.events
    totals.left[entry.reservation] = releases(entry.events)
    totals.blocks[entry.reservation] = blocks
    return ""


def _settle(totals: Totals, entry: Settled) -> str:
    part = (entry.reservation, entry.key)
    if not takes_noise(entry.event, entry.noise, simulated=entry.simulated):
        return "settles noise that is not the system's, or not of the event's kind"
    if fault := _use(totals, entry, "settles"):
        return fault
    if min(totals.blocks[entry.reservation]) <= totals.recovered_through:
        return f"settles reservation {entry.reservation} of a block that lost its budget"
    totals.settled[part] = entry.artefact_sha256
    return ""


def _lose(totals: Totals, entry: Lost) -> str:
    if fault := _use(totals, entry, "loses"):
        return fault
    totals.lost.add((entry.reservation, entry.key))
    return ""


def _use(totals: Totals, entry: Settled | Lost, does: str) -> str:
    """Take up what an entry holds of its reservation, once."""
    part = (entry.reservation, entry.key)
    if part in totals.settled:
        return f"{does} {entry.key!r} a second time"
    if part in totals.lost:
        return f"{does} {entry.key!r}, which was lost"
    left, mechanism = totals.left.get(entry.reservation, {}), parameters(entry.event)
    if left.get(mechanism, 0) < entry.event.count:
        return f"{does} more than reservation {entry.reservation} holds"
    left[mechanism] -= entry.event.count
    totals.used.setdefault(entry.reservation, []).append(entry.event)
    return ""


def _exclude(totals: Totals, entry: Excluded) -> str:
    # The block may still be unopened: an exclusion is written before its first record arrives.
    if (entry.block, entry.what) in totals.excluded:
        return f"excludes {entry.what} of block {entry.block} a second time"
    totals.excluded.add((entry.block, entry.what))
    return ""


def _erase(totals: Totals, entry: Erased) -> str:
    if entry.records and entry.reason != "erasure":
        return "tells how many records there were"
    totals.erased += entry.records
    return ""


def _recover(totals: Totals, entry: Recovered) -> str:
    if entry.through_block < max(totals.recovered_through, totals.latest_block):
        return "leaves a budget to a block that was known before"
    known = entry.witnessed_size <= len(totals.hashes)
    if not known or totals.roots.of(entry.witnessed_size).hex() != entry.witnessed_root:
        return "names a confirmed head that is not of this chain"
    totals.recovered_through = entry.through_block
    return ""


_RULES: dict[type[Any], Callable[[Totals, Any], str]] = {
    Created: _create,
    Adopted: _adopt,
    Opened: _open,
    WindowReserved: _reserve_window,
    RunReserved: _reserve_run,
    Settled: _settle,
    Lost: _lose,
    Excluded: _exclude,
    Erased: _erase,
    Recovered: _recover,
}
