"""Policies as a ledger holds them: their form, and who approved them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedge.review.verifier import prices
from fedge.review.verifier.form import (
    FormError,
    canonical,
    hex64,
    hex128,
    listed,
    matches,
    number,
    one_of,
    real,
    require,
    said,
    sha256,
    shaped,
    signed_by,
    whole,
    without,
)
from fedge.review.verifier.limits import MAX_QUOTAS, TooMuchError, Work

APPROVAL = b"fedge policy approval 1\n"
LEAST_RHO = 1 / (2 * 10_000**2)
"""With noise of 10,000 records in each count no window says anything."""
LONGEST = {"seconds": 10 * 365 * 86_400, "windows": 10**6}
"""A block has one budget in its whole life."""


def _length(value: Any) -> bool:
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in LONGEST:
        return False
    return shaped({"kind": one_of(kind), "value": whole(1, LONGEST[kind] + 1)})(value)


_FIRST = {
    "schema_version": one_of(1),
    "epsilon": lambda value: type(value) is float and 0 < value <= 50,
    "delta": real(0, 1e-2),
    "alpha": whole(2, 1025),
    "telemetry_rho": lambda value: type(value) is float and value >= LEAST_RHO,
    "window_rho": lambda value: type(value) is float and value >= LEAST_RHO,
    "block": _length,
    "unit": one_of("record", "subject"),
    "adjacency": one_of("zero-out"),
}
_QUOTA = {
    "purpose": one_of("training", "evaluation", "features", "labels"),
    "task": matches(r"\*|[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,63}"),
    "share": lambda value: type(value) is float and 0 < value <= 1,
}
_SECOND = _FIRST | {
    "schema_version": one_of(2),
    "max_records": whole(1, 1001),
    "quotas": listed(shaped(_QUOTA), most=MAX_QUOTAS),
    "public": listed(said(200)),
}
_APPROVAL = {
    "schema_version": one_of(1),
    "policy_sha256": hex64,
    "reviewer": said(200),
    "reason": said(1000),
    "at": number,
    "public_key": hex64,
    "signature": hex128,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What of a policy the replay needs; `values` is the whole of it."""

    values: Mapping[str, Any]
    sha256: str
    epsilon: float
    delta: float
    alpha: int
    unit: str
    max_records: int
    telemetry_nano: int


def read_policy(value: Any, work: Work) -> Policy:
    """A policy in the form and within the ranges that fedge writes.

    Raises:
        FormError: it is not, or a block under it could never release anything.
        TooMuchError: it is one policy too many.
    """
    if not isinstance(value, dict):
        raise FormError("the policy is no object")
    try:
        data = canonical(value)
        known = work.known_policies.get(data)
        if known is None:
            work.take("policies")
            known = work.known_policies[data] = _read_policy(data)
    except TooMuchError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormError(str(error)) from error
    assert isinstance(known, Policy)
    return known


def _read_policy(data: bytes) -> Policy:
    value = json.loads(data)
    require(value, _SECOND if value.get("schema_version") == 2 else _FIRST, "the policy")
    max_records = value.get("max_records", 1)
    if value["window_rho"] > value["telemetry_rho"]:
        raise FormError("the policy: window_rho is larger than telemetry_rho")
    if value["unit"] == "record" and max_records != 1:
        raise FormError("the policy: max_records belongs to the unit subject")
    names = [(quota["purpose"], quota["task"]) for quota in value.get("quotas", ())]
    if len(set(names)) != len(names):
        raise FormError("the policy has two quotas for the same purpose and task")
    epsilon, delta, alpha = value["epsilon"], value["delta"], value["alpha"]
    telemetry, cap = prices.share(value["telemetry_rho"], alpha), prices.cap(epsilon, delta, alpha)
    if not telemetry <= cap:
        raise FormError("the policy leaves nothing to spend at its order")
    for quota in value.get("quotas", ()):
        _check_quota(value, quota, cap)
    return Policy(value, sha256(data), epsilon, delta, alpha, value["unit"], max_records, telemetry)


def _check_quota(policy: Mapping[str, Any], quota: Mapping[str, Any], cap: int) -> None:
    """Refuse a quota under which no window could ever be reported."""
    if quota["purpose"] not in ("features", "labels"):
        return
    if quota["task"] != "*":
        raise FormError("the policy has a quota of windows for one task: they are of one anyway")
    rho = Fraction(policy["window_rho"])
    if quota["purpose"] == "labels":
        rho = Fraction(policy["telemetry_rho"]) - rho
    if Fraction(quota["share"]) * cap < prices.share(rho, policy["alpha"]):
        raise FormError(f"the policy's quota of {quota['purpose']} does not hold one report")


def approval_fault(approval: Any, policy: Policy, reviewer_keys: Collection[str]) -> str:
    """What is wrong with an approval; empty where it is of this very policy."""
    try:
        require(approval, _APPROVAL, "the approval")
    except FormError as error:
        return str(error)
    if approval["policy_sha256"] != policy.sha256:
        return "the approval is for another policy"
    signed = APPROVAL + canonical(without(approval, "signature"))
    if not signed_by(approval["public_key"], approval["signature"], signed):
        return "the approval is forged: its signature does not fit"
    if reviewer_keys and approval["public_key"] not in reviewer_keys:
        return "the approval is by a reviewer whom nobody named"
    return ""
