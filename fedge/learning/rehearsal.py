"""A whole run in one process, on records that its caller owns: for studies and benchmarks.

The sessions, the plan and the adding up are those of a real run; the grants are
simulated, so that no ledger of a gateway ever holds anything of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fedge.data.blocks import LabelledRecords
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.aggregation import Vector, mean_update
from fedge.learning.session import TrainingSession
from fedge.models.weights import Weights
from fedge.privacy.grants import Grant
from fedge.privacy.noise import SeededNoise
from fedge.records import TrainingPlan
from fedge.tasks.code import TaskCode

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a run left.

    Attributes:
        change: the aggregated adapter, float32 [dimension].
        gain: noised records won over all gateways.
    """

    change: Vector
    gain: int


def rehearse(
    code: TaskCode,
    weights: Weights,
    plan: TrainingPlan,
    gateways: Sequence[LabelledRecords],
    seed: int,
) -> Rehearsed:
    """Train and evaluate as the plan says, with seeded noise.

    Args:
        weights: the release that all gateways start from.
        gateways: the records of each.
        seed: of the noise, another one for every gateway.
    """
    sessions = [
        TrainingSession(code, weights, plan, records, SeededNoise(seed * 1_000 + number))
        for number, records in enumerate(gateways)
    ]
    vector = np.zeros(plan.dimension, dtype=np.float32)
    for number in range(plan.rounds):
        changes = [
            session.round(vector, Grant(0, f"train/{number}", plan.round_event, simulated=True))
            for session in sessions
        ]
        vector = vector + mean_update(changes, plan)
    differences = [
        session.evaluate(vector, Grant(0, "evaluate", plan.evaluation_event, simulated=True))
        for session in sessions
    ]
    return Rehearsed(vector, sum(differences))


def labelled(inputs: Floats, labels: Integers, predictions: Integers) -> LabelledRecords:
    """Rows in one block, in arrival order, as a gateway's store would hand them out."""
    return LabelledRecords(
        slots=np.arange(len(labels), dtype=np.int64),
        blocks=np.zeros(len(labels), dtype=np.int64),
        inputs=inputs.reshape(len(inputs), -1),
        labels=labels,
        predictions=predictions,
    )


def predict(adapter: TrainableAdapter, inputs: Floats) -> Integers:
    """Predicted class indices, int64 [n]."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(inputs), _BATCH_ROWS):
            rows = torch.from_numpy(np.ascontiguousarray(inputs[start : start + _BATCH_ROWS]))
            parts.append(adapter.model(rows).argmax(dim=1).numpy())
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
