"""One window's rows as one Parquet file, written all or nothing.

The same rows give the same bytes, and every page carries a checksum. Which windows there
are, and which part belongs to which, is the block store's part.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fedge.data.subjects import PSEUDONYM_BYTES
from fedge.durable import sync_folder, write_file
from fedge.errors import StateError, TaskError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]
"""Of any type that a tensor of a request may have."""
Bytes = npt.NDArray[np.uint8]


PREDICTION_BYTES, FRAME_BYTES = 8, 8192
"""Of each row's prediction, and of a part's head and foot with room to spare."""

_ELEMENT = b"element"
"""Names the numpy type of a column of vectors in its metadata."""


class DamagedPartError(StateError):
    """A part is missing or its bytes are not those that were written; its rows are lost."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one window.

    Attributes:
        slots: int64 [n], strictly increasing arrival slots.
        inputs: [n, ...] in the type of the model's input; no values per row where they are not
            kept.
        features: float32 [n, F], NaN for missing.
        predictions: int [n], class indices.
        subjects: uint8 [n, 16], pseudonyms.
        purposes: uint8 [n], what each may serve, as bits; 0 where nobody noted it.

    Raises:
        TaskError: shapes or types do not fit each other.
    """

    slots: Integers
    inputs: Numbers
    features: Floats
    predictions: Numbers
    subjects: Bytes
    purposes: Bytes

    def __post_init__(self) -> None:
        slots, rows = self.slots, len(self.slots)
        if slots.dtype != np.int64 or slots.ndim != 1 or (np.diff(slots) <= 0).any():
            raise TaskError("slots must be one-dimensional int64 and strictly increasing")
        for name, array, kinds, dimensions in (
            ("inputs", self.inputs, "biuf", None),
            ("features", self.features, "f", 2),
            ("predictions", self.predictions, "i", 1),
            ("subjects", self.subjects, "u", 2),
            ("purposes", self.purposes, "u", 1),
        ):
            fits = array.dtype.kind in kinds and len(array) == rows
            if not fits or (array.ndim != dimensions if dimensions else array.ndim < 2):
                raise TaskError(f"{name} do not fit {rows} rows: {array.dtype} {array.shape}")
        if self.features.dtype != np.float32:
            raise TaskError(f"features must be float32, not {self.features.dtype}")
        if self.subjects.dtype != np.uint8 or self.subjects.shape[1] != PSEUDONYM_BYTES:
            raise TaskError(f"subjects must be uint8 [{rows}, {PSEUDONYM_BYTES}]")
        if self.purposes.dtype != np.uint8:
            raise TaskError(f"purposes must be uint8, not {self.purposes.dtype}")

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def width(self) -> int:
        """Input values of one row."""
        return math.prod(self.inputs.shape[1:])

    def where(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        """Only the chosen rows."""
        return Rows(
            self.slots[chosen],
            self.inputs[chosen],
            self.features[chosen],
            self.predictions[chosen],
            self.subjects[chosen],
            self.purposes[chosen],
        )


def encode_part(rows: Rows) -> bytes:
    """The Parquet bytes of a window's rows."""
    columns = [_plain("slot", pa.array(rows.slots))]
    if rows.width:
        columns.append(_vectors("input", rows.inputs))
    if rows.features.shape[1]:
        columns.append(_vectors("feature", rows.features))
    columns.append(_plain("prediction", pa.array(rows.predictions.astype(np.int64))))
    subjects = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(PSEUDONYM_BYTES), len(rows), [None, pa.py_buffer(rows.subjects.tobytes())]
    )
    columns.append(_plain("subject", subjects))
    columns.append(_plain("purposes", pa.array(rows.purposes)))
    fields, arrays = zip(*columns, strict=True)
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table(list(arrays), schema=pa.schema(fields)),
        sink,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def most_bytes(rows: Rows, count: int) -> int:
    """What a part of `count` rows like these takes at most, whatever they hold."""
    arrays = (rows.slots, rows.inputs, rows.features, rows.subjects, rows.purposes)
    each = PREDICTION_BYTES + sum(a.itemsize * math.prod(a.shape[1:]) for a in arrays)
    # What does not compress grows by a sixth at most.
    return FRAME_BYTES + count * each * 7 // 6


def decode_part(path: Path, rows: int, dtype: str) -> Rows:
    """Read a whole part back.

    Args:
        rows, dtype: how many rows it was written with, and the numpy type of their inputs.

    Raises:
        DamagedPartError: it is missing or damaged.
        StateError: the disk refused.
    """
    names = ("slot", "input", "feature", "prediction", "subject", "purposes")
    table = read_part(path, rows, *names)
    present = set(table.schema.names)
    return Rows(
        slots=column(table, "slot"),
        inputs=(
            vectors(table, "input") if "input" in present else np.empty((rows, 0), np.dtype(dtype))
        ),
        features=(
            vectors(table, "feature") if "feature" in present else np.empty((rows, 0), np.float32)
        ),
        predictions=column(table, "prediction"),
        subjects=subjects(table),
        purposes=purposes(table),
    )


def write_part(path: Path, data: bytes) -> None:
    """Write a part, all or nothing; on disk when it returns.

    Raises:
        StateError: the disk refused; nothing of it is left.
    """
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700)
            sync_folder(path.parent.parent)
        write_file(path, data, mode=0o600)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error}") from error


def read_part(path: Path, rows: int, *columns: str) -> pa.Table:
    """Read columns of a part; one that it does not have is left out.

    Raises:
        DamagedPartError: it is missing, damaged, or holds another number of rows; that is never
            an empty window.
        StateError: the disk refused.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=list(columns), use_threads=False)
    except FileNotFoundError as error:
        raise DamagedPartError(f"{path} is gone") from error
    except OSError as error:
        # Arrow reports damage as an OSError too, but only the system's has a number. A bad sector
        # is damage as well: asking again does not heal it.
        kind = DamagedPartError if error.errno in (None, errno.EIO) else StateError
        raise kind(f"cannot read {path}: {error}") from error
    except pa.ArrowException as error:
        raise DamagedPartError(f"cannot read {path}: {error}") from error
    if table.num_rows != rows or ("slot" in columns and "slot" not in table.schema.names):
        raise DamagedPartError(f"{path} does not hold the rows that were written")
    return table


def remove_files(paths: Iterable[Path]) -> None:
    """Delete files, and their folders where these are empty then; durable when it returns.

    Raises:
        StateError: the disk refused; called again, it goes on with the rest.
    """
    try:
        folders = set()
        for path in paths:
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:
            if not folder.is_dir():
                continue
            if any(folder.iterdir()):
                sync_folder(folder)
            else:
                folder.rmdir()
                sync_folder(folder.parent)
    except OSError as error:
        raise StateError(f"cannot delete records: {error}") from error


def column(table: pa.Table, name: str) -> Integers:
    """A column of integers."""
    values: Integers = table[name].to_numpy()
    return values


def vectors(table: pa.Table, name: str) -> Numbers:
    """A column of vectors, [n, D], in the type it was written with."""
    field, joined = table.schema.field(name), table[name].combine_chunks()
    if pa.types.is_fixed_size_list(field.type):  # as earlier versions wrote them
        flat: Numbers = joined.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(table.num_rows, field.type.list_size)
    dtype = np.dtype(field.metadata[_ELEMENT].decode())
    size, start = field.type.byte_width, joined.offset * field.type.byte_width
    data = memoryview(joined.buffers()[1])[start : start + table.num_rows * size]
    return np.frombuffer(data, dtype).reshape(table.num_rows, size // dtype.itemsize)


def subjects(table: pa.Table) -> Bytes:
    """The pseudonyms, uint8 [n, 16]; nobody's where an older version wrote none."""
    if "subject" not in table.schema.names:
        return np.zeros((table.num_rows, PSEUDONYM_BYTES), dtype=np.uint8)
    joined = b"".join(table["subject"].to_pylist())
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, PSEUDONYM_BYTES)


def purposes(table: pa.Table) -> Bytes:
    """What the rows may serve, uint8 [n]; nothing where an older version noted none."""
    if "purposes" not in table.schema.names:
        return np.zeros(table.num_rows, dtype=np.uint8)
    values: Bytes = table["purposes"].to_numpy()
    return values


def _plain(name: str, array: pa.Array) -> tuple[pa.Field, pa.Array]:
    return pa.field(name, array.type), array


def _vectors(name: str, array: Numbers) -> tuple[pa.Field, pa.Array]:
    """[n, ...] as n byte strings of one length, and the column with the type of their elements.

    Three times cheaper to write than lists, for each of whose elements Parquet keeps levels.
    """
    rows = np.ascontiguousarray(array)
    kind = pa.binary(rows.itemsize * math.prod(rows.shape[1:]))
    made = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])
    return pa.field(name, kind, metadata={_ELEMENT: rows.dtype.str.encode()}), made
