"""From the ring to windows: the agent's view of its own stream.

What the worker observed is cut into windows; at the close of a window the rows
go to the block store, sketches stay here, and counts on frozen bins are noised,
charged and spooled as a report. One transaction makes a window final: report,
settlement and the position in the ring move together, so that after a kill the
same rows give the same window again, or none are asked for twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedge.data.blocks import BlockStore
from fedge.errors import BudgetError, StateError
from fedge.privacy.ledger import Ledger, Reservation
from fedge.privacy.noise import Noise
from fedge.profiles.counts import count_window, feature_counts, join, window_event
from fedge.profiles.sketches import KllProfile, numeric_columns
from fedge.profiles.streams import stream_values
from fedge.profiles.windows import WindowCutter, WindowSpan
from fedge.profiles.wire import encode_report
from fedge.records import PrivacyPolicy, WindowReport
from fedge.serving.ring import LABEL, OBSERVATION, RingReader, open_reader
from fedge.serving.ring_file import Records
from fedge.statefile import StateFile
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.releases import Installed, InstalledReleases

log = logging.getLogger(__name__)

READ_LIMIT = 2048
FEATURES_KEY = "features"


class Watcher:
    """Consumes the ring, one bounded piece at a time.

    Args:
        ring: the ring file; it need not exist yet.
        window_slots: arrival slots of a full window.
    """

    def __init__(
        self,
        ring: Path,
        *,
        state: StateFile,
        installed: InstalledReleases,
        store: BlockStore,
        ledger: Ledger,
        gate: EgressGate,
        noise: Noise,
        policy: PrivacyPolicy,
        window_slots: int,
        clock: Callable[[], float],
    ) -> None:
        self._ring, self._state, self._installed = ring, state, installed
        self._store, self._ledger, self._gate = store, ledger, gate
        self._noise, self._policy, self._clock = noise, policy, clock
        self._window_slots = window_slots
        state.ensure(
            "CREATE TABLE IF NOT EXISTS watch (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " window INTEGER NOT NULL, slot INTEGER, position INTEGER NOT NULL,"
            " withheld INTEGER NOT NULL)",
            "CREATE TABLE IF NOT EXISTS profiles (window INTEGER PRIMARY KEY,"
            " block INTEGER NOT NULL, sketch BLOB NOT NULL)",
        )
        self._reader: RingReader | None = None
        self._resume()

    @property
    def next_slot(self) -> int:
        """Arrival slots given out, as far as read."""
        return self._reader.next_slot if self._reader else self._next_slot or 0

    @property
    def dropped(self) -> int:
        """Observations that the ring had no room for."""
        return self._reader.dropped if self._reader else 0

    @property
    def dropped_labels(self) -> int:
        """Labels that the ring had no room for."""
        return self._reader.dropped_labels if self._reader else 0

    @property
    def withheld(self) -> int:
        """Windows that left no report, because the ledger refused or their release was gone."""
        return self._withheld

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def poll(self) -> int:
        """Take in what the ring holds; answers how many windows were closed.

        Where a window cannot be made final (a full disk, say), the error is raised and the next
        call takes in again everything after the last window that was.
        """
        reader = self._open()
        if reader is None:
            return 0
        try:
            return self._take_in(reader)
        except BaseException:
            # Rows and cutter no longer agree: going on would put rows into wrong windows.
            self.close()
            self._resume()
            raise

    def _resume(self) -> None:
        """Stand where the last final window ended, as a new process would."""
        rows = self._state.rows("SELECT window, slot, position, withheld FROM watch")
        window, slot, position, withheld = rows[0] if rows else (0, None, 0, 0)
        self._position = int(position)
        self._withheld = int(withheld)
        self._next_slot = None if slot is None else int(slot)
        self._cutter = WindowCutter(
            self._window_slots, next_window=int(window), next_slot=self._next_slot
        )
        self.windows = int(window)
        self._held: Records | None = None
        self._held_at = np.empty(0, dtype=np.int64)
        self._labels: list[tuple[int, int]] = []

    def _take_in(self, reader: RingReader) -> int:
        rows, end = reader.read(self._position, READ_LIMIT)
        positions = np.arange(self._position, end, dtype=np.int64)
        observed = rows["kind"] == OBSERVATION
        fresh = rows[observed]
        held = fresh if self._held is None else np.concatenate([self._held, fresh])
        held_at = np.concatenate([self._held_at, positions[observed]])
        closed = self._cutter.feed(
            fresh["slot"].astype(np.int64),
            fresh["block"].astype(np.int64),
            fresh["release"].astype(np.int64),
            reader.next_slot,
        )
        self._position = end
        labels = rows[rows["kind"] == LABEL]
        self._labels.extend(zip(labels["slot"].tolist(), labels["label"].tolist(), strict=True))
        for span, piece in closed:
            after = int(held_at[piece.stop]) if piece.stop < len(held_at) else end
            self._close(span, held[piece], after)
        left = self._cutter.open.rows if self._cutter.open is not None else 0
        self._held, self._held_at = held[len(held) - left :], held_at[len(held_at) - left :]
        if self._cutter.open is not None:
            self._file_labels(before=self._cutter.open.first_slot)
        return len(closed)

    def _open(self) -> RingReader | None:
        if self._reader is None:
            reader = open_reader(self._ring)
            if reader is None:
                return None
            try:
                reader.read(self._position, 0)
            except StateError as error:
                # The file is never synced: after a power failure it may be gone or older.
                log.warning("the ring is not the one read before, going on with it: %s", error)
                self._position = reader.position
            reader.never_below(self._next_slot or 0)
            reader.release(self._position)
            self._reader = reader
        return self._reader

    def _close(self, span: WindowSpan, rows: Records, position: int) -> None:
        """Make one complete window final."""
        installed = self._installed.get(span.release)
        report = None if installed is None else self._report(span, rows, installed)
        if report is None:
            self._withheld += 1
            log.error("window %d leaves no report", span.window)
        with self._state.transaction() as db:
            # The position moves past labels that were read already: they go with it.
            self._file_labels(before=span.end)
            if report is not None:
                payload, reservation = report
                self._gate.release(
                    "report",
                    payload,
                    reservation=reservation,
                    key=FEATURES_KEY,
                    noise_kind=self._noise.kind,
                    channel="push",
                    spool_key=f"report/{span.window}",
                )
            db.execute(
                "INSERT OR REPLACE INTO watch VALUES (1, ?, ?, ?, ?)",
                (span.window + 1, span.end, position, self._withheld),
            )
        self.windows, self._next_slot = span.window + 1, span.end
        if self._reader is not None:
            self._reader.release(position)

    def _report(
        self, span: WindowSpan, rows: Records, installed: Installed
    ) -> tuple[bytes, Reservation] | None:
        """Keep the rows, count, charge and noise; None where the ledger refuses."""
        values = stream_values(
            installed.task, rows["features"], rows["prediction"], rows["confidence"], rows["ood"]
        )
        self._keep(span, rows, values, installed)
        event = window_event(installed.reference, self._policy.window_rho)
        try:
            self._ledger.open_block(span.block)
            reservation = self._ledger.reserve_window(span.window, span.block, (event,))
            grant = self._ledger.grant(reservation, FEATURES_KEY, event)
        except BudgetError as error:
            log.error("window %d is not reported: %s", span.window, error)
            return None
        noised = self._noise.discrete_gaussian(
            join(count_window(installed.reference, values)),
            sensitivity2=event.sensitivity2,
            sigma2=event.sigma2,
            grant=grant,
        )
        report = WindowReport(
            task=installed.task.name,
            window=span.window,
            block=span.block,
            release=span.release,
            reference_sha256=installed.reference_sha256,
            first_slot=span.first_slot,
            slots=span.slots,
            planned_slots=self._window_slots,
            dropped=span.dropped,
            opened_at=float(rows["time"][0]) if len(rows) else self._clock(),
            closed_at=self._clock(),
            features=feature_counts(installed.reference, noised, event),
        )
        return encode_report(report), reservation

    def _keep(
        self, span: WindowSpan, rows: Records, values: np.ndarray, installed: Installed
    ) -> None:
        """What stays on the gateway: the rows in their block, and a sketch of the window."""
        self._store.write_window(
            block=span.block,
            window=span.window,
            slots=rows["slot"].astype(np.int64),
            inputs=rows["inputs"],
            features=rows["features"],
            predictions=rows["prediction"].astype(np.int64),
        )
        sketch = KllProfile.of(installed.reference)
        sketch.update(numeric_columns(installed.reference.streams, values))
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO profiles VALUES (?, ?, ?)",
                (span.window, span.block, sketch.to_bytes()),
            )

    def _file_labels(self, *, before: int) -> None:
        """Join labels to the rows of closed windows, whose slots end at `before`."""
        ready = [pair for pair in self._labels if pair[0] < before]
        if not ready:
            return
        self._labels = [pair for pair in self._labels if pair[0] >= before]
        slots, labels = np.array(ready, dtype=np.int64).T
        stored = self._store.add_labels(slots, labels)
        if stored < len(ready):
            log.warning("%d labels belong to no kept record", len(ready) - stored)
