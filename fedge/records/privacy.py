"""Privacy facts: what a mechanism did, and what a policy allows."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedge.records.base import (
    Count,
    PublicKeyHex,
    Record,
    Sha256,
    SignedRecord,
    Versioned,
)


class DiscreteGaussianEvent(Record):
    """`count` releases of an integer vector with discrete Gaussian noise.

    Attributes:
        sensitivity2: squared L2 sensitivity of one release under zero-out adjacency, in the
            integer grid's units: an exact integer, so that charges need no float.
        sigma2: variance parameter of the noise in the same units: an exact integer.
        count: how many such releases.
        dimension: integers in one release (does not enter the charge).

    One release costs rho = sensitivity2 / (2 * sigma2) zCDP (Canonne, Kamath, Steinke,
    "The Discrete Gaussian for Differential Privacy", 2020, theorem 4).
    """

    kind: Literal["discrete-gaussian"] = "discrete-gaussian"
    sensitivity2: int = Field(gt=0)
    sigma2: int = Field(gt=0)
    count: int = Field(gt=0, lt=2**31)
    dimension: int = Field(gt=0, lt=2**31)


class PoissonGaussianEvent(Record):
    """`count` releases of a sum over a Poisson sample, with continuous Gaussian noise.

    Attributes:
        rate_ppm: probability, in millionths, with which each record enters a sample by itself.
        sensitivity2, sigma2: squared L2 sensitivity of a sum and variance of the noise, in the
            same units: exact integers, so that the noise multiplier is an exact ratio.
        count: how many such releases.
        dimension: values in one release (does not enter the charge).

    Noise is drawn in floating point: the charge is proven up to that. Priced by the closed form
    at an integer order (Mironov, Talwar, Zhang, "Renyi Differential Privacy of the Sampled
    Gaussian Mechanism", 2019, section 3.3).
    """

    kind: Literal["poisson-gaussian"] = "poisson-gaussian"
    rate_ppm: int = Field(gt=0, lt=10**6)
    sensitivity2: int = Field(gt=0)
    sigma2: int = Field(gt=0)
    count: int = Field(gt=0, lt=2**31)
    dimension: int = Field(gt=0, lt=2**31)


PrivacyEvent = Annotated[DiscreteGaussianEvent | PoissonGaussianEvent, Field(discriminator="kind")]
"""Every mechanism that has a price. Another kind is refused when it is read."""


class BlockLength(Record):
    """How long a data block is: a number of full windows' slots, or seconds of clock time."""

    kind: Literal["windows", "seconds"]
    value: int = Field(gt=0)


class Quota(Record):
    """A part of a block's cap that one purpose may take: a rule of the house, no guarantee.

    Attributes:
        purpose: what the budget is spent on.
        task: only where that is for this task; `*` for every task.
        share: of the block's cap, in (0, 1].
    """

    purpose: Literal["training", "evaluation", "features", "labels"]
    task: Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,63})$")] = "*"
    share: float = Field(gt=0, le=1)


PUBLIC_BY_DESIGN = (
    "number and time of requests, labels and erasures",
    "which requests got a label, and which records were erased",
    # A subject's records beyond its limit are kept nowhere, so whose they are moves the place at
    # which a run has read as many labelled records as were planned.
    "which records are of one subject",
    "schema, bins and reference",
    "participation in runs",
)
"""What the guarantee never covers, whatever a policy adds."""


class PrivacyPolicy(Versioned):
    """What a gateway's owner allows: the same for every block opened under it.

    Attributes:
        epsilon, delta: the bound on everything ever released about one block.
        alpha: the one RDP order at which the filter runs, fixed before any data is seen.
        telemetry_rho: zCDP share that each block reserves for the releases about any one of
            its windows when it opens, so that training can never silence monitoring. What the
            feature report leaves of it pays for the window's label report.
        window_rho: zCDP charge of one window's feature report; at most `telemetry_rho`.
        block: length of a block.
        unit: whose bound it is: one record's, or one subject's with all its records in a block.
        max_records: records of one subject that count in a block; 1 where the unit is a record.
        quotas: parts of the cap that purposes may take.
        public: what the owner declares as not protected, besides `PUBLIC_BY_DESIGN`.
    """

    since: ClassVar[dict[str, int]] = {"max_records": 2, "quotas": 2, "public": 2}

    schema_version: Literal[1, 2] = 2
    epsilon: float = Field(gt=0, le=50)
    delta: float = Field(gt=0, lt=1e-2)
    alpha: int = Field(ge=2, le=1024)
    telemetry_rho: float = Field(gt=0)
    window_rho: float = Field(gt=0)
    block: BlockLength
    unit: Literal["record", "subject"] = "record"
    adjacency: Literal["zero-out"] = "zero-out"
    max_records: int = Field(default=1, ge=1, le=1000)
    quotas: tuple[Quota, ...] = ()
    public: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()

    @model_validator(mode="after")
    def _within_share(self) -> Self:
        if self.window_rho > self.telemetry_rho:
            raise ValueError("window_rho is larger than telemetry_rho")
        if self.unit == "record" and self.max_records != 1:
            raise ValueError("max_records belongs to the unit subject")
        if len({(quota.purpose, quota.task) for quota in self.quotas}) != len(self.quotas):
            raise ValueError("two quotas are for the same purpose and task")
        return self


class PolicyApproval(SignedRecord):
    """Who allowed a policy, and why: signed by that person's own key.

    Attributes:
        policy_sha256: of the policy's canonical bytes.
        reviewer, reason: for people.
        at: seconds since the epoch by the reviewer's clock.
        public_key: of the reviewer.
    """

    SIGNED: ClassVar[bytes] = b"fedge policy approval 1\n"

    schema_version: Literal[1] = 1
    policy_sha256: Sha256
    reviewer: str = Field(min_length=1, max_length=200)
    reason: str = Field(min_length=1, max_length=1000)
    at: float
    public_key: PublicKeyHex


class BlockSpending(Record):
    """Public facts of one block's ledger, in nano-RDP at the policy's order."""

    block: Count
    cap_nano: int = Field(ge=0)
    telemetry_nano: int = Field(ge=0)
    training_nano: int = Field(ge=0)
    epsilon: float = Field(ge=0)
