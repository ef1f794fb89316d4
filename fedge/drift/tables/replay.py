"""Replaying a stream: a reference, then window after window, then a new reference after an alarm.

A window alarms when a statistic's mean over the latest 1, 2, 3, 4, 6, 12 or 24 windows
is farther from its baseline than chance allows (`baselines`) and has moved by at least
the smallest effect. One budget of false alarms is shared out over every test.

After an alarm the stream may still be on its way: rows become a new reference only when
their two halves agree. Until then the alarm stands, unless the stream comes back to what
it was; only a sensor that breaks meanwhile raises another one. The new reference starts small,
so that testing goes on soon, and grows to the length of the first one while all is quiet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.encoding import Fit
from fedge.drift.tables.episode import (
    MIN_EFFECT,
    Change,
    back_windows,
    change,
    continues,
    new_fault,
    returned,
    settled,
)
from fedge.drift.tables.journal import Journal, Progress
from fedge.drift.tables.outcome import Replay
from fedge.drift.tables.outputs import OUTPUT_FITS
from fedge.drift.tables.sums import Sums
from fedge.drift.tables.table import Table
from fedge.drift.tables.traces import Trace
from fedge.drift.tables.watching import ROW_FITS, Watch
from fedge.errors import SettingError, TableError

Floats = NDArray[np.float64]

DEFAULT_FITS: tuple[Fit, ...] = (*ROW_FITS, *OUTPUT_FITS)

LEAST_REFERENCE = 30
_CHUNK = 8192  # rows scored at a time: bounds memory
_HISTORY = 64  # windows kept to find the onset in
_NEW_WINDOWS, _NEW_ROWS, _MOST_ROWS = 5, 200, 400
"""A new reference has at least so many windows and rows (more where neighbours are alike, up to the
last number), unless the first one had fewer."""
_PATIENCE = 2
"""How many times that long a stream may move before it is taken as it is."""

_REST = 3
"""How many smallest references after a new reference a change in the same direction still counts as
the rest of the one before."""


def silent(_done: int, _windows: int) -> None:
    """Progress that nobody follows."""


def replay(
    table: Table,
    *,
    reference_rows: int,
    window: int,
    epsilon: float | None = None,
    false_alarms: float = 0.5,
    min_effect: float = MIN_EFFECT,
    seed: int = 0,
    fits: Sequence[Fit] = DEFAULT_FITS,
    progress: Progress = silent,
) -> Replay:
    """Judge a stream window by window against its first rows.

    Args:
        table: the whole stream, rows in time order.
        reference_rows: how many of its first rows are normal.
        window: rows per window; a shorter last one is judged too.
        epsilon: windows are judged by noised counts, each window's under (epsilon, 1e-6)
            differential privacy (`released`); None judges the rows as they are.
        false_alarms: expected false-alarm episodes per 720 windows, of the whole table.
        min_effect: least shift of a mean, in reference standard deviations of one row.
        seed: of the noise that `epsilon` asks for.
        fits: what is watched.
        progress: is told how many windows of how many are judged.

    Raises:
        TableError: the rows do not suffice, or no column can be watched.
        SettingError: a budget or an effect is no positive number.
    """
    _check(table, reference_rows, window)
    if not (0 < false_alarms < math.inf and 0 <= min_effect < math.inf):  # catches NaN too
        raise SettingError(f"need {false_alarms=} > 0 and {min_effect=} >= 0")
    learn = partial(
        Watch.fit,
        table,
        fits=tuple(fits),
        window=window,
        false_alarms=false_alarms,
        epsilon=epsilon,
        seed=seed,
    )
    run = _Run(table, reference_rows, window, false_alarms, min_effect, learn, progress)
    return replace(run.result(), epsilon=epsilon, seed=seed)


def _check(table: Table, reference_rows: int, window: int) -> None:
    if window < 1:
        raise TableError(f"a window needs at least 1 row, not {window}")
    if reference_rows < LEAST_REFERENCE:
        raise TableError(
            f"{reference_rows} reference rows are too few to know what is normal; "
            f"take at least {LEAST_REFERENCE}"
        )
    if reference_rows >= table.rows:
        raise TableError(
            f"all {table.rows} rows would be reference ({reference_rows} asked for), none is left "
            "to judge; take fewer reference rows or a longer stream"
        )


class _Run:
    """One replay as it goes."""

    def __init__(
        self,
        table: Table,
        reference_rows: int,
        window: int,
        false_alarms: float,
        min_effect: float,
        learn: Callable[..., Watch | None],
        progress: Progress,
    ) -> None:
        self.table, self.rows, self.window = table, reference_rows, window
        self.false_alarms, self.min_effect, self.learn = false_alarms, min_effect, learn
        self.starts = np.arange(reference_rows, table.rows, window, dtype=np.int64)
        self.ends = np.minimum(self.starts + window, table.rows)
        self.journal = Journal(table, self.starts, self.ends, progress)
        self.last: Change | None = None
        self.kept: Watch | None = None
        self.faulty: Trace | None = None

    def result(self) -> Replay:
        """Go through the stream, from one reference and its alarm to the next; see `replay`."""
        first = watch = self._fit(0, self.rows, None)
        position = resumed = 0
        while position < len(self.starts):
            found = self._until_alarm(watch, position)
            if found is None:
                break
            watch, moved, position = found
            self._alarm(watch, moved, position, resumed)
            following, resumed = self._after(watch, moved, position)
            position = resumed
            if following is None:
                break
            watch = following
        return self.journal.replay(first, self.window, self.false_alarms, self.min_effect)

    def _fit(self, start: int, end: int, before: Watch | None) -> Watch:
        watch = self.learn(start, end, before=before)
        if watch is None:
            raise TableError(
                "no column can be watched: all are excluded, or are label, prediction or time"
            )
        return watch

    def _until_alarm(self, watch: Watch, position: int) -> tuple[Watch, Change, int] | None:
        """Judge windows from `position` on; what was found and at which window, None at the end."""
        known: Sums | None = None
        while position < len(self.starts):
            stop = self._stop(watch, position)
            fresh = watch.sums(self.table, self.starts[position:stop], self.ends[position:stop])
            known = fresh if known is None else known[-_HISTORY:].then(fresh)
            judged = watch.judge(known, len(known) - len(fresh))
            hits = judged.alarms(self.min_effect).any(axis=(1, 2))
            quiet = int(hits.argmax()) if hits.any() else len(fresh)
            self.journal.record(watch, judged, position, min(quiet + 1, len(fresh)))
            if quiet < len(fresh):
                seen = known[: len(known) - len(fresh) + quiet + 1]
                return watch, change(watch, seen, judged, quiet, self.min_effect), position + quiet
            position = stop
            if self._grown(watch, position):
                watch, known = self._regrown(watch), None
        return None

    def _regrown(self, watch: Watch) -> Watch:
        grown = self._refit(watch.start, self._growth(watch), watch)
        if grown is None:
            self.kept = watch
            return watch
        return grown

    def _refit(self, start: int, end: int, before: Watch) -> Watch | None:
        """A watch on later rows; None where these are no reference (no prediction in them, say)."""
        try:
            return self._fit(start, end, before)
        except TableError:
            return None

    def _stop(self, watch: Watch, position: int) -> int:
        stop = position + max(1, _CHUNK // self.window)
        if self._young(watch):
            grown = int(np.searchsorted(self.ends, self._growth(watch)))
            stop = min(stop, max(position, grown) + 1)
        return min(stop, len(self.starts))

    def _growth(self, watch: Watch) -> int:
        """The row up to which a young reference grows next."""
        return watch.start + min(2 * (watch.end - watch.start), self.rows)

    def _grown(self, watch: Watch, position: int) -> bool:
        return self._young(watch) and bool(self.ends[position - 1] >= self._growth(watch))

    def _young(self, watch: Watch) -> bool:
        """Whether a reference still grows; not across an episode that lies behind it."""
        return watch.end - watch.start < self.rows and watch is not self.kept

    def _alarm(self, watch: Watch, found: Change, position: int, resumed: int) -> None:
        """Raise an alarm, unless this is the rest of the transition that alarmed before."""
        since = int(self.starts[position] - self.starts[resumed])
        same = (
            self.last is not None
            and since < _REST * self._least(watch)
            and continues(found, self.last)
        )
        self.last = found
        if same:
            self.journal.stand_here()
        else:
            self.journal.alarm(watch, found, position)

    def _least(self, watch: Watch) -> int:
        """Rows of the smallest new reference: more where rows are alike.

        Not too many more: a stream that is not tested hides the next change. What so few rows
        cannot tell shows in wider limits.
        """
        rows = min(_NEW_ROWS * watch.rows_per_visit(), _MOST_ROWS)
        return min(self.rows, math.ceil(max(_NEW_WINDOWS * self.window, rows)))

    def _after(self, watch: Watch, found: Change, position: int) -> tuple[Watch | None, int]:
        """The next watch and its first window; meanwhile the alarm stands, but for new faults."""
        known = set(self.journal.alarms[-1].features)
        while True:
            following, resumed, fault = self._new_reference(watch, found, position, known)
            self.journal.stand(position + 1, resumed)
            if fault is None:
                return following, resumed
            position = resumed - 1
            self.journal.retrace(self.faulty)
            self.journal.alarm(watch, fault, position)
            known |= {column for m in fault.moved for column in m.statistic.columns}

    def _new_reference(
        self, watch: Watch, found: Change, position: int, known: set[str]
    ) -> tuple[Watch | None, int, Change | None]:
        """A watch on rows after the change, and the window from which on it tests.

        The watch from before, if the stream comes back to it first. A broken sensor that is none of
        the columns `known` ends the search at its window.
        """
        need = math.ceil(self._least(watch) / self.window)
        onset = int(np.searchsorted(self.starts, found.onset_row))
        # The window of the onset may still hold rows from before it.
        first = min(onset, position) + 1
        step = max(1, need // _NEW_WINDOWS)
        # Rows that raised an alarm by chance are unlike those after them, and would raise the next
        # one if they alone were the reference. So the stream first has time to come back.
        soonest = position + 1 + back_windows(self.window)
        for stop in range(position + 1, len(self.starts) + 1):
            if stop >= soonest and self._returned(watch, found, stop):
                self.last, self.kept = None, watch
                return watch, stop, None
            recent = slice(max(position + 1, stop - 2), stop)
            if stop - 1 > position and (fault := self._fault(watch, recent, known)) is not None:
                return None, stop, fault
            begin = first if stop == soonest else max(first, stop - need)
            if stop < soonest or stop - begin < need or (stop - need - first) % step:
                continue
            start, end = int(self.starts[begin]), int(self.ends[stop - 1])
            tired = begin - first > _PATIENCE * need
            if not (tired or settled(watch, self.table, start, end, found, self.min_effect)):
                continue
            following = self._refit(start, end, watch)
            if following is not None:
                return following, stop, None
        return None, len(self.starts), None

    def _fault(self, watch: Watch, recent: slice, known: set[str]) -> Change | None:
        windows = watch.sums(self.table, self.starts[recent], self.ends[recent])
        judged = watch.judge(windows, len(windows) - 1)
        fault = new_fault(watch, self.table, windows, judged, known, self.min_effect)
        if fault is not None:
            self.faulty = Trace(watch.statistics, judged, 0)
        return fault

    def _returned(self, watch: Watch, found: Change, stop: int) -> bool:
        latest = slice(stop - back_windows(self.window), stop)
        windows = watch.sums(self.table, self.starts[latest], self.ends[latest])
        return returned(watch, windows, found, self.min_effect)
