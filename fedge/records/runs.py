"""A retraining run: its specification, its messages and what it leaves behind."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from fedge.records.base import (
    Count,
    Fingerprint,
    Name,
    NoisyCount,
    PublicKeyHex,
    Record,
    RunId,
    Sha256,
)
from fedge.records.privacy import DiscreteGaussianEvent, PoissonGaussianEvent, PrivacyEvent

AdapterKind = Literal["input", "head", "lora-b", "lora", "conv"]

LARGEST_SENSITIVITY2 = 2**52
"""Up to here the squared norm of a rounded gradient is exact, in floats as in integers."""
DETECTION_POWER = 0.8


class TrainingPlan(Record):
    """Everything about local training that is fixed before data is touched.

    Sampler, clipping, noise and the events that are charged are all built from this one object,
    so that they cannot disagree.

    Attributes:
        adapter: which adapter is trained.
        rounds, steps: train messages in a run, and steps in each.
        clip: L2 bound of one unit's gradient: a record's, or the sum over a subject's records.
        learning_rate: plain SGD on sum / `step_divisor`.
        divisor: public planned number of records; never the real one.
        grid_bits: gradients are rounded to multiples of 2^-grid_bits; under Poisson sampling,
            where nothing is rounded, only the unit of `sensitivity2` and `sigma2`.
        sigma2: variance of the noise on a step's sum in grid units squared: a discrete Gaussian,
            or a continuous one under Poisson sampling.
        evaluation_sigma2: noise variance of the paired difference in the run's last message.
        dimension: length of the adapter's vector.
        sampling: every step reads all records (`full`), or each unit by itself with probability
            `rate_ppm` in millionths (`poisson`).
        unit: whose gradient is bounded: a record's, or a subject's in a block.
        max_records: records of one subject that count in a block; the first by slot.
    """

    adapter: AdapterKind
    rounds: int = Field(ge=1, le=16)
    steps: int = Field(ge=1, le=10_000)
    clip: float = Field(gt=0, le=1e6)
    learning_rate: float = Field(gt=0, le=1e6)
    divisor: int = Field(ge=1, lt=2**31)
    grid_bits: int = Field(ge=1, le=40)
    sigma2: int = Field(gt=0, le=2**100)
    evaluation_sigma2: int = Field(gt=0, le=2**100)
    dimension: int = Field(ge=1, lt=2**31)
    sampling: Literal["full", "poisson"] = "full"
    rate_ppm: int | None = Field(default=None, gt=0, lt=10**6)
    unit: Literal["record", "subject"] = "record"
    max_records: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Self:
        if (self.sampling == "poisson") != (self.rate_ppm is not None):
            raise ValueError("a rate belongs to Poisson sampling, and Poisson sampling needs one")
        if self.unit == "record" and self.max_records != 1:
            raise ValueError("max_records belongs to the unit subject")
        if not self.clip * 2**self.grid_bits < 2**27 or not (
            1 <= self.sensitivity2 <= LARGEST_SENSITIVITY2
        ):
            raise ValueError(f"clip {self.clip:g} does not fit a grid of 2^-{self.grid_bits}")
        return self

    @property
    def sensitivity2(self) -> int:
        """Squared L2 sensitivity of one summed gradient in grid units (clip times 2^bits)."""
        bound = int(self.clip * 2**self.grid_bits)
        return bound * bound

    @property
    def step_divisor(self) -> float:
        """What a step's sum is divided by: the planned records, or their expected sample."""
        if self.rate_ppm is None:
            return float(self.divisor)
        return self.divisor * self.rate_ppm / 10**6

    @property
    def round_event(self) -> PrivacyEvent:
        """What one train message releases: a noised gradient sum per step."""
        if self.rate_ppm is not None:
            return PoissonGaussianEvent(
                rate_ppm=self.rate_ppm,
                sensitivity2=self.sensitivity2,
                sigma2=self.sigma2,
                count=self.steps,
                dimension=self.dimension,
            )
        return DiscreteGaussianEvent(
            sensitivity2=self.sensitivity2,
            sigma2=self.sigma2,
            count=self.steps,
            dimension=self.dimension,
        )

    @property
    def evaluation_event(self) -> DiscreteGaussianEvent:
        """What the run's last message releases: one difference of two numbers of right answers.

        A record adds -1, 0 or 1 to it, so a unit at most `max_records`. At the same charge its
        noise has half the variance of a difference of two counts that are noised each.
        """
        return DiscreteGaussianEvent(
            sensitivity2=self.max_records**2, sigma2=self.evaluation_sigma2, count=1, dimension=1
        )

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """What the whole run costs a block it reads: all rounds and the evaluation."""
        rounds = self.round_event.model_copy(update={"count": self.rounds * self.steps})
        return (rounds, self.evaluation_event)

    def smallest_detectable(
        self, gateways: int = 1, *, level: float = 0.95, power: float = DETECTION_POWER
    ) -> float:
        """The smallest true gain, in records over `gateways`, that the evaluation finds.

        Args:
            level: confidence of the one-sided test against no gain.
            power: probability with which such a gain is found.
        """
        return detectable(gateways * self.evaluation_sigma2, NormalDist().inv_cdf(level), power)


def detectable(noise_variance: float, sigmas: float, power: float = DETECTION_POWER) -> float:
    """The smallest true value that exceeds `sigmas` standard deviations of noise with `power`."""
    return (sigmas + NormalDist().inv_cdf(power)) * math.sqrt(noise_variance)


class Participant(Record):
    """One gateway of a run's cohort and the closed windows it is asked to train on."""

    gateway: Fingerprint
    public_key: PublicKeyHex
    first_window: Count
    last_window: Count


class RunSpec(Record):
    """A retraining run: decided once from stored facts, identical on every retry.

    Attributes:
        choice_sha256: of the `AdapterChoice` that decided how it trains; None where none is
            recorded. Not written then, so that specifications of earlier versions keep their bytes.
    """

    run_id: RunId
    task: Name
    base_release: int = Field(ge=1)
    base_sha256: Sha256
    plan: TrainingPlan
    participants: tuple[Participant, ...] = Field(min_length=1, max_length=100_000)
    episodes: tuple[str, ...]
    choice_sha256: Sha256 | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_recorded(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if self.choice_sha256 is None:
            del values["choice_sha256"]
        return values


class RoundRequest(Record):
    """What a round's message asks of every gateway (the arrays travel beside it)."""

    spec: RunSpec
    phase: Literal["train", "evaluate"]
    round: int = Field(ge=0)
    arrays_sha256: Sha256


class AdapterUpdate(Record):
    """A gateway's noised answer to a train message: the new adapter weights minus the old.

    `values` is little-endian float32, `dimension` of them, in the adapter's parameter order.
    """

    run_id: RunId
    round: int = Field(ge=0)
    dimension: int = Field(ge=1)
    values: bytes = Field(max_length=64 * 2**20)

    model_config = ConfigDict(**(Record.model_config | {"val_json_bytes": "base64"}))


class PairedDifference(Record):
    """A gateway's noised answer to the evaluate message, candidate against present release.

    Attributes:
        difference: noised number of records that only the candidate gets right, less those that
            only the present release gets right.
        sigma2: variance of the noise on it.
    """

    run_id: RunId
    difference: NoisyCount
    sigma2: int = Field(gt=0)


class RunResult(Record):
    """What the rounds left in the object store, beside the aggregated adapter.

    Attributes:
        contributors: gateways whose updates were averaged, for each round, sorted.
        update_bytes, update_sha256: sizes of their envelopes and hashes of their updates, round
            after round in the same order. Of hashes there are none where an earlier version ran
            the rounds.
        counts, counts_sha256: answers to the last message, in the order of gateways' names.
    """

    spec: RunSpec
    adapter_sha256: Sha256
    update_bytes: tuple[int, ...]
    contributors: tuple[tuple[Fingerprint, ...], ...]
    counts: tuple[PairedDifference, ...]
    update_sha256: tuple[Sha256, ...] = ()
    counts_sha256: tuple[Sha256, ...] = ()

    @property
    def gain(self) -> int:
        """Noised number of records won by the candidate over the whole cohort."""
        return sum(c.difference for c in self.counts)

    @property
    def gain_noise_variance(self) -> int:
        """Known noise variance of `gain`."""
        return sum(c.sigma2 for c in self.counts)

    @property
    def planned_records(self) -> int:
        """Records over which `gain` was planned to be measured."""
        return self.spec.plan.divisor * len(self.counts)

    def smallest_detectable(self, *, level: float = 0.95, power: float = DETECTION_POWER) -> float:
        """The smallest true gain, in records, that this evaluation would have found.

        See `TrainingPlan.smallest_detectable`; infinite where nobody answered.
        """
        if not self.counts:
            return math.inf
        return detectable(self.gain_noise_variance, NormalDist().inv_cdf(level), power)
