"""A retraining run: its specification, its messages and what it leaves behind."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

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
from fedge.records.privacy import DiscreteGaussianEvent

AdapterKind = Literal["input", "head"]


class TrainingPlan(Record):
    """Everything about local training that is fixed before data is touched.

    Attributes:
        adapter: which adapter is trained.
        rounds, steps: train messages in a run, and full-batch steps in each.
        clip: L2 bound of one record's gradient.
        learning_rate: plain SGD on sum / divisor.
        divisor: public planned number of records; never the real one.
        grid_bits: gradients are rounded to multiples of 2^-grid_bits.
        sigma2: variance of the discrete Gaussian in grid units squared.
        evaluation_sigma2: noise variance of the paired counts in the run's last message.
        dimension: length of the adapter's vector.
    """

    adapter: AdapterKind
    rounds: int = Field(ge=1, le=16)
    steps: int = Field(ge=1, le=10_000)
    clip: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    divisor: int = Field(ge=1)
    grid_bits: int = Field(ge=1, le=40)
    sigma2: int = Field(gt=0)
    evaluation_sigma2: int = Field(gt=0)
    dimension: int = Field(ge=1)

    @property
    def sensitivity2(self) -> int:
        """Squared L2 sensitivity of one summed gradient in grid units (clip times 2^bits)."""
        bound = int(self.clip * 2**self.grid_bits)
        return bound * bound

    @property
    def round_event(self) -> DiscreteGaussianEvent:
        """What one train message releases: a noised gradient sum per step."""
        return DiscreteGaussianEvent(
            sensitivity2=self.sensitivity2,
            sigma2=self.sigma2,
            count=self.steps,
            dimension=self.dimension,
        )

    @property
    def evaluation_event(self) -> DiscreteGaussianEvent:
        """What the run's last message releases: two exclusive counts."""
        return DiscreteGaussianEvent(
            sensitivity2=1, sigma2=self.evaluation_sigma2, count=1, dimension=2
        )

    @property
    def events(self) -> tuple[DiscreteGaussianEvent, ...]:
        """What the whole run costs a block it reads: all rounds and the evaluation."""
        rounds = self.round_event.model_copy(update={"count": self.rounds * self.steps})
        return (rounds, self.evaluation_event)


class Participant(Record):
    """One gateway of a run's cohort and the closed windows it is asked to train on."""

    gateway: Fingerprint
    public_key: PublicKeyHex
    first_window: Count
    last_window: Count


class RunSpec(Record):
    """A retraining run: decided once from stored facts, identical on every retry."""

    run_id: RunId
    task: Name
    base_release: int = Field(ge=1)
    base_sha256: Sha256
    plan: TrainingPlan
    participants: tuple[Participant, ...] = Field(min_length=1, max_length=100_000)
    episodes: tuple[str, ...]


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


class PairedCounts(Record):
    """A gateway's noised answer to the evaluate message, candidate against present release.

    Attributes:
        candidate_only: noised count of records that only the candidate gets right.
        present_only: noised count of records that only the present release gets right.
        sigma2: variance of the noise on each.
    """

    run_id: RunId
    candidate_only: NoisyCount
    present_only: NoisyCount
    sigma2: int = Field(gt=0)


class RunResult(Record):
    """What the rounds left in the object store, beside the aggregated adapter."""

    spec: RunSpec
    adapter_sha256: Sha256
    update_bytes: tuple[int, ...]
    contributors: tuple[tuple[Fingerprint, ...], ...]
    counts: tuple[PairedCounts, ...]

    @property
    def gain(self) -> int:
        """Noised number of records won by the candidate over the whole cohort."""
        return sum(c.candidate_only - c.present_only for c in self.counts)

    @property
    def gain_noise_variance(self) -> int:
        """Known noise variance of `gain`."""
        return sum(2 * c.sigma2 for c in self.counts)
