"""The gates between a candidate and a signature: a list of measured figures and their limits.

Whoever holds a key runs them on the candidate's folder and on what the retraining
run left, without torch and without the task's code: the evaluator repeats what the
builder measured, it does not read what the builder wrote about it. Two figures are
taken as the builder noted them, because they only say which variant serves where
the builder measured: the speeds. Accuracy on clean public rows is reported, never a gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedge.errors import CandidateError, RecordError, TaskError
from fedge.models.golden import read_golden
from fedge.models.measure import Outputs, ServedModel, accuracy, agreement
from fedge.models.weights import read_arrays
from fedge.records import Name, Record, Reference, RunResult, TaskSchema, sha256_hex
from fedge.records.runs import detectable

Variant = Literal["int8", "float"]

MAX_ACCURACY_DROP = 0.005
MIN_AGREEMENT = 0.95
MAX_SPEED_RATIO = 1.0
MAX_GOLDEN_DIFFERENCE = 0.05
"""As a share of the largest golden logit: two correct INT8 kernels differ by less."""
MAX_FEATURE_DIFFERENCE = 1e-4


class Gate(Record):
    """One figure and the limit it was held against; whether it passes follows from them.

    Attributes:
        value: what was measured.
        bound: `at-most` or `at-least` the limit passes; `above` must exceed it.
    """

    name: Name
    value: float
    bound: Literal["at-most", "at-least", "above"]
    limit: float

    @property
    def passed(self) -> bool:
        if self.bound == "at-most":
            return self.value <= self.limit
        if self.bound == "at-least":
            return self.value >= self.limit
        return self.value > self.limit


class GateReport(Record):
    """What the gates measured. `reported` are figures that no gate holds."""

    gates: tuple[Gate, ...]
    reported: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether there are gates and all of them pass."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that do not pass."""
        return tuple(gate.name for gate in self.gates if not gate.passed)


class BuildReport(Record):
    """What a build made and measured (`build.json`).

    Attributes:
        variants: hardware class -> the model that serves there.
        recipe: how the INT8 model was quantized.
        measures: figures by name, for the release's manifest.
    """

    hardware: Name
    variants: dict[str, Variant]
    recipe: str
    measures: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """A candidate's folder, read once.

    Raises:
        CandidateError: a file is missing or malformed.
    """

    folder: Path
    build: BuildReport
    task: TaskSchema
    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    clean: npt.NDArray[np.bool_]

    @classmethod
    def read(cls, folder: Path) -> Candidate:
        """Read what the gates need."""
        try:
            build = BuildReport.from_bytes((folder / "build.json").read_bytes())
            task = TaskSchema.from_bytes((folder / "task.json").read_bytes())
            rows = read_arrays(folder / "evaluation.npz")
            inputs = np.asarray(rows["inputs"], dtype=np.float32)
            labels = np.asarray(rows["labels"], dtype=np.int64)
            clean = np.asarray(rows["clean"], dtype=np.bool_)
        except (OSError, RecordError, TaskError, KeyError) as error:
            raise CandidateError(f"{folder.name} is no whole candidate: {error}") from error
        if len(inputs) == 0 or not len(inputs) == len(labels) == len(clean) or not clean.any():
            raise CandidateError(f"{folder.name}: evaluation.npz holds no usable rows")
        if inputs.shape[1:] != task.input.shape or not np.isfinite(inputs).all():
            raise CandidateError(f"{folder.name}: evaluation.npz does not fit the task")
        return cls(folder, build, task, inputs, labels, clean)

    @property
    def served(self) -> set[Variant]:
        """Variants that some hardware class serves."""
        return set(self.build.variants.values())

    def model(self, variant: Variant) -> ServedModel:
        """A model file of the candidate."""
        return ServedModel(self.folder / f"model.{variant}.onnx")

    @cached_property
    def outputs(self) -> dict[Variant, Outputs]:
        """What float and INT8 answer to the evaluation rows."""
        variants: tuple[Variant, ...] = ("float", "int8")
        return {variant: self.model(variant).run(self.inputs) for variant in variants}


GateRule = Callable[[Candidate], tuple[Gate, ...]]


def judge(candidate: Path, result: RunResult | None, min_gain_sigmas: float) -> GateReport:
    """Apply all gates to a candidate's folder.

    Args:
        result: what the run behind it left; None only for a first release.
        min_gain_sigmas: how many standard deviations of its known noise the cohort's gain in
            correct predictions must exceed.

    Raises:
        CandidateError: a file is missing, malformed or does not run.
        NonFiniteValueError: a model answers something that is not finite.
    """
    read = Candidate.read(candidate)
    gates = [gate for rule in RULES for gate in rule(read)]
    reported = _reported(read)
    if result is not None:
        gates.append(_gain(result, min_gain_sigmas))
        reported |= _detectable(result, min_gain_sigmas)
    return GateReport(gates=tuple(gates), reported=reported)


def _variants_present(candidate: Candidate) -> tuple[Gate, ...]:
    """Some hardware class must be served."""
    served = float(len(candidate.build.variants))
    return (Gate(name="hardware-classes", value=served, bound="at-least", limit=1.0),)


def _reference_is_of_this_model(candidate: Candidate) -> tuple[Gate, ...]:
    """The reference describes a model of this candidate, and every stream of the task."""
    files = [candidate.folder / f"model.{variant}.onnx" for variant in candidate.served]
    try:
        reference = Reference.from_bytes((candidate.folder / "reference.json").read_bytes())
        hashes = {sha256_hex(file.read_bytes()) for file in files}
    except (OSError, RecordError) as error:
        raise CandidateError(f"{candidate.folder.name}: reference.json: {error}") from error
    fits = reference.model_sha256 in hashes and candidate.task.streams == tuple(
        stream.name for stream in reference.streams
    )
    return (Gate(name="reference-fits", value=float(fits), bound="at-least", limit=1.0),)


def _golden(candidate: Candidate) -> tuple[Gate, ...]:
    """Each served variant answers its golden inputs as it did when it was built."""
    gates = []
    for variant in sorted(candidate.served):
        inputs, expected = read_golden(candidate.folder / "golden.npz", variant)
        logits = candidate.model(variant).run(inputs).logits
        if logits.shape != expected.shape:
            raise CandidateError(f"golden logits have shape {expected.shape}, not {logits.shape}")
        scale = max(1.0, float(np.abs(expected).max()))
        gates.append(
            Gate(
                name=f"golden-{variant}",
                value=float(np.abs(logits - expected).max()) / scale,
                bound="at-most",
                limit=MAX_GOLDEN_DIFFERENCE,
            )
        )
    return tuple(gates)


def _int8_as_good_as_float(candidate: Candidate) -> tuple[Gate, ...]:
    """Held only where INT8 serves."""
    if "int8" not in candidate.served:
        return ()
    one, other = candidate.outputs["float"], candidate.outputs["int8"]
    drop = accuracy(one, candidate.labels) - accuracy(other, candidate.labels)
    features = float(np.nanmax(np.abs(one.features - other.features), initial=0.0))
    missing_alike = np.array_equal(np.isnan(one.features), np.isnan(other.features))
    return (
        Gate(name="int8-accuracy-drop", value=drop, bound="at-most", limit=MAX_ACCURACY_DROP),
        Gate(
            name="int8-agreement",
            value=agreement(one, other),
            bound="at-least",
            limit=MIN_AGREEMENT,
        ),
        Gate(
            name="int8-feature-difference",
            value=features if missing_alike else 1e9,
            bound="at-most",
            limit=MAX_FEATURE_DIFFERENCE,
        ),
        Gate(
            name="int8-time-ratio",
            value=candidate.build.measures.get("int8_time_ratio", 1e9),
            bound="at-most",
            limit=MAX_SPEED_RATIO,
        ),
    )


RULES: tuple[GateRule, ...] = (
    _variants_present,
    _reference_is_of_this_model,
    _golden,
    _int8_as_good_as_float,
)


def _gain(result: RunResult, min_gain_sigmas: float) -> Gate:
    """The cohort's noised gain, in standard deviations of its known noise.

    Without any count the gain is unknown, which is no gain.
    """
    variance = result.gain_noise_variance
    sigmas = result.gain / math.sqrt(variance) if variance > 0 else 0.0
    return Gate(name="gain-in-sigmas", value=sigmas, bound="above", limit=min_gain_sigmas)


def _detectable(result: RunResult, min_gain_sigmas: float) -> dict[str, float]:
    """The smallest true gain that passes `_gain` four times in five, as records and as a share.

    Nothing where no gateway answered: no gain could have been found.
    """
    if not result.counts:
        return {}
    records = detectable(result.gain_noise_variance, min_gain_sigmas)
    return {
        "smallest_detectable_records": records,
        "smallest_detectable_share": records / result.planned_records,
    }


def _reported(candidate: Candidate) -> dict[str, float]:
    clean = candidate.clean
    figures = {}
    for variant, outputs in candidate.outputs.items():
        right = outputs.predictions == candidate.labels
        figures[f"{variant}_accuracy_clean_public"] = float(right[clean].mean())
        figures[f"{variant}_accuracy_public"] = float(right.mean())
    return figures
