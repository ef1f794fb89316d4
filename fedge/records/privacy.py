"""Privacy facts: what a mechanism did, and what a policy allows."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedge.records.base import Count, Record


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


class BlockLength(Record):
    """How long a data block is: a number of full windows' slots, or seconds of clock time."""

    kind: Literal["windows", "seconds"]
    value: int = Field(gt=0)


class PrivacyPolicy(Record):
    """What a gateway's owner allows: the same for every block opened under it.

    Attributes:
        epsilon, delta: the bound on everything ever released about one block.
        alpha: the one RDP order at which the filter runs, fixed before any data is seen.
        telemetry_rho: zCDP share that each block reserves for the releases about any one of
            its windows when it opens, so that training can never silence monitoring. What the
            feature report leaves of it pays for the window's label report.
        window_rho: zCDP charge of one window's feature report; at most `telemetry_rho`.
        block: length of a block.
    """

    schema_version: Literal[1] = 1
    epsilon: float = Field(gt=0, le=50)
    delta: float = Field(gt=0, lt=1e-2)
    alpha: int = Field(ge=2, le=1024)
    telemetry_rho: float = Field(gt=0)
    window_rho: float = Field(gt=0)
    block: BlockLength
    unit: Literal["record"] = "record"
    adjacency: Literal["zero-out"] = "zero-out"

    @model_validator(mode="after")
    def _within_share(self) -> Self:
        if self.window_rho > self.telemetry_rho:
            raise ValueError("window_rho is larger than telemetry_rho")
        return self


class BlockSpending(Record):
    """Public facts of one block's ledger, in nano-RDP at the policy's order."""

    block: Count
    cap_nano: int = Field(ge=0)
    telemetry_nano: int = Field(ge=0)
    training_nano: int = Field(ge=0)
    epsilon: float = Field(ge=0)
