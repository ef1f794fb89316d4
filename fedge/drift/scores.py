"""Scores of one window: few sums of released counts whose noise is known.

Every statistic is linear in the counts, so sums over windows and differences
from a baseline stay sums, and its noise variance follows from the report alone:

- a number has a *location* score (mean bin), a *scale* score (mean distance from
  the middle bin) and its *missing* count;
- a category has one score per *cell*.

What a score should be, and when it is too far away, belongs to `baseline` and `detect`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.errors import RecordError
from fedge.profiles.counts import Stream, dyadic, width
from fedge.records import NUMERIC_BINS, NumericStream, Reference, WindowReport

_CENTRED = np.arange(NUMERIC_BINS) - (NUMERIC_BINS - 1) / 2
_BIN_SCORES = (_CENTRED, np.abs(_CENTRED) - np.abs(_CENTRED).mean())
"""What one record adds to location and scale, by its bin. A missing one adds nothing."""

_CELL_SD = 0.14
"""Least standard deviation by which a cell's change is measured (a cell of 2 %): a rare cell that
doubles is no large effect."""

# A dyadic count changes by +-1 where a bin lies in its right or left half.
_HAAR = np.stack([dyadic(row) for row in np.eye(NUMERIC_BINS, dtype=np.int64)], axis=1)
_DYADIC_WEIGHTS = np.stack([_HAAR @ s / np.abs(_HAAR).sum(axis=1) for s in _BIN_SCORES])


@dataclass(frozen=True, slots=True)
class Statistic:
    """One watched sum: `stream`, and `name` (`location`, `scale`, `missing` or `cell <name>`)."""

    stream: str
    name: str


@dataclass(frozen=True, slots=True)
class ScoreSheet:
    """The statistics of a reference, in order.

    Attributes:
        statistics: what each entry of the arrays below is.
        stream: int64[T], index of the statistic's stream.
        weights: for each stream, float64[its statistics, its counts].
        noise: float64[T], variance of a score for unit noise variance on each count.
        row_variance: float64[T], least variance that one record's score is taken to have.
        unit: float64[T], standard deviation of one record's score in the reference: the unit of
            effects.
        share: bool[T], whether the score is the number of records in one cell.
    """

    reference: Reference
    statistics: tuple[Statistic, ...]
    stream: NDArray[np.int64]
    weights: tuple[NDArray[np.float64], ...]
    noise: NDArray[np.float64]
    row_variance: NDArray[np.float64]
    unit: NDArray[np.float64]
    share: NDArray[np.bool_]

    def scores(
        self, reports: Sequence[WindowReport]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and their known noise variances, both float64[windows, T].

        Raises:
            RecordError: a report's features are not the streams of the reference.
        """
        for report in reports:
            self.check(report)
        sums, variances = [], []
        for column, weights in enumerate(self.weights):
            counts = np.array([r.features[column].counts for r in reports], dtype=np.float64)
            sigma2 = np.array([r.features[column].sigma2 for r in reports], dtype=np.float64)
            sums.append(counts.reshape(len(reports), -1) @ weights.T)
            variances.append(np.outer(sigma2, (weights**2).sum(axis=1)))
        return np.concatenate(sums, axis=1), np.concatenate(variances, axis=1)

    def check(self, report: WindowReport) -> None:
        """Raise RecordError if a report's features are not the streams of the reference."""
        streams = self.reference.streams
        if len(report.features) != len(streams):
            raise RecordError(
                f"window {report.window} reports {len(report.features)} features, "
                f"its reference has {len(streams)}"
            )
        for feature, stream in zip(report.features, streams, strict=True):
            same = feature.name == stream.name and feature.kind == stream.kind
            if not same or len(feature.counts) != width(stream):
                raise RecordError(
                    f"window {report.window}: feature {feature.name!r} does not fit the "
                    f"reference's stream {stream.name!r}"
                )


def score_sheet(reference: Reference) -> ScoreSheet:
    """The statistics that are watched for a reference."""
    parts = [_of(stream) for stream in reference.streams]
    return ScoreSheet(
        reference=reference,
        statistics=tuple(
            Statistic(stream.name, name)
            for stream, part in zip(reference.streams, parts, strict=True)
            for name in part.names
        ),
        stream=np.repeat(np.arange(len(parts)), [len(part.names) for part in parts]),
        weights=tuple(part.weights for part in parts),
        noise=np.concatenate([(part.weights**2).sum(axis=1) for part in parts]),
        row_variance=np.concatenate([part.row_variance for part in parts]),
        unit=np.concatenate([part.unit for part in parts]),
        share=np.concatenate([part.share for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    names: tuple[str, ...]
    weights: NDArray[np.float64]
    row_variance: NDArray[np.float64]
    unit: NDArray[np.float64]
    share: NDArray[np.bool_]


def _of(stream: Stream) -> _Part:
    histogram = np.asarray(stream.histogram)
    if not isinstance(stream, NumericStream):
        variance = histogram * (1 - histogram)
        return _Part(
            names=(*(f"cell {name}" for name in stream.categories), "cell others"),
            weights=np.eye(len(histogram)),
            row_variance=variance,
            unit=np.maximum(np.sqrt(variance), _CELL_SD),
            share=np.ones(len(histogram), dtype=np.bool_),
        )
    weights = np.zeros((3, NUMERIC_BINS))
    weights[:2, :-1] = _DYADIC_WEIGHTS
    weights[2, -1] = 1.0
    spread = np.array([histogram @ s**2 - (histogram @ s) ** 2 for s in _BIN_SCORES])
    # A site may spread values that the reference keeps in one bin: never take less variance than
    # evenly used bins have. The unit of effects needs the same floor for a constant column, there
    # as one bin.
    even = np.array([np.mean(s**2) for s in _BIN_SCORES])
    return _Part(
        names=("location", "scale", "missing"),
        weights=weights,
        row_variance=np.append(np.maximum(spread, even), 0.0),
        unit=np.append(np.maximum(np.sqrt(np.maximum(spread, 0.0)), 1.0), _CELL_SD),
        share=np.array([False, False, True]),
    )
