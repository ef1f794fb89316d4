"""One window's rows as one Parquet file, written all or nothing.

Which windows there are, and which part belongs to which, is the block store's part.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fedge.errors import StateError, TaskError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def encode_part(slots: Integers, inputs: Floats, features: Floats, predictions: Integers) -> bytes:
    """The Parquet bytes of a window's rows; the same rows give the same bytes.

    Raises:
        TaskError: shapes or types do not fit each other; see `BlockStore.write_window`.
    """
    rows = len(slots)
    if slots.dtype != np.int64 or slots.ndim != 1 or (np.diff(slots) <= 0).any():
        raise TaskError("slots must be one-dimensional int64 and strictly increasing")
    for name, array in (("inputs", inputs), ("features", features)):
        if array.dtype != np.float32 or array.ndim < 2 or len(array) != rows:
            raise TaskError(
                f"{name} must be float32 [{rows}, ...], not {array.dtype} {array.shape}"
            )
    if predictions.dtype.kind != "i" or predictions.shape != (rows,):
        raise TaskError(
            f"predictions must be integers [{rows}], not {predictions.dtype} {predictions.shape}"
        )
    table = pa.table(
        {
            "slot": pa.array(slots),
            "input": _vectors(inputs),
            "feature": _vectors(features),
            "prediction": pa.array(predictions.astype(np.int64)),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=False, write_statistics=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def write_part(path: Path, data: bytes) -> None:
    """Write a part, all or nothing; on disk when it returns.

    Raises:
        StateError: the disk refused.
    """
    temporary = path.with_suffix(".tmp")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700)
            _sync_folder(path.parent.parent)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.truncate()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error}") from error


def read_part(path: Path, *columns: str) -> pa.Table:
    """Read columns of a part.

    Raises:
        StateError: it is missing or damaged; that is never an empty window.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise StateError(f"cannot read {path}: {error}") from error


def _vectors(array: Floats) -> pa.Array:
    """[n, ...] as n lists of a fixed length."""
    flat = pa.array(np.ascontiguousarray(array).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, math.prod(array.shape[1:]))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
