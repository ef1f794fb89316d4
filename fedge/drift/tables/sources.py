"""From files and frames to named columns of raw values; nothing is understood here.

Files are told apart by their first bytes, not by their names. Whatever is wrong with one is a
`TableError` that names the file, and where it can be known the column and the row.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from fedge.drift.tables.delimited import delimited
from fedge.drift.tables.rawtable import RawTable, one_piece
from fedge.errors import TableError

MAX_CELLS = 2**31
"""Rows times columns that are read at most; a small hostile file may claim any number."""

MAX_BYTES = 2**34
"""Size up to which a compressed file is unpacked."""


def load(source: Any) -> RawTable:
    """Columns of a CSV, Parquet or Arrow file (a path), a pandas, polars or Arrow table, a numpy
    structured array, or a mapping from names to columns.

    Raises:
        TableError: the source cannot be read, has no column or no row.
    """
    table = _file(Path(source)) if isinstance(source, str | Path) else _object(source)
    if not table.arrays:
        raise TableError(f"{table.place} has no columns")
    lengths = {len(array) for array in table.arrays}
    if len(lengths) > 1:
        raise TableError(f"{table.place} has columns of different lengths: {sorted(lengths)}")
    if not table.rows:
        names = ", ".join(repr(name) for name in table.names[:8])
        raise TableError(f"{table.place} has no rows below its columns {names}")
    return table


# --- in memory ------------------------------------------------------------------------


def _object(source: Any) -> RawTable:
    home = type(source).__module__.partition(".")[0]
    if home == "pandas":
        return _pandas(source)
    if home == "polars":
        if hasattr(source, "collect"):
            source = source.collect()
        return _arrow(source.to_arrow(), "the polars table")
    if isinstance(source, pa.Table | pa.RecordBatch):
        return _arrow(pa.table(source), "the Arrow table")
    if isinstance(source, np.ndarray) and source.dtype.names:
        columns = {name: source[name] for name in source.dtype.names}
        return _mapping(columns, "the numpy table")
    if isinstance(source, Mapping):
        return _mapping(source, "the table")
    if hasattr(source, "__arrow_c_stream__"):
        return _arrow(pa.table(source), "the table")
    raise TableError(
        f"cannot read a {type(source).__name__} as a table: give a path, a pandas, polars or "
        "Arrow table, a numpy structured array, or a dict of columns"
    )


def _pandas(frame: Any) -> RawTable:
    if not hasattr(frame, "columns"):
        raise TableError("a pandas Series is no table: give a DataFrame")
    names = tuple(str(name) for name in frame.columns)
    arrays = (_series(series, str(name)) for name, series in frame.items())
    return RawTable(names, tuple(arrays), "the pandas table")


def _series(series: Any, name: str) -> NDArray[Any] | pa.Array:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "fiub":
        return np.asarray(series)
    try:
        return one_piece(pa.Array.from_pandas(series))
    except (pa.ArrowException, TypeError, ValueError):
        return _any_objects(list(series), name)


def _mapping(columns: Mapping[Any, Any], place: str) -> RawTable:
    arrays = tuple(_sequence(values, str(name)) for name, values in columns.items())
    return RawTable(tuple(str(name) for name in columns), arrays, place)


def _sequence(values: Any, name: str) -> NDArray[Any] | pa.Array:
    if type(values).__module__.partition(".")[0] == "pandas":
        return _series(values, name)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return one_piece(values)
    if hasattr(values, "to_numpy") and not isinstance(values, np.ndarray):
        values = values.to_numpy()
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise TableError(f"column {name!r} has {values.ndim} dimensions, not one")
        if values.dtype.kind in "fiub":
            return values
    try:
        return one_piece(pa.array(values, from_pandas=True))
    except (pa.ArrowException, TypeError, ValueError):
        return _any_objects(values, name)


def _any_objects(values: Any, name: str) -> pa.Array:
    """Python objects of several types as the texts that they print."""
    try:
        texts = [None if v is None or v != v else str(v) for v in values]
        return pa.array(texts, pa.large_string())
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise TableError(f"column {name!r} cannot be read: {type(error).__name__}") from error


def _arrow(table: pa.Table, place: str) -> RawTable:
    arrays = tuple(_arrow_array(column) for column in table.columns)
    return RawTable(tuple(table.column_names), arrays, place)


def _arrow_array(column: pa.ChunkedArray) -> NDArray[Any] | pa.Array:
    plain = pa.types.is_floating(column.type) and not pa.types.is_float16(column.type)
    if plain and column.null_count == 0:
        return np.asarray(column.to_numpy())
    return one_piece(column)


# --- files ----------------------------------------------------------------------------


def _file(path: Path) -> RawTable:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise TableError(f"{path} is empty")
    try:
        return _open(path, head)
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        # Arrow's own words may show values.
        raise TableError(f"{path} is damaged or cut short: {type(error).__name__}") from error
    except (MemoryError, ValueError, OverflowError) as error:
        raise TableError(f"{path} claims more than it can hold: {type(error).__name__}") from error


def _open(path: Path, head: bytes) -> RawTable:
    if head.startswith(b"PAR1"):
        return _parquet(path)
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return _ipc(path, stream=not head.startswith(b"ARROW1"))
    if path.suffix.lower() in (".parquet", ".arrow", ".feather"):
        raise TableError(f"{path} is no {path.suffix[1:]} file: it begins otherwise")
    if head.startswith(b"\x1f\x8b"):
        with gzip.open(path) as packed:
            data = packed.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise TableError(f"{path} unpacks to more than {MAX_BYTES} bytes")
    else:
        data = path.read_bytes()
    return delimited(data, str(path))


def _parquet(path: Path) -> RawTable:
    with pa.parquet.ParquetFile(path) as file:
        facts = file.metadata
        if facts.num_rows * max(1, facts.num_columns) > MAX_CELLS:
            raise TableError(f"{path} claims more than {MAX_CELLS} values")
        table = file.read(use_threads=False)
    return _checked(table, path)


def _ipc(path: Path, *, stream: bool) -> RawTable:
    with pa.OSFile(str(path), "rb") as file:
        opened = pa.ipc.open_stream(file) if stream else pa.ipc.open_file(file)
        table = opened.read_all()
    return _checked(table, path)


def _checked(table: pa.Table, path: Path) -> RawTable:
    """A table from a file whose offsets, lengths and texts are what they claim to be."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            raise TableError(f"{path}: column {name!r} is damaged") from error
    return _arrow(table, str(path))
