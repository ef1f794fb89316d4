"""Loading the release that lies in a slot, so that only what was signed is ever served.

The installer has verified signatures before it filled the slot. Here every file
that is used is hashed again against the slot's manifest, because disks rot and
a worker may start months later.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fedge.config import GatewaySettings
from fedge.errors import RecordError, SchemaMismatchError, TamperedFileError, TrialFailedError
from fedge.records import ReleaseManifest, TaskSchema, sha256_hex
from fedge.serving.scoring import Model
from fedge.serving.tensors import DTYPES

Variant = Literal["int8", "float"]


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """Public inputs and the logits that this variant gave where it was built.

    Attributes:
        inputs: k x the task's input shape, of the dtype of its datatype.
        logits: float32, k x classes.
    """

    inputs: npt.NDArray[Any]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ServedRelease:
    """A loaded release: what a worker serves."""

    manifest: ReleaseManifest
    variant: Variant
    task: TaskSchema
    model: Model
    golden: GoldenVectors


def load_release(folder: Path, settings: GatewaySettings) -> ServedRelease:
    """Load and check the release in a slot's folder.

    Raises:
        TamperedFileError: a file is missing, or is not the one in the manifest.
        SchemaMismatchError: the release is of another family, task or task version.
        TaskError: the model does not load or does not fit the task.
        TrialFailedError: there are no usable golden vectors.
    """
    try:
        manifest = ReleaseManifest.from_bytes((folder / "release.json").read_bytes())
        variant = _variant((folder / "variant.txt").read_text().strip())
        task = TaskSchema.from_bytes(_verified(folder, manifest, "task.json"))
    except (OSError, UnicodeDecodeError, RecordError) as error:
        raise TamperedFileError(f"{folder} holds no whole release: {error}") from error
    offered = manifest.family, task.name, task.version
    if offered != (settings.family, settings.task, settings.task_version):
        raise SchemaMismatchError(
            f"the release is {offered}, this gateway serves "
            f"{(settings.family, settings.task, settings.task_version)}"
        )
    model = Model.from_bytes(_verified(folder, manifest, f"model.{variant}.onnx"), task)
    golden = read_golden(_verified(folder, manifest, "golden.npz"), variant, task)
    return ServedRelease(manifest, variant, task, model, golden)


def read_golden(data: bytes, variant: Variant, task: TaskSchema) -> GoldenVectors:
    """Take the golden vectors of one variant out of `golden.npz`.

    Raises:
        TrialFailedError: there are none, or they do not fit the task or are not finite.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            inputs, logits = arrays["inputs"], arrays[f"logits_{variant}"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrialFailedError(f"golden.npz holds no vectors for {variant}: {error}") from error
    rows = len(inputs) if inputs.ndim else 0
    wanted = (rows, *task.input.shape), (rows, len(task.classes))
    if rows == 0 or (inputs.shape, logits.shape) != wanted:
        raise TrialFailedError(f"golden vectors have shapes {inputs.shape} and {logits.shape}")
    if task.input.datatype == "BYTES" and inputs.dtype.kind == "U":
        # In a file without pickles text has a fixed width; the model takes it as objects.
        inputs = inputs.astype(object)
    if inputs.dtype != DTYPES[task.input.datatype] or logits.dtype != np.float32:
        raise TrialFailedError(
            f"golden vectors are {inputs.dtype} and {logits.dtype}, "
            f"the task's inputs {task.input.datatype}"
        )
    if not (_finite(inputs) and _finite(logits)):
        raise TrialFailedError("golden vectors are not finite")
    return GoldenVectors(inputs, logits)


def _finite(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _variant(text: str) -> Variant:
    for variant in get_args(Variant):
        if text == variant:
            known: Variant = variant
            return known
    raise TamperedFileError(f"variant.txt names {text[:32]!r}, not int8 or float")


def _verified(folder: Path, manifest: ReleaseManifest, name: str) -> bytes:
    if name not in manifest.files:
        raise TamperedFileError(f"the release has no {name}")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise TamperedFileError(f"cannot read {folder / name}: {error}") from error
    if sha256_hex(data) != manifest.files[name].sha256:
        raise TamperedFileError(f"{folder / name} is not the file that was signed")
    return data
