"""What a ledger writes down: facts in a hash chain.

An entry is canonical JSON that holds parameters and public facts only, and the hash of
the entry before it. Entries of earlier versions are read, and written again, byte for
byte. Whether a chain of them adds up is checked by a replay; keeping them is the
ledger's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedge.errors import RecordError
from fedge.records import (
    Count,
    Fingerprint,
    PolicyApproval,
    PrivacyEvent,
    PrivacyPolicy,
    PublicKeyHex,
    Sha256,
    Versioned,
)
from fedge.records.base import first_fault

FIRST_HASH = "0" * 64
Purpose = Annotated[str, Field(pattern=r"^[a-z][a-z0-9\-]{0,31}$")]
RunPurpose = Literal["training", "evaluation"]
Exclusion = Literal["escalation", "sketches"]
ErasureReason = Literal["erasure", "consent", "retention", "quota"]
RecoveryReason = Literal["wiped", "restored", "forked"]
NoiseKind = Literal["os", "seeded", "os-float"]


class Entry(Versioned):
    """What every entry holds.

    Attributes:
        seq: 0, 1, 2, ... without a gap.
        previous: hash of the entry before.
        at: seconds since the epoch by the gateway's clock; it may go back.
        simulated: written by a simulation; such a ledger proves nothing.
    """

    schema_version: Literal[1, 2] = 2
    seq: Count
    previous: Sha256
    at: float
    simulated: bool

    @property
    def hash(self) -> str:
        """SHA-256 over 0x00 and the canonical bytes: a leaf as in RFC 6962."""
        return hashlib.sha256(b"\x00" + self.to_bytes()).hexdigest()


class Created(Entry):
    """The ledger begins.

    Attributes:
        gateway, public_key: whose ledger it is; None where its maker had no key.
    """

    since: ClassVar[dict[str, int]] = {"gateway": 2, "public_key": 2}

    kind: Literal["created"] = "created"
    gateway: Fingerprint | None = None
    public_key: PublicKeyHex | None = None


class Adopted(Entry):
    """A policy holds for blocks opened from now on; an open block's cap can only fall to it.

    Attributes:
        approval: who allowed it, and why; None where nobody signed it.
    """

    schema_version: Literal[2] = 2
    kind: Literal["policy"] = "policy"
    policy: PrivacyPolicy
    approval: PolicyApproval | None = None


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
    events: tuple[PrivacyEvent, ...] = Field(min_length=1)


class RunReserved(Entry):
    """All rounds of a retraining, charged in full to each block that it reads.

    Attributes:
        purposes: what each event is for; quotas count by it.
        task: of the run.
        base_release, base_sha256: the release that it starts from.
    """

    since: ClassVar[dict[str, int]] = {
        "purposes": 2,
        "task": 2,
        "base_release": 2,
        "base_sha256": 2,
    }

    kind: Literal["run"] = "run"
    reservation: Count
    run_id: str
    blocks: tuple[Count, ...] = Field(min_length=1)
    events: tuple[PrivacyEvent, ...] = Field(min_length=1)
    purposes: tuple[RunPurpose, ...] = ()
    task: Annotated[str, Field(max_length=64)] = ""
    base_release: Count | None = None
    base_sha256: Sha256 | None = None

    @property
    def uses(self) -> tuple[RunPurpose, ...]:
        """One purpose for each event; all training where an earlier version named none."""
        return self.purposes or all_training(self.events)


def all_training(events: Sequence[PrivacyEvent]) -> tuple[RunPurpose, ...]:
    """The purposes of a run that names none."""
    return tuple("training" for _ in events)


class Settled(Entry):
    """One part of a reservation was noised and its bytes kept: it counts as released.

    Attributes:
        noise: integers from the system's entropy, a simulation's seed, or floating-point
            numbers from the system's entropy.
    """

    kind: Literal["settled"] = "settled"
    reservation: Count
    key: str
    event: PrivacyEvent
    artefact_sha256: Sha256
    noise: NoiseKind


class Lost(Entry):
    """One part of a reservation may have been noised, and nothing of it was kept: a gap.

    Its charge stands, and it is neither noised again nor settled.
    """

    schema_version: Literal[2] = 2
    kind: Literal["lost"] = "lost"
    reservation: Count
    key: str
    event: PrivacyEvent


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


class Recovered(Entry):
    """The gateway's state was lost or put back; what was spent since may be unknown.

    Attributes:
        through_block: up to this block nothing more may be reserved, noised or opened.
        witnessed_size, witnessed_root: the confirmed head up to which the chain is known.
        reason: nothing was left, an older copy came back, or two chains went on from one.
    """

    schema_version: Literal[2] = 2
    kind: Literal["recovered"] = "recovered"
    through_block: Count
    witnessed_size: Count
    witnessed_root: Sha256
    reason: RecoveryReason


AnyEntry = Annotated[
    Created
    | Adopted
    | Opened
    | WindowReserved
    | RunReserved
    | Settled
    | Lost
    | Excluded
    | Erased
    | Recovered,
    Field(discriminator="kind"),
]
_READER: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)


def read_entry(data: bytes) -> AnyEntry:
    """Read one entry.

    Raises:
        RecordError: the bytes are no entry of a known kind and version.
    """
    try:
        return _READER.validate_json(data)
    except ValidationError as error:
        raise RecordError(f"ledger entry: {first_fault(error, 'entry')}") from error
