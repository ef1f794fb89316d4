"""Scores of one window: few sums of released counts whose noise is known.

Every statistic is linear in the counts, so sums over windows and differences
from a baseline stay sums, and its noise variance follows from the report alone:

- a number has a *location* score (mean bin), a *scale* score (mean distance from
  the middle bin) and its *missing* count;
- a category has one score per *cell*;
- *coordinates* hold what is left of a number's histogram in eighths once location and scale are
  taken out of it; `multivariate` tests them together, as a chi-square does.

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

KINDS = ("location", "scale", "missing", "cell", "coordinate")
"""Statistics of one kind vary alike from window to window; the numbers in `ScoreSheet.kinds`."""

_EIGHTHS = 7
"""Dyadic sums of the three upper levels. The eight on the last level hold little of any smooth
change and as much noise each as the others."""


def _coordinates() -> NDArray[np.float64]:
    """float64[5, 16]: orthonormal weights on the sums down to eighths, deaf to location and scale.

    Orthonormal, so that each coordinate has the noise of one count.
    """
    known = _DYADIC_WEIGHTS[:, :_EIGHTHS]
    basis = np.linalg.svd(known)[2][len(known) :]
    return np.pad(basis, ((0, 0), (0, NUMERIC_BINS - _EIGHTHS)))


_COORDINATES = _coordinates()
COORDINATES = len(_COORDINATES)


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
        bounds: float64[2, T], least and largest score of one record: no rate lies beyond them,
            whatever the noise says.
        share: bool[T], whether the score is the number of records in one cell.
        kinds: int64[T], index into `KINDS`.
        coordinate_stream: int64[P], index of the stream that each coordinate belongs to.
        coordinate_variance: float64[P], least variance of one record's coordinate.
    """

    reference: Reference
    statistics: tuple[Statistic, ...]
    stream: NDArray[np.int64]
    weights: tuple[NDArray[np.float64], ...]
    noise: NDArray[np.float64]
    row_variance: NDArray[np.float64]
    unit: NDArray[np.float64]
    bounds: NDArray[np.float64]
    share: NDArray[np.bool_]
    kinds: NDArray[np.int64]
    coordinate_stream: NDArray[np.int64]
    coordinate_variance: NDArray[np.float64]

    def scores(
        self, reports: Sequence[WindowReport]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and their known noise variances, both float64[windows, T].

        Raises:
            RecordError: a report's features are not the streams of the reference.
        """
        return self.scores_of(*self.counts(reports))

    def counts(
        self, reports: Sequence[WindowReport]
    ) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        """Per stream the released counts, float64[windows, its counts]; noise variance of one
        count, float64[windows, streams].

        Raises:
            RecordError: a report's features are not the streams of the reference.
        """
        for report in reports:
            self.check(report)
        streams = range(len(self.weights))
        counts = [
            np.array([r.features[k].counts for r in reports], dtype=np.float64).reshape(
                len(reports), -1
            )
            for k in streams
        ]
        sigma2 = [[r.features[k].sigma2 for k in streams] for r in reports]
        return counts, np.array(sigma2, dtype=np.float64).reshape(len(reports), -1)

    def scores_of(
        self, counts: Sequence[NDArray[np.float64]], sigma2: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and their known noise variances, both float64[windows, T], from `counts`."""
        sums = [own @ weights.T for own, weights in zip(counts, self.weights, strict=True)]
        return np.concatenate(sums, axis=1), sigma2[:, self.stream] * self.noise

    def coordinates_of(
        self, counts: Sequence[NDArray[np.float64]], sigma2: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates and their known noise variances, both float64[windows, P], from `counts`."""
        numeric = self.coordinate_stream[::COORDINATES]
        parts = [counts[k] @ _COORDINATES.T for k in numeric]
        sums = np.concatenate(parts, axis=1) if parts else np.zeros((len(sigma2), 0))
        return sums, sigma2[:, self.coordinate_stream]

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
    numeric = [k for k, s in enumerate(reference.streams) if isinstance(s, NumericStream)]
    spreads = [_coordinate_variance(np.asarray(reference.streams[k].histogram)) for k in numeric]
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
        bounds=np.concatenate([part.bounds for part in parts], axis=1),
        share=np.concatenate([part.share for part in parts]),
        kinds=np.array([KINDS.index(name.split()[0]) for part in parts for name in part.names]),
        coordinate_stream=np.repeat(np.array(numeric, dtype=np.int64), COORDINATES),
        coordinate_variance=np.array(spreads, dtype=np.float64).ravel(),
    )


def _coordinate_variance(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of one record's coordinates, never less than evenly used bins give."""
    of_bin = _COORDINATES[:, :-1] @ _HAAR
    even: NDArray[np.float64] = (of_bin**2).mean(axis=1) - of_bin.mean(axis=1) ** 2
    spread: NDArray[np.float64] = of_bin**2 @ histogram - (of_bin @ histogram) ** 2
    least: NDArray[np.float64] = np.maximum(spread, even)
    return least


@dataclass(frozen=True, slots=True)
class _Part:
    names: tuple[str, ...]
    weights: NDArray[np.float64]
    row_variance: NDArray[np.float64]
    unit: NDArray[np.float64]
    bounds: NDArray[np.float64]
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
            bounds=np.repeat([[0.0], [1.0]], len(histogram), axis=1),
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
        bounds=np.array(
            [[s.min() for s in _BIN_SCORES] + [0.0], [s.max() for s in _BIN_SCORES] + [1.0]]
        ),
        share=np.array([False, False, True]),
    )
