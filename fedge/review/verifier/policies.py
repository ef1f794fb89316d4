"""Policies as a ledger holds them: their form, and who approved them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
    sha256,
    shaped,
    signed_by,
    text,
    whole,
    without,
)
from fedge.review.verifier.limits import MAX_QUOTAS, TooMuchError, Work

APPROVAL = b"fedge policy approval 1\n"

_FIRST = {
    "schema_version": one_of(1),
    "epsilon": lambda value: type(value) is float and 0 < value <= 50,
    "delta": real(0, 1e-2),
    "alpha": whole(2, 1025),
    "telemetry_rho": real(0, float("inf")),
    "window_rho": real(0, float("inf")),
    "block": shaped({"kind": one_of("windows", "seconds"), "value": whole(1, 2**53)}),
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
    "public": listed(text),
}
_APPROVAL = {
    "schema_version": one_of(1),
    "policy_sha256": hex64,
    "reviewer": text,
    "reason": text,
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

    @property
    def withholds_windows(self) -> bool:
        """Whether a window may be refused by the house's own rules, so that it is in no entry."""
        return any(one["purpose"] == "features" for one in self.values.get("quotas", ()))


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
    telemetry = prices.share(value["telemetry_rho"], alpha)
    if not telemetry <= prices.cap(epsilon, delta, alpha):
        raise FormError("the policy leaves nothing to spend at its order")
    return Policy(value, sha256(data), epsilon, delta, alpha, value["unit"], max_records, telemetry)


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
