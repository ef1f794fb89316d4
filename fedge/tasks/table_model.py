"""The torch side of a table: a small network on standardised numbers and one-hot categories."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedge.records import CategoricalFeature, TaskSchema
from fedge.tasks.adapted import AdaptedModel, AffineAdapter, one_thread
from fedge.tasks.code import Weights

_HIDDEN, _FEATURES = 64, 32
_EPOCHS, _BATCH, _LEARNING_RATE = 60, 64, 3e-3


class TableModel(AdaptedModel):
    """Two hidden layers; the input adapter is a gain and an offset per number."""

    def __init__(self, schema: TaskSchema) -> None:
        categorical = [isinstance(f, CategoricalFeature) for f in schema.features]
        numbers = [at for at, is_category in enumerate(categorical) if not is_category]
        categories = [
            (at, len(feature.categories))
            for at, feature in enumerate(schema.features)
            if isinstance(feature, CategoricalFeature)
        ]
        width = len(numbers) + sum(count for _, count in categories)
        trunk = nn.Sequential(
            nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _FEATURES), nn.ReLU()
        )
        super().__init__(
            input_adapter=AffineAdapter(len(numbers)),
            trunk=trunk,
            head=nn.Linear(_FEATURES, len(schema.classes)),
        )
        self._numbers, self._categories = numbers, categories
        # Stored with the weights: a gateway that trains has no public rows to learn them from.
        self.register_buffer("mean", torch.zeros(len(numbers)))
        self.register_buffer("scale", torch.ones(len(numbers)))
        self.mean: Tensor
        self.scale: Tensor
        self.eval()

    def prepare(self, inputs: Tensor) -> Tensor:
        """Standardised numbers first, then one-hot categories; an unknown index is all zeros."""
        parts = [(inputs[:, self._numbers] - self.mean) / self.scale]
        for column, count in self._categories:
            places = torch.arange(float(count))
            parts.append((inputs[:, column : column + 1] == places).to(inputs.dtype))
        return torch.cat(parts, dim=1)

    def features(self, inputs: Tensor) -> Tensor:
        """The columns themselves: what is watched is what comes in."""
        return inputs * 1.0


def train_base(
    schema: TaskSchema,
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    seed: int,
) -> Weights:
    """Train scaling, trunk and head on public rows."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TableModel(schema)
        rng = np.random.default_rng([seed, 1])
        rows, targets = torch.from_numpy(inputs), torch.from_numpy(labels)
        numbers = rows[:, model._numbers]
        model.mean.copy_(numbers.mean(dim=0))
        spread = numbers.std(dim=0, correction=0)
        # A constant column carries nothing; dividing by zero would make it infinite.
        model.scale.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        parameters = [*model.trunk.parameters(), *model.head.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
        for epoch in range(_EPOCHS):
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * _LEARNING_RATE * (1 + math.cos(math.pi * epoch / _EPOCHS))
            order = torch.from_numpy(rng.permutation(len(targets)))
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                optimizer.zero_grad()
                F.cross_entropy(model(rows[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
