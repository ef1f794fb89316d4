"""A task from any labelled table: a schema file, and a reader of Parquet or CSV.

A user's module is four lines; `task.json` names it as `my_module:CODE`:

    SCHEMA = read_task(Path("task.json"))
    CODE = TableTask(SCHEMA, lambda: read_labelled(
        Path("public.csv"), SCHEMA.features, label="state", classes=SCHEMA.classes))

Requests carry one row of numbers: each feature in the schema's order, a category as
its index. Reading files is `fedge.data.tables`; torch is loaded only when a model is
asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from fedge.errors import TaskError
from fedge.records import NumericFeature, TaskSchema
from fedge.tasks.code import PublicData, Weights

if TYPE_CHECKING:
    from fedge.tasks.adapted import AdaptedModel

_FAMILY_SEED, _FAMILY_GROUP = 20240503, 20


class LabelledRows(Protocol):
    """A table in numbers."""

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """float64 [n, features]; a category as its index; NaN for missing."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 [n], class indices."""


class TableTask:
    """The code part of a table.

    Args:
        schema: its input holds one number per feature.
        read_public: reads the public table; called when its rows are first needed.

    Raises:
        TaskError: the schema's input is no row of its features.
    """

    def __init__(self, schema: TaskSchema, read_public: Callable[[], LabelledRows]) -> None:
        if schema.input.shape != (len(schema.features),):
            raise TaskError(
                f"a table with {len(schema.features)} features needs the input shape "
                f"[{len(schema.features)}], not {list(schema.input.shape)}"
            )
        self.schema = schema
        self._read_public = read_public
        self._rows: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None = None

    def new_model(self) -> AdaptedModel:
        """See `TaskCode.new_model`; needs no public rows."""
        from fedge.tasks.table_model import TableModel

        return TableModel(self.schema)

    def public(self) -> PublicData:
        """The public rows as read, and once more with every number scaled and moved a little.

        Raises:
            TaskError: a value is missing: requests cannot carry that, so fill it in first.
        """
        inputs, labels = self._public_rows()
        rng = np.random.default_rng(_FAMILY_SEED)
        return PublicData(
            clean=inputs,
            labels=labels,
            faulted=self._under_family(inputs, rng),
            faulted_labels=labels,
        )

    def base_weights(self, seed: int) -> Weights:
        """See `TaskCode.base_weights`."""
        from fedge.tasks.table_model import train_base

        inputs, labels = self._public_rows()
        return train_base(self.schema, inputs, labels, seed)

    def _public_rows(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        if self._rows is None:
            read = self._read_public()
            values = np.asarray(read.values, dtype=np.float64)
            missing = np.argwhere(~np.isfinite(values))
            if len(missing):
                row, column = (int(place) for place in missing[0])
                name = self.schema.features[column].name
                raise TaskError(f"column {name!r}, row {row + 1} has no value; fill it in first")
            bounds = self.schema.input
            inputs = np.clip(values, bounds.low, bounds.high).astype(np.float32)
            self._rows = inputs, np.asarray(read.labels, dtype=np.int64)
        return self._rows

    def _under_family(
        self, inputs: npt.NDArray[np.float32], rng: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """Sensors that drift: a gain and an offset per number, new ones for every twenty rows."""
        numeric = np.array([isinstance(f, NumericFeature) for f in self.schema.features])
        groups = -(-len(inputs) // _FAMILY_GROUP)
        shape = (groups, inputs.shape[1])
        gain = np.where(numeric, rng.uniform(0.8, 1.25, size=shape), 1.0)
        offset = np.where(numeric, rng.uniform(-0.5, 0.5, size=shape) * inputs.std(axis=0), 0.0)
        group = np.arange(len(inputs)) // _FAMILY_GROUP
        centre = np.where(numeric, inputs.mean(axis=0), 0.0)
        moved = (inputs - centre) * gain[group] + centre + offset[group]
        return np.clip(moved, self.schema.input.low, self.schema.input.high).astype(np.float32)
