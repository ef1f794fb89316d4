"""Signatures of broken sensors: what no process does, but a stuck, dead or misread sensor.

A value that repeats while everything else goes on; values piled at an extreme; all
numbers multiplied by one factor; one channel that left its relation to the
others while those stayed where they were. A shift without such a mark is no sensor
fault but a change of what is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.words import SensorFault

Floats = NDArray[np.float64]

MIN_RUN = 8
"""Shortest run of equal values that is called stuck."""

RUN_FACTOR = 3.0
"""A run must be so many times as long as the longest one in the reference."""

COMMON = 0.1
"""A value that made up this share of the reference may well become the only one: that is a change
of what is measured, no fault."""

PILE = 0.1
"""Share of rows at exactly one extreme value that makes a saturated sensor..."""

PILE_BEFORE = 0.02
"""...if the reference had at most this share at its own extremes."""

SILENT = 0.9
"""Share of missing values of a dead channel."""

LEAST_FACTOR = ((20.0, 1.2), (3.0, 1.5), (1.2, 2.2), (0.0, 4.0))
"""Least factor of a unit change, where the median is at least so many standard deviations away from
zero: a process may become wider, but its level and its spread never grow alike by chance."""

SAME_FACTOR = 0.15
"""Largest difference of the logarithms of the factors of level and steps, beside chance."""

WILD_FACTOR = 20.0
"""No process becomes so many times as wide: few rows of it are enough."""

OUT_OF_REACH = 1.0
"""Ranges of the reference beyond its end: a level there is none of the process."""

UNLIKE = 0.05
"""Largest distance (Kolmogorov-Smirnov) that is left when a unit change is undone, above chance."""

LEAST_TIE = 0.35
"""Part of a channel's variance that the others must explain for its relation to them to count."""

LEAST_BREAK = 1.5
"""Least shift against what the others say, in standard deviations of that relation's residual."""

MOST_NOISE = 2.5
"""...around which it scatters at most so many times as widely as before."""

ALONE, PER_DEVIATION, MOST_SURE = 0.3, 0.15, 0.95
"""How sure a broken relation makes of an offset: the more, the farther the channel is from what the
others say, in its own standard deviations. At less than 0.5 it is called none."""

FULL_BIN = 0.95
"""Share of rows in one bin that makes a histogram stuck."""

END_BIN = 0.2
"""Share of rows in an end bin that makes a histogram saturated..."""

FAR_LEFT = 0.7
"""...if the half of the bins at the other end kept at least this part of its rows."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A signature found.

    Attributes:
        value: the value at which it is stuck, dead or saturated; the shift in reference standard
            deviations of an offset; the factor of a unit change.
        certainty: 0 to 1.
    """

    kind: SensorFault
    value: float
    certainty: float


def value_fault(reference: Floats, recent: Floats) -> Fault | None:
    """Judge one channel by its own values.

    Args:
        reference, recent: float64[n] and float64[m] in time order, NaN where missing.
    """
    known, now = reference[np.isfinite(reference)], recent[np.isfinite(recent)]
    if len(known) < MIN_RUN or known.min() == known.max() or len(recent) < MIN_RUN:
        return None
    silent, was_silent = (float(np.isnan(values).mean()) for values in (recent, reference))
    if silent >= SILENT and was_silent <= 1 - SILENT:
        return Fault("dead", math.nan, silent)
    if (endless := _infinite(reference, recent)) is not None:
        return endless
    if len(now) < MIN_RUN:
        return None
    after = _after(known, now)
    signs = _stuck(known, now) or _saturated(known, now) or _unit_change(known, after)
    return signs or _out_of_reach(known, after)


def _infinite(reference: Floats, recent: Floats) -> Fault | None:
    """Infinity is beyond the end of every scale: an overflow, or a division by a dead signal."""
    endless = np.isinf(recent)
    share = float(endless.mean())
    if share < PILE or endless.sum() < MIN_RUN or float(np.isinf(reference).mean()) > PILE_BEFORE:
        return None
    return Fault("saturated", float(recent[endless][0]), min(1.0, 0.5 + share))


def _after(known: Floats, now: Floats) -> Floats:
    """The recent rows without those before the change, where that shows: nearly all that follow lie
    outside the reference's range."""
    outside = (now < known.min()) | (now > known.max())
    first = int(outside.argmax())
    if outside.any() and len(now) - first >= MIN_RUN and outside[first:].mean() >= 1 - PILE:
        return now[first:]
    return now


def _stuck(known: Floats, now: Floats) -> Fault | None:
    run = _last_run(now)
    longest = _longest_run(known)
    repeats = float((np.diff(now) == 0).mean())
    repeated = float((np.diff(known) == 0).mean())
    holds = run >= max(MIN_RUN, RUN_FACTOR * longest, 0.3 * len(now))
    if not holds and not (repeats >= 0.8 and repeated <= 0.3 and len(now) >= 2 * MIN_RUN):
        return None
    values, counts = np.unique(now, return_counts=True)
    value = float(now[-1] if holds else values[counts.argmax()])
    if float((known == value).mean()) >= COMMON:
        return None
    certainty = 1 - math.exp(-run / max(MIN_RUN, longest))
    if value < known.min() or (value == 0.0 and (known == 0.0).mean() <= PILE_BEFORE):
        return Fault("dead", value, certainty)
    return Fault("saturated" if value >= known.max() else "stuck", value, certainty)


def _saturated(known: Floats, now: Floats) -> Fault | None:
    for extreme, before in ((now.max(), known.max()), (now.min(), known.min())):
        pile = float((now == extreme).mean())
        usual = max(float((known == before).mean()), float((known == extreme).mean()))
        if pile >= PILE and pile * len(now) >= MIN_RUN and usual <= PILE_BEFORE and pile < 1:
            return Fault("saturated", float(extreme), min(1.0, 0.5 + pile))
    return None


def _scaled(known: Floats, now: Floats) -> tuple[Floats, Floats]:
    # Numbers near the largest have no square; a common factor changes nothing.
    common = max(float(np.abs(known).max()), float(np.abs(now).max()))
    return known / common, now / common


def _unit_change(known: Floats, now: Floats) -> Fault | None:
    known, now = _scaled(known, now)
    centre, spread = float(np.median(known)), float(known.std())
    steps, steps_now = float(np.diff(known).std()), float(np.diff(now).std())
    if len(now) < MIN_RUN or not (steps > 0 and steps_now > 0 and spread > 0):
        return None
    away = abs(centre) / spread
    least = next(factor for away_from, factor in LEAST_FACTOR if away >= away_from)
    # Steps from row to row scale as the values do, but do not depend on where a slow process is.
    factor = float(np.median(now)) / centre if away >= LEAST_FACTOR[-2][0] else steps_now / steps
    if factor <= 0 or abs(math.log(factor)) < math.log(least):
        return None
    same = SAME_FACTOR * max(1.0, abs(math.log(factor))) + 1 / math.sqrt(len(now))
    if abs(math.log(steps_now / steps / factor)) > same:
        return None
    alike = max(0.0, float(np.corrcoef(known[1:], known[:-1])[0, 1]))
    worth = (1 - alike) / (1 + alike)
    chance = 1.36 * math.sqrt((1 / len(known) + 1 / len(now)) / worth)
    left = distance(known, now / factor)
    # A level so far from zero, or so wild a factor, needs no likeness of the shape beside that.
    near = abs(math.log(factor)) < math.log(WILD_FACTOR) and away < LEAST_FACTOR[0][0]
    if left > UNLIKE + chance or (near and distance(known, now) < 2 * left):
        return None
    return Fault("unit-change", factor, max(0.5, 1 - left))


def _out_of_reach(known: Floats, now: Floats) -> Fault | None:
    """A jump to where no row of the reference came near: another unit with another zero (degrees
    Fahrenheit for Celsius), or an offset."""
    known, now = _scaled(known, now)
    low, high, spread = float(known.min()), float(known.max()), float(known.std())
    reach = OUT_OF_REACH * (high - low)
    if len(now) < MIN_RUN or float(((now < low) | (now > high)).mean()) < 1 - PILE:
        return None
    level = float(np.median(now))
    # A spread that is nothing beside the jump is that of a constant, which has no scale.
    if low - reach <= level <= high + reach or spread == 0:
        return None
    steps, steps_now = float(np.diff(known).std()), float(np.diff(now).std())
    if steps > 0 and steps_now > 0 and abs(math.log(steps_now / steps)) > SAME_FACTOR:
        return Fault("unit-change", steps_now / steps, 0.8)
    return Fault("offset", (level - float(np.median(known))) / spread, 0.8)


def broken_relation(reference: Floats, recent: Floats, column: int) -> Fault | None:
    """Whether one channel shifted against what the others say of it, while they agree as before.

    The others' own shift is taken along: a channel that moves with its kin as always is no fault.

    Args:
        reference, recent: float64[n, D] and float64[m, D] without gaps, the column judged and those
            that it may be related to (label classes as indicators among them).
    """
    rows, width = reference.shape
    if width < 2 or rows < 5 * width or len(recent) < MIN_RUN:
        return None
    mean, spread = reference.mean(axis=0), reference.std(axis=0)
    if spread[column] == 0:
        return None
    scale = np.where(spread > 0, spread, 1.0)
    known, now = (reference - mean) / scale, (recent - mean) / scale
    others = np.delete(np.arange(width), column)
    if _broken(known[:, others], now[:, others], LEAST_BREAK / 2)[0].any():
        return None
    broken, apart, noise = _broken(known, now, LEAST_BREAK)
    # An offset adds a number: the channel goes on following the others around it.
    if not broken[column] or noise[column] > MOST_NOISE:
        return None
    # What is measured may move alone, too: hardly far beyond where it usually is.
    certainty = min(MOST_SURE, ALONE + PER_DEVIATION * abs(float(apart[column])))
    if certainty < 0.5:
        return None
    return Fault("offset", float(now[:, column].mean()), certainty)


def _broken(known: Floats, now: Floats, least: float) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Which columns left their relation to all others of the same matrix.

    Returns:
        bool[D]; float64[D], shift of what the others leave unsaid, in the column's own standard
        deviations; float64[D], how many times wider that is now.
    """
    rows, width = known.shape
    precision = np.linalg.inv(known.T @ known / rows + 0.01 * np.eye(width))
    rest, rest_now = (part @ precision / np.diagonal(precision) for part in (known, now))
    noise = np.maximum(rest.std(axis=0), 1e-9) * math.sqrt(rows / max(1, rows - width))
    apart, wider = rest_now.mean(axis=0), rest_now.std(axis=0) / noise
    return (1 - noise**2 >= LEAST_TIE) & (np.abs(apart) >= least * noise), apart, wider


def histogram_fault(
    reference: NDArray[np.floating] | NDArray[np.integer],
    recent: NDArray[np.floating] | NDArray[np.integer],
    *,
    noise: float = 0.0,
) -> Fault | None:
    """Judge one channel by its counts in ordered bins, when values cannot be seen.

    An offset or unit change has no mark of its own in a histogram. The fault's value is the index
    of the bin.

    Args:
        reference, recent: [B], rows by bin.
        noise: variance of the noise in each entry of `recent`; what it may feign is no fault.
    """
    before = np.asarray(reference, np.float64) / max(1.0, float(np.sum(reference)))
    rows = float(np.sum(recent))
    spread = math.sqrt(noise) * 3
    if rows < max(2 * MIN_RUN, 2 * spread):
        return None
    now = np.asarray(recent, np.float64) / rows
    fullest, unsure = int(now.argmax()), spread / rows
    end = fullest in (0, len(now) - 1)
    if now[fullest] >= FULL_BIN - unsure and before[fullest] <= 0.5:
        kind: SensorFault = ("dead" if fullest == 0 else "saturated") if end else "stuck"
        return Fault(kind, float(fullest), float(np.clip(now[fullest], 0.0, 1.0)))
    piled = now[fullest] - unsure >= max(END_BIN, 3 * before[fullest])
    # A clipped process leaves the far bins as they were; a shifted one empties them.
    far = np.s_[: len(now) // 2] if fullest else np.s_[-(len(now) // 2) :]
    if end and piled and now[far].sum() + unsure >= FAR_LEFT * before[far].sum():
        return Fault("saturated", float(fullest), float(np.clip(now[fullest], 0.0, 1.0)))
    return None


def distance(one: Floats, other: Floats) -> float:
    """Kolmogorov-Smirnov distance of two samples, 0 to 1."""
    every = np.sort(np.concatenate([one, other]))
    below = np.searchsorted(np.sort(one), every, side="right") / len(one)
    return float(
        np.abs(below - np.searchsorted(np.sort(other), every, side="right") / len(other)).max()
    )


def _runs(values: Floats) -> NDArray[np.int64]:
    """Lengths of runs of equal values."""
    ends = np.flatnonzero(np.concatenate([np.diff(values) != 0, [True]]))
    return np.diff(np.concatenate([[-1], ends]))


def _last_run(values: Floats) -> int:
    return int(_runs(values)[-1])


def _longest_run(values: Floats) -> int:
    return int(_runs(values).max())
