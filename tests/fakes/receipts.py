"""What a coordinator that believes everything answers, and confirms no heads."""

from __future__ import annotations

from collections.abc import Iterable

from fedge.identity import Envelope
from fedge.records import AuditBatch, LedgerStanding, Receipt


def receipt_for(envelope: bytes) -> bytes:
    """The body of an answer of 200."""
    header = Envelope.from_bytes(envelope).header
    receipt = Receipt(gateway=header.gateway, seq=header.seq, payload_sha256=header.payload_sha256)
    return receipt.to_bytes()


def standing_for(path: str, taken: Iterable[bytes]) -> bytes:
    """The body of an answer of 200 to the question at `path` for a ledger's standing.

    Args:
        taken: all envelopes that the coordinator took.
    """
    envelopes = [Envelope.from_bytes(data) for data in taken]
    batches = [AuditBatch.from_bytes(e.payload) for e in envelopes if e.header.kind == "audit"]
    entries = 0
    for batch in sorted(batches, key=lambda one: one.first_seq):
        if batch.first_seq <= entries:
            entries = max(entries, batch.last_seq + 1)
    standing = LedgerStanding(
        gateway=path.rpartition("/")[2],
        witnessed=None,
        entries=entries,
        next_seq=max((e.header.seq for e in envelopes), default=-1) + 1,
        next_window=0,
    )
    return standing.to_bytes()
