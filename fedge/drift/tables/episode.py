"""One alarm from its first sign to the rows that are the next normal."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedge.drift.sensor_faults import value_fault
from fedge.drift.tables.baselines import LENGTHS, MAX_LIMIT, false_alarm_rate
from fedge.drift.tables.copies import PARTED
from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.gross import GROSS
from fedge.drift.tables.outcome import Moved
from fedge.drift.tables.sums import Sums
from fedge.drift.tables.table import Table
from fedge.drift.tables.watching import Judged, Watch

Floats = NDArray[np.float64]

MIN_EFFECT = 0.2
"""Least shift of a mean that is worth an alarm, in standard deviations of one row."""

_RANKED = 0.01
"""False discoveries among the statistics that are listed with an alarm (Benjamini-Hochberg): those
rank features, they never alarm."""

_SETTLED = 0.01
"""Chance that two halves of a settled stream are taken for unsettled."""

_LISTED = 0.6
"""Least strength of such a statistic."""

_LEADING = 3
"""Columns named for a statistic of many columns."""

_ECHO = 0.5
"""A relation less strong than this part of the strongest is taken for its echo."""

BACK_WINDOWS, BACK_ROWS = 3, 50
"""Windows, and rows at least, that must be as before the change for its end without a new normal:
three rows are soon as before by chance, and each time the change would begin anew."""

_LEFT = 0.3
"""Part of a change's effect that may be left in them."""

_PAIRS = ("pair", PARTED)
"""Statistics of two columns alike."""

_DIRECTED = ("location", "missing", "relation", "error")

_LEADERS = 5
"""How many of the strongest statistics say where a change is going."""

_UNDER_WAY = 2.0
"""Standard errors by which one of these must still be moving the same way."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an alarm found.

    Attributes:
        onset_row: start of the window in which the change most likely began.
        moved: strongest first; never empty.
        confidence: 1 / (1 + r), with r the false alarms per 720 windows if the threshold lay at
            the strongest deviation: how likely the alarm is real where one real change per 720
            windows is expected. Low where the reference knows too little.
    """

    onset_row: int
    moved: tuple[Moved, ...]
    confidence: float


def change(watch: Watch, windows: Sums, judged: Judged, at: int, min_effect: float) -> Change:
    """What alarmed in the last of `windows`, which is number `at` of `judged`."""
    strength, effect = judged.strength[at], judged.effect[at]
    large = judged.large(min_effect)[at]
    length = np.where(large, np.nan_to_num(strength, nan=-1.0), -1.0).argmax(axis=0)
    every = np.arange(strength.shape[1])
    best = np.where(large[length, every], strength[length, every], 0.0)
    z = judged.z[at][length, every]
    rate = np.where(
        best > 0,
        false_alarm_rate(np.nan_to_num(z), watch.degrees[length, every], len(every)),
        np.inf,
    )
    alarmed = best > 1.0
    ranked = (best > _LISTED) & _discovered(rate / rate_of_chance(len(every)))
    order = [int(i) for i in np.argsort(-best, kind="stable") if alarmed[i] or ranked[i]]
    moved = [
        Moved(
            statistic=_named(watch, i, best),
            z=float(z[i]),
            effect=float(effect[length[i], i]),
            length=LENGTHS[length[i]],
            strength=float(best[i]),
        )
        for i in order
    ]
    return Change(
        onset_row=_onset(watch, windows, alarmed),
        moved=tuple(_told(moved)),
        confidence=round(float(1 / (1 + rate[alarmed].min())), 4),
    )


def _named(watch: Watch, index: int, strength: Floats) -> RowStatistic:
    """A statistic; one of many columns with those alone whose own statistics stand out most."""
    statistic = watch.statistics[index]
    if len(statistic.columns) <= 2:
        return statistic
    own: dict[str, float] = dict.fromkeys(statistic.columns, 0.0)
    for other, value in zip(watch.statistics, strength, strict=True):
        if len(other.columns) <= 2:
            for column in own.keys() & set(other.columns):
                own[column] = max(own[column], float(value))
    leading = sorted(own, key=lambda column: -own[column])[:_LEADING]
    return replace(statistic, columns=tuple(leading))


def _told(moved: list[Moved]) -> list[Moved]:
    """Without what only echoes a column that moved: the relations that others have to it."""
    plain = [m for m in moved if m.statistic.group in ("feature", "missing")]
    known = {column for m in plain for column in m.statistic.columns}
    loudest = max((m.strength for m in plain), default=0.0)
    top = moved[0].strength

    def echo(one: Moved) -> bool:
        """Whether a statistic tells of the others' movement only; the strongest one never does."""
        columns = one.statistic.columns
        if one.statistic.group != "structure":
            return False
        if len(columns) > 1 and one is not moved[0] and (len(columns) > 2 or known & set(columns)):
            return True
        weak = one.strength < max(loudest, _ECHO * top)
        return weak and one is not moved[0] and not (len(columns) == 1 and columns[0] in known)

    return _hubs([one for one in moved if not echo(one)])


def _hubs(moved: list[Moved]) -> list[Moved]:
    """Pairs that share a column named by it alone: one column that left many has moved, not they.

    The fewest columns that are in every pair, chosen greedily.
    """
    pairs = [set(m.statistic.columns) for m in moved if m.statistic.name in _PAIRS]
    hubs: set[str] = set()
    while pairs:
        counts = Counter(column for pair in pairs for column in sorted(pair))
        column, count = counts.most_common(1)[0]
        hubs |= {column} if count > 1 else set().union(*pairs)
        pairs = [pair for pair in pairs if not pair & hubs]

    def by_hub(one: Moved) -> Moved:
        own = tuple(c for c in one.statistic.columns if c in hubs)
        return replace(one, statistic=replace(one.statistic, columns=own))

    return [by_hub(one) if one.statistic.name in _PAIRS else one for one in moved]


def rate_of_chance(statistics: int) -> float:
    """What `false_alarm_rate` gives for a deviation of nothing."""
    return float(false_alarm_rate(np.zeros(1), np.ones(1), statistics)[0])


def _discovered(p: Floats) -> NDArray[np.bool_]:
    """Benjamini and Hochberg's step-up procedure (1995)."""
    order = np.sort(p)
    below = np.flatnonzero(order <= _RANKED * np.arange(1, len(p) + 1) / len(p))
    return p <= (order[below[-1]] if len(below) else -1.0)


def _onset(watch: Watch, windows: Sums, alarmed: NDArray[np.bool_]) -> int:
    """First row of the run of latest windows that deviates most: the likeliest change point."""
    total = np.cumsum(windows.total[::-1][:, alarmed], axis=0)
    count = np.cumsum(windows.count[::-1][:, alarmed], axis=0)
    rows = windows.end[-1] - windows.start[::-1]
    variance = np.array([watch.baseline.of_mean(int(n))[alarmed] for n in rows])
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = total / count - watch.baseline.mean[alarmed]
        evidence = np.nan_to_num(deviation**2 / (variance * rows[:, None] / count))
    # Capped, so that one statistic whose variance is next to nothing does not decide alone.
    evidence = np.minimum(evidence, 400.0)
    return int(windows.start[::-1][int(evidence.sum(axis=1).argmax())])


def continues(found: Change, before: Change) -> bool:
    """Whether a change goes on in the direction of the one before.

    Where both moved something that has a direction, that decides. A width or a shape does not: it
    grows on the way back, too.
    """
    now, then = _ways(found), _ways(before)
    common = now.keys() & then.keys()
    directed = {s for s in common if s.name in _DIRECTED or s.name.startswith("cell ")}
    if directed or any(s.name in _DIRECTED for s in now):
        return bool(directed) and all(now[s] == then[s] for s in directed)
    return any(now[s] == then[s] for s in common)


def _ways(found: Change) -> dict[RowStatistic, bool]:
    """The leaders of a change, and whether each went up."""
    return {m.statistic: m.z > 0 for m in found.moved[:_LEADERS]}


def back_windows(window: int) -> int:
    """How many windows of so many rows must be as before a change: a multiple of `BACK_WINDOWS`."""
    return BACK_WINDOWS * math.ceil(BACK_ROWS / (BACK_WINDOWS * window))


def returned(watch: Watch, windows: Sums, found: Change, min_effect: float) -> bool:
    """Whether windows after a change, `back_windows` of them, are as the watch from before knows
    them.

    Nothing alarms in them, and of what the leaders of the change moved by, little is left.
    """
    windows = windows.joined(len(windows) // BACK_WINDOWS)
    judged = watch.judge(windows, len(windows) - 1)
    if judged.alarms(min_effect).any():
        return False
    left = dict(
        zip(watch.statistics, judged.effect[0, LENGTHS.index(BACK_WINDOWS)].tolist(), strict=True)
    )
    moved = [(left[m.statistic], m.effect) for m in found.moved[:_LEADERS] if m.statistic in left]
    # NaN compares false: what has no score is not back.
    return bool(moved) and all(abs(now) <= _LEFT * abs(then) for now, then in moved)


def new_fault(
    watch: Watch, stream: Table, windows: Sums, judged: Judged, known: set[str], min_effect: float
) -> Change | None:
    """A sensor other than those of the columns `known` that broke while an alarm stands.

    `judged` is the last of `windows`. Only gross signs count, and only those that bear the mark of
    a fault: what else moves while a stream is under way is taken for the rest of its change.
    """
    gross = [s.name in GROSS and s.columns[0] not in known for s in watch.statistics]
    if not (judged.alarms(min_effect)[0] & np.array(gross)).any():
        return None
    found = change(watch, windows, judged, 0, min_effect)
    start, end = int(windows.start[0]), int(windows.end[-1])

    def broken(one: Moved) -> bool:
        """Whether a moved statistic shows a column of its own to be broken now, and not before."""
        column = one.statistic.columns[0]
        before = stream.column(column).values[watch.start : watch.end]
        return (
            one.statistic.name in GROSS
            and column not in known
            and one.strength > 1.0
            and value_fault(before, stream.column(column).values[start:end]) is not None
        )

    moved = tuple(one for one in found.moved if broken(one))
    return Change(start, moved, found.confidence) if moved else None


def settled(
    watch: Watch, stream: Table, start: int, end: int, found: Change, min_effect: float
) -> bool:
    """Whether the two halves of rows `start` to `end` agree after the change `found`.

    The persistence is that of the watch from before the change; the rows themselves, if they are
    under way, would show one that excuses them.
    """
    from scipy.special import stdtrit

    scores = watch.scores(stream, start, end)
    half = len(scores) // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = _moments(scores[:half]), _moments(scores[half:])
        old = np.maximum(watch.baseline.strays.variance, watch.baseline.least)
        grown = np.maximum(1.0, (first[1] + second[1]) / 2 / old)
        z = (second[0] - first[0]) / np.sqrt(2 * grown * watch.baseline.of_mean(half))
    effect = (second[0] - first[0]) / watch.baseline.unit
    degrees = watch.baseline.strays.degrees
    limit = np.minimum(MAX_LIMIT, -stdtrit(degrees, _SETTLED / 2 / len(degrees)))
    # A statistic that neither half has says nothing: NaN compares false.
    if ((np.abs(z) > limit) & (np.abs(effect) >= min_effect)).any():
        return False
    ways = {statistic: 1.0 if up else -1.0 for statistic, up in _ways(found).items()}
    way = np.array([ways.get(statistic, 0.0) for statistic in watch.statistics])
    return not bool(((way * z > _UNDER_WAY) & (way * effect >= min_effect / 2)).any())


def _moments(scores: Floats) -> tuple[Floats, Floats]:
    present = np.isfinite(scores)
    rows = present.sum(axis=0)
    mean = np.where(present, scores, 0.0).sum(axis=0) / rows
    return mean, np.where(present, (scores - mean) ** 2, 0.0).sum(axis=0) / rows
