"""Adapters while they train: vectors in and out of a model, and every row's own gradient.

Closed forms instead of a library's per-sample machinery: an input adapter is linear
in its parameters and a head is one layer, so one backward pass gives all rows'
gradients exactly. Bounding and noising them belongs to the session.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedge.errors import TaskError
from fedge.models.weights import Weights, adapter_names, merge_vector
from fedge.records import AdapterKind
from fedge.tasks.adapted import AdaptedModel
from fedge.tasks.code import TaskCode

Vector = npt.NDArray[np.float32]


def load_model(code: TaskCode, weights: Weights) -> AdaptedModel:
    """The task's model with `weights`, frozen and in eval mode.

    Raises:
        TaskError: the weights are another model's, or the model cannot be trained row by row.
    """
    model = code.new_model()
    try:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    except (RuntimeError, TypeError) as error:
        raise TaskError(f"the weights do not fit task {code.schema.name}: {error}") from error
    # In train mode a normalisation would mix rows, and one row's gradient would hold others.
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _check_adapters(model)
    return model


class TrainableAdapter:
    """One adapter of a model as a vector of change against its base weights.

    Args:
        code, weights: the base that training starts from.
        kind: which adapter; the rest of the model never moves.
    """

    def __init__(self, code: TaskCode, weights: Weights, kind: AdapterKind) -> None:
        self.kind, self._weights = kind, weights
        self.model = load_model(code, weights)
        self._names = adapter_names(weights, kind)
        self.dimension = sum(weights[name].size for name in self._names)

    def set_change(self, change: Vector) -> None:
        """Let the model be the base plus `change`, float32 [dimension]."""
        merged = merge_vector(self._weights, self.kind, change)
        state = {name: torch.from_numpy(merged[name]) for name in self._names}
        self.model.load_state_dict(state, strict=False)

    def prepared(self, inputs: npt.NDArray[np.float32]) -> Tensor:
        """What stays the same over all steps, computed once: the head's input, or prepared rows."""
        with torch.no_grad():
            rows = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
            if self.kind == "head":
                return self.model.feature_map(rows)
            return self.model.prepare(rows)

    def logits(self, prepared: Tensor) -> Tensor:
        """Logits [n, classes] of `prepared` rows."""
        if self.kind == "input":
            prepared = self.model.trunk(self.model.input_adapter(prepared))
        logits: Tensor = self.model.head(prepared)
        return logits

    def row_gradients(self, prepared: Tensor, labels: Tensor) -> npt.NDArray[np.float64]:
        """Gradient of each row's cross entropy, float64 [n, dimension]; may hold NaN.

        Args:
            prepared: as `prepared` gave it.
            labels: int64 [n].
        """
        if len(labels) == 0:
            return np.zeros((0, self.dimension))
        gradients = (
            self._input_gradients(prepared, labels)
            if self.kind == "input"
            else self._head_gradients(prepared, labels)
        )
        short = {name: name.partition(".")[2] for name in self._names}
        flat = [gradients[short[name]].flatten(1) for name in self._names]
        joined: npt.NDArray[np.float64] = torch.cat(flat, dim=1).double().numpy()
        return joined

    def _input_gradients(self, prepared: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            adapted = self.model.input_adapter(prepared)
        adapted.requires_grad_(True)
        logits = self.model.head(self.model.trunk(adapted))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (upstream,) = torch.autograd.grad(loss, adapted)
        return self.model.input_adapter.row_gradients(prepared, upstream)

    def _head_gradients(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            excess = self.model.head(features).softmax(dim=1)
            excess[torch.arange(len(labels)), labels] -= 1.0
            return {"weight": excess[:, :, None] * features[:, None, :], "bias": excess}


def _check_adapters(model: AdaptedModel) -> None:
    """Everything stored under an adapter's name must be a parameter: its vector holds it all."""
    parts: tuple[tuple[str, nn.Module], ...] = (
        ("input_adapter", model.input_adapter),
        ("head", model.head),
    )
    for name, part in parts:
        if set(part.state_dict()) != {parameter for parameter, _ in part.named_parameters()}:
            raise TaskError(f"{name} stores something that is no parameter; keep it in the model")
