"""Heads of a ledger: what a gateway signs about its chain, and what the coordinator confirms.

A head commits to a number of entries through the Merkle tree of RFC 6962. The gateway signs
its own; the coordinator countersigns the ones that follow from all it has seen before, so that
a ledger that went back, or two that part, cannot both be confirmed.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedge.records.base import (
    Count,
    Fingerprint,
    PublicKeyHex,
    Record,
    Sha256,
    SignedRecord,
)

Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class SignedHead(SignedRecord):
    """The first `size` entries of a gateway's ledger, under its own signature.

    Attributes:
        root: Merkle tree hash over these entries' canonical bytes (RFC 6962, section 2.1).
        at: seconds since the epoch by the gateway's clock.
    """

    SIGNED: ClassVar[bytes] = b"fedge ledger head 1\n"

    schema_version: Literal[1] = 1
    gateway: Fingerprint
    size: int = Field(gt=0, lt=2**53)
    root: Sha256
    at: float
    simulated: bool = False


class WitnessedHead(SignedRecord):
    """A gateway's head that the coordinator holds all entries of, under the coordinator's key.

    Attributes:
        at: seconds since the epoch by the coordinator's clock.
        witness: the coordinator's public key.
    """

    SIGNED: ClassVar[bytes] = b"fedge witnessed head 1\n"

    schema_version: Literal[1] = 1
    head: SignedHead
    at: float
    witness: PublicKeyHex


class LedgerStanding(Record):
    """What the coordinator knows of a gateway's ledger and numbers.

    Attributes:
        witnessed: the latest head that was confirmed; None where none was.
        entries: how many ledger entries are stored without a gap from the first.
        next_seq: one more than the largest envelope number that is stored.
        next_window: one more than the largest window that was reported.
    """

    schema_version: Literal[1] = 1
    gateway: Fingerprint
    witnessed: WitnessedHead | None
    entries: Count
    next_seq: Count
    next_window: Count


class WitnessedStanding(SignedRecord):
    """A ledger's standing under the coordinator's key: asked for before anything is sent, so that
    a state that was lost or put back is noticed.

    Signed as a whole and with the question's own number: a head that was confirmed long ago, or
    the claim that none ever was, would make a lost state look whole.

    Attributes:
        nonce: what the gateway asked with, drawn for this one question.
        witness: the coordinator's public key.
    """

    SIGNED: ClassVar[bytes] = b"fedge ledger standing 1\n"

    schema_version: Literal[1] = 1
    standing: LedgerStanding
    nonce: Nonce
    witness: PublicKeyHex
