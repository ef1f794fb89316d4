"""Policies as a ledger holds them: their form, who approved them, what they allow a block."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
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

APPROVAL = b"fedge policy approval 1\n"

_FIRST = {
    "schema_version": one_of(1),
    "epsilon": lambda value: type(value) is float and 0 < value <= 50,
    "delta": real(0, 1e-2),
    "alpha": whole(2, 1025),
    "telemetry_rho": real(0, float("inf")),
    "window_rho": real(0, float("inf")),
    "block": shaped({"kind": one_of("windows", "seconds"), "value": whole(1)}),
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
    "quotas": listed(shaped(_QUOTA)),
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


def read_policy(value: Any) -> Policy:
    """A policy in the form and within the ranges that fedge writes.

    Raises:
        FormError: it is not, or a block under it could never release anything.
    """
    if not isinstance(value, dict):
        raise FormError("the policy is no object")
    try:
        return _read_policy(canonical(value))
    except (ValueError, RecursionError) as error:
        raise FormError(str(error)) from error


@lru_cache(maxsize=256)
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


@dataclass(slots=True)
class Account:
    """What is charged to one open block.

    Attributes:
        epsilon: the smallest adopted since it opened, its own included.
        training_nano: by runs.
        uses: the same by (purpose, task).
        window_nano: reserved about each of its windows.
        window_uses: the most about one window, by purpose.
    """

    policy: Policy
    epsilon: float
    training_nano: int = 0
    runs: int = 0
    windows: int = 0
    uses: dict[tuple[str, str], int] = field(default_factory=dict)
    window_nano: dict[int, int] = field(default_factory=dict)
    window_uses: dict[str, int] = field(default_factory=dict)

    @property
    def cap_nano(self) -> int:
        """At the order and delta of its opening; never below 0."""
        return max(0, _cap(self.epsilon, self.policy.delta, self.policy.alpha))

    @property
    def spent_nano(self) -> int:
        return self.training_nano + self.policy.telemetry_nano

    def charge_window(self, window: int, purpose: str, nano: int) -> str:
        """Take what is reserved about a window; says what forbids it, if anything."""
        total = self.window_nano.get(window, 0) + nano
        if total > self.policy.telemetry_nano:
            return (
                f"overdraws the monitoring share of window {window}: {total} nano-RDP of "
                f"{self.policy.telemetry_nano}"
            )
        self.window_nano[window] = total
        self.window_uses[purpose] = max(self.window_uses.get(purpose, 0), nano)
        self.windows += 1
        return ""

    def charge_run(self, parts: Mapping[str, int], task: str) -> str:
        """Take a run's prices by purpose; says what forbids it, if anything."""
        total = self.spent_nano + sum(parts.values())
        if total > self.cap_nano:
            return f"{total} nano-RDP of {self.cap_nano}"
        for purpose, nano in parts.items():
            use = (purpose, task)
            self.uses[use] = self.uses.get(use, 0) + nano
        self.training_nano += sum(parts.values())
        self.runs += 1
        return ""

    def exceeded_quotas(self) -> list[str]:
        """Quotas of its policy that were taken more than in full: rules of the house."""
        exceeded = []
        for quota in self.policy.values.get("quotas", ()):
            purpose, task = quota["purpose"], quota["task"]
            used = sum(
                nano
                for use, nano in self.uses.items()
                if use[0] == purpose and task in ("*", use[1])
            )
            if task == "*":
                used = max(used, self.window_uses.get(purpose, 0))
            if used > Fraction(quota["share"]) * max(self.cap_nano, self.spent_nano):
                exceeded.append(f"{purpose} of {'every task' if task == '*' else task}")
        return exceeded


@lru_cache(maxsize=4096)
def _cap(epsilon: float, delta: float, alpha: int) -> int:
    return prices.cap(epsilon, delta, alpha)
