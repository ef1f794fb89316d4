"""Making a complete window final: its report, its charge and its end in one transaction."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedge.errors import BudgetError
from fedge.privacy.ledger import FEATURES, Reservation
from fedge.profiles.windows import WindowSpan
from fedge.serving.ring_file import Records
from fedge.serving.ring_reader import RingReader
from fedge.statefile import StateFile
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.held import Held
from fedge_client.agent.label_report import Due, LabelReporter
from fedge_client.agent.labels import LabelTray
from fedge_client.agent.releases import InstalledReleases
from fedge_client.agent.watch_state import Progress, WatchState
from fedge_client.agent.window_clock import WindowClock
from fedge_client.agent.window_report import Closing, WindowReporter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cut:
    """A complete window that is not final yet; its rows lie in the ring.

    Attributes:
        at: int64[n], positions of its observations in the ring.
        needed: first position that is needed after this window.
    """

    span: WindowSpan
    at: npt.NDArray[np.int64]
    needed: int


class WindowCloser:
    """Makes windows final, one at a time and in order; see `Watcher` for its parts.

    Args:
        labels: what was told about rows of windows that may be final by now.
        watch_state: where the progress is kept.
    """

    def __init__(
        self,
        *,
        state: StateFile,
        installed: InstalledReleases,
        gate: EgressGate,
        reporter: WindowReporter,
        label_reporter: LabelReporter,
        labels: LabelTray,
        watch_state: WatchState,
        clock: WindowClock,
        window_s: float,
    ) -> None:
        self._state, self._installed, self._gate = state, installed, gate
        self._reporter, self._label_reporter, self._labels = reporter, label_reporter, labels
        self._watch_state, self._clock, self._window_s = watch_state, clock, window_s
        self._report: Held[tuple[bytes, Reservation] | None] = Held()
        self._due: Held[list[Due]] = Held()

    def close(self, reader: RingReader, cut: Cut, progress: Progress) -> Progress:
        """Make the oldest complete window final; answers the progress with it.

        Nothing is let go of in the ring: that follows, once this is on the disk. Until then what
        was noised is held, so that a disk which refuses for a while costs no report.
        """
        try:
            progress = self._close(reader, cut, progress)
        except BudgetError:  # the ledger does not know what is held any more
            self._forget()
            raise
        self._forget()
        return progress

    def _close(self, reader: RingReader, cut: Cut, progress: Progress) -> Progress:
        span, rows = cut.span, _rows_of(reader, cut)
        closing = self._closing(span, rows)
        installed = self._installed.get(span.release)
        report = None
        if installed is not None:
            # Of this very span: one that is cut again after a reboot may have become longer.
            report = self._report.of(
                (span.window, span.block, span.release, span.first_slot, span.slots),
                lambda: self._reporter.report(span, rows, installed, closing),
            )
        withheld = progress.withheld
        if report is None:
            withheld += 1
            log.error("window %d leaves no report", span.window)
        due = self._labels_due(cut)
        with self._state.transaction():
            # The position moves past these labels: they go with it.
            self._labels.file(before=span.end, until=cut.needed)
            self._label_reporter.release(due)
            if report is not None:
                payload, reservation = report
                self._gate.release(
                    "report",
                    payload,
                    reservation=reservation,
                    key=FEATURES,
                    noise_kind=self._reporter.noise_kind,
                    channel="push",
                    spool_key=f"report/{span.window}",
                )
                if installed is not None:
                    self._label_reporter.plan(span, installed.task.name)
            closed = self._clock.moment(span.closed)
            self._watch_state.window_closed(span, cut.needed, withheld, closed, self._window_s)
        return replace(progress, edge=span.edge, position=cut.needed, withheld=withheld)

    def _labels_due(self, cut: Cut) -> list[Due]:
        """Labelled errors that leave with this window, of what labels lie before its end."""
        if not self._label_reporter.waits(cut.span.window):
            return []
        # Labels of this window itself wait until it is final.
        self._labels.file(before=cut.span.first_slot, until=cut.needed)
        window = cut.span.window
        return self._due.of(window, lambda: self._label_reporter.prepare(window))

    def _forget(self) -> None:
        self._report.forget()
        self._due.forget()

    def _closing(self, span: WindowSpan, rows: Records) -> Closing:
        """When the window opened and closed; never in the wrong order, whatever was set back."""
        opened = float(rows["time"][0]) if len(rows) else self._clock.moment(span.opened).wall
        opened = max(opened, 0.0)
        return Closing(opened_at=opened, closed_at=max(opened, self._clock.wall()))


def _rows_of(reader: RingReader, cut: Cut) -> Records:
    """The window's observations, read from the ring."""
    first = int(cut.at[0]) if len(cut.at) else cut.needed
    last = int(cut.at[-1]) + 1 if len(cut.at) else cut.needed
    rows, _ = reader.read(first, last - first)
    if len(cut.at) < len(rows):  # labels lie between them
        rows = rows[cut.at - first]
    return rows
