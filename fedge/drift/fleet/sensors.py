"""Broken sensors told from noised counts: one feature alone, with a mark that processes lack.

Counts show less than rows do. Stuck, dead and saturated channels pile their rows into
one bin (`sensor_faults.histogram_fault`). An offset and a change of unit have no mark
of their own in a histogram; they are taken for faults only where one feature moves far
while every other one stays, and its shape follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedge.drift.fleet.movement import OUTPUTS, Movement, StreamMove
from fedge.drift.sensor_faults import FULL_BIN, SILENT, Fault, histogram_fault
from fedge.drift.words import SensorFault
from fedge.records import NumericStream, Reference

LEAST_OFFSET = 1.5
"""Least shift of one feature alone, in its own standard deviations, that is an offset."""

LEAST_FACTOR = 1.4
"""Least factor by which the values of one feature alone are scaled in a change of unit."""

LEAST_FEATURES = 3
"""Features among which one that moves alone means something."""

MINOR = 0.25
"""A feature that moves less than this part of the strongest does not count as moving, too."""

WEATHER = 1.0
"""A movement of another feature, in its own standard deviations, beside which one that is piled up
into one bin may have seen the same."""

LEAST_PILED = 0.8
"""Share of rows in one bin below which nothing is piled up, however large the noise."""

_LEFT = 0.1
"""Part of the squared change of the distribution function that may be left unexplained."""

_OFFSETS = np.concatenate([-np.geomspace(8.0, 0.1, 40), np.geomspace(0.1, 8.0, 40)])
_FACTORS = np.geomspace(1 / 12, 12, 101)


def sensor_faults(
    reference: Reference, moved: Movement, features: Sequence[str]
) -> tuple[tuple[str, SensorFault], ...]:
    """Features with a broken sensor and which fault; none where the drift is no sensor's.

    What moves together is the world, or what stands before all sensors: at most one feature in
    ten, and at least one, may be broken at once, and no other may have moved with it; beside a
    feature that is piled up, others may have moved as weather moves them.

    Args:
        features: names of the streams that are inputs and moved, strongest first.
    """
    inputs = [one for one in moved.streams if one.name in _inputs(reference)]
    strongest = max((one.effect for one in inputs if one.name in features), default=0.0)
    suspects = [one for one in inputs if one.name in features and one.effect >= MINOR * strongest]
    if not suspects or len(inputs) < 2:
        return ()
    most = max(1, len(inputs) // 10)
    if len(suspects) > most:
        return _piled_alone(reference, moved, suspects, most)
    found = [(one.name, _fault(reference, moved, one, len(inputs))) for one in suspects]
    sure = tuple((name, fault) for name, fault in found if fault is not None)
    return sure if len(sure) == len(suspects) else ()


def _piled_alone(
    reference: Reference, moved: Movement, suspects: Sequence[StreamMove], most: int
) -> tuple[tuple[str, SensorFault], ...]:
    """The few features that are piled up while all others did no more than weather does."""
    found = [(one, _piled(reference, moved, one)) for one in suspects]
    others = max((one.effect for one, fault in found if fault is None), default=0.0)
    piled = tuple((one.name, fault) for one, fault in found if fault is not None)
    return piled if len(piled) <= most and others < WEATHER else ()


def _inputs(reference: Reference) -> tuple[str, ...]:
    """Streams that are features: the model's own outputs come last."""
    return tuple(stream.name for stream in reference.streams if stream.name not in OUTPUTS)


def _fault(
    reference: Reference, moved: Movement, one: StreamMove, features: int
) -> SensorFault | None:
    stream = _numeric(reference, one)
    if stream is None:
        return None
    piled = _piled(reference, moved, one)
    if piled is not None:
        return piled
    marked = _marked(moved, one)
    if marked is not None:
        return marked.kind
    return _shifted(stream, one) if features >= LEAST_FEATURES else None


def _numeric(reference: Reference, one: StreamMove) -> NumericStream | None:
    stream = next(s for s in reference.streams if s.name == one.name)
    return stream if isinstance(stream, NumericStream) else None


def _piled(reference: Reference, moved: Movement, one: StreamMove) -> SensorFault | None:
    """The fault of a feature that has hardly a value any more, or nearly all in one bin."""
    if _numeric(reference, one) is None:
        return None
    unsure = 3 * one.share_error
    if float(one.after[-1]) >= SILENT - unsure and one.before[-1] <= 1 - SILENT:
        return "dead"
    marked = _marked(moved, one)
    full = marked is not None and marked.certainty >= max(LEAST_PILED, FULL_BIN - unsure)
    return marked.kind if marked is not None and full else None


def _marked(moved: Movement, one: StreamMove) -> Fault | None:
    rows = moved.after.rows
    before = np.maximum(one.before[:-1], 0.0) * moved.before.rows
    return histogram_fault(before, one.after[:-1] * rows, noise=(one.share_error * rows) ** 2)


def _shifted(stream: NumericStream, one: StreamMove) -> SensorFault | None:
    """An offset or a change of unit: the values before, all moved or all scaled, are those now.

    Judged by the distribution functions at the bins' edges, so that values which left the bins
    count as what they are: beyond the last edge.
    """
    before, now = (_below(shares[:-1]) for shares in (one.before, one.after))
    edges = np.asarray(stream.edges)
    spread = _spread(edges, before)
    if not (np.isfinite(spread) and spread > 0):
        return None
    total = float(((now - before) ** 2).sum())
    offsets = spread * _OFFSETS
    moved = [float(((now - _at(edges, before, edges - b)) ** 2).sum()) for b in offsets]
    scaled = [float(((now - _at(edges, before, edges / a)) ** 2).sum()) for a in _FACTORS]
    if min(*moved, *scaled) > _LEFT * total:
        return None
    if min(scaled) < min(moved):
        factor = float(_FACTORS[int(np.argmin(scaled))])
        return "unit-change" if abs(math.log(factor)) >= math.log(LEAST_FACTOR) else None
    far = abs(float(_OFFSETS[int(np.argmin(moved))])) >= LEAST_OFFSET
    return "offset" if far else None


def _below(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the present rows below each inner edge; never falling, within 0 and 1."""
    known = np.maximum(shares, 0.0)
    cumulated: NDArray[np.float64] = np.cumsum(known)[:-1] / max(float(known.sum()), 1e-9)
    return cumulated


def _at(
    edges: NDArray[np.float64], below: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A distribution function between and beyond its known points, with tails as a normal has."""
    from scipy.special import ndtr, ndtri  # heavy, and needed only where a gateway drifted

    scores = ndtri(np.clip(below, 0.005, 0.995))
    inner = np.interp(at, edges, scores)
    slope = max((scores[-1] - scores[0]) / (edges[-1] - edges[0]), 1e-9)
    low, high = np.minimum(at - edges[0], 0.0), np.maximum(at - edges[-1], 0.0)
    found: NDArray[np.float64] = ndtr(inner + slope * (low + high))
    return found


def _spread(edges: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    """Standard deviation of a normal of the same middle two thirds."""
    low, high = np.interp([0.1587, 0.8413], below + 1e-9 * np.arange(len(below)), edges)
    return float(high - low) / 2
