"""Real drift, and what retraining wins back: gas sensors that age over three years.

`python -m benchmarks.drift.real` reads UCI's gas sensor array drift set from the folder
that `FEDGE_DATA` names. A model is trained on the first batches, as a public data set
would be, and meets the later ones as they came. Half of each later batch plays a
gateway's labelled records, the other half judges. The adapter is trained on them three
ways: not at all, without privacy until it converges, and as gateways do it, under
(3, 1e-5) with every gradient sum noised. About a minute on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.data.gas import FEATURES, GASES, GasBatch, read_gas
from fedge.demo.yardstick import predictions, train_yardstick
from fedge.errors import TableError
from fedge.learning.adapters import TrainableAdapter, load_model
from fedge.learning.planning import plan_training
from fedge.learning.session import TrainingSession
from fedge.models.weights import Weights
from fedge.privacy.grants import Grant
from fedge.privacy.noise import SeededNoise
from fedge.privacy.policy import new_policy
from fedge.records import AdapterKind, BlockLength, NumericFeature, TaskSchema
from fedge.records.task import ModelInput
from fedge.tasks.adapted import AdaptedModel, one_thread
from fedge.tasks.table import TableTask

PUBLIC = (1, 2)
"""Batches that the model is trained on."""

EPSILON, DELTA = 3.0, 1e-5
ADAPTERS: tuple[AdapterKind, ...] = ("input", "head")
GOAL = 0.5
"""Share of the accuracy that non-private retraining wins which private retraining must win."""

_BOUND = 8.0
_SEED = 1


@dataclass(frozen=True, slots=True)
class Recovery:
    """Accuracies on the half of a batch that nobody trained on.

    Attributes:
        stale: without retraining.
        open_, private: by adapter, trained without and with differential privacy.
    """

    batch: int
    records: int
    stale: float
    open_: Mapping[AdapterKind, float]
    private: Mapping[AdapterKind, float]

    def won_back(self, kind: AdapterKind) -> float:
        """Private gain over the same adapter's non-private gain; NaN where that gains nothing."""
        gap = self.open_[kind] - self.stale
        return (self.private[kind] - self.stale) / gap if gap > 0 else float("nan")

    def line(self) -> str:
        """One line for the console: each adapter's accuracy without and with privacy."""
        cells = [f"batch {self.batch}, {self.records} records: stale {self.stale:.3f}"]
        cells += [
            f"{kind} adapter {self.open_[kind]:.3f} open, {self.private[kind]:.3f} at epsilon "
            f"{EPSILON:g} (won back {self.won_back(kind):.2f})"
            for kind in self.open_
        ]
        return "; ".join(cells)


class GasTask:
    """The gas set as a task whose public rows are the first batches.

    Requests carry each feature as a signed logarithm in units of its public median: the raw ones
    span five orders of magnitude.
    """

    def __init__(self, batches: Mapping[int, GasBatch]) -> None:
        values = np.concatenate([batches[number].values for number in PUBLIC])
        self._unit = np.median(np.abs(values), axis=0)
        labels = np.concatenate([batches[number].gas for number in PUBLIC])
        public = SimpleNamespace(values=self.inputs(values), labels=labels)
        features = tuple(
            NumericFeature(name=name.replace(".", "-"), type="float32", low=-_BOUND, high=_BOUND)
            for name in FEATURES
        )
        schema = TaskSchema(
            name="gas",
            version=1,
            input=ModelInput(name="row", shape=(len(features),), low=-_BOUND, high=_BOUND),
            classes=GASES,
            features=features,
            code="benchmarks.drift.real:GasTask",
        )
        self.code = TableTask(schema, lambda: public)

    def inputs(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Rows as requests carry them, float32[n, 128]."""
        scaled = np.sign(values) * np.log1p(np.abs(values) / self._unit)
        bounded: NDArray[np.float32] = np.clip(scaled, -_BOUND, _BOUND).astype(np.float32)
        return bounded


def recoveries(
    batches: Mapping[int, GasBatch], adapters: Sequence[AdapterKind] = ADAPTERS, seed: int = _SEED
) -> list[Recovery]:
    """Retrain for each batch after the public ones, each from the first model."""
    task = GasTask(batches)
    weights = task.code.base_weights(seed)
    later = [number for number in batches if number not in PUBLIC]
    with one_thread():
        return [
            _recover(task, weights, number, batches[number], adapters, seed) for number in later
        ]


def _recover(
    task: GasTask,
    weights: Weights,
    number: int,
    batch: GasBatch,
    adapters: Sequence[AdapterKind],
    seed: int,
) -> Recovery:
    order = np.random.default_rng([seed, number]).permutation(len(batch))
    own, other = np.split(order, [len(batch) // 2])
    inputs, labels = task.inputs(batch.values), batch.gas

    def accuracy(model: AdaptedModel) -> float:
        return float((predictions(model, inputs[other]) == labels[other]).mean())

    return Recovery(
        batch=number,
        records=len(own),
        stale=accuracy(load_model(task.code, weights)),
        open_={
            kind: accuracy(train_yardstick(task.code, weights, kind, inputs[own], labels[own]))
            for kind in adapters
        },
        private={
            kind: accuracy(_train_privately(task, weights, kind, inputs[own], labels[own], seed))
            for kind in adapters
        },
    )


def _train_privately(
    task: GasTask,
    weights: Weights,
    kind: AdapterKind,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    seed: int,
) -> AdaptedModel:
    """The model after one gateway's run, with the default plan and its block's whole budget."""
    adapter = TrainableAdapter(task.code, weights, kind)
    policy = new_policy(
        epsilon=EPSILON,
        delta=DELTA,
        block=BlockLength(kind="windows", value=400),
        telemetry_rho=0.0281,
        window_rho=0.0281,
    )
    settings = TrainingSettings(adapter=kind, records=len(labels))
    plan = plan_training(policy, settings, adapter.dimension)
    count = len(labels)
    records = LabelledRecords(
        slots=np.arange(count),
        blocks=np.zeros(count, dtype=np.int64),
        inputs=inputs,
        labels=labels,
        predictions=np.zeros(count, dtype=np.int64),
    )
    session = TrainingSession(task.code, weights, plan, records, SeededNoise(seed))
    change = np.zeros(adapter.dimension, dtype=np.float32)
    for _ in range(plan.rounds):
        change += session.round(change, Grant(1, "gas", plan.round_event, simulated=True))
    adapter.set_change(change)
    return adapter.model


def measure() -> list[Figure]:
    """Each adapter's mean over all later batches; nothing where the data is not there."""
    try:
        found = recoveries(read_gas())
    except TableError as error:
        print(f"gas: not measured, {error}", file=sys.stderr)
        return []
    for recovery in found:
        print(f"gas: {recovery.line()}", file=sys.stderr)
    return [_figure(found, kind) for kind in ADAPTERS]


def _figure(found: Sequence[Recovery], kind: AdapterKind) -> Figure:
    won_back = float(np.nanmean([recovery.won_back(kind) for recovery in found]))
    return Figure(
        id=f"dr-gas-{kind}",
        what=f"accuracy on later batches, {kind} adapter retrained at epsilon {EPSILON:g}",
        ours=float(np.mean([recovery.private[kind] for recovery in found])),
        peer=float(np.mean([recovery.stale for recovery in found])),
        peer_name="without retraining",
        unit="share",
        goal=f"wins >= {GOAL:g} of what training it openly wins; {won_back:.2f}",
        holds=won_back >= GOAL,
    )


if __name__ == "__main__":
    for figure in measure():
        print(figure.line())
