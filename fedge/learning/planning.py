"""What a run's training will do and cost, fixed before any data is touched.

Reads the policy and public settings only, needs no torch, and gives the same plan
for the same input: the noise is the smallest that the block's budget allows once
monitoring and the evaluation have their share.
"""

from __future__ import annotations

import math
from fractions import Fraction

from pydantic import ValidationError

from fedge.config import TrainingSettings
from fedge.errors import SettingError
from fedge.privacy.quotas import limit_nano
from fedge.privacy.rdp import (
    NANO,
    cap_nano,
    event_nano,
    smallest_poisson_sigma2,
    telemetry_nano,
)
from fedge.records import PrivacyPolicy, TrainingPlan
from fedge.records.base import first_fault

GRID_BITS = 16
"""Gradients are rounded to 2^-16: the rounding stays a hundredth of the clip's noise or less."""


def plan_training(
    policy: PrivacyPolicy, settings: TrainingSettings, dimension: int
) -> TrainingPlan:
    """The plan of a run that may take all that a fresh block has for training.

    Up to `settings.sample_above` planned records every step reads all of them, rounded to an
    integer grid under discrete noise; beyond, a Poisson sample under continuous noise, whose
    charge is proven up to floating point.

    Args:
        dimension: length of the adapter's vector.

    Raises:
        SettingError: monitoring and the evaluation leave nothing, or a quota does not; the clip
            is finer than the grid, or a number is out of range, that of the noise too.
    """
    rate = _rate_ppm(settings)
    try:
        blank = TrainingPlan(
            adapter=settings.adapter,
            rounds=settings.rounds,
            steps=settings.steps,
            clip=settings.clip,
            learning_rate=settings.learning_rate,
            divisor=settings.records,
            grid_bits=GRID_BITS,
            sigma2=1,
            # Rounded up: the charge must not exceed the rho that was set.
            evaluation_sigma2=math.ceil(
                policy.max_records**2 / (2 * Fraction(settings.evaluation_rho))
            ),
            dimension=dimension,
            sampling="full" if rate is None else "poisson",
            rate_ppm=rate,
            unit=policy.unit,
            max_records=policy.max_records,
        )
    except ValidationError as error:
        raise SettingError(f"training: {first_fault(error, 'plan')}") from error
    evaluation = event_nano(blank.evaluation_event, policy.alpha)
    left = cap_nano(policy) - telemetry_nano(policy) - evaluation
    if left <= 0:
        raise SettingError(
            f"the policy (epsilon {policy.epsilon:g}) leaves nothing for training: telemetry_rho "
            f"{policy.telemetry_rho:g} and evaluation_rho {settings.evaluation_rho:g} take it all"
        )
    return _noised(blank, policy.alpha, min(left, _quota_nano(policy)))


def _rate_ppm(settings: TrainingSettings) -> int | None:
    """Rate at which `settings.sample` of the planned records are expected; None: all are read."""
    if settings.records <= settings.sample_above:
        return None
    return min(10**6 - 1, max(1, round(10**6 * settings.sample / settings.records)))


def _quota_nano(policy: PrivacyPolicy) -> int:
    """What quotas allow training, whichever task they are for; the cap where there is none.

    A plan that some gateway must refuse trains nothing.
    """
    cap = cap_nano(policy)
    limits = [limit_nano(quota, cap) for quota in policy.quotas if quota.purpose == "training"]
    least = min([cap, *limits])
    if least <= 0:
        raise SettingError("a quota of the policy is so small that it leaves nothing for training")
    return least


def _noised(plan: TrainingPlan, alpha: int, nano: int) -> TrainingPlan:
    """`plan` with the smallest noise at which its steps cost at most `nano`; checked again."""
    values = plan.model_dump() | {"sigma2": _calibrated(plan, alpha, nano)}
    try:
        return TrainingPlan.model_validate(values)
    except ValidationError as error:
        raise SettingError(f"training: {first_fault(error, 'plan')}") from error


def _calibrated(plan: TrainingPlan, alpha: int, nano: int) -> int:
    """The smallest noise variance at which all steps of `plan` cost at most `nano`."""
    steps, _ = plan.events
    if plan.rate_ppm is None:
        return smallest_sigma2(steps.sensitivity2, steps.count, alpha, nano)
    return smallest_poisson_sigma2(
        rate_ppm=plan.rate_ppm,
        sensitivity2=steps.sensitivity2,
        count=steps.count,
        alpha=alpha,
        nano=nano,
    )


def smallest_sigma2(sensitivity2: int, count: int, alpha: int, nano: int) -> int:
    """The smallest noise variance at which `count` releases cost at most `nano` at `alpha`.

    Exact: ceil(NANO * alpha * count * sensitivity2 / (2 * sigma2)) <= nano.
    """
    return max(1, -(-NANO * alpha * count * sensitivity2 // (2 * nano)))


def noise_multiplier(plan: TrainingPlan) -> float:
    """Standard deviation of the noise on a step's sum of gradients, in clips."""
    return math.sqrt(plan.sigma2 / plan.sensitivity2)


def run_nano(plan: TrainingPlan, alpha: int) -> int:
    """What the whole run charges every block that it reads, in nano-RDP at `alpha`."""
    return sum(event_nano(event, alpha) for event in plan.events)
