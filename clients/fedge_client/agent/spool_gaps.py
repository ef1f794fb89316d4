"""Gap records of the spool: they tell the coordinator which numbers will never come.

Each kind of envelope has one record that grows while nobody has seen it; whatever is given up
after it was handed out begins another one.
"""

from __future__ import annotations

import sqlite3

from fedge.identity import Envelope
from fedge.records import GapRecord
from fedge_client.agent.spool_rows import SpoolRows


class SpoolGaps:
    """The gap records among the spool's rows."""

    def __init__(self, rows: SpoolRows) -> None:
        self._rows = rows

    def record(self, db: sqlite3.Connection, gap: GapRecord) -> None:
        """Extend the gap record of this kind that nobody saw yet, or begin one.

        That one keeps its number: until it is handed out, its bytes are nobody's but ours.

        Args:
            gap: counts a single envelope.
        """
        waiting = db.execute(
            "SELECT seq, CAST(envelope AS BLOB) FROM spool WHERE channel = 'push'"
            " AND kind = 'gap' AND state = 'waiting' AND handed = 0 AND detail = ?"
            " ORDER BY seq DESC LIMIT 1",
            (gap.kind,),
        ).fetchone()
        earlier = None if waiting is None else self._read(int(waiting[0]), bytes(waiting[1]))
        if earlier is None:  # a damaged one is set aside when it is handed out
            self.begin(db, gap)
        else:
            grown = earlier.extended(gap.first_seq, gap.first_at)
            self._rows.seal_again(db, int(waiting[0]), "gap", grown.to_bytes())

    def begin(self, db: sqlite3.Connection, gap: GapRecord) -> None:
        """Let a record wait under a number of its own."""
        self._rows.add(db, "push", "gap", gap.to_bytes(), detail=gap.kind)

    def waiting(self, db: sqlite3.Connection) -> list[GapRecord]:
        """All records that wait, the oldest first, without damaged ones."""
        found = db.execute(
            "SELECT seq, CAST(envelope AS BLOB) FROM spool WHERE kind = 'gap'"
            " AND state = 'waiting' ORDER BY seq"
        ).fetchall()
        told = (self._read(int(seq), bytes(envelope)) for seq, envelope in found)
        return [gap for gap in told if gap is not None]

    def _read(self, seq: int, envelope: bytes) -> GapRecord | None:
        """The record inside a waiting gap envelope; None if its bytes are damaged."""
        if self._rows.fault(seq, "gap", envelope):
            return None
        return GapRecord.from_bytes(Envelope.from_bytes(envelope).payload)
