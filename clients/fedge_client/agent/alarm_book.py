"""The local alarms that are kept, and the baselines that detectors go on with after a restart.

Both lie in the state file and go nowhere else: what is in these tables was computed from
records without noise.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict

from fedge.drift.local.alarms import LocalAlarm
from fedge.statefile import StateFile
from fedge_client.local_marks import ALARMS_TABLE, LATEST_ALARMS


class AlarmBook:
    """Keeps the latest alarms, and one baseline for each release and signal.

    Args:
        setting: what baselines depend on; one that was taken under another setting is not used.
        history: alarms kept at most.
        max_age_s: alarms and baselines older than this are forgotten.

    Raises:
        StateError: the disk refused.
    """

    def __init__(self, state: StateFile, *, setting: str, history: int, max_age_s: float) -> None:
        self._state, self._setting = state, setting
        self._history, self._max_age_s = history, max_age_s
        state.ensure(
            f"CREATE TABLE IF NOT EXISTS {ALARMS_TABLE}"
            " (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, body TEXT NOT NULL)",
            "CREATE TABLE IF NOT EXISTS local_baselines (release INTEGER NOT NULL,"
            " signal TEXT NOT NULL, setting TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL,"
            " PRIMARY KEY (release, signal))",
        )

    def add(self, alarm: LocalAlarm) -> None:
        """Keep an alarm; the baseline that it ended is no baseline any more."""
        body = json.dumps(asdict(alarm), sort_keys=True)
        with self._state.transaction() as db:
            db.execute(f"INSERT INTO {ALARMS_TABLE} (at, body) VALUES (?, ?)", (alarm.at, body))
            db.execute(
                f"DELETE FROM {ALARMS_TABLE} WHERE id NOT IN"
                f" (SELECT id FROM {ALARMS_TABLE} ORDER BY id DESC LIMIT ?)",
                (self._history,),
            )
            self._drop_baseline(db, alarm.release, alarm.signal)
        self.expire(alarm.at)

    def ended(self, alarm: LocalAlarm) -> None:
        """Like `add` for an alarm that only repeats another one: it is not kept."""
        with self._state.transaction() as db:
            self._drop_baseline(db, alarm.release, alarm.signal)

    def keep_baseline(
        self, release: int, signal: str, baseline: Sequence[float], now: float
    ) -> None:
        """Keep a baseline in place of an earlier one."""
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO local_baselines VALUES (?, ?, ?, ?, ?)",
                (release, signal, self._setting, now, json.dumps(list(baseline))),
            )

    def baseline(self, release: int, signal: str) -> tuple[float, ...]:
        """The baseline that an earlier process took; empty where there is none to go on with."""
        rows = self._state.rows(
            "SELECT body FROM local_baselines WHERE release = ? AND signal = ? AND setting = ?",
            *(release, signal, self._setting),
        )
        return tuple(float(value) for value in json.loads(rows[0][0])) if rows else ()

    def latest(self, count: int) -> list[dict[str, object]]:
        """The latest alarms, the newest first."""
        return [json.loads(body) for (body,) in self._state.rows(LATEST_ALARMS, count)]

    @property
    def kept(self) -> int:
        """How many alarms are kept."""
        ((count,),) = self._state.rows(f"SELECT COUNT(*) FROM {ALARMS_TABLE}")
        return int(count)

    def expire(self, now: float) -> None:
        """Forget what is older than records may be."""
        oldest = now - self._max_age_s
        for table in (ALARMS_TABLE, "local_baselines"):
            # Mostly there is nothing: a look writes nothing to the disk.
            if self._state.rows(f"SELECT 1 FROM {table} WHERE at < ? LIMIT 1", oldest):
                with self._state.transaction() as db:
                    db.execute(f"DELETE FROM {table} WHERE at < ?", (oldest,))

    def forget_baselines(self) -> None:
        """Records that they were taken from are to be erased."""
        with self._state.transaction() as db:
            db.execute("DELETE FROM local_baselines")

    def _drop_baseline(self, db: sqlite3.Connection, release: int, signal: str) -> None:
        db.execute(
            "DELETE FROM local_baselines WHERE release = ? AND signal = ?", (release, signal)
        )
