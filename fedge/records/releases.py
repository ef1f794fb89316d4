"""What a release is, and which gateway should run it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedge.records.base import Fingerprint, Name, Record, RunId, Sha256

FileName = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9_.\-]{0,63}$")]
"""A plain file name: it becomes a path on every gateway, so no separator may hide in it."""


class ReleaseFile(Record):
    """One file of a release, addressed by its content."""

    sha256: Sha256
    length: int = Field(ge=0)


class ReleaseManifest(Record):
    """What a release is. Its hash stands in metadata that builder and evaluator both signed.

    Attributes:
        counter: 1, 2, 3, ... per family; a gateway's floor compares it.
        variants: hardware class -> which model serves there.
        files: name -> content address; holds `task.json`, `reference.json`, `golden.npz`,
            `model.int8.onnx`, `model.float.onnx`.
        parent: counter of the release that this one was trained from, 0 for the first.
        cohort: gateways it is meant for; empty means every gateway.
        privacy_epsilon: largest bound that any block of the cohort has spent for it.
    """

    family: Name
    task_version: int = Field(ge=1)
    counter: int = Field(ge=1)
    parent: int = Field(ge=0)
    run_id: RunId
    variants: dict[str, Literal["int8", "float"]]
    files: dict[FileName, ReleaseFile]
    cohort: tuple[Fingerprint, ...]
    privacy_epsilon: float = Field(ge=0)
    measures: dict[str, float]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"task.json", "reference.json", "golden.npz"}
        needed |= {f"model.{variant}.onnx" for variant in self.variants.values()}
        if missing := needed - self.files.keys():
            raise ValueError(f"files lacks {sorted(missing)}")
        return self


class RolloutTable(Record):
    """Which release each gateway should run. Signed by the online rollout key only."""

    family: Name
    default: int = Field(ge=1)
    assigned: dict[Fingerprint, int]

    def counter_for(self, gateway: str) -> int:
        return self.assigned.get(gateway, self.default)
