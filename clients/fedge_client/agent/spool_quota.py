"""What the spool gives up so that it stays within its quota of bytes, and in which order.

First what was set aside, then replies of earlier runs, then of what waits the least important,
and of that the oldest. Nothing that was to be pushed goes without a gap record.
"""

from __future__ import annotations

import sqlite3

from fedge.records import GapRecord
from fedge_client.agent.spool_gaps import SpoolGaps
from fedge_client.agent.spool_rows import PRIORITIES, SpoolRows

KEPT_RUNS = 3
"""Runs whose replies are kept. One that is asked for a reply of an older run refuses: the
ledger knows it as settled, so no second noise is drawn."""


class SpoolQuota:
    """Makes room among the spool's rows.

    Args:
        max_bytes: of everything that the spool keeps on disk, as `disk_bytes` counts it.

    Attributes:
        spared: number of the envelope that is being sent: it is not given up. None: there is none.
    """

    def __init__(self, rows: SpoolRows, gaps: SpoolGaps, max_bytes: int) -> None:
        self._rows, self._gaps = rows, gaps
        self.max_bytes = max_bytes
        self.spared: int | None = None

    def enforce(self, db: sqlite3.Connection) -> None:
        """Give up as little as brings the spool back into its quota, or all that may go."""
        while self._rows.counter("bytes") > self.max_bytes:
            if not (
                self.drop(db, "state = 'refused'")
                or self.drop(db, "state = 'corrupt'")
                or self._drop_reply(db)
                or any(
                    self.drop(db, "state = 'waiting' AND priority = ? AND kind <> 'gap'", priority)
                    for priority in sorted(set(PRIORITIES.values()), reverse=True)
                )
            ):
                return

    def drop(self, db: sqlite3.Connection, which: str, *values: int) -> bool:
        """Push out the oldest envelope among `which`, if there is one, and count it.

        Args:
            which: an SQL condition on rows to be pushed; `values` are its parameters.
        """
        found = db.execute(
            "SELECT seq, kind, created FROM spool WHERE channel = 'push' AND seq IS NOT ?"
            f" AND {which} ORDER BY seq LIMIT 1",
            (self.spared, *values),
        ).fetchone()
        if found is None:
            return False
        seq, kind, at = int(found[0]), found[1], float(found[2])
        self._rows.remove(db, "push", seq)
        self._rows.draw("dropped")
        gap = GapRecord(kind=kind, count=1, first_seq=seq, last_seq=seq, first_at=at, last_at=at)
        self._gaps.record(db, gap)
        return True

    def prune_replies(self, db: sqlite3.Connection) -> None:
        """Keep the replies of the last runs; a reply's key begins with its run's id."""
        rows = db.execute(
            "SELECT seq FROM spool WHERE channel = 'reply' AND substr(key, 1, instr(key, '/'))"
            " NOT IN (SELECT substr(key, 1, instr(key, '/')) AS run FROM spool"
            " WHERE channel = 'reply' GROUP BY run ORDER BY MAX(seq) DESC LIMIT ?)",
            (KEPT_RUNS,),
        ).fetchall()
        for (seq,) in rows:
            self._rows.remove(db, "reply", int(seq))

    def _drop_reply(self, db: sqlite3.Connection) -> bool:
        """Delete the oldest reply of an earlier run than the latest, if there is one."""
        found = db.execute(
            "SELECT seq FROM spool WHERE channel = 'reply' AND substr(key, 1, instr(key, '/'))"
            " <> (SELECT substr(key, 1, instr(key, '/')) FROM spool WHERE channel = 'reply'"
            " ORDER BY seq DESC LIMIT 1) ORDER BY seq LIMIT 1"
        ).fetchone()
        if found is not None:
            self._rows.remove(db, "reply", int(found[0]))
        return found is not None
