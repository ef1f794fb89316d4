"""One gateway's part of a run: planned steps on its own records, every one noised.

Full batch: each unit's gradient is bounded and rounded toward zero onto an integer
grid, the exact integer sum is noised under a grant, and only then does it move the
adapter. Sampled: `fedge.learning.sampled` takes the steps. What `round` and `evaluate`
return is a function of noised values. Whether the gateway takes part, and the charge,
were decided before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from fedge.data.blocks import LabelledRecords
from fedge.errors import SettingError, UpdateInvalidError
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.units import units_of
from fedge.models.weights import Weights
from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise
from fedge.records import TrainingPlan
from fedge.tasks.adapted import one_thread
from fedge.tasks.code import TaskCode

if TYPE_CHECKING:
    from fedge.learning.sampled import SampledSteps

Vector = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
CACHED_CELLS = 2**15
"""Cells of gradients that are rounded at once: few enough to stay in a cache meanwhile."""


class TrainingSession:
    """Holds the records of one run and answers its messages.

    Args:
        code, weights: the committed release that training starts from.
        plan: fixed before any data was touched.
        records: labelled records in slot order; the first `plan.divisor` are used, and of those
            the first `plan.max_records` of a subject in a block where it is the unit.
        noise: where noise is drawn.

    Raises:
        SettingError: the plan does not fit the model.
    """

    def __init__(
        self,
        code: TaskCode,
        weights: Weights,
        plan: TrainingPlan,
        records: LabelledRecords,
        noise: Noise,
    ) -> None:
        self._adapter = TrainableAdapter(code, weights, plan.adapter)
        if plan.dimension != self._adapter.dimension:
            raise SettingError(
                f"the plan trains {plan.dimension} values, "
                f"the {plan.adapter} adapter has {self._adapter.dimension}"
            )
        self._plan, self._noise = plan, noise
        self._steps: SampledSteps | None = None
        self._take(code, records)

    def round(self, vector: Vector, grant: Grant) -> Vector:
        """The planned steps from `vector`; answers the change, float32 [dimension].

        Args:
            vector: float32 [dimension], change of the adapter against the release.
            grant: for `plan.steps` releases.

        Raises:
            UpdateInvalidError: `vector` has another shape or is not finite; nothing was noised.
            ReservationError: the grant does not cover this.
        """
        plan = self._plan
        current = self._checked(vector).astype(np.float64)
        if plan.sampling == "poisson":
            return self._sampled_round(current.astype(np.float32), grant)
        start = current.copy()
        for _ in range(plan.steps):
            self._adapter.set_change(current.astype(np.float32))
            with one_thread():
                gradients = self._adapter.row_gradients(self._prepared, self._labels)
            exact = exact_sum(self._units.sums(gradients), plan)
            noisy = self._noise.discrete_gaussian(
                exact, sensitivity2=plan.sensitivity2, sigma2=plan.sigma2, grant=grant
            )
            current -= plan.learning_rate * noisy / (2.0**plan.grid_bits * plan.step_divisor)
        return (current - start).astype(np.float32)

    def evaluate(self, vector: Vector, grant: Grant) -> int:
        """Noised difference of right answers: those of the candidate less the present release's.

        One number, because only the difference decides: it is as sensitive as each of two counts,
        and at the same charge its noise has half the variance of their difference.

        Raises:
            UpdateInvalidError: `vector` has another shape or is not finite; nothing was noised.
            ReservationError: the grant does not cover this.
        """
        self._adapter.set_change(self._checked(vector))
        with one_thread(), torch.no_grad():
            logits = self._adapter.logits(self._prepared).numpy()
        labels = self._labels.numpy()
        # A record whose logits are not finite is got right by nobody.
        right = (logits.argmax(axis=1) == labels) & np.isfinite(logits).all(axis=1)
        candidate = right & self._units.counts
        present = (self._predictions == labels) & self._units.counts
        event = self._plan.evaluation_event
        noisy = self._noise.discrete_gaussian(
            np.array([candidate.sum() - present.sum()], dtype=np.int64),
            sensitivity2=event.sensitivity2,
            sigma2=event.sigma2,
            grant=grant,
        )
        return int(noisy[0])

    def _sampled_round(self, vector: Vector, grant: Grant) -> Vector:
        # Opacus is slow to load: only runs that need it pay for it.
        from fedge.learning.sampled import SampledSteps

        if self._steps is None:
            rows = (self._prepared, self._labels, self._units)
            self._steps = SampledSteps(self._adapter, self._plan, *rows, self._noise)
        return self._steps.round(vector, grant)

    def _take(self, code: TaskCode, records: LabelledRecords) -> None:
        """Keep the planned records, clamped to public bounds; others count as null records."""
        bounds = code.schema.input
        count = min(len(records.labels), self._plan.divisor)
        labels = np.asarray(records.labels[:count], dtype=np.int64)
        # A null record keeps its place: in a batch of another size, the last bits of all other
        # rows' gradients would differ, and with them some of their grid cells.
        known = (labels >= 0) & (labels < len(code.schema.classes))
        self._units = units_of(records, known, self._plan)
        inputs = np.asarray(records.inputs[:count], dtype=np.float32)
        clamped = np.clip(inputs, bounds.low, bounds.high).reshape(-1, *bounds.shape)
        self._prepared = self._adapter.prepared(clamped)
        self._labels = torch.from_numpy(np.where(known, labels, 0))
        self._predictions = np.asarray(records.predictions[:count], dtype=np.int64)

    def _checked(self, vector: Vector) -> Vector:
        if vector.shape != (self._plan.dimension,) or not np.isfinite(vector).all():
            raise UpdateInvalidError(
                f"the adapter to start from is not {self._plan.dimension} finite values"
            )
        return vector.astype(np.float32)


def exact_sum(gradients: npt.NDArray[np.float64], plan: TrainingPlan) -> Integers:
    """Sum of all rows once they are `on_grid`, int64 [d]."""
    total: Integers = np.zeros(gradients.shape[1], dtype=np.int64)
    step = max(1, CACHED_CELLS // gradients.shape[1])
    for start in range(0, len(gradients), step):
        total += on_grid(gradients[start : start + step], plan).sum(axis=0, dtype=np.int64)
    return total


def on_grid(gradients: npt.NDArray[np.float64], plan: TrainingPlan) -> Integers:
    """Each row bounded to the plan's clip and rounded toward zero onto its grid.

    What becomes of a row depends on nothing but its own values, to the last bit.

    Args:
        gradients: float64 [n, d]; a row that is not finite, or whose norm is not, becomes zero.

    Returns:
        int64 [n, d]; the squared norm of every row is at most `plan.sensitivity2`, exactly.
    """
    norms = _norms(gradients)
    finite = np.isfinite(norms)
    if not finite.all():
        gradients, norms = np.where(finite, gradients, 0.0), np.where(finite, norms, 0.0)
    # One for a row within the clip. The grid's power of two costs no bit of it.
    factors = plan.clip / np.maximum(norms, plan.clip) * 2.0**plan.grid_bits
    # A cast rounds toward zero: to the nearest could push a norm above the bound.
    grid: Integers = (gradients * factors).astype(np.int64)
    while (over := np.einsum("ij,ij->i", grid, grid) > plan.sensitivity2).any():
        # The float arithmetic above may err in its last bits; the integers decide.
        grid[over] = np.trunc(grid[over] * (1 - 2.0**-20)).astype(np.int64)
    return grid


def _norms(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Length of each row, float64 [n, 1]; infinite or NaN for a row that holds such a value."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = _plain_norms(rows)
        wild = ~np.isfinite(norms)
        if wild.any():
            # Huge but finite values square to infinity: by a power of two smaller, they do not.
            norms[wild] = _plain_norms(rows[wild] * 2.0**-600) * 2.0**600
    return norms[:, None]


def _plain_norms(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Not einsum, which adds up a long row in pieces that depend on how many rows there are.
    norms: npt.NDArray[np.float64] = np.sqrt(np.add.reduce(rows * rows, axis=1))
    return norms
