"""Steps on Poisson samples for large runs: Opacus computes, we sample and draw the noise.

Every unit enters every sample by itself; an empty sample still makes a noised step. The
noise is continuous and everything is floating point: what is proven about it is proven
up to that. Sampler, clip, noise and the charged event come from one plan, and are held
against it before anything is drawn. The only module that loads Opacus.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule, register_grad_sampler
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from fedge.errors import ReservationError
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.units import Units
from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise
from fedge.records import TrainingPlan
from fedge.tasks.adapted import InputAdapter, one_thread

Vector = npt.NDArray[np.float32]
CHUNK_ROWS = 512
"""Rows whose gradients are held at once; a larger sample is added up in pieces."""


class PlannedOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus carries no types
    """Opacus's clipping and accumulation, with noise drawn under a grant.

    Args:
        parameters: what is trained.
        plan: fixes clip, noise, and step size over the expected sample.
    """

    def __init__(self, parameters: tuple[nn.Parameter, ...], plan: TrainingPlan) -> None:
        rate = plan.learning_rate / plan.step_divisor
        super().__init__(
            torch.optim.SGD(list(parameters), lr=rate),
            noise_multiplier=math.sqrt(plan.sigma2 / plan.sensitivity2),
            max_grad_norm=math.sqrt(plan.sensitivity2) / 2.0**plan.grid_bits,
            # A divisor that depended on the sample would tell its size.
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._plan = plan
        self.source: tuple[Noise, Grant] | None = None

    def add_noise(self) -> None:
        """Noise the summed gradient of all parameters as one vector."""
        if self.source is None or self._plan.rate_ppm is None:
            raise ReservationError("a sampled step was asked for without a grant")
        noise, grant = self.source
        exact = torch.cat([p.summed_grad.flatten() for p in self.params]).double().numpy()
        noisy = noise.gaussian(
            exact,
            unit=2.0**-self._plan.grid_bits,
            sensitivity2=self._plan.sensitivity2,
            sigma2=self._plan.sigma2,
            rate_ppm=self._plan.rate_ppm,
            grant=grant,
        )
        start = 0
        for parameter in self.params:
            piece = torch.from_numpy(noisy[start : start + parameter.numel()])
            parameter.grad = piece.to(parameter.dtype).view_as(parameter)
            start += parameter.numel()


class SampledSteps:
    """The planned steps of one run on Poisson samples of its records.

    Args:
        adapter: trained in place.
        plan: with `sampling` "poisson".
        prepared: what the adapter's tail is given, [n, ...].
        labels: int64 [n].
        units: whose gradients are bounded.
        noise: where samples and noise are drawn.
    """

    def __init__(
        self,
        adapter: TrainableAdapter,
        plan: TrainingPlan,
        prepared: Tensor,
        labels: Tensor,
        units: Units,
        noise: Noise,
    ) -> None:
        self._adapter, self._plan, self._noise = adapter, plan, noise
        self._prepared, self._labels, self._units = prepared, labels, units
        for parameter in adapter.parameters:
            parameter.requires_grad_(True)
        # Opacus has no rule for layers of ours; an input adapter brings its own closed form.
        register_grad_sampler(type(adapter.model.input_adapter))(_closed_form)
        self._module = GradSampleModule(adapter.tail, strict=False, loss_reduction="sum")
        _train_owners_only(self._module, adapter.parameters)
        self._optimizer = PlannedOptimizer(adapter.parameters, plan)

    def round(self, vector: Vector, grant: Grant) -> Vector:
        """The planned steps from `vector`, exactly; answers the change, float32 [dimension].

        Raises:
            ReservationError: the grant does not cover this, or what would run is not the plan.
        """
        self._adapter.set_change(vector)
        self._check_agrees(grant)
        self._optimizer.source = (self._noise, grant)
        try:
            with one_thread():
                for _ in range(self._plan.steps):
                    self._step()
        finally:
            self._optimizer.source = None
        return self._adapter.change() - vector

    def _step(self) -> None:
        rate = cast(int, self._plan.rate_ppm)
        chosen = self._noise.poisson_sample(self._units.number, rate)
        rows = np.flatnonzero(chosen[self._units.of_row] & self._units.counts)
        # A unit's rows stay together: its sum is clipped as one.
        rows = rows[np.argsort(self._units.of_row[rows], kind="stable")]
        pieces = _pieces(rows, self._units.of_row[rows])
        self._optimizer.zero_grad()
        for number, piece in enumerate(pieces):
            self._gradients(piece)
            last = number == len(pieces) - 1
            self._optimizer.signal_skip_step(do_skip=not last)
            self._optimizer.step()
            self._optimizer.zero_grad()

    def _gradients(self, rows: npt.NDArray[np.int64]) -> None:
        """Leave each unit's gradient of `rows` where the optimizer looks for it."""
        parameters = self._adapter.parameters
        if len(rows) == 0:
            for parameter in parameters:
                _samples(parameter).grad_sample = torch.zeros(0, *parameter.shape)
            return
        at = torch.from_numpy(rows)
        logits = self._module(self._prepared[at])
        with warnings.catch_warnings():
            # Nothing before the adapter has a gradient, and torch asks whether that is meant.
            warnings.simplefilter("ignore", UserWarning)
            F.cross_entropy(logits, self._labels[at], reduction="sum").backward()  # type: ignore[no-untyped-call]
        _, places = np.unique(self._units.of_row[rows], return_inverse=True)
        unit = torch.from_numpy(places.astype(np.int64))
        finite = torch.ones(len(rows), dtype=torch.bool)
        for parameter in parameters:
            finite &= _samples(parameter).grad_sample.flatten(1).isfinite().all(dim=1)
        sums = []
        for parameter in parameters:
            given = _samples(parameter).grad_sample
            summed = torch.zeros(int(unit.max()) + 1, *parameter.shape)
            sums.append(summed.index_add_(0, unit, _where(finite, given)))
        # Finite gradients of one unit may add up to infinity.
        bounded = torch.stack([one.flatten(1).isfinite().all(dim=1) for one in sums]).all(dim=0)
        for parameter, summed in zip(parameters, sums, strict=True):
            _samples(parameter).grad_sample = _where(bounded, summed)

    def _check_agrees(self, grant: Grant) -> None:
        """Refuse to run anything else than the plan, before a sample or noise is drawn."""
        plan, optimizer = self._plan, self._optimizer
        agrees = (
            grant.event.model_copy(update={"count": plan.steps}) == plan.round_event
            and grant.remaining >= plan.steps
            and isinstance(optimizer, DPOptimizer)
            and optimizer.loss_reduction == "sum"
            and optimizer.noise_multiplier == math.sqrt(plan.sigma2 / plan.sensitivity2)
            and optimizer.max_grad_norm == math.sqrt(plan.sensitivity2) / 2.0**plan.grid_bits
            and [id(p) for p in optimizer.params] == [id(p) for p in self._adapter.parameters]
            and [id(p) for p in self._module.parameters() if p.requires_grad]
            == [id(p) for p in self._module.parameters() if p in set(self._adapter.parameters)]
        )
        if not agrees:
            raise ReservationError("what would run is not what was planned and charged")


def _where(kept: Tensor, values: Tensor) -> Tensor:
    """`values` [n, ...] with zeros in the rows that are not kept; zero times NaN would be NaN."""
    return torch.where(kept.view(-1, *[1] * (values.dim() - 1)), values, 0.0)


def _pieces(
    rows: npt.NDArray[np.int64], units: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    """`rows` in pieces that hold whole units; one empty piece for an empty sample."""
    cuts = [
        # The first row of the unit that would be cut.
        int(np.searchsorted(units, units[at]))
        for at in range(CHUNK_ROWS, len(rows), CHUNK_ROWS)
    ]
    return np.split(rows, sorted({cut for cut in cuts if cut > 0}))


def _train_owners_only(module: nn.Module, parameters: tuple[nn.Parameter, ...]) -> None:
    """Opacus watches layers in train mode; all others, normalisations above all, stay frozen."""
    module.eval()
    trained = {id(parameter) for parameter in parameters}
    for layer in module.modules():
        if any(id(parameter) in trained for parameter in layer.parameters(recurse=False)):
            layer.training = True


def _closed_form(
    layer: InputAdapter, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Opacus's form of a rule for per-sample gradients."""
    gradients = layer.row_gradients(activations[0], backprops)
    return {layer.get_parameter(name): gradient for name, gradient in gradients.items()}


def _samples(parameter: nn.Parameter) -> Any:
    """The parameter as Opacus sees it, with per-sample gradients beside it."""
    return parameter
