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
from fedge.drift.baseline import Baseline, Track, fit
from fedge.drift.detect import (
    Scan,
    baseline_jump,
    certifiable,
    onset,
    scan,
    threshold,
)
from fedge.drift.scores import ScoreSheet, score_sheet
from fedge.errors import RecordError
from fedge.records import Record, Reference, WindowReport

_PROOF_WINDOWS = 3
"""Windows after the baseline with which it is searched once more for a jump: few, because each
search spends from the budget of false alarms."""


class Finding(Record):
    """One stream's strongest evidence inside an alarm.

    Attributes:
        statistic: `location`, `scale`, `missing` or `cell <category>`.
        length: number of latest windows that were summed.
        z: deviation in standard errors.
        effect: shift of one record's score in reference standard deviations.
    """

    stream: str
    statistic: str
    length: int
    z: float
    effect: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """The first alarm on a release: the window that raised it, and since when."""

    opened_window: int
    opened_at: float
    first_window: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class ReleaseWatch:
    """One gateway on one release.

    Attributes:
        baseline: None until enough full windows came, or while the reference is not known.
        tested: windows after the baseline.
        window_rows: slots of a full window, in the middle of those that there were.
        recent_rows: records in the latest of them, over the longest summed length.
        certifiable: see `detect.certifiable`.
        heat: float64[W, S], largest |z| per window and stream; NaN where nothing was tested.
        problem: why there is nothing to judge; empty if there is no such reason.
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
    sheet, usable = _usable(reports, references)
    if sheet is None or not usable:
        problem = f"no report of release {release} fits a known reference"
        return _unjudged(release, reports, (), 0, problem)
    track = _track(sheet, usable)
    streams = tuple(stream.name for stream in sheet.reference.streams)
    full = np.flatnonzero(track.full)[: settings.baseline_windows]
    if len(full) < settings.baseline_windows:
        problem = f"baseline has {len(full)} of {settings.baseline_windows} full windows"
        return _unjudged(release, usable, streams, len(full), problem)

    in_baseline = np.zeros(len(track.window), dtype=np.bool_)
    in_baseline[full] = True
    own = track[in_baseline]
    baseline = fit(own, sheet.row_variance, sheet.share, len(streams))
    limit = threshold(settings, len(sheet.statistics), baseline.degrees)
    later = track[int(full[-1]) + 1 :]
    tests = scan(later, baseline, sheet.unit, settings, limit)
    proven = track[in_baseline | (np.arange(len(track.window)) > full[-1])]
    alarms = (
        _jump_alarm(proven, baseline, usable, sheet, settings),
        _scan_alarm(tests, later, baseline, usable, sheet, quiet),
    )
    return ReleaseWatch(
        release=release,
        reports=tuple(usable),
        streams=streams,
        baseline=baseline,
        baseline_windows=len(full),
        tested=len(later.window),
        window_rows=float(track.planned[0]),
        recent_rows=float(later.rows[-max(settings.lengths) :].sum()),
        certifiable=certifiable(settings, len(sheet.statistics), baseline, limit),
        alarm=min((a for a in alarms if a), key=lambda a: a.opened_window, default=None),
        heat=_heat(track, baseline, tests, sheet, settings, limit),
        problem="",
    )


def _unjudged(
    release: int,
    reports: Sequence[WindowReport],
    streams: tuple[str, ...],
    baseline_windows: int,
    problem: str,
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
    )


def _usable(
    reports: Sequence[WindowReport], references: Mapping[str, Reference]
) -> tuple[ScoreSheet | None, list[WindowReport]]:
    """The sheet of the release's reference and the reports that fit it."""
    known = [report for report in reports if report.reference_sha256 in references]
    if not known:
        return None, []
    sha256 = known[0].reference_sha256
    sheet = score_sheet(references[sha256])
    usable = []
    for report in known:
        try:
            sheet.check(report)
        except RecordError:
            continue  # counted as missing: a report that fits no reference proves nothing
        if report.reference_sha256 == sha256:
            usable.append(report)
    return sheet, usable


def _track(sheet: ScoreSheet, reports: Sequence[WindowReport]) -> Track:
    slots = np.array([report.slots for report in reports], dtype=np.float64)
    planned = np.array([report.planned_slots for report in reports], dtype=np.float64)
    complete = slots >= planned
    dropped = np.array([report.dropped for report in reports], dtype=np.float64)
    rows = np.maximum(slots - dropped, 0.0)
    scores, noise = sheet.scores(reports)
    return Track(
        window=np.array([report.window for report in reports], dtype=np.int64),
        rows=rows,
        # Each window that the clock closed has a length of its own. Weighed by that, one of few
        # rows would bring as much noise into a sum as a window of many.
        planned=np.full_like(planned, np.median(planned[complete]) if complete.any() else 1.0),
        full=complete & (2 * rows >= planned),
        scores=scores,
        noise=noise,
    )


def _closed_at(reports: Sequence[WindowReport], window: int) -> float:
    return next(report.closed_at for report in reports if report.window == window)


def _scan_alarm(
    tests: Scan,
    later: Track,
    baseline: Baseline,
    reports: Sequence[WindowReport],
    sheet: ScoreSheet,
    quiet: int,
) -> Alarm | None:
    alarmed = np.flatnonzero(tests.alarms.any(axis=(1, 2)))
    alarmed = alarmed[alarmed >= quiet]
    if not alarmed.size:
        return None
    index = int(alarmed[0])
    over = tests.alarms[index]
    first = onset(later[: index + 1], baseline, over.any(axis=0))
    best = np.where(over, np.abs(tests.z[index]), 0.0).argmax(axis=0)
    columns = np.arange(len(sheet.statistics))
    findings = _findings(
        sheet,
        over.any(axis=0),
        np.array(tests.lengths)[best],
        tests.z[index][best, columns],
        tests.effect[index][best, columns],
    )
    opened = int(later.window[index])
    return Alarm(opened, _closed_at(reports, opened), int(later.window[first]), findings)


def _jump_alarm(
    track: Track,
    baseline: Baseline,
    reports: Sequence[WindowReport],
    sheet: ScoreSheet,
    settings: DriftSettings,
) -> Alarm | None:
    """A fault that began among the baseline windows, as soon as it shows.

    Looked for again with each of the first windows after the baseline: a fault in the last of the
    baseline windows spoils their long-run variance, so that the scan alone might miss it.
    """
    last = min(len(track.window), baseline.windows + _PROOF_WINDOWS)
    for end in range(baseline.windows, last + 1):
        jump = baseline_jump(track[:end], baseline, sheet.unit, settings)
        if jump is not None:
            opened = int(track.window[end - 1])
            lengths = np.full(len(sheet.statistics), end - jump.index)
            findings = _findings(sheet, jump.alarms, lengths, jump.z, jump.effect)
            first = int(track.window[jump.index])
            return Alarm(opened, _closed_at(reports, opened), first, findings)
    return None


def _findings(
    sheet: ScoreSheet,
    alarmed: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    z: NDArray[np.float64],
    effect: NDArray[np.float64],
) -> tuple[Finding, ...]:
    """The strongest alarmed statistic of each stream, strongest stream first."""
    found: dict[str, Finding] = {}
    ranked = sorted(np.flatnonzero(alarmed).tolist(), key=lambda index: -abs(float(z[index])))
    for index in ranked:
        statistic = sheet.statistics[index]
        finding = Finding(
            stream=statistic.stream,
            statistic=statistic.name,
            length=int(lengths[index]),
            z=float(z[index]),
            effect=float(effect[index]),
        )
        found.setdefault(statistic.stream, finding)
    return tuple(found.values())


def _heat(
    track: Track,
    baseline: Baseline,
    tests: Scan,
    sheet: ScoreSheet,
    settings: DriftSettings,
    limit: float,
) -> NDArray[np.float64]:
    """Largest |z| per window and stream: over all sums, and of the window alone before those."""
    single = settings.model_copy(update={"lengths": (1,)})
    z = np.abs(scan(track, baseline, sheet.unit, single, limit).z[:, 0])
    first = len(track.window) - len(tests.z)
    summed = np.where(np.isnan(tests.z), 0.0, np.abs(tests.z)).max(axis=1, initial=0.0)
    z[first:] = np.where(np.isnan(z[first:]), np.nan, np.maximum(z[first:], summed))
    starts = np.flatnonzero(np.diff(sheet.stream, prepend=-1))
    return np.maximum.reduceat(z, starts, axis=1)
