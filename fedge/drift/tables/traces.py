"""What a replay leaves behind: evidence by window and statistic, and words about its reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.baselines import certified
from fedge.drift.tables.copies import told
from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.model import label_trouble
from fedge.drift.tables.outcome import ReferenceFacts
from fedge.drift.tables.table import Table
from fedge.drift.tables.watching import LEAST_SHARE, Judged, Watch

Floats = NDArray[np.float64]

SLOW_DEGREES = 4.0
"""Degrees of freedom up to which a column is said to wander too slowly."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One tested window: number `at` of `judged`, whose statistics are `statistics`."""

    statistics: tuple[RowStatistic, ...]
    judged: Judged
    at: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The arrays of `outcome.Replay`."""

    statistics: tuple[RowStatistic, ...]
    z: Floats
    strength: Floats
    effect: Floats


def evidence_of(traces: Sequence[Trace | None]) -> Evidence:
    """Line up windows whose watches, after new references, may know other statistics.

    None is a window that was not tested.
    """
    statistics = tuple(dict.fromkeys(s for trace in traces if trace for s in trace.statistics))
    place = {statistic: index for index, statistic in enumerate(statistics)}
    z = np.full((len(traces), len(statistics)), np.nan)
    strength, effect = z.copy(), z.copy()
    for row, trace in enumerate(traces):
        if trace is None:
            continue
        judged, at = trace.judged, trace.at
        columns = [place[s] for s in trace.statistics]
        best = np.nan_to_num(judged.strength[at], nan=-1.0).argmax(axis=0)
        every = np.arange(len(columns))
        z[row, columns] = judged.z[at, best, every]
        strength[row, columns] = judged.strength[at, best, every]
        effect[row, columns] = judged.effect[at, 0]
    return Evidence(statistics, z, strength, effect)


_ABOUT = 1.2
"""A rate that a reader would see as the one asked for needs no note."""


def reference_facts(watch: Watch, stream: Table, window: int, budget: float) -> ReferenceFacts:
    """What the reference, the rows of `stream` that `watch` was fitted on, can vouch for."""
    rows = watch.end - watch.start
    degrees = watch.baseline.strays.degrees
    rate = certified(watch.limit, watch.degrees, rows, window, budget)
    notes = []
    if math.isinf(rate):
        notes.append(
            f"{rows} reference rows are fewer than four windows of {window}: how much windows "
            "differ when all is well is not known, so no rate of false alarms can be certified"
        )
    elif rate > _ABOUT * budget:
        notes.append(
            f"{rows} reference rows certify {rate:.3g} false alarms per 720 windows at most, not "
            f"the {budget:g} asked for; alarms need overwhelming evidence there"
        )
    names = dict.fromkeys(
        s.columns[0]
        for s, d in zip(watch.statistics, degrees, strict=True)
        if d <= SLOW_DEGREES and s.name == "location"
    )
    if names:
        notes.append(
            "these columns wander so slowly that the reference says little about them: "
            + ", ".join(names)
        )
    return ReferenceFacts(
        rows, rate, (*notes, *told(watch.copies), *_about_labels(stream, watch.end, window))
    )


def _about_labels(stream: Table, reference_rows: int, window: int) -> list[str]:
    """Where the label that was asked for tells nothing: quiet windows there are no proof."""
    if stream.roles.label is None:
        return []
    trouble = label_trouble(stream[:reference_rows])
    if trouble is not None:
        return [f"the label is not watched, and concept drift is unknown: {trouble}"]
    row = unlabelled_from(stream, reference_rows, window)
    if row is None:
        return []
    return [f"no row from {row} on has a label: concept drift is unknown from there on"]


def unlabelled_from(stream: Table, reference_rows: int, window: int) -> int | None:
    """The row from which on no label comes any more, if that is a window or more before the end."""
    if stream.roles.label is None or label_trouble(stream[:reference_rows]) is not None:
        return None
    end = int(np.flatnonzero(np.isfinite(stream.column(stream.roles.label).values))[-1]) + 1
    return end if stream.rows - end >= window else None


def concept_tested(stream: Table, trace: Trace, start: int, end: int) -> bool | None:
    """Whether a window, rows `start` to `end`, tells of concept drift; None where no label is asked
    for.

    It does where the model's error was judged in the window, and enough of its rows have a label.
    """
    if stream.roles.label is None:
        return None
    labels = stream.column(stream.roles.label).values[start:end]
    if np.isfinite(labels).mean() < LEAST_SHARE:
        return False
    errors = [index for index, s in enumerate(trace.statistics) if s.group == "error"]
    return bool(np.isfinite(trace.judged.z[trace.at][:, errors]).any())
