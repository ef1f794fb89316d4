"""What the audit trail promises: the centre can hold every ledger entry, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.spools import Outbox, Post

from fedge.errors import RecordError
from fedge.identity import Envelope
from fedge.privacy.replay import replay
from fedge.records import AuditBatch, GapRecord
from fedge_client.agent.audit import BATCH_BYTES
from fedge_client.agent.sender import Sender


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path)
    yield made
    made.close()


def batches(outbox: Outbox) -> list[AuditBatch]:
    return [AuditBatch.from_bytes(e.payload) for e in outbox.waiting() if e.header.kind == "audit"]


def entries(found: list[AuditBatch]) -> tuple[bytes, ...]:
    return tuple(entry for batch in found for entry in batch.entries)


class TestBatch:
    def test_it_comes_back_as_it_was(self) -> None:
        """First number and every byte of every entry."""
        batch = AuditBatch(7, (b'{"a":1}', b'{"b":"\xc3\xa4"}'))
        assert AuditBatch.from_bytes(batch.to_bytes()) == batch
        assert batch.last_seq == 8

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\n",
            b"{}\n{}",
            AuditBatch(0, (b"a",)).to_bytes() + b"\n",
            AuditBatch(0, (b"a", b"b")).to_bytes()[:-2],
            AuditBatch(0, (b"a",)).to_bytes().replace(b'"first_seq":0', b'"first_seq":-1'),
        ],
    )
    def test_anything_else_is_refused(self, data: bytes) -> None:
        """More or fewer lines than announced, or no head."""
        with pytest.raises(RecordError):
            AuditBatch.from_bytes(data)

    @pytest.mark.parametrize("count", [0, 12])
    def test_a_gap_counts_what_can_be_missing(self, count: int) -> None:
        """Not nothing, and not more numbers than there are between the two."""
        facts = f'{{"kind":"report","count":{count},"first_seq":0,"last_seq":10'
        with pytest.raises(RecordError):
            GapRecord.from_bytes(facts + ',"first_at":1.0,"last_at":2.0}')


class TestTrail:
    def test_all_entries_travel_in_order_and_unchanged(self, outbox: Outbox) -> None:
        """Across several hand-overs and batches: the very bytes, so that they replay."""
        taken: list[AuditBatch] = []
        for window in range(90):
            outbox.report(window)
            if window % 30 == 29:
                outbox.audit.hand_over()
                taken += batches(outbox)
                Sender(outbox.spool, Post(), outbox.standing, interval_s=1).push()
        while outbox.audit.hand_over():
            taken += batches(outbox)
            Sender(outbox.spool, Post(), outbox.standing, interval_s=1).push()

        assert entries(taken) == outbox.ledger.entries()
        assert taken[0].first_seq == 0
        assert all(len(batch.to_bytes()) < BATCH_BYTES + 600 for batch in taken)
        assert replay(entries(taken)).simulated

    def test_an_outage_leaves_few_envelopes(self, outbox: Outbox) -> None:
        """However often it is looked: one small batch waits, and full ones."""
        for window in range(120):
            outbox.report(window)
            outbox.audit.hand_over()

        found = batches(outbox)
        size = sum(map(len, outbox.ledger.entries()))
        assert len(found) <= 2 + size // (BATCH_BYTES // 2)
        assert entries(found) == outbox.ledger.entries()[: outbox.audit.next_seq]

    def test_a_full_spool_leaves_them_in_the_ledger(self, tmp_path: Path) -> None:
        """Batches wait for room instead of pushing out reports, or each other."""
        outbox = Outbox(tmp_path, max_bytes=2**16)
        for window in range(200):
            outbox.report(window)
            outbox.audit.hand_over()

        assert {gap.kind for gap in outbox.gaps()} == {"report"}
        assert outbox.audit.next_seq < len(outbox.ledger.entries())
        outbox.close()

    def test_a_start_goes_on_where_it_was(self, outbox: Outbox) -> None:
        """No entry is handed over twice, none is skipped."""
        outbox.report(0)
        outbox.audit.hand_over()
        outbox.close()
        outbox.open()
        assert outbox.audit.hand_over() == 0
        outbox.report(1)
        Sender(outbox.spool, Post(), outbox.standing, interval_s=1).push()
        first = outbox.audit.next_seq
        outbox.audit.hand_over()
        assert [b.first_seq for b in batches(outbox)] == [first]

    def test_nothing_else_passes_the_gate_as_an_entry(self, outbox: Outbox) -> None:
        """Bytes that are no ledger entry, or not the one announced, are a bug and stay here."""
        created, *_ = outbox.ledger.entries()
        for first_seq, data in ((0, b"a record"), (1, created), (0, created + b" ")):
            with pytest.raises(RuntimeError, match="no ledger entry"):
                outbox.gate.audit(first_seq, [data])
        assert outbox.spool.depth == 0
        assert Envelope.from_bytes(outbox.gate.audit(0, [created])).header.kind == "audit"
