"""What a ledger writes down: facts in a hash chain, and how a chain is checked.

An entry is canonical JSON that holds parameters and public facts only, and the hash of
the entry before it. `replay` needs nothing but the entries: it adds every charge up
again and refuses a chain in which one does not follow. Keeping entries is the
ledger's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedge.errors import RecordError, SettingError, StateError
from fedge.privacy.policy import check_policy
from fedge.privacy.rdp import cap_nano, event_nano, telemetry_nano
from fedge.records import Count, DiscreteGaussianEvent, PrivacyPolicy, Record, Sha256
from fedge.records.base import first_fault

FIRST_HASH = "0" * 64
Purpose = Annotated[str, Field(pattern=r"^[a-z][a-z0-9\-]{0,31}$")]
Exclusion = Literal["escalation", "sketches"]
ErasureReason = Literal["erasure", "consent", "retention", "quota"]


class Entry(Record):
    """What every entry holds.

    Attributes:
        seq: 0, 1, 2, ... without a gap.
        previous: hash of the entry before.
        at: seconds since the epoch by the gateway's clock.
        simulated: written by a simulation; such a ledger proves nothing.
    """

    schema_version: Literal[1] = 1
    seq: Count
    previous: Sha256
    at: float
    simulated: bool

    @property
    def hash(self) -> str:
        """SHA-256 over 0x00 and the canonical bytes: a leaf as in RFC 6962."""
        return hashlib.sha256(b"\x00" + self.to_bytes()).hexdigest()


class Created(Entry):
    """The ledger begins."""

    kind: Literal["created"] = "created"


class Opened(Entry):
    """A block opens under a policy that holds for it from now on; monitoring's share is taken."""

    kind: Literal["opened"] = "opened"
    block: Count
    policy: PrivacyPolicy


class WindowReserved(Entry):
    """Releases about one window, paid out of its block's monitoring share."""

    kind: Literal["window"] = "window"
    reservation: Count
    window: Count
    block: Count
    purpose: Purpose
    events: tuple[DiscreteGaussianEvent, ...] = Field(min_length=1)


class RunReserved(Entry):
    """All rounds of a retraining, charged in full to each block that it reads."""

    kind: Literal["run"] = "run"
    reservation: Count
    run_id: str
    blocks: tuple[Count, ...] = Field(min_length=1)
    events: tuple[DiscreteGaussianEvent, ...] = Field(min_length=1)


class Settled(Entry):
    """One part of a reservation was noised and its bytes kept: it counts as released."""

    kind: Literal["settled"] = "settled"
    reservation: Count
    key: str
    event: DiscreteGaussianEvent
    artefact_sha256: Sha256
    noise: Literal["os", "seeded"]


class Excluded(Entry):
    """From here on the guarantee leaves out something of a block; written before it may leave.

    Attributes:
        what: single records that are escalated, or exact sketches of `machine` columns.
    """

    kind: Literal["excluded"] = "excluded"
    block: Count
    what: Exclusion


class Erased(Entry):
    """Records were deleted. No charge falls for it; names neither record nor subject.

    Attributes:
        records: how many record ids an erasure was asked for, found or not. 0 where a subject
            or a rule decided: that something was deleted is public, how much was there is not.
    """

    kind: Literal["erased"] = "erased"
    records: Count
    reason: ErasureReason


AnyEntry = Annotated[
    Created | Opened | WindowReserved | RunReserved | Settled | Excluded | Erased,
    Field(discriminator="kind"),
]
_READER: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)


def read_entry(data: bytes) -> AnyEntry:
    """Read one entry.

    Raises:
        RecordError: the bytes are no entry of a known kind.
    """
    try:
        return _READER.validate_json(data)
    except ValidationError as error:
        raise RecordError(f"ledger entry: {first_fault(error, 'entry')}") from error


@dataclass
class Totals:
    """What a chain adds up to.

    Attributes:
        policies: the policy of each open block.
        training_nano: what runs charged to each block, in nano-RDP at its policy's order.
        window_nano: what was reserved about each window.
        window_block: the block of each window about which something was reserved.
        reserved: the events of each reservation.
        settled: artefact hashes, by reservation and key.
        used: the events of each reservation that were settled.
        excluded: what the guarantee leaves out, by block.
        erased: record ids that erasures were asked for.
    """

    simulated: bool = False
    policies: dict[int, PrivacyPolicy] = field(default_factory=dict)
    training_nano: dict[int, int] = field(default_factory=dict)
    window_nano: dict[int, int] = field(default_factory=dict)
    window_block: dict[int, int] = field(default_factory=dict)
    reserved: dict[int, tuple[DiscreteGaussianEvent, ...]] = field(default_factory=dict)
    settled: dict[tuple[int, str], str] = field(default_factory=dict)
    used: dict[int, list[DiscreteGaussianEvent]] = field(default_factory=dict)
    excluded: set[tuple[int, Exclusion]] = field(default_factory=set)
    erased: int = 0


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
        if isinstance(entry, Created) != (seq == 0):
            raise StateError(f"ledger entry {seq} is out of place: a ledger begins once")
        if seq == 0:
            totals.simulated = entry.simulated
        fault = _add(totals, entry)
        if fault:
            raise StateError(f"ledger entry {seq} {fault}")
        previous = entry.hash
    return totals


def _add(totals: Totals, entry: AnyEntry) -> str:
    """Take `entry` into the totals; says what is wrong with it, if anything."""
    if entry.simulated != totals.simulated:
        return "mixes simulated and real"
    match entry:
        case Opened():
            return _open(totals, entry)
        case WindowReserved():
            return _reserve_window(totals, entry)
        case RunReserved():
            return _reserve_run(totals, entry)
        case Settled():
            return _settle(totals, entry)
        case Excluded():
            return _exclude(totals, entry)
        case Erased():
            return _erase(totals, entry)
    return ""


def _open(totals: Totals, entry: Opened) -> str:
    if entry.block in totals.policies:
        return f"opens block {entry.block} a second time"
    try:
        check_policy(entry.policy)
    except SettingError as error:
        return f"opens block {entry.block} under a policy that carries nothing: {error}"
    totals.policies[entry.block] = entry.policy
    totals.training_nano[entry.block] = 0
    return ""


def _reserve_window(totals: Totals, entry: WindowReserved) -> str:
    policy = totals.policies.get(entry.block)
    if policy is None:
        return f"charges block {entry.block}, which was never opened"
    if totals.window_block.setdefault(entry.window, entry.block) != entry.block:
        return f"puts window {entry.window} into a second block"
    nano = totals.window_nano.get(entry.window, 0) + events_nano(entry.events, policy.alpha)
    if nano > telemetry_nano(policy):
        return f"overdraws the monitoring share of window {entry.window}"
    totals.window_nano[entry.window] = nano
    return _reserve(totals, entry.reservation, entry.events)


def _reserve_run(totals: Totals, entry: RunReserved) -> str:
    for block in entry.blocks:
        policy = totals.policies.get(block)
        if policy is None:
            return f"charges block {block}, which was never opened"
        nano = totals.training_nano[block] + events_nano(entry.events, policy.alpha)
        if nano + telemetry_nano(policy) > cap_nano(policy):
            return f"overdraws block {block}"
        totals.training_nano[block] = nano
    return _reserve(totals, entry.reservation, entry.events)


def _reserve(totals: Totals, reservation: int, events: tuple[DiscreteGaussianEvent, ...]) -> str:
    if reservation in totals.reserved:
        return f"uses reservation {reservation} a second time"
    totals.reserved[reservation] = events
    return ""


def _settle(totals: Totals, entry: Settled) -> str:
    part = (entry.reservation, entry.key)
    if part in totals.settled:
        return f"settles {entry.key!r} a second time"
    if entry.noise != "os" and not entry.simulated:
        return "settles noise that is not the system's"
    used = totals.used.setdefault(entry.reservation, [])
    used.append(entry.event)
    if not fits(totals.reserved.get(entry.reservation, ()), used):
        return f"settles more than reservation {entry.reservation} holds"
    totals.settled[part] = entry.artefact_sha256
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


def events_nano(events: Iterable[DiscreteGaussianEvent], alpha: int) -> int:
    """Nano-RDP of all `events` together, each rounded up.

    Raises:
        UnknownEventError: one of them has no price.
    """
    return sum(event_nano(event, alpha) for event in events)


def fits(reserved: Iterable[DiscreteGaussianEvent], parts: Iterable[DiscreteGaussianEvent]) -> bool:
    """Whether `parts` together ask for no release that `reserved` does not hold."""
    left: dict[tuple[int, int, int], int] = {}
    for event in reserved:
        left[_parameters(event)] = left.get(_parameters(event), 0) + event.count
    for event in parts:
        left[_parameters(event)] = left.get(_parameters(event), 0) - event.count
    return all(count >= 0 for count in left.values())


def _parameters(event: DiscreteGaussianEvent) -> tuple[int, int, int]:
    return event.sensitivity2, event.sigma2, event.dimension
