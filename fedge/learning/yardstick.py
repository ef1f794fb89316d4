"""What the same adapter reaches without privacy: a yardstick, never a gateway's code path.

For whoever owns the records, a demonstration or a benchmark. Full batch, no noise,
no clipping, to convergence; gateways train through `fedge.learning.session` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fedge.errors import SettingError
from fedge.learning.adapters import TrainableAdapter
from fedge.models.weights import Weights, adapter_names
from fedge.records import AdapterKind
from fedge.tasks.code import TaskCode

Vector = npt.NDArray[np.float32]

MAX_STEPS, PATIENCE_STEPS, MIN_FALL = 5_000, 50, 1e-3
STEP_SIZES = (0.03, 0.1, 0.3)
STEP_SIZE: dict[AdapterKind, float] = {"input": 0.03, "head": 0.03}
"""What `choose_step_size` chose for the built-in task."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A converged adapter.

    Attributes:
        change: float32 [dimension], against the base weights, as an update's.
        steps: full-batch steps taken.
        loss: mean cross entropy on the training records at the end.
        converged: whether it stopped by itself, before the largest number of steps.
    """

    change: Vector
    steps: int
    loss: float
    converged: bool


def train_without_privacy(
    code: TaskCode,
    weights: Weights,
    kind: AdapterKind,
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    step_size: float | None = None,
    max_steps: int = MAX_STEPS,
) -> Yardstick:
    """Train one adapter by full-batch Adam until the loss falls by less than 0.1 % in 50 steps.

    Nothing is random. The input adapter takes some ten milliseconds a step for 1,500 digits.

    Args:
        inputs: float32 [n, *input shape], pooled records, clamped as training clamps them.
        labels: int64 [n].
        step_size: None for the one chosen on public data.

    Raises:
        SettingError: there are no records, or the loss is not finite.
    """
    if len(inputs) == 0:
        raise SettingError("a yardstick needs records")
    adapter = TrainableAdapter(code, weights, kind)
    bounds = code.schema.input
    prepared = adapter.prepared(np.clip(inputs, bounds.low, bounds.high))
    target = torch.from_numpy(labels)
    part = adapter.model.input_adapter if kind == "input" else adapter.model.head
    for parameter in part.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(part.parameters(), lr=step_size or STEP_SIZE[kind])
    losses: list[float] = []
    while len(losses) < max_steps and not _settled(losses):
        optimizer.zero_grad()
        loss = F.cross_entropy(adapter.logits(prepared), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise SettingError("the yardstick's loss is not finite; choose a smaller step size")
    state = adapter.model.state_dict()
    moved = [state[name].numpy() - weights[name] for name in adapter_names(weights, kind)]
    change = np.concatenate([part.ravel() for part in moved]).astype(np.float32)
    return Yardstick(change, len(losses), losses[-1], _settled(losses))


def choose_step_size(
    code: TaskCode,
    weights: Weights,
    kind: AdapterKind,
    candidates: Sequence[float] = STEP_SIZES,
    *,
    rows: int = 1_500,
) -> float:
    """The step size that ends at the lowest loss on public rows under public faults."""
    public = code.public()
    inputs, labels = public.faulted[:rows], public.faulted_labels[:rows]
    ends = [
        train_without_privacy(code, weights, kind, inputs, labels, step_size=size).loss
        for size in candidates
    ]
    return candidates[int(np.argmin(ends))]


def _settled(losses: Sequence[float]) -> bool:
    if len(losses) <= PATIENCE_STEPS:
        return False
    before, now = losses[-1 - PATIENCE_STEPS], losses[-1]
    return before - now < MIN_FALL * before
