"""One gateway's windows on one release, judged: baseline, every test, the first alarm.

Pure arithmetic on a track of scores. Where the scores come from, and what is said
about windows that could not be used, belongs to `watch`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings
from fedge.drift.fleet import multivariate
from fedge.drift.fleet.baseline import Baseline, Track, carried, fit
from fedge.drift.fleet.detect import (
    Scan,
    certifiable,
    limits,
    month_of_tests,
    onset,
    scan,
    threshold,
)
from fedge.drift.fleet.jump import baseline_jump
from fedge.drift.fleet.multivariate import Found, Tests
from fedge.drift.fleet.scores import KINDS, ScoreSheet
from fedge.drift.fleet.sums import Sums
from fedge.records import Record

_PROOF_WINDOWS = 3
"""Windows after the baseline with which it is searched once more for a jump: few, because each
search spends from the budget of false alarms."""

_CONTRIBUTES = 2.0
"""A stream is named in a joint finding if it brings this many times the average of its group."""


class Finding(Record):
    """One stream's strongest evidence inside an alarm.

    Attributes:
        statistic: `location`, `scale`, `missing`, `cell <category>`; `shape` (the form of a
            number's histogram), `cells` (a category's shares together) or `joint` (many streams
            moved together, this one most).
        length: number of latest windows that were summed.
        z: deviation in standard errors; of the tests of several scores, as unlikely a normal one.
        effect: shift of one record's score in reference standard deviations; of the tests of
            several scores, the root of their summed squares.
    """

    stream: str
    statistic: str
    length: int
    z: float
    effect: float


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm: the window that raised it and the first drifted one, as indices into the track."""

    index: int
    first: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a track says.

    Attributes:
        baseline: of the score sheet's statistics.
        tests: all tests of single statistics on the windows after the baseline.
        several: tests of several scores that the baseline allows.
        certifiable: see `detect.certifiable`.
        found: every alarm of tests of several scores.
        raised: the first alarm.
        heat: float64[W, S], largest |z| per window and stream, each as a normal one of the same
            evidence against its own limit; NaN where nothing was tested.
        limit: the one of `heat`: more is an alarm, where the effect is large enough.
    """

    baseline: Baseline
    tests: Scan
    several: Tests
    certifiable: float
    found: tuple[Found, ...]
    raised: Raised | None
    heat: NDArray[np.float64]
    limit: float


def judge(
    joined: Track,
    sheet: ScoreSheet,
    settings: DriftSettings,
    in_baseline: NDArray[np.bool_],
    *,
    quiet: int = 0,
    heat: bool = True,
) -> Judged:
    """Judge the windows of one release.

    Args:
        joined: statistics of the sheet, then its coordinates.
        in_baseline: bool[W], the windows that form the baseline.
        quiet: windows after the baseline in which nothing may alarm.
        heat: whether the heat map is wanted.
    """
    count = len(sheet.statistics)
    own = joined[in_baseline]
    whole = fit(
        own,
        np.concatenate([sheet.row_variance, sheet.coordinate_variance]),
        np.pad(sheet.share, (0, len(sheet.coordinate_variance))),
        len(sheet.reference.streams),
        kinds=np.pad(
            sheet.kinds, (0, len(sheet.coordinate_variance)), constant_values=sheet.kinds.max() + 1
        ),
        lengths=settings.lengths,
    )
    locations, scales = (
        np.flatnonzero(sheet.kinds == KINDS.index(kind)) for kind in ("location", "scale")
    )
    baseline, track = carried(whole.part(count), locations, scales), columns(joined, count)
    several = multivariate.prepare(own, whole, sheet, settings.lengths)
    together = count + several.most
    limit, normal = limits(settings, together, baseline), threshold(settings, together, math.inf)
    first = int(np.flatnonzero(in_baseline)[-1]) + 1
    tests = scan(track[first:], baseline, sheet.unit, settings, limit, sheet.bounds)
    level = settings.false_alarms_per_month / month_of_tests(settings, together)
    found = multivariate.search(joined[first:], several, settings, level)
    raised = [
        _jumped(track, baseline, sheet, settings, in_baseline, first),
        _scanned(tests, found, joined, several, sheet, first, quiet),
    ]
    return Judged(
        baseline=baseline,
        tests=tests,
        several=several,
        certifiable=certifiable(settings, together, baseline, limit),
        found=tuple(found),
        raised=min((r for r in raised if r), key=lambda r: r.index, default=None),
        heat=_heat(joined, track, baseline, several, tests, sheet, normal / limit)
        if heat
        else np.empty((0, 0)),
        limit=normal,
    )


def columns(joined: Track, count: int) -> Track:
    """The first `count` columns of a track's scores."""
    return Track(
        joined.window,
        joined.rows,
        joined.planned,
        joined.full,
        joined.scores[:, :count],
        joined.noise[:, :count],
        joined.cell,
    )


def _jumped(
    track: Track,
    baseline: Baseline,
    sheet: ScoreSheet,
    settings: DriftSettings,
    in_baseline: NDArray[np.bool_],
    first: int,
) -> Raised | None:
    """A fault that began among the baseline windows, as soon as it shows.

    Looked for again with each of the first windows after the baseline: a fault in the last of the
    baseline windows spoils their long-run variance, so that the scan alone might miss it.
    """
    proven = in_baseline | (np.arange(len(track.rows)) >= first)
    places, track = np.flatnonzero(proven), track[proven]
    last = min(len(places), baseline.windows + _PROOF_WINDOWS)
    for end in range(baseline.windows, last + 1):
        jump = baseline_jump(track[:end], baseline, sheet.unit, settings, sheet.bounds)
        if jump is not None:
            lengths = np.full(len(sheet.statistics), end - jump.index)
            findings = _findings(sheet, jump.alarms, lengths, jump.z, jump.effect)
            return Raised(int(places[end - 1]), int(places[jump.index]), ranked(findings))
    return None


def _scanned(
    tests: Scan,
    found: list[Found],
    joined: Track,
    several: Tests,
    sheet: ScoreSheet,
    first: int,
    quiet: int,
) -> Raised | None:
    """The first window after the baseline on which any test alarms, with all that alarm on it."""
    single = np.flatnonzero(tests.alarms.any(axis=(1, 2)))
    indices = [*single[single >= quiet].tolist(), *(one.index for one in found)]
    index = min((i for i in indices if i >= quiet), default=None)
    if index is None:
        return None
    later = joined[first : first + index + 1]
    over = tests.alarms[index]
    findings: list[Finding] = []
    begins: list[tuple[float, int]] = []
    if over.any():
        best = np.where(over, np.abs(tests.z[index]), 0.0).argmax(axis=0)
        every = np.arange(len(sheet.statistics))
        z, effect = tests.z[index][best, every], tests.effect[index][best, every]
        moved = over.any(axis=0)
        findings += _findings(sheet, moved, np.array(tests.lengths)[best], z, effect)
        begin = onset(columns(later, len(moved)), several.baseline.part(len(moved)), moved)
        begins.append((float(np.abs(z[moved]).max()), begin))
    for one in found:
        if one.index == index:
            findings += _several_findings(one, several, sheet)
            begins.append((one.z, multivariate.first_window(later, several, one)))
    return Raised(first + index, first + max(begins)[1], ranked(findings))


def _findings(
    sheet: ScoreSheet,
    alarmed: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    z: NDArray[np.float64],
    effect: NDArray[np.float64],
) -> list[Finding]:
    return [
        Finding(
            stream=sheet.statistics[index].stream,
            statistic=sheet.statistics[index].name,
            length=int(lengths[index]),
            z=float(z[index]),
            effect=float(effect[index]),
        )
        for index in np.flatnonzero(alarmed).tolist()
    ]


def _several_findings(found: Found, several: Tests, sheet: ScoreSheet) -> list[Finding]:
    """A test of one stream's scores names it; a joint one the streams that brought most."""
    test, names = found.test, [stream.name for stream in sheet.reference.streams]
    streams = several.stream[test.columns]
    if test.name == "joint":
        brought = test.contributions(found.plain)
        named = streams[brought >= min(_CONTRIBUTES * brought.mean(), brought.max())]
    else:
        named = streams[:1]
    return [
        Finding(
            stream=names[stream],
            statistic=test.name,
            length=test.length,
            z=found.z,
            effect=found.effect,
        )
        for stream in named.tolist()
    ]


def ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """The strongest finding of each stream, strongest stream first.

    What moved by itself comes before what only moved together with others.
    """
    strongest: dict[str, Finding] = {}
    for one in sorted(findings, key=lambda one: (one.statistic == "joint", -abs(one.z))):
        strongest.setdefault(one.stream, one)
    return tuple(strongest.values())


def _heat(
    joined: Track,
    track: Track,
    baseline: Baseline,
    several: Tests,
    tests: Scan,
    sheet: ScoreSheet,
    scale: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Largest |z| per window and stream: over all sums, and of the window alone before those.

    Args:
        scale: float64[L, T], what makes each z one of the same limit.
    """
    z = np.abs(Sums.of(track, baseline).over(1, sheet.unit)[0]) * scale[0]
    first = len(track.window) - len(tests.z)
    summed = np.where(np.isnan(tests.z), 0.0, np.abs(tests.z) * scale).max(axis=1, initial=0.0)
    z[first:] = np.where(np.isnan(z[first:]), np.nan, np.maximum(z[first:], summed))
    starts = np.flatnonzero(np.diff(sheet.stream, prepend=-1))
    largest: NDArray[np.float64] = np.maximum.reduceat(z, starts, axis=1)
    return np.maximum(largest, multivariate.evidence(joined, several))
