"""The form of a retraining's plan, and what it charges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedge.review.verifier.form import (
    Shape,
    count,
    hex64,
    listed,
    name32,
    nullable,
    one_of,
    plain_name,
    run_name,
    shaped,
    whole,
    word,
)

Values = Mapping[str, Any]


def _amount(value: Any) -> bool:
    return type(value) is float and 0 < value <= 1e6


_PLAN: Shape = {
    "adapter": one_of("input", "head", "lora-b", "lora", "conv"),
    "rounds": whole(1, 17),
    "steps": whole(1, 10_001),
    "clip": _amount,
    "learning_rate": _amount,
    "divisor": whole(1, 2**31),
    "grid_bits": whole(1, 41),
    "sigma2": whole(1, 2**100 + 1),
    "evaluation_sigma2": whole(1, 2**100 + 1),
    "dimension": whole(1, 2**31),
    "sampling": one_of("full", "poisson"),
    "rate_ppm": nullable(whole(1, 10**6)),
    "unit": one_of("record", "subject"),
    "max_records": whole(1, 1001),
}


def _plan(value: Any) -> bool:
    """A plan that can be carried out: its clip is a number of grid steps, and not too many."""
    if not shaped(_PLAN)(value) or (value["unit"] == "record" and value["max_records"] != 1):
        return False
    steps = value["clip"] * 2 ** value["grid_bits"]
    return bool(1 <= steps < 2**27 and int(steps) ** 2 <= 2**52)


_PARTICIPANT: Shape = {
    "gateway": name32,
    "public_key": hex64,
    "first_window": count,
    "last_window": count,
}
_SPEC: Shape = {
    "run_id": run_name,
    "task": plain_name,
    "base_release": whole(1, 2**53),
    "base_sha256": hex64,
    "plan": _plan,
    "participants": listed(shaped(_PARTICIPANT), least=1, most=100_000),
    "episodes": listed(word),
}
_CHOSEN: Shape = {**_SPEC, "choice_sha256": hex64}
"""A plan that names the recorded choice of its adapter; one without leaves the field out."""


def _spec(value: Any) -> bool:
    return shaped(_CHOSEN if isinstance(value, dict) and "choice_sha256" in value else _SPEC)(value)


RUN: Shape = {
    "run_id": word,
    "spec": _spec,
    "adapter_sha256": nullable(hex64),
    "update_sha256": listed(hex64),
    "counts_sha256": listed(hex64),
    "release": nullable(whole(1, 2**53)),
}


def events_of(plan: Values, *, first: bool) -> list[Values]:
    """What a plan charges: all steps of all rounds, and the evaluation.

    Args:
        first: as the first version did it, with two counts where now is one difference.
    """
    bound = int(plan["clip"] * 2 ** plan["grid_bits"])
    training = {
        "kind": "discrete-gaussian",
        "sensitivity2": bound * bound,
        "sigma2": plan["sigma2"],
        "count": plan["rounds"] * plan["steps"],
        "dimension": plan["dimension"],
    }
    if plan["sampling"] == "poisson":
        training |= {"kind": "poisson-gaussian", "rate_ppm": plan["rate_ppm"]}
    evaluation = {
        "kind": "discrete-gaussian",
        "sensitivity2": 1 if first else plan["max_records"] ** 2,
        "sigma2": plan["evaluation_sigma2"],
        "count": 1,
        "dimension": 2 if first else 1,
    }
    return [training, evaluation]
