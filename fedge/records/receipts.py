"""What a coordinator answers to an envelope on its disk: only then may a gateway drop it."""

from __future__ import annotations

from fedge.records.base import Count, Fingerprint, Record, Sha256


class Receipt(Record):
    """Names the stored envelope; the same for each copy of it."""

    gateway: Fingerprint
    seq: Count
    payload_sha256: Sha256
