"""One gateway's past: segments between interventions, each watched with its own baseline."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedge.config import DriftSettings
from fedge.drift.fleet.interventions import Intervention, Piece, hold_of, in_order, segments
from fedge.drift.fleet.watch import GatewayWatch, ReleaseWatch, watch_gateway
from fedge.records import Reference, WindowReport


@dataclass(frozen=True, slots=True)
class Segment:
    """Windows that share baselines.

    Attributes:
        windows: indices of its windows.
        ended_by: the intervention after which a new baseline begins; None for the latest.
    """

    watch: GatewayWatch
    windows: frozenset[int]
    ended_by: Intervention | None


@dataclass(frozen=True, slots=True)
class History:
    """All of a gateway's windows.

    Attributes:
        segments: in order; there is always one.
        numbers, closed_at: of each of its windows, judged or not: its index, and when it closed.
        windows, missing_windows: reports that are there, and numbers skipped among them.
        hold: what keeps it out of runs and comparisons.
    """

    gateway: str
    segments: tuple[Segment, ...]
    numbers: tuple[int, ...]
    closed_at: tuple[float, ...]
    windows: int
    missing_windows: int
    last_window: int
    hold: Intervention | None

    @property
    def latest(self) -> Segment:
        return self.segments[-1]

    @property
    def current(self) -> ReleaseWatch | None:
        """The release of the latest judged window."""
        return self.latest.watch.current

    def closing_of(self, window: int) -> float:
        """When a window, or else the first reported one after it, closed; inf while none has."""
        place = bisect_left(self.numbers, window)
        return self.closed_at[place] if place < len(self.numbers) else math.inf

    def rebaselined(self, segment: int) -> bool:
        """Whether a baseline was formed after this segment."""
        later = self.segments[segment + 1 :]
        return any(w.baseline is not None for s in later for w in s.watch.releases.values())


def history_of(
    gateway: str,
    reports: Sequence[WindowReport],
    references: Mapping[str, Reference],
    settings: DriftSettings,
    interventions: Sequence[Intervention],
) -> History:
    """Judge all of one gateway's reports, in any order; a window reported twice counts once."""
    ordered = [r for _, r in sorted({report.window: report for report in reports}.items())]
    own = in_order(gateway, interventions)
    return History(
        gateway=gateway,
        segments=tuple(
            _segment(gateway, piece, references, settings) for piece in segments(ordered, own)
        ),
        numbers=tuple(report.window for report in ordered),
        closed_at=tuple(report.closed_at for report in ordered),
        windows=len(ordered),
        missing_windows=ordered[-1].window + 1 - len(ordered) if ordered else 0,
        last_window=ordered[-1].window if ordered else 0,
        hold=hold_of(gateway, own),
    )


def _segment(
    gateway: str, piece: Piece, references: Mapping[str, Reference], settings: DriftSettings
) -> Segment:
    return Segment(
        watch=watch_gateway(gateway, piece.reports, references, settings),
        windows=frozenset(report.window for report in piece.reports),
        ended_by=piece.ended_by,
    )
