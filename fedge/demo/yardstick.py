"""The non-private yardstick: what the same adapter reaches without noise or clipping.

Computed by whoever owns the streams, here the demonstration that plays them, from
pooled records; no gateway has such a code path. Full batch, until the training
loss falls by less than 0.1 % in 50 steps, at most 5,000 steps, with the step size
that did best on public captures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fedge.learning.adapters import TrainableAdapter
from fedge.models.weights import Weights
from fedge.records import AdapterKind
from fedge.tasks.adapted import AdaptedModel
from fedge.tasks.code import TaskCode

STEP_SIZES = (0.01, 0.03, 0.1)
TRIAL_ROWS, TRIAL_STEPS, MAX_STEPS, PATIENCE, MIN_FALL = 500, 100, 5000, 50, 1e-3
ADAPTERS: tuple[AdapterKind, ...] = ("input", "head")
"""The adapters that a demonstration reports on."""

Inputs = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def train_yardstick(
    code: TaskCode, weights: Weights, kind: AdapterKind, inputs: Inputs, labels: Labels
) -> AdaptedModel:
    """The float model with one adapter trained to convergence on pooled records.

    Args:
        weights: the release that the private training also started from.
        inputs: float32 [n, *input shape]; labels: int64 [n].
    """
    public = code.public()
    trial, trial_labels = public.faulted[:TRIAL_ROWS], public.faulted_labels[:TRIAL_ROWS]
    losses = {
        size: _descend(
            TrainableAdapter(code, weights, kind), trial, trial_labels, size, TRIAL_STEPS
        )
        for size in STEP_SIZES
    }
    best = min(losses, key=lambda size: losses[size])
    adapter = TrainableAdapter(code, weights, kind)
    _descend(adapter, inputs, labels, best, MAX_STEPS)
    return adapter.model


def predictions(model: AdaptedModel, inputs: Inputs) -> Labels:
    """Predicted class indices, int64 [n]."""
    with torch.no_grad():
        predicted: Labels = model(torch.from_numpy(inputs)).argmax(dim=1).numpy()
    return predicted


def _descend(
    adapter: TrainableAdapter, inputs: Inputs, labels: Labels, step_size: float, max_steps: int
) -> float:
    """Full-batch Adam; answers the last training loss."""
    rows, targets = adapter.prepared(inputs), torch.from_numpy(labels)
    for parameter in adapter.parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(adapter.parameters, lr=step_size)
    losses: list[float] = []
    while len(losses) < max_steps:
        optimizer.zero_grad()
        loss = F.cross_entropy(adapter.tail(rows), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) > PATIENCE and losses[-1] > (1 - MIN_FALL) * losses[-1 - PATIENCE]:
            break
    return losses[-1]
