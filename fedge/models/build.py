"""Building a candidate's folder from weights: export, quantize, measure, describe.

Everything comes from the weights and the task's public data. Whether the candidate
may be signed is for the gates; signing and publishing belong to `fedge.delivery`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.errors import CandidateError, TaskError
from fedge.models.export import export_float
from fedge.models.gates import MAX_ACCURACY_DROP, MAX_SPEED_RATIO, MIN_AGREEMENT, BuildReport
from fedge.models.golden import golden_inputs, write_golden
from fedge.models.measure import Outputs, ServedModel, accuracy, agreement, interleaved_us
from fedge.models.quantize import RECIPES, Recipe, quantize
from fedge.models.weights import Weights, arrays_to_bytes, merge_vector, weights_to_bytes
from fedge.profiles.build import build_reference
from fedge.profiles.streams import stream_values
from fedge.records import AdapterKind, TaskSchema, sha256_hex
from fedge.tasks.code import PublicData, TaskCode

FLOAT_FILE, INT8_FILE = "model.float.onnx", "model.int8.onnx"
REFERENCE_SOURCE = "public rows of the task, clean and under its public family of faults"


def merge_adapter(
    code: TaskCode, weights: Weights, adapter: npt.NDArray[np.float32], kind: AdapterKind
) -> Weights:
    """The weights of a release with a run's adapter added; zero changes nothing.

    Args:
        weights: of the release that the run started from.
        adapter: float32 [dimension], change against it, as the run left it.

    Raises:
        TaskError: `adapter` or `weights` do not fit the task's model.
        NonFiniteValueError: `adapter` is not finite.
    """
    expected = {name: tuple(v.shape) for name, v in code.new_model().state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != expected:
        raise TaskError(f"these are not the weights of task {code.schema.name}")
    return merge_vector(weights, kind, adapter)


def build_candidate(
    code: TaskCode, weights: Weights, out: Path, *, hardware: str, seed: int
) -> BuildReport:
    """Fill the existing folder `out` with all of a candidate's files.

    Writes `task.json`, `weights.npz`, `model.float.onnx`, `model.int8.onnx`, `golden.npz`,
    `reference.json`, `evaluation.npz` and, last, `build.json`.

    Args:
        hardware: the hardware class of this machine, for which the speeds are measured.
        seed: chooses golden inputs.

    Returns:
        what was built; the float model serves where no INT8 recipe is good enough and faster.

    Raises:
        CandidateError: the model does not export, or no recipe quantizes it.
    """
    schema, public = code.schema, code.public()
    (out / "task.json").write_bytes(schema.to_bytes())
    (out / "weights.npz").write_bytes(weights_to_bytes(weights))
    export_float(code, weights, out / FLOAT_FILE)
    comparison = _quantized(out, public)
    models = {"float": ServedModel(out / FLOAT_FILE), "int8": ServedModel(out / INT8_FILE)}
    inputs = golden_inputs(public, seed)
    logits = {variant: model.run(inputs).logits for variant, model in models.items()}
    write_golden(out / "golden.npz", inputs, logits)
    variant = "int8" if comparison.passes else "float"
    outputs = models[variant].run(public.inputs)
    _write_reference(schema, out, variant, outputs, public.all_labels)
    _write_evaluation(out / "evaluation.npz", public)
    report = BuildReport(
        hardware=hardware,
        variants={hardware: "int8" if comparison.passes else "float"},
        recipe=comparison.recipe.name,
        measures=comparison.measures,
    )
    (out / "build.json").write_bytes(report.to_bytes())
    return report


def read_build(folder: Path) -> BuildReport:
    """What `build_candidate` noted in a candidate's folder.

    Raises:
        CandidateError: there is no whole build.
        RecordError: `build.json` is malformed.
    """
    try:
        return BuildReport.from_bytes((folder / "build.json").read_bytes())
    except OSError as error:
        raise CandidateError(f"{folder.name} is no finished build: {error}") from error


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One INT8 recipe against float on the public rows."""

    recipe: Recipe
    measures: dict[str, float]

    @property
    def passes(self) -> bool:
        """Whether INT8 keeps to the limits that `gates` sets on accuracy, agreement and time."""
        figures = self.measures
        return (
            figures["int8_accuracy_drop"] <= MAX_ACCURACY_DROP
            and figures["int8_agreement"] >= MIN_AGREEMENT
            and figures["int8_time_ratio"] <= MAX_SPEED_RATIO
        )


def _quantized(out: Path, public: PublicData) -> _Comparison:
    """Leave the first INT8 model that passes in `out`, or else the one that agrees most."""
    tried: list[_Comparison] = []
    for recipe in RECIPES:
        quantize(out / FLOAT_FILE, public.inputs, recipe, out / INT8_FILE)
        tried.append(_compare(recipe, out, public))
        if tried[-1].passes:
            return tried[-1]
    best = max(tried, key=lambda one: one.measures["int8_agreement"])
    quantize(out / FLOAT_FILE, public.inputs, best.recipe, out / INT8_FILE)
    return best


def _compare(recipe: Recipe, out: Path, public: PublicData) -> _Comparison:
    exact, small = ServedModel(out / FLOAT_FILE), ServedModel(out / INT8_FILE)
    one, other = exact.run(public.inputs), small.run(public.inputs)
    float_us, int8_us = interleaved_us((exact, small), public.clean[:1])
    labels, clean = public.all_labels, len(public.labels)
    float_accuracy, int8_accuracy = accuracy(one, labels), accuracy(other, labels)
    measures = {
        "float_accuracy_public": float_accuracy,
        "int8_accuracy_public": int8_accuracy,
        "int8_accuracy_drop": float_accuracy - int8_accuracy,
        "float_accuracy_clean_public": _right(one, labels, clean),
        "int8_accuracy_clean_public": _right(other, labels, clean),
        "int8_agreement": agreement(one, other),
        "float_us": float_us,
        "int8_us": int8_us,
        "int8_time_ratio": int8_us / float_us,
        "float_bytes": float((out / FLOAT_FILE).stat().st_size),
        "int8_bytes": float((out / INT8_FILE).stat().st_size),
    }
    return _Comparison(recipe, measures)


def _right(outputs: Outputs, labels: npt.NDArray[np.int64], first: int) -> float:
    return float(np.mean(outputs.predictions[:first] == labels[:first]))


def _write_reference(
    schema: TaskSchema,
    out: Path,
    variant: str,
    outputs: Outputs,
    labels: npt.NDArray[np.int64],
) -> None:
    values = stream_values(
        schema, outputs.features, outputs.predictions, outputs.confidence, outputs.ood
    )
    reference = build_reference(
        schema,
        values,
        ood=outputs.ood.astype(np.float64),
        model_sha256=sha256_hex((out / f"model.{variant}.onnx").read_bytes()),
        source=REFERENCE_SOURCE,
        labels=labels,
        scores=_ood_scores(outputs),
    )
    (out / "reference.json").write_bytes(reference.to_bytes())


def _ood_scores(outputs: Outputs) -> dict[str, npt.NDArray[np.float32]]:
    """Scores that need nothing but logits, larger meaning stranger.

    Largest softmax probability (Hendrycks and Gimpel 2017), largest logit (Hendrycks et al. 2022),
    energy (Liu et al. 2020).
    """
    return {
        "msp": -outputs.confidence,
        "maxlogit": -outputs.logits.max(axis=1),
        "energy": outputs.ood,
    }


def _write_evaluation(path: Path, public: PublicData) -> None:
    clean = np.arange(len(public.all_labels)) < len(public.labels)
    rows: dict[str, npt.NDArray[Any]] = {
        "inputs": public.inputs,
        "labels": public.all_labels,
        "clean": clean,
    }
    path.write_bytes(arrays_to_bytes(rows))
