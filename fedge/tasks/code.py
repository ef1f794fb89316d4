"""The code part of a task: what only those who make and train models import.

A task's `task.json` names an object, `module:object`, that builds its model and
hands out its public data. Gateways that serve need none of this. Nothing here
imports torch; a task does so when a model is asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fedge.errors import NonFiniteValueError, TaskError
from fedge.records import TaskSchema

if TYPE_CHECKING:
    from fedge.tasks.adapted import AdaptedModel

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Weights = dict[str, npt.NDArray[np.float32]]
"""A model's state by name, float32: trunk, head and adapters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicData:
    """Rows that anybody may see: what bins, calibration and gates are made from.

    Attributes:
        clean: float32 [n, *input shape].
        labels: int64 [n], class indices of `clean`.
        faulted: float32 [m, *input shape], the same kind of rows under a public family of
            faults, so that a model holds up where a fault takes the inputs.
        faulted_labels: int64 [m].
    """

    clean: Floats
    labels: Integers
    faulted: Floats
    faulted_labels: Integers

    def __post_init__(self) -> None:
        pairs = (("clean", self.clean, self.labels), ("faulted", self.faulted, self.faulted_labels))
        for name, inputs, labels in pairs:
            if len(inputs) == 0 or len(inputs) != len(labels):
                raise TaskError(f"public {name}: {len(inputs)} rows but {len(labels)} labels")
            if not np.isfinite(inputs).all():
                raise NonFiniteValueError(f"public {name}: a row is not finite")

    @property
    def inputs(self) -> Floats:
        """All rows, clean ones first."""
        return np.concatenate([self.clean, self.faulted])

    @property
    def all_labels(self) -> Integers:
        """Labels of `inputs`."""
        return np.concatenate([self.labels, self.faulted_labels])


@runtime_checkable
class TaskCode(Protocol):
    """What a user writes to bring a task."""

    @property
    def schema(self) -> TaskSchema:
        """The data part; its `code` names this object."""

    def new_model(self) -> AdaptedModel:
        """A model of the right shapes, in eval mode, with any weights."""

    def public(self) -> PublicData:
        """The task's public data; the same on every call."""

    def base_weights(self, seed: int) -> Weights:
        """A whole model trained on clean public rows; the same for the same seed and machine."""


@runtime_checkable
class FaultFamily(Protocol):
    """What a task may add: public rows under a single fault, for studies on public data."""

    def faulted_rows(self, seed: int, rows: int) -> tuple[Floats, Integers]:
        """Public rows under one fault of the public family, float32 [rows, ...] and int64 [rows].

        Another seed is another fault. Rows of one origin stand together, so that a split by
        position keeps origins apart.
        """


def load_task_code(name: str) -> TaskCode:
    """Import a code part.

    Args:
        name: `module:object`.

    Raises:
        TaskError: there is no such module or object, or it is no code part.
    """
    module_name, _, object_name = name.partition(":")
    try:
        code = getattr(importlib.import_module(module_name), object_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TaskError(f"cannot import the task's code part {name!r}: {error}") from error
    if not isinstance(code, TaskCode):
        raise TaskError(
            f"{name!r} is no task code: it needs schema, new_model(), public(), base_weights()"
        )
    return code
