"""A toy in which one record shows as much as it ever can: what the many-run audit trains.

A linear head on six columns. No ordinary record uses the last column, the canary nothing
else, and as long as it may: its gradient has the same direction in every step, is far
longer than the clip, and nothing hides it. What is found here bounds what an attacker could
find in a real task from above, at the same charge.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedge.data.blocks import LabelledRecords
from fedge.records import ModelInput, NumericFeature, TaskSchema
from fedge.tasks.adapted import AdaptedModel, AffineAdapter
from fedge.tasks.code import PublicData, Weights

WIDTH, CLASSES = 6, 2
REACH = 8.0
"""Bound of every column; a record that reaches it has a gradient of 5.7."""
RECORDS = 16
"""Slots of the toy's block; the canary has the last one."""
_SEED = 20240601

SCHEMA = TaskSchema(
    name="audit-toy",
    version=1,
    input=ModelInput(name="row", shape=(WIDTH,), low=-REACH, high=REACH),
    classes=("left", "right"),
    features=tuple(
        NumericFeature(name=f"x{column}", type="float32", low=-REACH, high=REACH)
        for column in range(WIDTH)
    ),
    code="fedge.audit.toy:CODE",
)


class ToyModel(AdaptedModel):
    """Logistic regression that starts at zero."""

    def __init__(self) -> None:
        super().__init__(
            input_adapter=AffineAdapter(WIDTH),
            trunk=nn.Identity(),
            head=nn.Linear(WIDTH, CLASSES),
        )
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.zero_()
        self.eval()

    def features(self, inputs: Tensor) -> Tensor:
        """The columns themselves."""
        return inputs * 1.0


class ToyTask:
    """The code part of the toy."""

    schema = SCHEMA

    def new_model(self) -> ToyModel:
        """See `TaskCode.new_model`."""
        return ToyModel()

    def public(self) -> PublicData:
        """Ordinary rows, twice."""
        rows, labels = _ordinary(2 * RECORDS)
        return PublicData(clean=rows, labels=labels, faulted=rows, faulted_labels=labels)

    def base_weights(self, seed: int) -> Weights:
        """All zeros, whatever the seed: the toy starts without an opinion."""
        state = self.new_model().state_dict()
        return {name: value.numpy().copy() for name, value in state.items()}


def records(*, with_canary: bool) -> LabelledRecords:
    """The toy's block; without the canary a null record keeps its slot, which is zero-out."""
    rows, labels = _ordinary(RECORDS)
    rows[-1], labels[-1] = 0.0, -1
    if with_canary:
        rows[-1, -1], labels[-1] = REACH, 1
    slots = np.arange(RECORDS, dtype=np.int64)
    return LabelledRecords(
        slots=slots,
        blocks=np.zeros_like(slots),
        inputs=rows,
        labels=labels,
        predictions=np.zeros_like(slots),
    )


def _ordinary(
    count: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(_SEED)
    rows = rng.uniform(-1, 1, size=(count, WIDTH)).astype(np.float32)
    rows[:, -1] = 0.0
    return rows, (rows[:, 0] > 0).astype(np.int64)


CODE = ToyTask()
