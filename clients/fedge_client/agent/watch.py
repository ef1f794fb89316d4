"""From the ring to windows: the agent's view of its own stream.

What the worker observed is cut into windows; at the close of a window the rows
that may be kept go to the block store, sketches stay here, and counts on frozen
bins are noised, charged and spooled as a report. One transaction makes a window
final: report, settlement and the position in the ring move together, so that
after a kill the same rows give the same window again, or none are asked for
twice. Rows wait in the ring and nowhere else: what is wiped there is gone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import BlockStore
from fedge.errors import StateError
from fedge.profiles.windows import Closed, WindowCutter
from fedge.serving.ring import LABEL, OBSERVATION, Match
from fedge.serving.ring_file import Records
from fedge.serving.ring_reader import RingReader, open_reader
from fedge.serving.slot_floor import SlotFloor, raise_floor
from fedge.statefile import StateFile
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.label_report import LabelReporter
from fedge_client.agent.labels import LabelTray
from fedge_client.agent.releases import InstalledReleases
from fedge_client.agent.ring_checks import credible, is_another
from fedge_client.agent.watch_state import LEFT_BEHIND, NO_POSITION, Progress, WatchState
from fedge_client.agent.window_clock import WindowClock
from fedge_client.agent.window_close import Cut, WindowCloser
from fedge_client.agent.window_report import WindowReporter

log = logging.getLogger(__name__)

Positions = npt.NDArray[np.int64]

READ_ROWS, READ_BYTES = 2048, 4 * 2**20
"""Records taken in by one poll at most, whichever is less."""

CLOSE_LIMIT = 8
"""Windows made final by one poll at most."""

SETTLE_S = 0.5
"""A window's time is over only so long after its end: a worker that drew a slot and its time
before has published the row by then."""


class LocalWatch(Protocol):
    """Something else that looks at the stream; see `local_drift.LocalDrift`."""

    def take_in(self, rows: Records, labels: Records) -> None:
        """Look at observations and labels; raises nothing, and some may come twice."""


class Watcher:
    """Consumes the ring, one bounded piece at a time.

    Args:
        ring: the ring file; it need not exist yet.
        window_slots: arrival slots of a full window.
        window_s: seconds after which a window closes also when it is not full; 0: only when full.
        local: watches what is read besides, for this gateway's operator alone.
        spare_slots: slots that are skipped when a ring was lost, at least as many as it may have
            given out since the last final window.
    """

    def __init__(
        self,
        ring: Path,
        *,
        state: StateFile,
        installed: InstalledReleases,
        store: BlockStore,
        gate: EgressGate,
        reporter: WindowReporter,
        label_reporter: LabelReporter,
        clock: WindowClock,
        window_slots: int,
        window_s: float = 0.0,
        spare_slots: int = 0,
        local: LocalWatch | None = None,
    ) -> None:
        self._ring, self._state = ring, state
        self._clock = clock
        self._window_slots, self._window_s = window_slots, window_s
        self._spare_slots, self._local = spare_slots, local
        self._watch_state = WatchState(state)
        self._labels = LabelTray(store)
        self._closer = WindowCloser(
            state=state,
            installed=installed,
            gate=gate,
            reporter=reporter,
            label_reporter=label_reporter,
            labels=self._labels,
            watch_state=self._watch_state,
            clock=clock,
            window_s=window_s,
        )
        # Erasing asks from another thread.
        self._lock = threading.RLock()
        self._reader: RingReader | None = None
        self._inode, self._read_rows, self._more, self._astray = 0, 1, False, False
        self._dropped = self._dropped_labels = 0
        self._resume()

    # --- facts --------------------------------------------------------------------------

    @property
    def windows(self) -> int:
        """Windows closed so far."""
        return self._progress.windows

    @property
    def next_slot(self) -> int:
        """Arrival slots given out, as far as read."""
        return self._next_slot

    @property
    def dropped(self) -> int:
        """Observations that the ring had no room for, as of the last poll."""
        return self._dropped

    @property
    def dropped_labels(self) -> int:
        """Labels that the ring had no room for, as of the last poll: a fact that stays here."""
        return self._dropped_labels

    @property
    def withheld(self) -> int:
        """Windows that left no report, because the ledger refused or their release was gone."""
        return self._progress.withheld

    @property
    def lost(self) -> int:
        """Records that were damaged, and rings that had to be given up."""
        return self._progress.lost

    @property
    def refused_labels(self) -> int:
        """Labels since the start that belong to no kept record: a fact that stays here."""
        return self._labels.refused

    @property
    def last_block(self) -> int:
        """The latest block that a record was seen in."""
        return self._last_block

    @property
    def behind(self) -> bool:
        """Whether the last poll left something that was there."""
        return bool(self._cuts) or self._more

    # --- work ---------------------------------------------------------------------------

    def poll(self) -> int:
        """Take in what the ring holds; answers 0 where there was nothing to do.

        Where a window cannot be made final (a full disk, say), the error is raised and the next
        call takes in again everything after the last window that was.

        Returns:
            records taken in and windows closed.
        """
        with self._lock:
            if self._astray:
                self._resume()
            try:
                if self._cuts:
                    return self._finish()
                reader = self._open()
                if reader is None:
                    return 0
                taken = self._take_in(reader)
                return taken + self._finish()
            except BaseException:
                # Cutter and positions no longer agree: going on would put rows into wrong windows.
                self._astray = True
                self.close()
                self._resume()
                raise

    def erase(self, match: Match) -> int:
        """Wipe matching rows that wait for their window, and labels given to them.

        Call it before records are removed from the block store: a window that closes in between
        would otherwise put them there again.

        Args:
            match: tells which of some ring records are meant.

        Returns:
            how many rows were wiped.

        Raises:
            StateError: the ring is damaged.
        """
        with self._lock:
            if self._astray:
                self._resume()
            reader = self._open()
            if reader is None:
                return 0
            gone: set[int] = set()

            def also_told(records: Records) -> npt.NDArray[np.bool_]:
                matched = match(records)
                gone.update(records["slot"][matched & (records["kind"] == OBSERVATION)].tolist())
                return matched

            wiped = reader.wipe(also_told)
            with self._following() as following:
                wiped += 0 if following is None else following.wipe(also_told)
            self._labels.forget(gone)
            return wiped

    def given_out(self) -> int:
        """No slot from here on was given to a row yet.

        Raises:
            StateError: the disk refused.
        """
        with self._lock:
            if self._astray:
                self._resume()
            reader = self._open()
            slots = [self._next_slot, 0 if reader is None else reader.given_out]
            with self._following() as following:
                slots.append(0 if following is None else following.given_out)
            return max(slots)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[WatchState]:
        """Make no window final while the context is open, and go on from what its state says.

        Rows before the slot that it then says count for no window any more.
        """
        with self._lock:
            try:
                yield self._watch_state
            finally:
                self._astray = True
                self.close()
                self._resume()

    @contextlib.contextmanager
    def _following(self) -> Iterator[RingReader | None]:
        """The ring that a worker made in place of the one being read, if it did."""
        following = None
        if self._reader is not None and self._present_inode() not in (0, self._inode):
            try:
                following = open_reader(self._ring)
            except StateError as error:
                if isinstance(error.__cause__, OSError):
                    raise
                # Damaged: it is given up, and whatever it holds, once it is read.
        try:
            yield following
        finally:
            if following is not None:
                following.close()

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    # --- resuming -----------------------------------------------------------------------

    def _resume(self) -> None:
        """Stand where the last final window ended, as a new process would."""
        self._progress: Progress = self._watch_state.read(self._clock, self._window_s)
        self._begin(self._progress.position)
        self._astray = False  # whether an error came in between, and resuming failed too

    def _begin(self, position: int) -> None:
        """Forget what was taken in after the last final window; go on reading at `position`."""
        edge = self._progress.edge
        self._position = self._released = position
        self._next_slot = 0 if edge is None else edge.slot
        self._last_block = 0 if edge is None or edge.block is None else edge.block
        self._cutter = WindowCutter(self._window_slots, window_s=self._window_s, after=edge)
        self._held: Positions = np.empty(0, dtype=np.int64)  # the open window's observations
        self._cuts: deque[Cut] = deque()
        self._labels.clear()
        self._began = self._clock.steady()

    def _open(self) -> RingReader | None:
        if self._reader is not None:
            return self._reader
        self._inode = self._present_inode()
        try:
            reader = open_reader(self._ring)
        except StateError as error:
            if isinstance(error.__cause__, OSError):  # the disk, not what lies on it
                raise
            self._give_up(error)
            return None
        if reader is None:
            return None
        floor = self._next_slot
        first_open = 0 if self._progress.edge is None else self._progress.edge.slot
        if is_another(reader, self._position, first_open):
            # The file is never synced: after a power failure it may be gone or older.
            log.warning("the ring is not the one read before, going on with it")
            if self._position != LEFT_BEHIND and self._progress.edge is not None:
                floor += self._spare_slots
            if self._position not in (NO_POSITION, LEFT_BEHIND):
                self._count_lost(1)
            self._begin(reader.position)
        rows, _ = reader.read(self._position, 0)
        # Slots that a lost ring gave out must not be given out again; skipped, they are dropped.
        reader.never_below(floor)
        reader.release(self._position)
        self._read_rows = max(1, min(READ_ROWS, READ_BYTES // rows.dtype.itemsize))
        self._reader = reader
        return reader

    def _present_inode(self) -> int:
        try:
            return self._ring.stat().st_ino
        except OSError:
            return 0

    def _give_up(self, error: StateError) -> None:
        """Remove a ring that cannot be read; the next worker makes a new one."""
        log.error("what waited in a damaged ring is lost: %s", error)
        # First: a worker may look for its ring at any moment.
        raise_floor(self._ring, SlotFloor(self._next_slot, self._next_slot + self._spare_slots))
        try:
            self._ring.unlink(missing_ok=True)
        except OSError as refused:
            raise StateError(f"cannot remove the damaged ring {self._ring}: {refused}") from refused
        self._count_lost(1)
        self._watch_state.position_moved(NO_POSITION)
        self._progress = self._watch_state.read(self._clock, self._window_s)
        self._begin(NO_POSITION)

    # --- taking in ----------------------------------------------------------------------

    def _take_in(self, reader: RingReader) -> int:
        """Cut what the ring holds next into windows, which are not final yet."""
        began = self._clock.steady()
        read = reader.read_heads if self._local is None else reader.read
        rows, end = read(self._position, self._read_rows)
        self._more = len(rows) == self._read_rows
        # Kept apart: whoever asks for facts waits for no window.
        self._dropped, self._dropped_labels = reader.dropped, reader.dropped_labels
        if not len(rows) and self._present_inode() not in (0, self._inode):
            return self._leave_ring()
        positions = np.arange(self._position, end, dtype=np.int64)
        self._position, self._next_slot = end, max(reader.next_slot, self._cutter.known)
        fresh = self._credible(rows, self._next_slot)
        held = np.concatenate([self._held, positions[fresh]])
        closed = self._cut(rows, fresh, -math.inf if self._more else began - SETTLE_S)
        told = rows["kind"] == LABEL
        labels = rows[told]
        self._labels.add(labels, positions[told])
        if self._local is not None:
            self._local.take_in(rows if len(fresh) == len(rows) else rows[fresh], labels)
        for span, piece in closed:
            needed = int(held[piece.stop]) if piece.stop < len(held) else end
            self._cuts.append(Cut(span, held[piece], needed))
        left = 0 if self._cutter.open is None else self._cutter.open.rows
        self._held = held[len(held) - left :]
        if not self._cuts:
            self._settle(reader)
        return len(rows)

    def _credible(self, rows: Records, next_slot: int) -> npt.NDArray[np.int64]:
        """Indices of the observations, without what only a damaged ring could hold."""
        at, damaged = credible(rows, known=self._cutter.known, next_slot=next_slot)
        if damaged:
            log.error("%d records in the ring are damaged, and lost", damaged)
            self._count_lost(damaged)
        return at

    def _count_lost(self, count: int) -> None:
        self._watch_state.count_lost(count)
        self._progress = replace(self._progress, lost=self._progress.lost + count)

    def _cut(self, rows: Records, fresh: Positions, now: float) -> Closed:
        """Feed the observations among `rows` to the cutter."""
        # Column by column: a record may hold a picture, and none of it is looked at here.
        # A step of the wall clock back reopens no block, whatever a restarted worker made of it.
        blocks = np.maximum.accumulate(np.maximum(rows["block"][fresh], self._last_block))
        if len(blocks):
            self._last_block = int(blocks[-1])
        # What another boot's clock stamped later than now came before this process began.
        stamps = rows["steady"][fresh]
        return self._cutter.feed(
            rows["slot"][fresh].astype(np.int64),
            blocks.astype(np.int64),
            rows["release"][fresh].astype(np.int64),
            next_slot=self._next_slot,
            times=np.where(stamps > self._clock.steady(), self._began, stamps),
            now=now,
        )

    def _settle(self, reader: RingReader) -> None:
        """File labels of closed windows, and let go of what no open window needs."""
        edge = self._progress.edge
        if edge is None:
            return
        movable = not len(self._held) and self._position > self._released
        if not movable and not self._labels.has_ready(before=edge.slot):
            return
        with self._state.transaction():
            self._labels.file(before=edge.slot)
            if movable:
                self._watch_state.position_moved(self._position)
        if movable:
            self._release(reader, self._position)

    def _leave_ring(self) -> int:
        """Go over to the ring that took this one's place, once all of this one is final."""
        if len(self._held):
            # They cannot wait: nothing would hold them after a kill.
            self._cuts.extend(
                Cut(span, self._held, self._position) for span, _ in self._cutter.cut()
            )
            self._held = self._held[:0]
            return 1
        log.warning("another ring is in place of the one read before, going over to it")
        next_slot = self._next_slot
        self._watch_state.position_moved(LEFT_BEHIND)
        self.close()
        self._begin(LEFT_BEHIND)
        self._next_slot = next_slot
        return 1

    # --- closing ------------------------------------------------------------------------

    def _finish(self) -> int:
        """Make windows final, oldest first; answers how many."""
        closed = 0
        while self._cuts and closed < CLOSE_LIMIT:
            reader = self._open()
            if reader is None:
                raise StateError("the ring is gone, and with it the rows of a window")
            self._progress = self._closer.close(reader, self._cuts[0], self._progress)
            self._release(reader, self._progress.position)
            self._cuts.popleft()
            closed += 1
        return closed

    def _release(self, reader: RingReader, position: int) -> None:
        """Let the worker have the ring's places before a position."""
        reader.release(position)
        self._released = position
