"""From the gateways' updates to the next adapter: a list of checks, then a plain mean.

Weights are equal and public: a weight by record count would leak it. Needs no torch.
Whose updates these are was verified before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fedge.errors import UpdateInvalidError
from fedge.records import TrainingPlan

Vector = npt.NDArray[np.float32]
Check = Callable[[Vector, TrainingPlan], None]

_NOISE_TAIL = 8.0
"""Standard deviations of noise that an honest update may hold beyond its expected length."""


def has_planned_shape(update: Vector, plan: TrainingPlan) -> None:
    """Refuse an update of another length or type."""
    if update.dtype != np.float32 or update.shape != (plan.dimension,):
        raise UpdateInvalidError(
            f"an update of {update.dtype}{list(update.shape)}, planned float32[{plan.dimension}]"
        )


def is_finite(update: Vector, _: TrainingPlan) -> None:
    """Refuse NaN and infinity."""
    if not np.isfinite(update).all():
        raise UpdateInvalidError("an update holds NaN or infinity")


def within_norm(update: Vector, plan: TrainingPlan) -> None:
    """Refuse an update longer than planned steps of clipped gradients and noise can make it."""
    norm = float(np.linalg.norm(update.astype(np.float64)))
    if not norm <= norm_bound(plan):  # catches NaN too
        raise UpdateInvalidError(f"an update of norm {norm:.3g}, at most {norm_bound(plan):.3g}")


CHECKS: tuple[Check, ...] = (has_planned_shape, is_finite, within_norm)  # order matters


def norm_bound(plan: TrainingPlan) -> float:
    """How long an honest update of one round can be, but for noise beyond eight sigma."""
    # Every planned unit may fall into every sample.
    drift = plan.steps * plan.clip * plan.divisor / plan.step_divisor
    sigma = math.sqrt(plan.steps * plan.sigma2) / 2.0**plan.grid_bits / plan.step_divisor
    return plan.learning_rate * (drift + sigma * (math.sqrt(plan.dimension) + _NOISE_TAIL))


def check_update(update: Vector, plan: TrainingPlan, checks: Sequence[Check] = CHECKS) -> None:
    """Apply `checks` in order.

    Raises:
        UpdateInvalidError: one of them refused.
    """
    for check in checks:
        check(update, plan)


def mean_update(
    updates: Sequence[Vector], plan: TrainingPlan, checks: Sequence[Check] = CHECKS
) -> Vector:
    """The mean of updates that all pass `checks`, float32 [dimension].

    Raises:
        UpdateInvalidError: one of them does not pass, or there is none.
    """
    if not updates:
        raise UpdateInvalidError("there is no update to sum")
    for update in updates:
        check_update(update, plan, checks)
    mean: Vector = (np.stack(updates).astype(np.float64).sum(axis=0) / len(updates)).astype("<f4")
    return mean
