"""Several scores at once: changes of shape, and many small shifts together.

A column that falls apart into two peaks moves neither its mean nor its spread, and
fifty sensors may each move too little to be seen. Both are found from the sums
that leave the gateway anyway:

- *shape*: the eighths of one number's histogram without location and scale;
- *cells*: the commonest cells of one category;
- *joint*: the locations of many streams.

Each is a chi-square whose covariance is not taken for known: rows that are alike
inflate it differently in every direction, and no single factor makes the test
hold its size. The covariance of sums is estimated from the baseline's own sums of
the same length, which gives Hotelling's T2 with an F reference (Hotelling 1931); a
length for which the baseline holds fewer than three sums per score is not tested.

Random-feature means (an MMD that sums up) would need a stream of their own on the
wire, at the cost of noise for all others: `ScoreSheet.coordinates_of` is where
their counts would come in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings
from fedge.drift.fleet.baseline import Baseline, Track
from fedge.drift.fleet.dependence import bandwidth, long_run_form
from fedge.drift.fleet.scores import COORDINATES, KINDS, ScoreSheet
from fedge.drift.fleet.season import fitted
from fedge.drift.fleet.sums import Sums

Floats = NDArray[np.float64]

SUMS_PER_SCORE = 3.0
"""Sums that the baseline must hold for each score of a test. With fewer, the F reference is so wide
that nothing is found."""

_LEAST_DEGREES = SUMS_PER_SCORE * COORDINATES

MAX_CELLS = 12
"""Cells of one category that are tested together: its commonest."""

_LEAST_JOINT = 4
"""Streams for which a joint test is worth its part of the budget."""

_LEAST_SCORES = 2
_SINGULAR = 1e9

_TALKATIVE = 3.0
"""Evidence, in standard errors, below which none is shown."""


@dataclass(frozen=True, slots=True)
class Quadratic:
    """One quadratic test at one length.

    Attributes:
        name: `shape`, `cells` or `joint`.
        columns: int64[p], columns of the joined track (statistics, then coordinates).
        inverse: float64[p, p], of the covariance of standardised sums.
        degrees: degrees of freedom behind that covariance.
    """

    name: str
    length: int
    columns: NDArray[np.int64]
    inverse: Floats
    degrees: float

    def statistic(self, z: Floats) -> Floats:
        """F statistic of plain z of the sums, float64[W, all columns]; NaN where there is none."""
        own = z[:, self.columns]
        size = len(self.columns)
        squared: Floats = ((own @ self.inverse) * own).sum(axis=1)
        factor = (self.degrees - size + 1) / (size * self.degrees)
        return factor * squared

    def contributions(self, z: Floats) -> Floats:
        """What each score adds to T2, float64[p], for one sum's plain z."""
        own = z[self.columns]
        return own * (self.inverse @ own)


@dataclass(frozen=True, slots=True)
class Found:
    """A test that alarmed.

    Attributes:
        index: the window that ends the sum.
        z: the two-sided normal deviation that is as unlikely as the F statistic.
        effect: root of the summed squares of its scores' shifts, noise taken out.
        plain: float64[all columns], plain z of the sum.
    """

    test: Quadratic
    index: int
    z: float
    effect: float
    plain: Floats


@dataclass(frozen=True, slots=True)
class Tests:
    """The tests that a baseline allows.

    Attributes:
        baseline: of the joined track.
        unit: float64[all columns], units of effects.
        stream: int64[all columns], index of the stream.
        tests: every test, lengths increasing.
        untested: lengths for which the baseline is too short, with the windows that are missing.
    """

    baseline: Baseline
    unit: Floats
    stream: NDArray[np.int64]
    tests: tuple[Quadratic, ...]
    untested: tuple[tuple[int, int], ...]

    @property
    def most(self) -> int:
        """Tests made at one length, at most."""
        lengths = [test.length for test in self.tests]
        return max((lengths.count(length) for length in set(lengths)), default=0)


def groups(sheet: ScoreSheet) -> tuple[tuple[str, NDArray[np.int64]], ...]:
    """The scores that are tested together, as columns of the joined track."""
    count = len(sheet.statistics)
    found: list[tuple[str, NDArray[np.int64]]] = []
    coordinates = np.arange(len(sheet.coordinate_stream)) + count
    found += [("shape", own) for own in coordinates.reshape(-1, COORDINATES)]
    cells = np.flatnonzero(sheet.kinds == KINDS.index("cell"))
    for stream in np.unique(sheet.stream[cells]):
        own = cells[sheet.stream[cells] == stream][:-1]  # the cells add up: one says nothing new
        common = np.argsort(-np.asarray(sheet.reference.streams[stream].histogram)[:-1])
        if len(own) > 1:
            found.append(("cells", np.sort(own[common[:MAX_CELLS]])))
    locations = np.flatnonzero(sheet.kinds == KINDS.index("location"))
    if len(locations) >= _LEAST_JOINT:
        found.append(("joint", locations))
    return tuple(found)


def prepare(own: Track, baseline: Baseline, sheet: ScoreSheet, lengths: Sequence[int]) -> Tests:
    """The tests that a baseline's windows allow.

    Args:
        own: the baseline windows, statistics and coordinates joined.
        baseline: fitted to them.
    """
    residuals = _residuals(own, baseline)
    taken = fitted(own.cells, own.rows)
    tests: list[Quadratic] = []
    untested: list[tuple[int, int]] = []
    for length in lengths:
        worth = baseline.at(length).own_degrees
        if bandwidth(len(own.rows), length) < length or worth.min() < _LEAST_DEGREES:
            needed = max(_LEAST_DEGREES * len(own.rows) / float(worth.min()), 4.0 * (length - 1))
            untested.append((length, max(1, math.ceil(needed) - len(own.rows))))
            continue
        form = long_run_form(taken, length)
        filtered = form @ residuals / np.trace(form)
        for name, columns in groups(sheet):
            degrees = float(worth[columns].min())
            for part in _split(name, columns, degrees):
                covariance = residuals[:, part].T @ filtered[:, part]
                covariance = covariance * _unseen(baseline, length, part)
                test = _test(name, length, part, covariance, degrees)
                if test is not None:
                    tests.append(test)
    unit = np.concatenate([sheet.unit, np.sqrt(sheet.coordinate_variance)])
    stream = np.concatenate([sheet.stream, sheet.coordinate_stream])
    return Tests(baseline, unit, stream, tuple(tests), tuple(untested))


def _unseen(baseline: Baseline, length: int, columns: NDArray[np.int64]) -> float:
    """Factor on the covariance for slow wander that the baseline hides: the mean of the scores'."""
    known = baseline.at(length)
    hidden = np.zeros(len(known.inflation)) if known.hidden is None else known.hidden
    inflation = known.inflation[columns]
    return float((inflation / np.maximum(inflation - hidden[columns], 1.0)).mean())


def _residuals(own: Track, baseline: Baseline) -> Floats:
    place, rates = baseline.expected(own)
    nominal = own.noise + own.rows[:, None] * baseline.row_variance
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = (own.scores - own.rows[:, None] * rates[place]) / np.sqrt(nominal)
    return np.where(nominal > 0, deviation, 0.0)


def _split(name: str, columns: NDArray[np.int64], degrees: float) -> list[NDArray[np.int64]]:
    """Parts small enough for the baseline; a category too large for it is cut to what fits."""
    room = int(degrees / SUMS_PER_SCORE)
    if name == "joint":
        return np.array_split(columns, -(-len(columns) // room)) if room >= _LEAST_JOINT else []
    return [columns[:room]]


def _test(
    name: str, length: int, columns: NDArray[np.int64], covariance: Floats, degrees: float
) -> Quadratic | None:
    """The test on those scores that vary in the baseline; None for fewer than two."""
    alive = np.flatnonzero(np.diag(covariance) > 0)
    # Cells that hold all records between them add up: without noise one of them says nothing new.
    for keep in (alive, alive[:-1]):
        own: Floats = covariance[np.ix_(keep, keep)]
        if len(keep) >= _LEAST_SCORES and np.linalg.cond(own) < _SINGULAR:
            return Quadratic(name, length, columns[keep], np.asarray(np.linalg.inv(own)), degrees)
    return None


def search(track: Track, tests: Tests, settings: DriftSettings, level: float) -> list[Found]:
    """Every alarm on the windows after the baseline, in order of the windows.

    Args:
        track: statistics and coordinates joined.
        level: probability that one test may alarm with without drift.
    """
    sums = Sums.of(track, tests.baseline)
    found: list[Found] = []
    for length in sorted({test.length for test in tests.tests}):
        if length > len(track.rows):
            continue
        plain, rows, deviation = sums.plain(length)
        for test in tests.tests:
            if test.length == length:
                found += _alarms(test, tests, plain, rows, deviation, settings, level)
    return sorted(found, key=lambda one: (one.index, one.test.length))


def _alarms(
    test: Quadratic,
    tests: Tests,
    plain: Floats,
    rows: Floats,
    deviation: Floats,
    settings: DriftSettings,
    level: float,
) -> list[Found]:
    size = len(test.columns)
    statistic = test.statistic(plain)
    limit = _limit(level, size, test.degrees - size + 1)
    found = []
    for place in np.flatnonzero(statistic > limit):  # NaN compares false: not tested
        own = plain[place, test.columns]
        shift = deviation[place, test.columns] / rows[place] / tests.unit[test.columns]
        # A squared shift holds its squared standard error too, which is no effect.
        error = (shift[own != 0] / own[own != 0]) ** 2
        effect = float(np.sqrt(max(0.0, (shift**2).sum() - error.sum())))
        if effect >= settings.min_effect:
            z = _as_normal(float(statistic[place]), size, test.degrees - size + 1)
            found.append(Found(test, int(place) + test.length - 1, z, effect, plain[place]))
    return found


def evidence(track: Track, tests: Tests) -> Floats:
    """Evidence of shape and cells tests per window and stream, float64[W, S], for plots.

    In standard errors, single windows only; 0 where it is below what chance brings all the time.
    """
    streams = int(tests.stream.max()) + 1
    shown = np.zeros((len(track.rows), streams))
    single = [test for test in tests.tests if test.length == 1 and test.name != "joint"]
    if not single or not len(track.rows):
        return shown
    plain = Sums.of(track, tests.baseline).plain(1)[0]
    for test in single:
        size = len(test.columns)
        statistic = test.statistic(plain)
        degrees = test.degrees - size + 1
        loud = np.flatnonzero(statistic > _limit(_level(_TALKATIVE), size, degrees))
        values = [_as_normal(float(statistic[w]), size, degrees) for w in loud]
        shown[loud, tests.stream[test.columns[0]]] = values
    return shown


def first_window(track: Track, tests: Tests, found: Found) -> int:
    """Index of the first drifted window of a track that ends with the window that alarmed."""
    plain = Sums.of(track, tests.baseline).suffixes()[1]
    lengths = np.arange(len(plain), 0, -1)
    same = [
        t
        for t in tests.tests
        if t.name == found.test.name and np.isin(found.test.columns, t.columns).any()
    ]
    squared = np.full(len(plain), -np.inf)
    for index, length in enumerate(lengths):
        near = [t for t in same if t.length <= length]
        values = [t.statistic(plain[index : index + 1])[0] * len(t.columns) for t in near[-1:]]
        squared[index] = np.nan_to_num(values[0], nan=-np.inf) if values else -np.inf
    return int(squared.argmax())


@lru_cache(maxsize=256)
def _limit(level: float, size: int, degrees: float) -> float:
    from scipy.stats import f

    return float(f.isf(level, size, degrees))


def _level(z: float) -> float:
    from scipy.stats import norm

    return float(2 * norm.sf(z))


def _as_normal(statistic: float, size: int, degrees: float) -> float:
    from scipy.stats import f, norm

    return float(norm.isf(max(float(f.sf(statistic, size, degrees)), 1e-300) / 2))
