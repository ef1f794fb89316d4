"""What a compliance report says, before it is worded or drawn.

Every number comes from ledger entries that the verifier replayed, or from evidence that
is named as the exporter's word. The verdict is derived, never stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedge.records import PrivacyPolicy
from fedge.review.budget import BlockBudget
from fedge.review.verifier import HARMLESS

Verdict = Literal["proven", "unproven", "rejected"]
KeyKind = Literal["witness", "reviewer", "gateway"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """Something the verifier found.

    Attributes:
        gateway: fingerprint, empty where the bundle as a whole is meant. name: for people.
        entry: number in the gateway's ledger.
        unproven: the guarantee cannot be called proven while this stands.
        kind: the verifier's short word for it; empty where the report itself noticed it.
    """

    gateway: str
    name: str
    entry: int | None
    what: str
    unproven: bool
    kind: str = ""

    @property
    def reserves(self) -> bool:
        """Whether the verdict is not to be read without it; so is every kind not known here."""
        return not self.unproven and self.kind not in HARMLESS


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key that signatures in the bundle were checked with.

    Attributes:
        name: whose it is, as the bundle says.
        fingerprint: what gateways are named by: the start of the key's SHA-256, 32 hex digits.
        public_key: Ed25519, 64 hex digits.
        given: whether the caller of the verifier named it; else the bundle alone does.
    """

    kind: KeyKind
    name: str
    fingerprint: str
    public_key: str
    given: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockLine:
    """One block: the ledger's arithmetic beside the verifier's.

    Attributes:
        verified_nano: what the verifier says was spent; None where it was not reached.
        verified_epsilon: the bound that this amounts to, by the verifier.
    """

    budget: BlockBudget
    verified_nano: int | None
    verified_epsilon: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Mechanism:
    """One priced event: what was noised, how often, and how.

    Attributes:
        purpose: `features`, `labels`, `training`, `evaluation`, ...
        sampling: `full` or `poisson`. rate: share of records in a sample; 1 for `full`.
        noise_multiplier: standard deviation of the noise over the sensitivity.
    """

    purpose: str
    kind: str
    sampling: str
    rate: float
    sensitivity2: int
    sigma2: int
    count: int
    dimension: int

    @property
    def noise_multiplier(self) -> float:
        return float((self.sigma2 / self.sensitivity2) ** 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """One entry that charged a block.

    Attributes:
        about: `window 3`, or a run's id.
        ledger_nano, verified_nano: what it cost the block that it cost most, by the ledger's
            arithmetic and by the verifier's.
        released: parts of it that were noised and kept to be sent.
        noise: kinds of randomness that they were noised with.
    """

    gateway: str
    name: str
    entry: int
    at: float
    kind: Literal["window", "run"]
    about: str
    blocks: tuple[int, ...]
    mechanisms: tuple[Mechanism, ...]
    ledger_nano: int
    verified_nano: int | None
    released: int
    noise: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyChange:
    """A policy that a gateway adopted.

    Attributes:
        reviewer, reason: who signed for it and why; empty where nobody did.
        reviewer_key: 64 hex digits.
    """

    gateway: str
    name: str
    entry: int
    at: float
    policy: PrivacyPolicy
    reviewer: str
    reason: str
    reviewer_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """Erasure, exclusion or recovery, as the ledger holds it."""

    gateway: str
    name: str
    entry: int
    at: float
    kind: Literal["erased", "excluded", "recovered", "lost"]
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Integrity:
    """How far signatures reach over one ledger.

    Attributes:
        signed, witnessed: entries under the largest head of the gateway, of the witness; 0: none.
        root: of the largest head, in hex.
        lag: what the exporter knows to be missing, in words; empty where it says that nothing is,
            None where it says nothing about this ledger.
        settled, linked: parts that were released; how many of their envelopes are in the bundle.
    """

    gateway: str
    name: str
    entries: int
    signed: int
    witnessed: int
    witnessed_at: float | None
    root: str
    lag: str | None
    settled: int
    linked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """How many retrainings like the latest one still fit.

    Attributes:
        run_id: of the latest run of this gateway.
        cost_nano: what it charged each block.
        fits: by block that is open, how many more.
        fresh: how many a block carries that opens under the present policy.
    """

    gateway: str
    name: str
    run_id: str
    cost_nano: int
    fits: Mapping[int, int]
    fresh: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAccuracy:
    """Accuracy on public evaluation rows of one class; None where it was not measured."""

    label: str
    rows: int
    stale: float | None
    private: float | None
    nonprivate: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """An audit of the implementation, as the exporter put it in.

    Attributes:
        claimed: the bound that was audited. lower: what an attacker was shown to reach at least.
        passed: None where the evidence does not say.
        release: counter of the release that was audited; None where the code was.
    """

    name: str
    at: str
    method: str
    claimed: float | None
    lower: float | None
    passed: bool | None
    release: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A tighter figure that proves nothing: for comparison only."""

    gateway: str
    name: str
    block: int
    epsilon: float
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ComplianceReport:
    """Everything a report is made of.

    Attributes:
        bundle_sha256: of the file, also where nothing else of it could be read; empty where even
            that could not.
        made_at, made_by, exporter_key, fedge: which bundle this is about; None and empty where
            that could not be read.
        verified_at: when the verifier ran, seconds since the epoch.
        as_of: when the ledger that was confirmed longest ago was as it was last confirmed, by the
            clock of gateway or witness that says the earlier time, or as it was last signed where
            nobody confirms; None where one never was, or all is rejected.
        unpinned: kinds of keys that were taken from the bundle itself.
        keys: what signatures were checked with.
        deviation: why the bundle is rejected; then nothing below it is to be believed.
        blocks: the worst first.
        exposure: bound of a subject present in so many blocks like the worst one.
        controller: contacts from the controller's own file; empty where it gave none.
        releases: what was published, as the bundle names it.
    """

    bundle_sha256: str
    made_at: float | None
    made_by: str
    exporter_key: str
    fedge: str
    simulated: bool
    verified_at: float
    as_of: float | None
    unpinned: tuple[KeyKind, ...]
    keys: tuple[Key, ...]
    deviation: Remark | None
    remarks: tuple[Remark, ...]
    blocks: tuple[BlockLine, ...]
    charges: tuple[Charge, ...]
    projections: tuple[Projection, ...]
    policies: tuple[PolicyChange, ...]
    incidents: tuple[Incident, ...]
    integrity: tuple[Integrity, ...]
    exposure: Mapping[int, float]
    estimates: tuple[Estimate, ...]
    audits: tuple[AuditResult, ...]
    accuracy: tuple[ClassAccuracy, ...]
    accuracy_about: str
    releases: tuple[Mapping[str, Any], ...]
    controller: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        """`rejected` with a deviation, `unproven` with a finding that matters, else `proven`."""
        if self.deviation is not None:
            return "rejected"
        if not self.blocks or any(remark.unproven for remark in self.remarks):
            return "unproven"
        return "proven"

    @property
    def pinned(self) -> bool:
        """Whether all keys came from outside the bundle; else it is its own witness."""
        return not self.unpinned

    @property
    def reservations(self) -> tuple[Remark, ...]:
        """Remarks without which the verdict says too much."""
        return tuple(remark for remark in self.remarks if remark.reserves)

    @property
    def excluded(self) -> Mapping[str, int]:
        """What ledgers leave out of the bound: in how many blocks, by kind."""
        return dict(sorted(Counter(w for b in self.blocks for w in b.budget.excluded).items()))

    @property
    def caps(self) -> Mapping[tuple[str, int], int]:
        """What each block may spend in all, in nano-RDP, by gateway and block."""
        return {(b.budget.gateway, b.budget.block): b.budget.cap_nano for b in self.blocks}

    @property
    def worst(self) -> BlockLine | None:
        return self.blocks[0] if self.blocks else None

    @property
    def present_policies(self) -> tuple[PrivacyPolicy, ...]:
        """Policies under which blocks are open, each once, the one with most blocks first."""
        found: dict[PrivacyPolicy, int] = {}
        for line in self.blocks:
            found[line.budget.policy] = found.get(line.budget.policy, 0) + 1
        return tuple(sorted(found, key=lambda policy: -found[policy]))
