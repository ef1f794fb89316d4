"""Model weights as plain numbers: `weights.npz` without pickle, and the adapters in them.

Reading and merging need no torch, so flows can plan a run, and anyone can check
what an adapter changed, without it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.errors import NonFiniteValueError, TaskError
from fedge.records import AdapterKind
from fedge.tasks.code import Weights as Weights  # re-exported: who handles weights needs its name

Vector = npt.NDArray[np.float32]

ADAPTER_PREFIX: dict[AdapterKind, str] = {"input": "input_adapter.", "head": "head."}
_EPOCH = (1980, 1, 1, 0, 0, 0)


def weights_to_bytes(weights: Weights) -> bytes:
    """An `.npz` whose bytes depend on the weights alone.

    Raises:
        NonFiniteValueError: a weight is NaN or infinite.
    """
    return arrays_to_bytes({name: _finite(name, value) for name, value in weights.items()})


def arrays_to_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Any arrays as an `.npz` with sorted names and no times in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            file = io.BytesIO()
            np.save(file, arrays[name], allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), file.getvalue())
    return buffer.getvalue()


def read_weights(path: Path) -> Weights:
    """Read `weights.npz`.

    Raises:
        TaskError: it cannot be read, or holds something else than float32 arrays.
        NonFiniteValueError: a weight is NaN or infinite.
    """
    weights = {}
    for name, value in read_arrays(path).items():
        if value.dtype != np.float32:
            raise TaskError(f"{path}: {name} is {value.dtype}, not float32")
        weights[name] = _finite(name, value)
    return weights


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read an `.npz`; nothing in it is ever executed.

    Raises:
        TaskError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"cannot read {path}: {error}") from error


def adapter_names(weights: Weights, kind: AdapterKind) -> tuple[str, ...]:
    """Names of the weights that an adapter consists of, sorted: the order of its vector.

    Raises:
        TaskError: the model has no such adapter.
    """
    names = tuple(name for name in sorted(weights) if name.startswith(ADAPTER_PREFIX[kind]))
    if not names:
        raise TaskError(f"the model has no {kind} adapter")
    return names


def adapter_dimension(weights: Weights, kind: AdapterKind) -> int:
    """Length of an adapter's vector."""
    return sum(weights[name].size for name in adapter_names(weights, kind))


def merge_vector(weights: Weights, kind: AdapterKind, change: Vector) -> Weights:
    """`weights` with `change` added to one adapter; zero changes nothing.

    Args:
        change: float32 [adapter_dimension].

    Raises:
        TaskError: `change` has another length.
        NonFiniteValueError: it is not finite.
    """
    dimension = adapter_dimension(weights, kind)
    if change.shape != (dimension,):
        raise TaskError(f"an {kind} adapter of shape {change.shape}, the model's has {dimension}")
    _finite(f"the {kind} adapter", change)
    merged, start = dict(weights), 0
    for name in adapter_names(weights, kind):
        value = weights[name]
        piece = change[start : start + value.size].reshape(value.shape)
        merged[name] = (value + piece).astype(np.float32)
        start += value.size
    return merged


def _finite(name: str, value: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    array = np.asarray(value, dtype=np.float32)
    if not np.isfinite(array).all():
        raise NonFiniteValueError(f"{name} holds NaN or infinity")
    return array
