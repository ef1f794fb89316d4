"""Heads of a ledger: what a gateway signs about its chain, and what the coordinator confirms.

A head commits to a number of entries through the Merkle tree of RFC 6962. The gateway signs
its own; the coordinator countersigns the ones that follow from all it has seen before, so that
a ledger that went back, or two that part, cannot both be confirmed.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fedge.records.base import (
    Count,
    Fingerprint,
    PublicKeyHex,
    Record,
    Sha256,
    SignatureHex,
    canonical,
)


class SignedHead(Record):
    """The first `size` entries of a gateway's ledger, under its own signature.

    Attributes:
        root: Merkle tree hash over these entries' canonical bytes (RFC 6962, section 2.1).
        at: seconds since the epoch by the gateway's clock.
        signature: Ed25519 over `SIGNED` and the canonical bytes of all other fields, in hex.
    """

    SIGNED: ClassVar[bytes] = b"fedge ledger head 1\n"

    schema_version: Literal[1] = 1
    gateway: Fingerprint
    size: int = Field(gt=0, lt=2**53)
    root: Sha256
    at: float
    simulated: bool = False
    signature: SignatureHex

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return self.SIGNED + canonical(self.model_dump(mode="json", exclude={"signature"}))


class WitnessedHead(Record):
    """A gateway's head that the coordinator holds all entries of, under the coordinator's key.

    Attributes:
        at: seconds since the epoch by the coordinator's clock.
        witness: the coordinator's public key.
        signature: Ed25519 over `SIGNED` and the canonical bytes of all other fields, in hex.
    """

    SIGNED: ClassVar[bytes] = b"fedge witnessed head 1\n"

    schema_version: Literal[1] = 1
    head: SignedHead
    at: float
    witness: PublicKeyHex
    signature: SignatureHex

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return self.SIGNED + canonical(self.model_dump(mode="json", exclude={"signature"}))


class LedgerStanding(Record):
    """What the coordinator knows of a gateway's ledger and numbers: asked for before anything
    is sent, so that a state that was lost or put back is noticed.

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
