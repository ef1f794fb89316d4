"""Which policy is in force, who allowed it, and how low the bound of an open block has fallen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedge.review.verifier.clocks import DAY, date
from fedge.review.verifier.faults import Fault
from fedge.review.verifier.form import moment
from fedge.review.verifier.limits import Work
from fedge.review.verifier.policies import Policy, approval_fault, read_policy
from fedge.review.verifier.verdict import Finding


@dataclass
class Adoptions:
    """All policies that a ledger adopted so far.

    Args:
        gateway: whose ledger it is.
        reviewer_keys: who may approve; nobody in particular where it is empty.
        findings: takes what a reviewer must know.
        work: what the verification may do.
    """

    gateway: str
    reviewer_keys: Collection[str]
    findings: list[Finding]
    work: Work
    policy: Policy | None = None
    approval: Mapping[str, Any] | None = None
    number: int = 0
    _falls: list[tuple[int, float]] = field(default_factory=list)
    _unsigned: dict[str, int] = field(default_factory=dict)
    _signed: set[str] = field(default_factory=set)

    def adopt(self, entry: Mapping[str, Any]) -> None:
        """Take in the policy that is in force from this entry on.

        Raises:
            Fault: nobody allowed it who may, or it was in force already.
            FormError: it is no policy.
            TooMuchError: it is one too many.
        """
        policy, approval = read_policy(entry["policy"], self.work), entry["approval"]
        if approval is not None:
            fault = approval_fault(approval, policy, self.reviewer_keys)
            if fault:
                raise Fault("approval", f"adopts a policy that was not approved: {fault}")
            self._signed.add(policy.sha256)
        elif self.reviewer_keys:
            raise Fault("approval", "adopts a policy that none of the named reviewers approved")
        else:
            self.note_unsigned(policy, entry["seq"])
        before = self.policy.sha256 if self.policy else None
        if (policy.sha256, approval) == (before, self.approval):
            raise Fault("policy", "adopts the same policy again")
        self._compare(policy, approval, entry)
        self.policy, self.approval = policy, approval
        # Only what is lower than all that came after it can still be the smallest since.
        while self._falls and self._falls[-1][1] >= policy.epsilon:
            self._falls.pop()
        self._falls.append((self.number, policy.epsilon))
        self.number += 1

    def lowest_since(self, number: int) -> float:
        """The smallest epsilon of the adoption with this number and of all later ones."""
        place = bisect_left(self._falls, (number, 0.0))
        return self._falls[place][1] if place < len(self._falls) else float("inf")

    def note_unsigned(self, policy: Policy, entry: int) -> None:
        """A policy is in use from this entry on, and nobody signed it there."""
        self._unsigned.setdefault(policy.sha256, entry)

    def conclude(self) -> None:
        """Say once of each policy that it was used and not signed.

        Entries of the first version hold no approvals. Who named reviewers wants to know that one
        of them allowed it: that does not follow, unless the same policy was signed elsewhere.
        """
        for sha256, entry in self._unsigned.items():
            unproven = bool(self.reviewer_keys) and sha256 not in self._signed
            what = "nobody signed the policy that it adopted"
            if unproven:
                what += ", so none of the named reviewers did"
            self._note("unsigned-policy", what, entry, unproven=unproven)

    def _compare(
        self, policy: Policy, approval: Mapping[str, Any] | None, entry: Mapping[str, Any]
    ) -> None:
        """An approval does not expire; one that comes back, or from the future, is shown."""
        if approval is None:
            return
        if approval["at"] > entry["at"] + DAY or not moment(approval["at"]):
            what = f"its policy was adopted before the date of the approval, {date(approval['at'])}"
            self._note("odd-approval-date", what, entry["seq"])
        if self.policy is None or self.approval is None:
            return
        if approval["at"] < self.approval["at"]:
            rises = policy.epsilon > self.policy.epsilon
            self._note(
                "older-approval",
                "a policy that was approved earlier took the place of one approved later"
                + (f": epsilon rose to {policy.epsilon:g} again" if rises else ""),
                entry["seq"],
                unproven=rises,
            )

    def _note(self, kind: str, what: str, entry: int, *, unproven: bool = False) -> None:
        self.findings.append(
            Finding(kind=kind, what=what, gateway=self.gateway, entry=entry, unproven=unproven)
        )
