"""Records of choices that fit a plan, made without a study."""

from __future__ import annotations

from typing import Any

from fedge.config import TrainingSettings
from fedge.learning.planning import noise_multiplier, plan_training
from fedge.records import AdapterChoice, PrivacyPolicy, TrainingPlan, TriedAdapter


def tried(plan: TrainingPlan, *accuracies: float) -> TriedAdapter:
    """What a study would write about training like `plan`."""
    return TriedAdapter(
        adapter=plan.adapter,
        rounds=plan.rounds,
        steps=plan.steps,
        clip=plan.clip,
        learning_rate=plan.learning_rate,
        dimension=plan.dimension,
        noise_multiplier=noise_multiplier(plan),
        accuracies=accuracies,
    )


def choice_of(
    policy: PrivacyPolicy, *candidates: TriedAdapter, task: str = "digits", **changes: Any
) -> AdapterChoice:
    """A whole record under `policy`; figures are for two seeds."""
    values: dict[str, Any] = {
        "task": task,
        "epsilon": policy.epsilon,
        "delta": policy.delta,
        "policy_sha256": policy.content_sha256,
        "gateways": 5,
        "records": 300,
        "seeds": (1, 2),
        "stale": (0.25, 0.35),
        "candidates": candidates,
        "versions": {"fedge": "0.1.0"},
        "at": 1_795_000_000.0,
        "unit": policy.unit,
        "max_records": policy.max_records,
    }
    return AdapterChoice.sealed(**(values | changes))


def studied(policy: PrivacyPolicy, dimension: int = 26, **training: Any) -> TriedAdapter:
    """A candidate as planned under `policy` with `[training]` set like this."""
    return tried(plan_training(policy, TrainingSettings(**training), dimension), 0.7, 0.8)
