"""Adapters while they train: vectors in and out of a model, and every row's own gradient.

Closed forms instead of a library's per-sample machinery: an input adapter is linear
in its parameters, a head is one layer, and an adapter inside the trunk sits beside a
layer, so one backward pass gives all rows' gradients exactly. What lies before the
adapter never changes: it is computed once and kept as long as its records are.
Bounding and noising belong to the session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedge.errors import TaskError
from fedge.models.weights import Piece, Weights, adapter_pieces, cut, fixed_down
from fedge.records import AdapterKind, ModelInput
from fedge.tasks.adapted import AdaptedModel
from fedge.tasks.code import TaskCode
from fedge.tasks.trunk_adapters import LoRALinear, ResidualConvolution, TrunkAdapter, install

Vector = npt.NDArray[np.float32]
_TRUNK = "trunk."
_PROBED = 1e3
"""Rows that are tried hold values this near to zero, or to the bound that is nearest to it."""


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
    _check_rows(model, code.schema.input)
    return model


class TrainableAdapter:
    """One adapter of a model as a vector of change against its base weights.

    Args:
        code, weights: the base that training starts from.
        kind: which adapter; the rest of the model never moves.

    Attributes:
        model: the whole model, with the adapter in its place.
        tail: from prepared rows to logits; shares the model's layers.
        parameters: what is trained, in the order of the vector.
        dimension: length of the vector.

    Raises:
        TaskError: the model has no such adapter.
    """

    def __init__(self, code: TaskCode, weights: Weights, kind: AdapterKind) -> None:
        self.kind = kind
        self.model = load_model(code, weights)
        self._pieces = adapter_pieces(weights, kind)
        self.dimension = sum(piece.size for piece in self._pieces)
        self._sites = {} if kind in ("input", "head") else _install(self.model, self._pieces)
        self.parameters = tuple(self._parameter(piece) for piece in self._pieces)
        self._start = [parameter.detach().numpy().copy() for parameter in self.parameters]
        self._before, self.tail = _cut_in_two(self.model, kind, self._sites)

    def set_change(self, change: Vector) -> None:
        """Let the model be the base plus `change`, float32 [dimension]."""
        with torch.no_grad():
            parts = cut(change, self._pieces)
            for parameter, start, part in zip(self.parameters, self._start, parts, strict=True):
                parameter.copy_(torch.from_numpy(start + part))

    def change(self) -> Vector:
        """What the model differs by from its base, float32 [dimension]."""
        pairs = zip(self.parameters, self._start, strict=True)
        parts = [(parameter.detach().numpy() - start).ravel() for parameter, start in pairs]
        return np.concatenate(parts).astype(np.float32)

    def prepared(self, inputs: npt.NDArray[np.float32]) -> Tensor:
        """What stays the same over all steps, computed once: what the tail is given."""
        with torch.no_grad():
            rows = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
            rows = self.model.prepare(rows)
            before: Tensor = self._before(rows)
            return before

    def logits(self, prepared: Tensor) -> Tensor:
        """Logits [n, classes] of `prepared` rows."""
        logits: Tensor = self.tail(prepared)
        return logits

    def row_gradients(self, prepared: Tensor, labels: Tensor) -> npt.NDArray[np.float64]:
        """Gradient of each row's cross entropy, float64 [n, dimension]; may hold NaN.

        Args:
            prepared: as `prepared` gave it.
            labels: int64 [n].
        """
        if len(labels) == 0:
            return np.zeros((0, self.dimension))
        if self.kind == "head":
            gradients = self._head_gradients(prepared, labels)
        elif self.kind == "input":
            gradients = self._input_gradients(prepared, labels)
        else:
            gradients = self._trunk_gradients(prepared, labels)
        joined = torch.empty((len(labels), self.dimension), dtype=torch.float64)
        parts = torch.split(joined, [piece.size for piece in self._pieces], dim=1)
        for piece, part in zip(self._pieces, parts, strict=True):
            part.copy_(gradients[piece.layer, piece.part].flatten(1))
        values: npt.NDArray[np.float64] = joined.numpy()
        return values

    def _input_gradients(self, prepared: Tensor, labels: Tensor) -> dict[tuple[str, str], Tensor]:
        with torch.no_grad():
            adapted = self.model.input_adapter(prepared)
        adapted.requires_grad_(True)
        logits = self.model.head(self.model.trunk(adapted))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (upstream,) = torch.autograd.grad(loss, adapted)
        gradients = self.model.input_adapter.row_gradients(prepared, upstream)
        return {
            (piece.layer, piece.part): gradients[f"{piece.layer}.{piece.part}".partition(".")[2]]
            for piece in self._pieces
        }

    def _head_gradients(self, features: Tensor, labels: Tensor) -> dict[tuple[str, str], Tensor]:
        with torch.no_grad():
            excess = self.model.head(features).softmax(dim=1)
            excess[torch.arange(len(labels)), labels] -= 1.0
            weight = excess[:, :, None] * features[:, None, :]
        return {("head", "weight"): weight, ("head", "bias"): excess}

    def _trunk_gradients(self, prepared: Tensor, labels: Tensor) -> dict[tuple[str, str], Tensor]:
        with _tapped(self._sites) as taps:
            loss = F.cross_entropy(self.tail(prepared), labels, reduction="sum")
        if sorted(taps) != sorted(self._sites):
            raise TaskError("an adapted layer of the trunk is not used exactly once")
        upstreams = torch.autograd.grad(loss, [output for _, output in taps.values()])
        gradients = {}
        with torch.no_grad():
            for (layer, (inputs, _)), upstream in zip(taps.items(), upstreams, strict=True):
                for part, values in self._sites[layer].row_gradients(inputs, upstream).items():
                    gradients[layer, part] = values
        return gradients

    def _parameter(self, piece: Piece) -> nn.Parameter:
        if piece.layer in self._sites:
            return self._sites[piece.layer].part(piece.part)
        return self.model.get_parameter(f"{piece.layer}.{piece.part}")


def _install(model: AdaptedModel, pieces: tuple[Piece, ...]) -> dict[str, TrunkAdapter]:
    """Put trunk adapters beside the layers that `pieces` name, by layer."""
    sites: dict[str, TrunkAdapter] = {}
    for layer in dict.fromkeys(piece.layer for piece in pieces):
        inner = layer.removeprefix(_TRUNK)
        base = model.trunk.get_submodule(inner)
        if type(base) is nn.Linear:
            down = torch.from_numpy(fixed_down(layer, base.in_features))
            sites[layer] = LoRALinear(base, down)
        elif type(base) is nn.Conv2d:
            sites[layer] = ResidualConvolution(base)
        else:
            raise TaskError(f"{layer} is a {type(base).__name__}, which has no adapter")
        install(model.trunk, inner, sites[layer])
    return sites


def _cut_in_two(
    model: AdaptedModel, kind: AdapterKind, sites: dict[str, TrunkAdapter]
) -> tuple[nn.Sequential, nn.Sequential]:
    """The layers before the adapter, and those from it on to the logits."""
    if kind == "input":
        return nn.Sequential(), nn.Sequential(model.input_adapter, model.trunk, model.head)
    if kind == "head":
        return nn.Sequential(model.input_adapter, model.trunk), nn.Sequential(model.head)
    if not isinstance(model.trunk, nn.Sequential):
        return nn.Sequential(model.input_adapter), nn.Sequential(model.trunk, model.head)
    inside = {id(site) for site in sites.values()}
    children = list(model.trunk)
    holds = [any(id(part) in inside for part in child.modules()) for child in children]
    first = holds.index(True)
    return (
        nn.Sequential(model.input_adapter, *children[:first]),
        nn.Sequential(*children[first:], model.head),
    )


@contextmanager
def _tapped(
    sites: dict[str, TrunkAdapter],
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Note what goes into and comes out of each site of a forward pass, in order."""
    taps: dict[str, tuple[Tensor, Tensor]] = {}
    calls: list[str] = []

    def tap(layer: str, inputs: Tensor, output: Tensor) -> Tensor:
        """Note one layer's input and output; answers what the layers behind it go on with."""
        calls.append(layer)
        if not output.requires_grad:
            output.requires_grad_(True)
        taps[layer] = (inputs.detach(), output)
        # A copy: an activation that works in place must not change what was noted.
        return output.clone()

    handles = [
        site.register_forward_hook(
            lambda _, given, output, layer=layer: tap(layer, given[0], output)
        )
        for layer, site in sites.items()
    ]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()
    if len(calls) != len(set(calls)):
        raise TaskError("an adapted layer of the trunk is used more than once")


def _check_adapters(model: AdaptedModel) -> None:
    """Everything stored under an adapter's name must be a parameter: its vector holds it all."""
    parts: tuple[tuple[str, nn.Module], ...] = (
        ("input_adapter", model.input_adapter),
        ("head", model.head),
    )
    for name, part in parts:
        if set(part.state_dict()) != {parameter for parameter, _ in part.named_parameters()}:
            raise TaskError(f"{name} stores something that is no parameter; keep it in the model")


def _check_rows(model: AdaptedModel, given: ModelInput) -> None:
    """Refuse a model whose answer to a row depends on the rows beside it.

    A clip bounds what a row adds, never what it would change in others. Not all that mixes rows
    stops in eval mode: batch statistics are used where none were kept. Tried on rows drawn from
    the public bounds; in batches of one size a row's answer is the same to the last bit.
    """
    middle = min(max(0.0, given.low), given.high)
    low, high = max(given.low, middle - _PROBED), min(given.high, middle + _PROBED)
    drawn = np.random.default_rng(0).uniform(low, high, (5, *given.shape)).astype(np.float32)
    with torch.no_grad():
        one, other = (model(torch.from_numpy(drawn[rows]))[0] for rows in ([0, 1, 2], [0, 3, 4]))
    if not torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True):
        raise TaskError("the model mixes rows of a batch: no clip would bound a single one")
