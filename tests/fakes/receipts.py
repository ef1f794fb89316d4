"""What a coordinator that believes everything answers; it confirms heads where it is to."""

from __future__ import annotations

from collections.abc import Iterable

from fedge.identity import Envelope, Identity
from fedge.privacy.heads import witness_head, witness_standing
from fedge.records import AuditBatch, LedgerStanding, Receipt

BELIEVER = Identity.from_seed(b"\xbe" * 32)
"""The key of a coordinator that confirms no heads."""


def receipt_for(envelope: bytes) -> bytes:
    """The body of an answer of 200."""
    header = Envelope.from_bytes(envelope).header
    receipt = Receipt(gateway=header.gateway, seq=header.seq, payload_sha256=header.payload_sha256)
    return receipt.to_bytes()


def standing_for(path: str, taken: Iterable[bytes], witness: Identity | None = None) -> bytes:
    """The body of an answer of 200 to the question at `path` for a ledger's standing.

    Args:
        taken: all envelopes that the coordinator took.
        witness: confirms the latest head of which all entries came; None confirms none, and
            signs the answer as `BELIEVER`.
    """
    envelopes = [Envelope.from_bytes(data) for data in taken]
    batches = [AuditBatch.from_bytes(e.payload) for e in envelopes if e.header.kind == "audit"]
    entries, head = 0, None
    for batch in sorted(batches, key=lambda one: one.first_seq):
        if batch.first_seq <= entries <= batch.last_seq:
            entries, head = batch.last_seq + 1, batch.head
    _, gateway, _, nonce = path.rsplit("/", 3)
    standing = LedgerStanding(
        gateway=gateway,
        witnessed=None if head is None or witness is None else witness_head(witness, head, 2e9),
        entries=entries,
        next_seq=max((e.header.seq for e in envelopes), default=-1) + 1,
        next_window=0,
    )
    return witness_standing(witness or BELIEVER, standing, nonce).to_bytes()
