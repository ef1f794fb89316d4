"""Which adapter a task is trained with, and the study on public data that chose it.

The record travels with whatever it decided: a run names its hash, a release carries it as a
signed file. What was measured are fields; what is chosen follows from them.
"""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedge.records.base import Name, Record, Sha256, Versioned, canonical, sha256_hex
from fedge.records.runs import AdapterKind, TrainingPlan

CHOICE_FILE = "adapter-choice.json"
"""Its name in a release, and what the study calls it unless told otherwise."""
CHOICE_MEASURES = "adapter_choice_"
"""How its figures among a manifest's measures begin."""

Share = Annotated[float, Field(ge=0, le=1)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_\-]{0,63}$")]
"""Of a package. It is printed as it is, so it holds nothing that moves a cursor or ends a line."""

YEAR_10000 = 253_402_300_800
"""In seconds since the epoch: from here on no calendar has a day."""


class TriedAdapter(Record):
    """One way to train, and how far it got; what no `TrainingPlan` can hold was never tried.

    Attributes:
        dimension: length of the adapter's vector.
        noise_multiplier: standard deviation of a step's noise, in clips.
        accuracies: after private training, on public rows that were not trained on, by seed.
    """

    adapter: AdapterKind
    rounds: int = Field(ge=1, le=16)
    steps: int = Field(ge=1, le=10_000)
    clip: float = Field(gt=0, le=1e6)
    learning_rate: float = Field(gt=0, le=1e6)
    dimension: int = Field(ge=1, lt=2**31)
    noise_multiplier: float = Field(gt=0)
    accuracies: tuple[Share, ...] = Field(min_length=1)

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.accuracies)

    def differs(self, plan: TrainingPlan) -> str:
        """What a plan trains otherwise, in words; empty where it is what was tried."""
        return "; ".join(
            f"{name} is {getattr(plan, name)}, the study chose {getattr(self, name)}"
            for name in (*DECIDED, "dimension")
            if getattr(plan, name) != getattr(self, name)
        )


DECIDED = ("adapter", "clip", "learning_rate", "rounds", "steps")
"""What a choice decides about a plan; the model decides its dimension."""


class AdapterChoice(Versioned):
    """A study's result; the choice follows from its figures.

    Attributes:
        epsilon, delta: per block, of the policy that was trained under.
        policy_sha256: of that policy.
        gateways, records: of the rehearsed fleet; records by gateway.
        seeds: each is another fault of the family, and other noise.
        stale: accuracies before any training, by seed.
        versions: of what computed.
        at: when the study ended, seconds since the epoch; None where that was not written down.
        unit, max_records: of the policy; the first version knew records alone.
        seal: SHA-256 over the canonical record without it. It shows that a file was edited; it
            names no author, which only the signatures over a release do.
    """

    since: ClassVar[dict[str, int]] = dict.fromkeys(
        ("schema_version", "at", "unit", "max_records", "seal"), 2
    )

    schema_version: Literal[1, 2] = 1
    task: Name
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    policy_sha256: Sha256
    gateways: int = Field(ge=1)
    records: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    stale: tuple[Share, ...] = Field(min_length=1)
    candidates: tuple[TriedAdapter, ...] = Field(min_length=1)
    versions: dict[Name, Version]
    at: float | None = Field(default=None, ge=0, lt=YEAR_10000)
    unit: Literal["record", "subject"] = "record"
    max_records: int = Field(default=1, ge=1, le=1000)
    seal: Sha256 | None = None

    @classmethod
    def sealed(cls, **values: Any) -> Self:
        """The record of a study that has just ended.

        Raises:
            ValidationError: a value is out of range.
        """
        draft = cls.model_construct(schema_version=2, **values)
        return cls(schema_version=2, **values, seal=draft.expected_seal)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        counts = {len(self.stale), *(len(one.accuracies) for one in self.candidates)}
        if counts != {len(self.seeds)}:
            raise ValueError("there is not one figure for each seed")
        if self.schema_version > 1 and self.seal != self.expected_seal:
            raise ValueError("its seal does not fit: it was changed after the study")
        return self

    @property
    def expected_seal(self) -> str:
        """What `seal` must be."""
        return sha256_hex(canonical(self.model_dump(mode="json", exclude={"seal"})))

    @property
    def ranked(self) -> tuple[TriedAdapter, ...]:
        """The best first; of two equals the one with fewer values to train."""
        return tuple(sorted(self.candidates, key=lambda c: (-c.accuracy, c.dimension)))

    @property
    def chosen(self) -> TriedAdapter:
        """The first of `ranked`."""
        return self.ranked[0]

    @property
    def measures(self) -> dict[str, float]:
        """The study's yardstick, by name, as a release's manifest lists it beside its own."""
        return {
            f"{CHOICE_MEASURES}accuracy": self.chosen.accuracy,
            f"{CHOICE_MEASURES}stale": statistics.fmean(self.stale),
        }

    def summary(self) -> dict[str, Any]:
        """What is shown of it beside a release, as plain JSON values."""
        best = self.chosen
        others = [one for one in self.ranked if one.adapter != best.adapter]
        return {
            "sha256": self.content_sha256,
            "task": self.task,
            "adapter": best.adapter,
            "clip": best.clip,
            "learning_rate": best.learning_rate,
            "accuracy": best.accuracy,
            "stale": statistics.fmean(self.stale),
            "next_adapter": others[0].adapter if others else None,
            "next_accuracy": others[0].accuracy if others else None,
            "candidates": len(self.candidates),
            "seeds": len(self.seeds),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "at": self.at,
            "versions": dict(self.versions),
        }

    def describe(self) -> str:
        """One sentence for people."""
        best, stale = self.chosen, statistics.fmean(self.stale)
        when = "at a time not recorded"
        if self.at is not None:
            when = f"on {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d}"
        made_by = ", ".join(f"{name} {one}" for name, one in sorted(self.versions.items()))
        return (
            f"{best.adapter}: the best of {len(self.candidates)} candidates, {best.accuracy:.3f} "
            f"of public rows right after private training at epsilon {self.epsilon:g} "
            f"({stale:.3f} before), {when} with {made_by}; study {self.content_sha256[:16]}"
        )
