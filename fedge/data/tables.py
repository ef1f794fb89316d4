"""Tables that a user brings: Parquet or CSV, read by a task's features.

Errors name the file, the column and the row, never a value: messages end up in logs,
values must not. Rows are counted from 1, the header not included. What is learned
from a table is the task's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq

from fedge.errors import TaskError
from fedge.records import CategoricalFeature, NumericFeature

Feature = NumericFeature | CategoricalFeature


@dataclass(frozen=True, slots=True)
class LabelledTable:
    """A table in numbers.

    Attributes:
        values: float64 [n, len(features)]; a category as its index in `categories`; NaN for
            missing.
        labels: int64 [n], indices into the classes.
    """

    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def read_labelled(
    path: Path, features: Sequence[Feature], *, label: str, classes: Sequence[str]
) -> LabelledTable:
    """Read the columns named by `features` and the label column of a `.parquet` or `.csv` file.

    An empty CSV cell, a null and a NaN are missing values. Other columns are not read.

    Args:
        label: name of the label column; every row needs one.
        classes: what it may hold, written as text.

    Raises:
        TaskError: the file cannot be read or has no rows, a column is missing, or a cell does
            not fit: no number, infinite, or an undeclared category or class.
    """
    table = _read(path, [*(feature.name for feature in features), label])
    if table.num_rows == 0:
        raise TaskError(f"{path} has no rows")
    values = np.empty((table.num_rows, len(features)), dtype=np.float64)
    for at, feature in enumerate(features):
        column = table[feature.name].combine_chunks()
        if isinstance(feature, NumericFeature):
            values[:, at] = _numbers(path, feature, column)
        else:
            values[:, at] = _indices(path, feature.name, column, feature.categories)
    labels = _indices(path, label, table[label].combine_chunks(), classes)
    _refuse(path, label, np.isnan(labels), "has no label")
    return LabelledTable(values, labels.astype(np.int64))


def _read(path: Path, names: list[str]) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                _require(path, names, file.schema_arrow.names)
                return file.read(columns=names)
        if path.suffix != ".csv":
            raise TaskError(f"{path}: only .parquet and .csv files are read")
        # Wrong rows are passed over here and reported when the rows are read.
        lenient = pv.ParseOptions(invalid_row_handler=lambda row: "skip")
        with pv.open_csv(path, parse_options=lenient) as reader:
            _require(path, names, reader.schema.names)
        return _read_csv(path, names)
    except (OSError, pa.ArrowException) as error:
        raise TaskError(f"cannot read {path}: {_first_line(error)}") from error


def _read_csv(path: Path, names: list[str]) -> pa.Table:
    wrong: list[pv.InvalidRow] = []

    def stop_at(row: pv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    # Everything as text first: Arrow's own conversion does not say which row is wrong.
    convert = pv.ConvertOptions(
        include_columns=names,
        column_types={name: pa.string() for name in names},
        strings_can_be_null=True,
        null_values=[""],
    )
    try:
        return pv.read_csv(
            path,
            # One thread: Arrow knows row numbers only then.
            read_options=pv.ReadOptions(use_threads=False),
            parse_options=pv.ParseOptions(invalid_row_handler=stop_at),
            convert_options=convert,
        )
    except pa.ArrowException:
        if not wrong:
            raise
        # Arrow's own message would show the row's values.
        row = wrong[0]
        number = "unknown" if row.number is None else row.number - 1
        raise TaskError(
            f"{path}: row {number} has {row.actual_columns} cells, not {row.expected_columns}"
        ) from None


def _require(path: Path, names: list[str], present: list[str]) -> None:
    for name in names:
        if present.count(name) != 1:
            problem = "is missing" if name not in present else "is there twice"
            raise TaskError(f"{path}: column {name!r} {problem}")


def _numbers(path: Path, feature: NumericFeature, column: pa.Array) -> npt.NDArray[np.float64]:
    values = np.full(len(column), np.nan)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        for row, text in enumerate(column.to_pylist()):
            number = _number(text, feature)
            _refuse_row(path, feature.name, row, number is None, f"is no {feature.type}")
            values[row] = number
    else:
        try:
            cast = pc.cast(column, pa.float64(), safe=False)
        except pa.ArrowException as error:
            raise TaskError(
                f"{path}: column {feature.name!r} is {column.type}, not {feature.type}"
            ) from error
        values[:] = cast.to_numpy(zero_copy_only=False)
    _refuse(path, feature.name, np.isinf(values), "is infinite")
    whole = feature.type in ("int32", "int64", "bool")
    _refuse(
        path,
        feature.name,
        (values != np.floor(values)) & ~np.isnan(values) & whole,
        "is no whole number",
    )
    return values


def _number(text: str | None, feature: NumericFeature) -> float | None:
    """The number that a CSV cell holds; NaN where it is empty, None where it holds no number."""
    if text is None:
        return np.nan
    if feature.type == "bool" and text.strip().lower() in ("true", "false"):
        return float(text.strip().lower() == "true")
    try:
        return float(text)
    except ValueError:
        return None


def _indices(
    path: Path, name: str, column: pa.Array, declared: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Each cell's place in `declared`; NaN for missing."""
    if pa.types.is_floating(column.type) or pa.types.is_nested(column.type):
        raise TaskError(f"{path}: column {name!r} is {column.type}, not text or whole numbers")
    texts = pc.cast(column, pa.string())
    found = pc.index_in(texts, pa.array(declared, pa.string()))
    unknown = np.logical_and(pc.is_null(found), pc.is_valid(texts))
    _refuse(path, name, unknown, "holds a value that is not declared")
    indices: npt.NDArray[np.float64] = found.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return indices


def _refuse(path: Path, name: str, wrong: npt.NDArray[np.bool_], problem: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise TaskError(f"{path}: column {name!r}, row {rows[0] + 1} {problem}")


def _refuse_row(path: Path, name: str, row: int, wrong: bool, problem: str) -> None:
    if wrong:
        raise TaskError(f"{path}: column {name!r}, row {row + 1} {problem}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
