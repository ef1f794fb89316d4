"""The data part of a task: `task.json`, signed inside every release.

It is all that a gateway needs to know about a task. The code part
(`module:object`) is named here but imported only where models are made and
trained, never by the agent or the worker.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedge.records.base import Name, Record
from fedge.records.purposes import Purpose

NUMERIC_BINS = 16
"""Frozen bins of a numeric stream; dyadic counts need a power of two."""

CLASS_STREAM, CONFIDENCE_STREAM, OOD_STREAM = "class", "confidence", "ood"
"""The model's own outputs, watched beside the task's features."""

NumericType = Literal["float32", "float64", "int32", "int64", "bool"]
Sensitivity = Literal["public", "machine", "personal"]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""Element types of the Open Inference Protocol."""


class NumericFeature(Record):
    """A number that is watched. `low` and `high` are public bounds; values are clamped to them."""

    kind: Literal["numeric"] = "numeric"
    name: Name
    type: NumericType
    low: float
    high: float
    sensitivity: Sensitivity = "personal"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be smaller than high")
        return self


class CategoricalFeature(Record):
    """A category that is watched, given to the model as its index in `categories`."""

    kind: Literal["categorical"] = "categorical"
    name: Name
    type: Literal["string"] = "string"
    categories: tuple[str, ...] = Field(min_length=1, max_length=1024)
    sensitivity: Sensitivity = "personal"


class ModelInput(Record):
    """The one tensor that a request carries per row, without the batch dimension.

    Finite values outside [`low`, `high`] are served; for training they are clamped.

    Attributes:
        datatype: element type that the model takes. Values of BYTES have no fixed size: they are
            served and their features watched, but never kept on the gateway.
    """

    name: Name
    shape: tuple[int, ...] = Field(min_length=1, max_length=4)
    low: float
    high: float
    datatype: Datatype = "FP32"

    @property
    def size(self) -> int:
        size = 1
        for extent in self.shape:
            size *= extent
        return size


class TaskSchema(Record):
    """Everything about a task that is data.

    Attributes:
        name, version: a gateway accepts releases of its own task name and version only.
        input: the tensor of a request row.
        classes: class labels in the order of the model's logits.
        features: what is watched; the exported model computes it as its second output,
            `features` (float32, batch x len(features)), NaN for missing.
        code: the code part, `module:object`.
        purposes: what records may be used for at most; a request may restrict it.
    """

    schema_version: Literal[1] = 1
    name: Name
    version: int = Field(ge=1)
    input: ModelInput
    classes: tuple[str, ...] = Field(min_length=2, max_length=1024)
    features: tuple[NumericFeature | CategoricalFeature, ...] = Field(min_length=1, max_length=4096)
    code: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    purposes: tuple[Purpose, ...] = ("inference", "monitoring", "training")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [feature.name for feature in self.features]
        reserved = {CLASS_STREAM, CONFIDENCE_STREAM, OOD_STREAM}
        for index, name in enumerate(names):
            if name in names[:index] or name in reserved:
                raise ValueError(f"feature name {name!r} is used twice or reserved")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is listed twice")
        if "inference" not in self.purposes or len(set(self.purposes)) != len(self.purposes):
            raise ValueError("purposes need inference, and each once")
        return self

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of all watched streams: features, then class, confidence, OOD score."""
        return (*(f.name for f in self.features), CLASS_STREAM, CONFIDENCE_STREAM, OOD_STREAM)
