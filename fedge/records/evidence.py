"""What an audit of ourselves measured: a lower bound on epsilon beside the claimed one.

Facts are fields, verdicts derived: a stored record cannot say "passed" beside numbers
that do not. Lower bounds hold with the stated confidence; that one stays under the claim
proves nothing by itself, which is why an audit of training also plants bugs that it must
find.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedge.records.base import Count, Name, Record

AuditKind = Literal["multi-run", "one-run"]


class AuditedCase(Record):
    """One program that was audited: the code as it is, or with a bug planted in it.

    Attributes:
        name: in words, such as "the code" or "halved noise".
        seeded_bug: whether a bug was planted, which the audit must flag.
        counted_epsilon: lower bound from counts alone (Clopper-Pearson; for one run, the
            bound of Steinke, Nasr and Jagielski 2023), at the claim's delta.
        gaussian_epsilon: lower bound on the assumption that error rates trade off as those of
            a Gaussian mechanism, at the same delta; None where it was not estimated.
        claimed_epsilon: what the ledger charged this program's trainings with, where the audit's
            own claim is about others.
    """

    name: str = Field(min_length=1, max_length=64)
    seeded_bug: bool
    counted_epsilon: float = Field(ge=0)
    gaussian_epsilon: float | None = Field(default=None, ge=0)
    claimed_epsilon: float | None = Field(default=None, gt=0)

    @property
    def lower_bound(self) -> float:
        """The larger of the two bounds."""
        return max(self.counted_epsilon, self.gaussian_epsilon or 0.0)


class AuditEvidence(Record):
    """The outcome of one audit.

    Attributes:
        kind: many trainings of a toy with and without one worst-case record, or one training
            with many canaries, each in it by a fair coin.
        at: when it ended, seconds since the epoch.
        versions: of what computed it, by name.
        task: what was trained.
        release: counter of the release that it is evidence for; None where it is about the code.
        runs: trainings of each case.
        canaries: records whose presence was guessed, in each training.
        claimed_epsilon, delta: what the ledger charged the trainings with.
        confidence: with which each lower bound holds.
        cases: the code as it is, and seeded bugs.
    """

    schema_version: Literal[1] = 1
    kind: AuditKind
    at: float
    versions: dict[str, str]
    task: Name
    release: Count | None = None
    runs: int = Field(ge=1)
    canaries: int = Field(ge=1)
    claimed_epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    cases: tuple[AuditedCase, ...] = Field(min_length=1)

    @property
    def lower_bound(self) -> float | None:
        """The largest lower bound on the code as it is under the audit's own claim; None where no
        such case was audited."""
        own = (c for c in self.cases if not c.seeded_bug and c.claimed_epsilon is None)
        return max((c.lower_bound for c in own), default=None)

    @property
    def bugs_seeded(self) -> tuple[str, ...]:
        """Names of the bugs that were planted."""
        return tuple(case.name for case in self.cases if case.seeded_bug)

    @property
    def bugs_flagged(self) -> tuple[str, ...]:
        """Names of the planted bugs that the audit found: their bound exceeds the claim."""
        return tuple(c.name for c in self.cases if c.seeded_bug and self.flags(c))

    @property
    def passed(self) -> bool:
        """The code's bounds stay under their claims, and every planted bug was found.

        An audit of many runs that planted none has shown nothing.
        """
        within = not any(self.flags(case) for case in self.cases if not case.seeded_bug)
        found = self.bugs_flagged == self.bugs_seeded
        planted = self.kind == "one-run" or bool(self.bugs_seeded)
        return self.lower_bound is not None and within and found and planted

    def claim_of(self, case: AuditedCase) -> float:
        """What a case's bound is held against."""
        return self.claimed_epsilon if case.claimed_epsilon is None else case.claimed_epsilon

    def flags(self, case: AuditedCase) -> bool:
        """Whether a case violates its claim."""
        return case.lower_bound > self.claim_of(case)
