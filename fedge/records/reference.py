"""What a release says normal looks like: frozen bins and public histograms.

Everything here comes from public data or from charged releases; it travels
signed inside the release. Bins never move while a release is served.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedge.records.base import Name, Record, Sha256
from fedge.records.task import NUMERIC_BINS


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


class Reference(Record):
    """The reference profile of one release: one stream per watched value, in task order.

    Attributes:
        source: where the data came from, in words (public captures of the task).
        rows: how many public rows it was built from.
        model_sha256: the model whose outputs the class, confidence and OOD streams describe.
        ood_quantile_95: energy score (-logsumexp of the logits) that 5 % of the reference exceed.
    """

    schema_version: Literal[1] = 1
    task: Name
    source: str
    rows: int = Field(ge=1)
    model_sha256: Sha256
    ood_quantile_95: float
    streams: tuple[NumericStream | CategoricalStream, ...] = Field(min_length=1)
