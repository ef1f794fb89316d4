"""What a release says normal looks like: frozen bins and public histograms.

Everything here comes from public data or from charged releases; it travels
signed inside the release. Bins never move while a release is served.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedge.records.base import Count, Name, Record, Sha256
from fedge.records.task import NUMERIC_BINS

Season = Literal["none", "hour", "weekday"]
"""What of the calendar (UTC) normal depends on: nothing, hour of the day, day of the week."""

OOD_LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999)
"""Shares of the reference that lie at or below the quantiles of an `OodCalibration`."""

MAX_CONFUSION_CLASSES = 128
MAX_CLASS_CELLS = 2**16
"""Bounds on what a reference carries to every gateway: at most some hundred kilobytes of JSON."""

Inflation = Annotated[float, Field(gt=0)]


class NumericStream(Record):
    """Frozen bins of a number: bin i holds edges[i-1] <= x < edges[i].

    Attributes:
        edges: 15 inner edges, strictly increasing; values outside fall into the end bins.
        histogram: share of the reference in each of the 16 bins, adding up to 1.
    """

    kind: Literal["numeric"] = "numeric"
    name: Name
    edges: tuple[float, ...] = Field(min_length=NUMERIC_BINS - 1, max_length=NUMERIC_BINS - 1)
    histogram: tuple[float, ...] = Field(min_length=NUMERIC_BINS, max_length=NUMERIC_BINS)

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must increase")
        return self


class CategoricalStream(Record):
    """Declared categories; the last cell of `histogram` is everything else."""

    kind: Literal["categorical"] = "categorical"
    name: Name
    categories: tuple[str, ...] = Field(min_length=1, max_length=1024)
    histogram: tuple[float, ...]

    @model_validator(mode="after")
    def _cells(self) -> Self:
        if len(self.histogram) != len(self.categories) + 1:
            raise ValueError("histogram needs one cell per category and one for others")
        return self


class ConfidenceBin(Record):
    """What the model was worth where it was this sure, on public rows.

    Attributes:
        rows: public rows whose confidence lies in this bin of the confidence stream.
        right: those of them that were predicted right; None where no labels were given.
        mean: mean confidence of these rows; 0 where there are none.
    """

    rows: Count
    right: Count | None = None
    mean: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.right is not None and self.right > self.rows:
            raise ValueError("more rows predicted right than there are")
        return self


class OodCalibration(Record):
    """Quantiles of one out-of-distribution score on public rows, larger meaning stranger.

    Attributes:
        score: kind of score (`msp`, `maxlogit`, `energy`, ...).
        quantiles: at `OOD_LEVELS`, not decreasing.
    """

    score: Name
    quantiles: tuple[float, ...] = Field(min_length=len(OOD_LEVELS), max_length=len(OOD_LEVELS))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(b < a for a, b in zip(self.quantiles, self.quantiles[1:], strict=False)):
            raise ValueError("quantiles must not decrease")
        return self


class Reference(Record):
    """The reference profile of one release: one stream per watched value, in task order.

    Schema 2 added everything from `season` on. None says that it was not recorded, which is all
    that a file of schema 1 can say. Each part is left out where it would be too large to travel
    (`MAX_CONFUSION_CLASSES`, `MAX_CLASS_CELLS`).

    Attributes:
        source: where the data came from, in words (public captures of the task).
        rows: how many public rows it was built from.
        model_sha256: the model whose outputs the class, confidence and OOD streams describe.
        ood_quantile_95: energy score (-logsumexp of the logits) that 5 % of the reference exceed.
        season: part of the calendar that normal depends on, as whoever built the release knows it;
            the central host's setting decides what is used.
        confusion: public rows by label (outer) and predicted class (inner).
        class_histograms: for each stream, for each label, public rows in each bin or cell;
            missing numbers are in none.
        confidence: one entry for each of the 16 bins of the confidence stream.
        ood: one calibration for each kind of score.
        row_inflation: for each stream, how much more the mean of consecutive public rows varies
            than that of as many independent ones; only where the rows were in order of time.
    """

    schema_version: Literal[1, 2] = 2
    task: Name
    source: str
    rows: int = Field(ge=1)
    model_sha256: Sha256
    ood_quantile_95: float
    streams: tuple[NumericStream | CategoricalStream, ...] = Field(min_length=1)
    season: Season | None = None
    confusion: tuple[tuple[Count, ...], ...] | None = None
    class_histograms: tuple[tuple[tuple[Count, ...], ...], ...] | None = None
    confidence: tuple[ConfidenceBin, ...] | None = None
    ood: tuple[OodCalibration, ...] | None = Field(default=None, max_length=16)
    row_inflation: tuple[Inflation, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.schema_version == 1 and any(getattr(self, name) is not None for name in _ADDED):
            raise ValueError("schema 1 has no such field")
        _check_confusion(self.confusion)
        _check_class_histograms(self.class_histograms, self.streams)
        if self.confidence is not None and len(self.confidence) != NUMERIC_BINS:
            raise ValueError("confidence needs one entry for each bin")
        if self.row_inflation is not None and len(self.row_inflation) != len(self.streams):
            raise ValueError("row_inflation needs one number for each stream")
        if self.ood is not None and len({one.score for one in self.ood}) != len(self.ood):
            raise ValueError("a score is calibrated twice")
        return self

    @model_serializer(mode="wrap")
    def _without_the_unrecorded(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A file of schema 1 is written as it was read, byte for byte."""
        fields: dict[str, Any] = dump(self)
        return {k: v for k, v in fields.items() if v is not None or k not in _ADDED}


_ADDED = ("season", "confusion", "class_histograms", "confidence", "ood", "row_inflation")


def _check_confusion(confusion: tuple[tuple[int, ...], ...] | None) -> None:
    if confusion is None:
        return
    classes = len(confusion)
    if not 2 <= classes <= MAX_CONFUSION_CLASSES or any(len(row) != classes for row in confusion):
        raise ValueError("confusion must be square and not too large")


def _check_class_histograms(
    histograms: tuple[tuple[tuple[int, ...], ...], ...] | None,
    streams: tuple[NumericStream | CategoricalStream, ...],
) -> None:
    if histograms is None:
        return
    if len(histograms) != len(streams) or len({len(by_class) for by_class in histograms}) != 1:
        raise ValueError("class_histograms need every stream, with the same classes each")
    cells = 0
    for by_class, stream in zip(histograms, streams, strict=True):
        if any(len(histogram) != len(stream.histogram) for histogram in by_class):
            raise ValueError(f"class histograms of {stream.name} have another number of cells")
        cells += sum(map(len, by_class))
    if cells > MAX_CLASS_CELLS:
        raise ValueError(f"class_histograms hold {cells} cells, at most {MAX_CLASS_CELLS} travel")
