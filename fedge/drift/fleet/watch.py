"""One gateway's windows, release by release: its baselines and its first alarms.

Pure: the same reports, references and settings give the same answers. What an
alarm leads to belongs to `episodes`, the whole fleet to `monitor`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings
from fedge.drift.fleet.baseline import Baseline, Track, join
from fedge.drift.fleet.judge import Finding, Judged, judge
from fedge.drift.fleet.scores import ScoreSheet, score_sheet
from fedge.drift.fleet.season import Calendar, baseline_end, calendar, cell_name, missing, well_met
from fedge.errors import RecordError
from fedge.records import Reference, WindowReport

__all__ = ["Alarm", "Finding", "GatewayWatch", "ReleaseWatch", "Skipped", "watch_gateway"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """The first alarm on a release: the window that raised it, and since when."""

    opened_window: int
    opened_at: float
    first_window: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Windows of a release that say nothing here, and why, in words."""

    reason: str
    windows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReleaseWatch:
    """One gateway on one release.

    Attributes:
        baseline: None until enough full windows came, or while the reference is not known.
        tested: windows after the baseline that it can be compared with.
        window_rows: slots of a full window, in the middle of those that there were.
        recent_rows: records in the latest windows, over the longest summed length, as far as they
            were tested.
        certifiable: see `detect.certifiable`.
        heat: float64[W, S], see `Judged`; NaN where nothing was tested.
        limit: of `heat`; None where nothing was judged.
        problem: why there is nothing to judge; empty if there is no such reason.
        needed: full windows that the baseline still lacks at least; 0 once it is complete.
        skipped: windows that were reported but could not be judged, by reason.
        untested_shape: lengths at which the baseline is too short to test several scores
            together, each with the windows that it lacks.
    """

    release: int
    reports: tuple[WindowReport, ...]
    streams: tuple[str, ...]
    baseline: Baseline | None
    baseline_windows: int
    tested: int
    window_rows: float
    recent_rows: float
    certifiable: float | None
    alarm: Alarm | None
    heat: NDArray[np.float64]
    problem: str
    needed: int = 0
    limit: float | None = None
    skipped: tuple[Skipped, ...] = ()
    untested_shape: tuple[tuple[int, int], ...] = ()

    @property
    def last_window(self) -> int:
        return self.reports[-1].window

    def last_closed_by(self, moment: float) -> int:
        """The last window that had closed at `moment`."""
        return max(report.window for report in self.reports if report.closed_at <= moment)


@dataclass(frozen=True, slots=True)
class GatewayWatch:
    """One gateway on all its releases; `closed_at` of every window."""

    gateway: str
    releases: Mapping[int, ReleaseWatch]
    closed_at: tuple[float, ...]
    windows: int
    missing_windows: int

    @property
    def current(self) -> ReleaseWatch | None:
        """The release of the latest window."""
        return max(self.releases.values(), key=lambda watch: watch.last_window, default=None)

    def alarms(self) -> dict[int, Alarm]:
        """Release -> its first alarm, for those that have one."""
        return {w.release: w.alarm for w in self.releases.values() if w.alarm is not None}


def watch_gateway(
    gateway: str,
    reports: Iterable[WindowReport],
    references: Mapping[str, Reference],
    settings: DriftSettings,
) -> GatewayWatch:
    """Judge all of one gateway's reports, in any order; a window reported twice counts once."""
    ordered = [r for _, r in sorted({report.window: report for report in reports}.items())]
    by_release: dict[int, list[WindowReport]] = {}
    for report in ordered:
        by_release.setdefault(report.release, []).append(report)
    releases: dict[int, ReleaseWatch] = {}
    for release, own in sorted(by_release.items(), key=lambda item: item[1][0].window):
        drifted = any(watch.alarm is not None for watch in releases.values())
        quiet = settings.cooldown_windows if drifted else 0
        releases[release] = _watch_release(release, own, references, settings, quiet)
    return GatewayWatch(
        gateway=gateway,
        releases=releases,
        closed_at=tuple(report.closed_at for report in ordered),
        windows=len(ordered),
        missing_windows=ordered[-1].window + 1 - len(ordered) if ordered else 0,
    )


def _watch_release(
    release: int,
    reports: Sequence[WindowReport],
    references: Mapping[str, Reference],
    settings: DriftSettings,
    quiet: int,
) -> ReleaseWatch:
    """Judge one release; no alarm on the first `quiet` windows after the baseline."""
    sheet, usable, skipped = _usable(reports, references)
    if sheet is None or not usable:
        problem = f"no report of release {release} fits a known reference"
        return _unjudged(release, reports, (), 0, problem, settings.baseline_windows, skipped)
    when = calendar(usable, settings.season)
    joined = _joined(sheet, usable, when if settings.season != "none" else None)
    full = np.flatnonzero(joined.full)
    found = Calendar(when.cell[full], when.occasion[full])
    end = baseline_end(found, settings.season, settings.baseline_windows)
    if end is None:
        problem, needed = _lack(found, settings)
        streams = tuple(stream.name for stream in sheet.reference.streams)
        have = min(len(full), settings.baseline_windows)
        return _unjudged(release, usable, streams, have, problem, needed, skipped)
    in_baseline = np.zeros(len(joined.window), dtype=np.bool_)
    met = Calendar(found.cell[:end], found.occasion[:end])
    in_baseline[full[:end][well_met(met, settings.season)]] = True
    judged = judge(joined, sheet, settings, in_baseline, quiet=quiet)
    skipped += _unseasoned(joined, judged.baseline, settings)
    return _judged(release, usable, sheet, joined, int(full[end - 1]) + 1, judged, skipped)


def _judged(
    release: int,
    reports: Sequence[WindowReport],
    sheet: ScoreSheet,
    joined: Track,
    first: int,
    judged: Judged,
    skipped: tuple[Skipped, ...],
) -> ReleaseWatch:
    alarm = None
    if judged.raised is not None:
        opened = reports[judged.raised.index]
        begins = int(joined.window[judged.raised.first])
        alarm = Alarm(opened.window, opened.closed_at, begins, judged.raised.findings)
    # What the baseline has nothing to compare with proves nothing, however many records it holds.
    known = judged.baseline.expected(joined)[0][first:] >= 0
    recent = np.where(known, joined.rows[first:], 0.0)[-max(judged.tests.lengths) :]
    return ReleaseWatch(
        release=release,
        reports=tuple(reports),
        streams=tuple(stream.name for stream in sheet.reference.streams),
        baseline=judged.baseline,
        baseline_windows=judged.baseline.windows,
        tested=int(known.sum()),
        window_rows=float(joined.planned[0]),
        recent_rows=float(recent.sum()),
        certifiable=judged.certifiable,
        alarm=alarm,
        heat=judged.heat,
        problem="",
        limit=judged.limit,
        skipped=skipped,
        untested_shape=judged.several.untested,
    )


def _unjudged(
    release: int,
    reports: Sequence[WindowReport],
    streams: tuple[str, ...],
    baseline_windows: int,
    problem: str,
    needed: int,
    skipped: tuple[Skipped, ...],
) -> ReleaseWatch:
    return ReleaseWatch(
        release=release,
        reports=tuple(reports),
        streams=streams,
        baseline=None,
        baseline_windows=baseline_windows,
        tested=0,
        window_rows=0.0,
        recent_rows=0.0,
        certifiable=None,
        alarm=None,
        heat=np.full((len(reports), len(streams)), np.nan),
        problem=problem,
        needed=needed,
        skipped=skipped,
    )


def _lack(found: Calendar, settings: DriftSettings) -> tuple[str, int]:
    """What the baseline lacks, in words and in full windows."""
    have, planned = len(found.cell), settings.baseline_windows
    if have < planned:
        few = f"baseline has {have} of {planned} full windows"
        return f"cannot certify: {planned - have} more needed ({few})", planned - have
    short = missing(found, settings.season)
    if not short:
        few = f"most windows lie in a {settings.season} that hardly ever came"
        return f"cannot certify: {planned} more needed ({few})", planned
    occasions = "days" if settings.season == "hour" else "weeks"
    cells = ", ".join(f"{cell_name(settings.season, c)} on {n}" for c, n in short.items())
    needed = sum(short.values())
    return f"cannot certify: {needed} more needed ({cells} more {occasions})", needed


def _unseasoned(joined: Track, baseline: Baseline, settings: DriftSettings) -> tuple[Skipped, ...]:
    """Windows in a season cell that the baseline does not know."""
    place, _ = baseline.expected(joined)
    return tuple(
        Skipped(
            f"no baseline for {cell_name(settings.season, cell)}",
            tuple(joined.window[(place < 0) & (joined.cells == cell)].tolist()),
        )
        for cell in np.unique(joined.cells[place < 0]).tolist()
    )


def _usable(
    reports: Sequence[WindowReport], references: Mapping[str, Reference]
) -> tuple[ScoreSheet | None, list[WindowReport], tuple[Skipped, ...]]:
    """The sheet of the release's reference, the reports that fit it, and the others.

    A release has one reference: the first known one that its reports name. What was counted on
    other bins, or for other streams, proves nothing about it.
    """
    known = [report for report in reports if report.reference_sha256 in references]
    sha256 = known[0].reference_sha256 if known else ""
    sheet = score_sheet(references[sha256]) if known else None
    usable: list[WindowReport] = []
    others: dict[str, list[int]] = {}
    for report in reports:
        reason = _misfit(report, references, sha256, sheet)
        if reason:
            others.setdefault(reason, []).append(report.window)
        else:
            usable.append(report)
    skipped = tuple(Skipped(reason, tuple(windows)) for reason, windows in sorted(others.items()))
    return sheet, usable, skipped


def _misfit(
    report: WindowReport,
    references: Mapping[str, Reference],
    sha256: str,
    sheet: ScoreSheet | None,
) -> str:
    if report.reference_sha256 not in references or sheet is None:
        return "its reference is not known"
    if report.reference_sha256 != sha256:
        return "counted on another reference of the same release"
    try:
        sheet.check(report)
    except RecordError:
        return "its streams are not those of its reference"
    return ""


def _joined(sheet: ScoreSheet, reports: Sequence[WindowReport], when: Calendar | None) -> Track:
    """Statistics, then coordinates, of every window."""
    slots = np.array([report.slots for report in reports], dtype=np.float64)
    planned = np.array([report.planned_slots for report in reports], dtype=np.float64)
    complete = slots >= planned
    dropped = np.array([report.dropped for report in reports], dtype=np.float64)
    rows = np.maximum(slots - dropped, 0.0)
    counts, sigma2 = sheet.counts(reports)
    scores, noise = sheet.scores_of(counts, sigma2)
    track = Track(
        window=np.array([report.window for report in reports], dtype=np.int64),
        rows=rows,
        # Each window that the clock closed has a length of its own. Weighed by that, one of few
        # rows would bring as much noise into a sum as a window of many.
        planned=np.full_like(planned, np.median(planned[complete]) if complete.any() else 1.0),
        full=complete & (2 * rows >= planned),
        scores=scores,
        noise=noise,
        cell=None if when is None else when.cell,
    )
    return join(track, *sheet.coordinates_of(counts, sigma2))
