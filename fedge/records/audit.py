"""What a gateway says about its own bookkeeping: ledger entries, and what its spool gave up.

Both are public facts. Entries travel as the very bytes that the ledger chained: what they
mean, and whether they follow from one another, is checked where entries are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedge.errors import RecordError
from fedge.records.base import Count, Record, Versioned
from fedge.records.witness import SignedHead

LostKind = Literal["audit", "gap", "labels", "report", "status"]
"""Kinds of envelope that wait in a spool to be pushed, and may be given up there."""


class GapRecord(Record):
    """Envelopes of one kind that a spool's quota pushed out before they were acknowledged.

    Each number is named by one gap record only. One whose acknowledgement was lost may have
    arrived all the same: the receiver knows the numbers that it holds.

    Attributes:
        kind: of the envelopes given up.
        count: how many; all lie between the two numbers, others there may have been sent.
        first_seq, last_seq: lowest and highest number given up.
        first_at, last_at: when these two were put into the spool.
    """

    schema_version: Literal[1] = 1
    kind: LostKind
    count: int = Field(gt=0, lt=2**53)
    first_seq: Count
    last_seq: Count
    first_at: float
    last_at: float

    @model_validator(mode="after")
    def _counts_within(self) -> Self:
        if not self.count <= self.last_seq - self.first_seq + 1:
            raise ValueError("counts more numbers than lie between first_seq and last_seq")
        return self

    def extended(self, seq: int, at: float) -> GapRecord:
        """This run of evictions and one more."""
        first, last = (self.first_seq, self.first_at), (self.last_seq, self.last_at)
        (first_seq, first_at), (last_seq, last_at) = min(first, (seq, at)), max(last, (seq, at))
        return GapRecord(
            kind=self.kind,
            count=self.count + 1,
            first_seq=first_seq,
            last_seq=last_seq,
            first_at=first_at,
            last_at=last_at,
        )


class AuditHead(Versioned):
    """The first line of an audit batch: which entries follow.

    Attributes:
        head: the gateway's signed head of the ledger whose last entry is the batch's last; None
            where an earlier version wrote the batch.
    """

    since: ClassVar[dict[str, int]] = {"head": 2}

    schema_version: Literal[1, 2] = 2
    first_seq: Count
    entries: int = Field(gt=0, lt=2**31)
    head: SignedHead | None = None


@dataclass(frozen=True, slots=True)
class AuditBatch:
    """Consecutive ledger entries, byte for byte as the ledger holds them.

    Attributes:
        first_seq: the first entry's number in the ledger; the others count on from it.
        entries: canonical JSON, one entry each, at least one.
        head: of the ledger as it stood with the last of them; None if nobody signed one.
    """

    first_seq: int
    entries: Sequence[bytes]
    head: SignedHead | None = None

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.entries) - 1

    def to_bytes(self) -> bytes:
        """Lines: an `AuditHead`, then each entry. Canonical JSON holds no line break."""
        head = AuditHead(first_seq=self.first_seq, entries=len(self.entries), head=self.head)
        return b"\n".join((head.to_bytes(), *self.entries))

    @classmethod
    def from_bytes(cls, data: bytes) -> AuditBatch:
        """Take apart what `to_bytes` wrote; the entries are not looked at.

        Raises:
            RecordError: the bytes are no such batch.
        """
        first, *entries = data.split(b"\n")
        head = AuditHead.from_bytes(first)
        if head.entries != len(entries):
            raise RecordError(f"audit batch: {head.entries} entries announced, {len(entries)} came")
        return cls(head.first_seq, tuple(entries), head.head)
