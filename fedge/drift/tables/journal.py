"""What a replay writes down as it goes: windows judged, alarms raised, evidence.

`replay` decides; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.copies import PARTED, with_copies, without
from fedge.drift.tables.episode import Change
from fedge.drift.tables.explain import explain
from fedge.drift.tables.outcome import Alarm, JudgedWindow, Replay, WatchedColumn
from fedge.drift.tables.outputs import OutputEncoder
from fedge.drift.tables.table import Table
from fedge.drift.tables.traces import (
    Trace,
    concept_tested,
    evidence_of,
    reference_facts,
    unlabelled_from,
)
from fedge.drift.tables.watching import Judged, Watch

Progress = Callable[[int, int], None]
"""Is told how many windows of how many are judged."""


class Journal:
    """Windows, alarms and evidence of one replay, up to the window it has come to.

    Args:
        starts, ends: int64[W], rows of the stream's windows.
    """

    def __init__(
        self, table: Table, starts: NDArray[np.int64], ends: NDArray[np.int64], progress: Progress
    ) -> None:
        self.table, self.starts, self.ends = table, starts, ends
        self.alarms: list[Alarm] = []
        self._windows: list[JudgedWindow] = []
        self._traces: list[Trace | None] = []
        self._progress = progress

    def record(self, watch: Watch, judged: Judged, position: int, windows: int) -> None:
        """Windows from `position` on, the first ones of `judged`, as quiet."""
        for offset in range(windows):
            start, end = int(self.starts[position + offset]), int(self.ends[position + offset])
            trace = Trace(watch.statistics, judged, offset)
            tested = bool(np.isfinite(judged.strength[offset]).any())
            concept = concept_tested(self.table, trace, start, end)
            self._add(JudgedWindow(start, end, False, None, (), tested, concept), trace)

    def alarm(self, watch: Watch, found: Change, position: int) -> None:
        """Raise an alarm in the window that was written down last, number `position`."""
        row, onset_row = int(self.ends[position]) - 1, int(found.onset_row)
        parted = {m.statistic.columns[0] for m in found.moved if m.statistic.name == PARTED}
        copies = [copy for copy in watch.copies if copy.name not in parted]
        kept = without(self.table, copies)
        explained = explain(
            kept[watch.start : watch.end],
            kept[onset_row : row + 1],
            found.moved,
            outputs=next((e for e in watch.encoders if isinstance(e, OutputEncoder)), None),
        )
        self.alarms.append(
            Alarm(
                row=row,
                onset_row=onset_row,
                cause=explained.cause,
                scope=explained.scope,
                features=with_copies(explained.features, copies),
                confidence=found.confidence,
                sentence=explained.sentence,
                moved=found.moved,
                expected=explained.expected,
                cause_confidence=explained.confidence,
            )
        )
        self.stand_here()

    def stand_here(self) -> None:
        """The latest alarm stands in the window that was written down last."""
        last = self._windows.pop()
        self._windows.append(
            self._standing(last.start_row, last.end_row, True, last.concept_tested)
        )

    def stand(self, position: int, stop: int) -> None:
        """The latest alarm stands in these windows, and nothing could be tested in them."""
        untested = None if self.table.roles.label is None else False
        for start, end in zip(self.starts[position:stop], self.ends[position:stop], strict=True):
            self._add(self._standing(int(start), int(end), False, untested), None)

    def retrace(self, trace: Trace | None) -> None:
        """What was seen in the window that was written down last, after all."""
        self._traces[-1] = trace

    def _standing(self, start: int, end: int, tested: bool, concept: bool | None) -> JudgedWindow:
        alarm = self.alarms[-1]
        return JudgedWindow(start, end, True, alarm.cause, alarm.features, tested, concept)

    def _add(self, window: JudgedWindow, trace: Trace | None) -> None:
        self._windows.append(window)
        self._traces.append(trace)
        self._progress(len(self._windows), len(self.starts))

    def replay(self, first: Watch, window: int, false_alarms: float, min_effect: float) -> Replay:
        """All of it. `first` is the watch on the reference."""
        evidence = evidence_of(self._traces)
        original = {copy.name: copy.original for copy in first.copies}
        return Replay(
            rows=self.table.rows,
            window=window,
            columns=tuple(
                WatchedColumn(
                    c.name,
                    c.kind,
                    f"copy of {original[c.name]!r}" if c.name in original else c.note,
                )
                for c in self.table.columns
            ),
            reference=reference_facts(first, self.table, window, false_alarms),
            windows=tuple(self._windows),
            alarms=tuple(self.alarms),
            statistics=evidence.statistics,
            z=evidence.z,
            strength=evidence.strength,
            effect=evidence.effect,
            false_alarms=false_alarms,
            min_effect=min_effect,
            unlabelled_from=unlabelled_from(self.table, first.end, window),
        )
