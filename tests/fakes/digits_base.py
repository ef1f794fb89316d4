"""What tests of training and building share: one trained base model, records, exact noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.learning.planning import plan_training
from fedge.models.weights import Weights
from fedge.privacy.grants import Grant
from fedge.privacy.noise import NoiseKind
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, PrivacyEvent, PrivacyPolicy, TrainingPlan
from fedge.tasks.camera import Fault, capture
from fedge.tasks.digits import CODE, gateway_share

BLOCK = BlockLength(kind="windows", value=400)


def demo_policy(epsilon: float = 3.0) -> PrivacyPolicy:
    """The policy that the demonstration runs under."""
    return new_policy(
        epsilon=epsilon, delta=1e-5, block=BLOCK, telemetry_rho=0.0281, window_rho=0.0281
    )


def plan(dimension: int = 26, **settings: Any) -> TrainingPlan:
    """A plan under the demonstration's policy."""
    return plan_training(demo_policy(), TrainingSettings(**settings), dimension)


@lru_cache(maxsize=1)
def base_weights() -> Weights:
    """The base model of `digits` for seed 1; trained once per test process."""
    return CODE.base_weights(1)


def camera_records(fault: Fault, seed: int, gateway: int = 0, count: int = 300) -> LabelledRecords:
    """Labelled captures of one of five gateways' private glyphs; present predictions all 0."""
    share = gateway_share(gateway, 5)
    rng = np.random.default_rng([seed, gateway])
    chosen = rng.integers(0, len(share), size=count)
    return LabelledRecords(
        slots=np.arange(count),
        blocks=np.zeros(count, dtype=np.int64),
        inputs=capture(share.images[chosen], rng, fault).reshape(count, 64),
        labels=share.labels[chosen],
        predictions=np.zeros(count, dtype=np.int64),
    )


def grant(event: PrivacyEvent, count: int | None = None) -> Grant:
    """A simulated grant for `event`."""
    event = event if count is None else event.model_copy(update={"count": count})
    return Grant(1, "test", event, simulated=True)


class ExactNoise:
    """Draws no noise and remembers what it was asked to noise; obeys grants like a real one."""

    kind: NoiseKind = "seeded"

    def __init__(self) -> None:
        self.exact: list[npt.NDArray[np.int64]] = []

    def discrete_gaussian(
        self,
        exact: npt.NDArray[np.int64],
        *,
        sensitivity2: int,
        sigma2: int,
        grant: Grant,
    ) -> npt.NDArray[np.int64]:
        grant.take(sensitivity2, sigma2, exact.size)
        self.exact.append(exact.copy())
        return exact
