"""Building a release's reference profile from public rows.

Bins are frozen here, once, at quantiles of public data. What a gateway later
counts on them, and how far it may move, is decided elsewhere.

A feature without public rows has no bins yet. They could come from one charged
release of a fine histogram over its public bounds, merged centrally: `_edges` needs
no more than such a histogram's quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedge.errors import NonFiniteValueError, TaskError
from fedge.profiles import labelled
from fedge.profiles.counts import Stream, bins
from fedge.records import (
    NUMERIC_BINS,
    CategoricalFeature,
    CategoricalStream,
    NumericFeature,
    NumericStream,
    Reference,
    Season,
    TaskSchema,
)

_ATOM = 1e-3
"""Half-width of the bin around a value that many rows share, as a part of the public range:
wide enough for another processor's rounding, narrow enough that any real move leaves the bin."""


def build_reference(
    task: TaskSchema,
    values: NDArray[np.floating],
    *,
    ood: NDArray[np.floating],
    model_sha256: str,
    source: str,
    labels: NDArray[np.integer] | None = None,
    scores: Mapping[str, NDArray[np.floating]] | None = None,
    in_order: bool = False,
    season: Season | None = None,
) -> Reference:
    """What normal looks like, from public rows alone.

    Args:
        values: float32 or float64[n, S] from `stream_values` on public captures.
        ood: float32 or float64[n], the OOD score of the same rows.
        model_sha256: the model that computed them.
        source: where the rows came from, in words.
        labels: integers[n], class indices of the same rows; without them nothing is said about
            how right the model is.
        scores: kind of OOD score -> float[n] of the same rows, larger meaning stranger.
        in_order: the rows are consecutive in time, so that their dependence can be measured.
        season: what of the calendar normal is known to depend on.

    Raises:
        TaskError: no rows, a wrong number of columns, a numeric stream without any value, or
            labels that are no classes of the task.
        NonFiniteValueError: an OOD score is NaN or infinite.
    """
    if values.ndim != 2 or values.shape[1] != len(task.streams) or len(values) == 0:
        raise TaskError(f"a reference needs rows of {len(task.streams)} streams: {values.shape}")
    if ood.shape != (len(values),) or not np.isfinite(ood).all():
        raise NonFiniteValueError("a reference needs one finite OOD score per row")
    # Quantiles of float32 numbers are no float32 numbers.
    rows = values.astype(np.float64)
    streams = _streams(task, rows, ood.astype(np.float64))
    return Reference(
        task=task.name,
        source=source,
        rows=len(values),
        model_sha256=model_sha256,
        ood_quantile_95=float(np.quantile(ood.astype(np.float64), 0.95)),
        streams=tuple(streams),
        season=season,
        ood=labelled.ood_calibration(scores) if scores else None,
        row_inflation=labelled.row_inflation(streams, rows) if in_order else None,
        **_answers(task, streams, rows, labels),
    )


def _streams(task: TaskSchema, rows: NDArray[np.float64], ood: NDArray[np.float64]) -> list[Stream]:
    """The frozen bins of every watched value."""
    streams: list[Stream] = []
    for column, feature in enumerate(task.features):
        if isinstance(feature, CategoricalFeature):
            streams.append(_categorical(feature.name, feature.categories, rows[:, column]))
        else:
            streams.append(_bounded(feature, rows[:, column]))
    klass, confidence, score = task.streams[-3:]
    streams.append(_categorical(klass, task.classes, rows[:, -3]))
    streams.append(_numeric(confidence, rows[:, -2], 0.0, 1.0))
    # Energy has no public bounds; one spread of room on each side leaves both end bins open.
    room = max(float(np.ptp(ood)), 1.0)
    streams.append(_numeric(score, rows[:, -1], float(ood.min()) - room, float(ood.max()) + room))
    return streams


def _answers(
    task: TaskSchema,
    streams: Sequence[Stream],
    rows: NDArray[np.float64],
    labels: NDArray[np.integer] | None,
) -> dict[str, Any]:
    """What the model's answers are worth: fields of the reference, those that can be filled."""
    found: dict[str, Any] = {}
    classes = len(task.classes)
    known = None if labels is None else labelled.check_labels(labels, len(rows), classes)
    confidence, stream = rows[:, -2], streams[-2]
    if isinstance(stream, NumericStream) and np.isfinite(confidence).all():
        right = None if known is None else rows[:, -3] == known
        found["confidence"] = labelled.confidence_bins(stream, confidence, right)
    if known is None:
        return found
    found["class_histograms"] = labelled.class_histograms(streams, rows, known, classes)
    predicted = labelled.cell_of(streams[-3], rows[:, -3])
    if (predicted < classes).all():
        found["confusion"] = labelled.confusion(known, predicted, classes)
    return found


def _bounded(feature: NumericFeature, values: NDArray[np.float64]) -> NumericStream:
    return _numeric(feature.name, values, feature.low, feature.high)


def _numeric(name: str, values: NDArray[np.float64], low: float, high: float) -> NumericStream:
    finite = np.clip(values[np.isfinite(values)], low, high)
    if finite.size == 0:
        raise TaskError(f"stream {name!r} has no value in the public rows; bins cannot be frozen")
    edges = _edges(finite, low, high)
    stream = NumericStream(name=name, edges=edges, histogram=(1.0 / NUMERIC_BINS,) * NUMERIC_BINS)
    share = np.bincount(bins(stream, finite), minlength=NUMERIC_BINS) / finite.size
    return stream.model_copy(update={"histogram": tuple(share.tolist())})


def _edges(values: NDArray[np.float64], low: float, high: float) -> tuple[float, ...]:
    """15 strictly increasing edges inside (low, high), at quantiles wherever values differ.

    A value that holds several quantiles gets a narrow bin of its own, so that a constant column
    is seen to move in either direction; edges left over halve the widest gaps.
    """
    quantiles = np.quantile(values, np.arange(1, NUMERIC_BINS) / NUMERIC_BINS)
    distinct, repeats = np.unique(quantiles, return_counts=True)
    chosen = set(distinct[repeats == 1].tolist())
    for atom in distinct[repeats > 1].tolist():
        others = values[values != atom]
        gap = float(np.abs(others - atom).min()) if others.size else high - low
        half = min(_ATOM * (high - low), gap / 2)
        chosen |= {atom - half, atom + half}
    edges = sorted(edge for edge in chosen if low < edge < high)
    while len(edges) < NUMERIC_BINS - 1:
        ends = [low, *edges, high]
        widest = int(np.argmax(np.diff(ends)))
        edges.insert(widest, (ends[widest] + ends[widest + 1]) / 2)
    return tuple(edges)


def _categorical(
    name: str, categories: tuple[str, ...], values: NDArray[np.float64]
) -> CategoricalStream:
    cells = np.array([np.count_nonzero(values == index) for index in range(len(categories))])
    share = np.append(cells, len(values) - cells.sum()) / len(values)
    return CategoricalStream(name=name, categories=categories, histogram=tuple(share.tolist()))
