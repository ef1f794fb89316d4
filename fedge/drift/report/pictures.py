"""What a picture shows, as numbers: evidence maps, histograms, effects with intervals.

Made once from whatever was judged (rows of a table, windows of a fleet), so that every
picture and every page is drawn by the same code. Everything here is a count, a share or
a piece of evidence; no row of the data survives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.outcome import Replay
from fedge.drift.tables.table import Column, Table

BINS = 24
"""Bins of a drawn histogram; the outer two hold whatever lies beyond them."""

MAX_CATEGORIES = 8
"""Categories drawn by name; the others share one bar."""

_LARGEST = 1e300
"""Larger numbers are drawn here: sums of them might overflow."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mark:
    """An alarm on the axis of time.

    Attributes:
        at: where it fired; `onset`: where the change most likely began.
        text: what is written beside it: the cause, and what moved most.
        streams: what moved, strongest first; names of an evidence map's streams.
    """

    at: float
    onset: float
    text: str
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvidenceMap:
    """Evidence of drift over time, per stream.

    Attributes:
        title: whose it is; empty where there is one only.
        edges: float64[W + 1], where windows begin and end, in units of `axis`.
        strength: float64[W, T], |z| over the threshold of its alarm, so that 1 is just an alarm, or
            over what `unit` says. NaN where nothing could be tested.
        baselines: spans of the axis that the windows after them are compared with.
        axis: what is counted along the axis, such as `row`.
        unit: what evidence of 1 means.
    """

    title: str
    streams: tuple[str, ...]
    edges: Floats
    strength: Floats
    marks: tuple[Mark, ...]
    baselines: tuple[tuple[float, float], ...]
    axis: str
    unit: str = "alarm threshold"

    @property
    def strongest(self) -> Floats:
        """float64[W], the strongest stream of each window; NaN where none was tested."""
        return _nanmax(self.strength, axis=1)

    @property
    def by_stream(self) -> Floats:
        """float64[T], the strongest window of each stream; 0 where none was tested."""
        return np.nan_to_num(_nanmax(self.strength, axis=0), nan=0.0)

    def top(self, count: int) -> EvidenceMap:
        """The `count` streams with most evidence, in their own order; those in marks go first."""
        marked = {stream for mark in self.marks for stream in mark.streams}
        rank = self.by_stream + np.array([stream in marked for stream in self.streams]) * 1e6
        kept = np.sort(np.argsort(-rank, kind="stable")[:count])
        return replace(
            self,
            streams=tuple(self.streams[at] for at in kept),
            strength=self.strength[:, kept],
        )

    def coarse(self, windows: int) -> EvidenceMap:
        """At most so many windows: neighbours share one, which has the strongest of theirs."""
        step = -(-len(self.strength) // windows)
        if step <= 1:
            return self
        parts = [self.strength[at : at + step] for at in range(0, len(self.strength), step)]
        return replace(
            self,
            edges=np.array([*self.edges[:-1:step], self.edges[-1]]),
            strength=np.array([_nanmax(part, axis=0) for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Histogram:
    """One column then and now, as shares of all rows.

    Attributes:
        labels: of bars, where the column holds categories; empty for numbers.
        edges: float64[B + 1] for numbers, empty for categories.
        reference, current: float64[B] shares; with the missing ones they add up to 1.
        missing: shares of rows without a value, (reference, current).
        beyond: whether values lie outside the edges; they are counted in the outer bars.
        note: what else is to be said, such as an effect size.
    """

    name: str
    labels: tuple[str, ...]
    edges: Floats
    reference: Floats
    current: Floats
    missing: tuple[float, float]
    beyond: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect size with its interval; `low` and `high` may be NaN where there is none."""

    name: str
    value: float
    low: float
    high: float
    moved: bool


def histogram(reference: Column, current: Column, note: str = "") -> Histogram:
    """One column in two tables, on bins that the reference fixes.

    Args:
        current: of the same name; other categories and values beyond the reference are shown.
    """
    if not reference.numeric or not current.numeric:
        return _category_histogram(reference, current, note)
    edges, beyond = _edges(reference.values, current.values)
    shares, missing = [], []
    for column in (reference, current):
        present = column.values[~np.isnan(column.values)]
        inner = np.clip(present, edges[0], edges[-1])
        shares.append(np.histogram(inner, edges)[0] / max(1, len(column.values)))
        missing.append(_missing(column))
    return Histogram(
        reference.name, (), edges, shares[0], shares[1], (missing[0], missing[1]), beyond, note
    )


def _edges(reference: Floats, current: Floats) -> tuple[Floats, bool]:
    """Equal bins from the reference's 0.5 % to its 99.5 % quantile, widened towards where the
    current rows lie, but not so far that the reference shrinks to a line."""
    finite, other = (
        np.clip(values[np.isfinite(values)], -_LARGEST, _LARGEST) for values in (reference, current)
    )
    source = finite if len(finite) else other
    if not len(source):
        return np.array([0.0, 1.0]), False
    low, high = np.quantile(source, [0.005, 0.995])
    least = max(1e-9 * max(abs(low), abs(high)), 1 / _LARGEST)
    span = max(high - low, least)
    if len(other):
        below, above = np.quantile(other, [0.02, 0.98])
        low, high = max(min(low, below), low - 2 * span), min(max(high, above), high + 2 * span)
    if high - low < least:
        low, high = low - span / 2, high + span / 2
    both = np.concatenate([finite, other])
    outside = bool(((both < low) | (both > high)).any())
    return np.linspace(low, high, BINS + 1), outside


def _category_histogram(reference: Column, current: Column, note: str) -> Histogram:
    then, now = _shares(reference), _shares(current)
    ranked = sorted(
        then.keys() | now.keys(), key=lambda c: (-max(then.get(c, 0), now.get(c, 0)), c)
    )
    shown, rest = ranked[:MAX_CATEGORIES], ranked[MAX_CATEGORIES:]
    labels = (*shown, f"{len(rest)} others") if rest else tuple(shown)
    bars = []
    for shares in (then, now):
        own = [shares.get(category, 0.0) for category in shown]
        bars.append(np.array([*own, sum(shares.get(c, 0.0) for c in rest)] if rest else own))
    missing = (_missing(reference), _missing(current))
    return Histogram(reference.name, labels, np.empty(0), bars[0], bars[1], missing, False, note)


def _missing(column: Column) -> float:
    """Share of rows without a value."""
    return float(np.isnan(column.values).mean()) if len(column.values) else 0.0


def _shares(column: Column) -> dict[str, float]:
    """Share of rows of each value of a column that is not drawn as numbers."""
    present = column.values[~np.isnan(column.values)]
    values, counts = np.unique(present, return_counts=True)
    texts = column.categories
    names = [texts[int(v)] if texts else f"{v:g}" for v in values]
    return dict(zip(names, counts / max(1, len(column.values)), strict=True))


def replay_evidence(replay: Replay) -> EvidenceMap:
    """A replay's evidence by column, alarms marked, with the spans it took for normal."""
    names = [stream_name(statistic) for statistic in replay.statistics]
    streams = tuple(dict.fromkeys(names))
    strength = np.full((len(replay.windows), len(streams)), np.nan)
    for at, stream in enumerate(streams):
        own = [place for place, name in enumerate(names) if name == stream]
        strength[:, at] = _nanmax(replay.strength[:, own], axis=1)
    starts = [float(window.start_row) for window in replay.windows]
    ends = [float(window.end_row) for window in replay.windows]
    return EvidenceMap(
        title="",
        streams=streams,
        edges=np.array([*starts, *ends[-1:]]),
        strength=strength,
        marks=tuple(_replay_marks(replay)),
        baselines=tuple(_replay_baselines(replay)),
        axis="row",
    )


def stream_name(statistic: RowStatistic) -> str:
    """The row of an evidence map that a statistic belongs to."""
    if statistic.group in ("feature", "missing", "structure"):
        return statistic.columns[0] if len(statistic.columns) == 1 else "columns together"
    return {"prediction": "prediction", "label": "label", "error": "errors"}[statistic.group]


def _replay_marks(replay: Replay) -> Iterable[Mark]:
    for alarm in replay.alarms:
        moved = tuple(dict.fromkeys(stream_name(moved.statistic) for moved in alarm.moved))
        text = ": ".join([alarm.cause, *alarm.features[:1]])
        yield Mark(float(alarm.row), float(alarm.onset_row), text, moved)


def _replay_baselines(replay: Replay) -> Iterable[tuple[float, float]]:
    """The reference, and every later run of windows that nothing could be tested in."""
    yield 0.0, float(replay.reference.rows)
    start: int | None = None
    for window in replay.windows:
        if not window.tested and start is None:
            start = window.start_row
        if window.tested and start is not None:
            yield float(start), float(window.start_row)
            start = None
    if start is not None:
        yield float(start), float(replay.windows[-1].end_row)


def replay_histograms(replay: Replay, table: Table, count: int = 6) -> tuple[Histogram, ...]:
    """The columns that moved most, reference rows against the rows from the first alarm's onset.

    Without an alarm the columns with most evidence are shown against all later rows.

    Args:
        table: the stream that was replayed.
    """
    evidence = replay_evidence(replay)
    order = [evidence.streams[at] for at in np.argsort(-evidence.by_stream, kind="stable")]
    first, until = replay.reference.rows, table.rows
    if replay.alarms:
        order = [*replay.alarms[0].features, *order]
        first = replay.alarms[0].onset_row
        later = [alarm.onset_row for alarm in replay.alarms[1:]]
        until = min([row for row in later if row > first], default=table.rows)
    unwatched = ("excluded", "time")
    known = {column.name: column for column in table.columns if column.kind not in unwatched}
    names = [name for name in dict.fromkeys(order) if name in known][:count]
    reference, current = slice(0, replay.reference.rows), slice(first, until)
    return tuple(histogram(known[name][reference], known[name][current]) for name in names)


def _nanmax(values: Floats, axis: int) -> Floats:
    """Maximum without NaN; NaN where there is nothing else."""
    filled = np.where(np.isnan(values), -np.inf, values)
    largest: Floats = filled.max(axis=axis, initial=-np.inf)
    return np.where(np.isneginf(largest), np.nan, largest)


def strongest_first(effects: Sequence[Effect]) -> tuple[Effect, ...]:
    """Effects by size, those without a number last."""
    return tuple(sorted(effects, key=lambda e: -abs(e.value) if np.isfinite(e.value) else np.inf))
