"""Reading a user's Parquet or CSV table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

from fedge.data.tables import LabelledTable, read_labelled
from fedge.errors import TaskError
from fedge.records import CategoricalFeature, NumericFeature

FEATURES = (
    NumericFeature(name="load", type="float32", low=0.0, high=10.0),
    NumericFeature(name="count", type="int64", low=0.0, high=100.0),
    NumericFeature(name="on", type="bool", low=0.0, high=1.0),
    CategoricalFeature(name="site", categories=("north", "south")),
)
CLASSES = ("ok", "worn")
GOOD = "site,load,note,count,on,state\nsouth,1.5,x,3,true,worn\nnorth,,y,4,false,ok\n,2e1,,5,1,ok\n"


def read(path: Path) -> LabelledTable:
    return read_labelled(path, FEATURES, label="state", classes=CLASSES)


def as_csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def check(table: LabelledTable) -> None:
    expected = [[1.5, 3, 1, 1], [np.nan, 4, 0, 0], [20.0, 5, 1, np.nan]]
    np.testing.assert_array_equal(table.values, expected)
    assert table.labels.tolist() == [1, 0, 0]
    assert len(table) == 3


def test_a_csv_is_read_by_name(tmp_path: Path) -> None:
    """Column order does not matter, other columns are left alone, an empty cell is missing."""
    check(read(as_csv(tmp_path, GOOD)))


def test_a_parquet_file_gives_the_same(tmp_path: Path) -> None:
    """Nulls and NaN are missing values there."""
    table = pa.table(
        {
            "load": pa.array([1.5, float("nan"), 20.0]),
            "count": pa.array([3, 4, 5], pa.int32()),
            "on": pa.array([True, False, True]),
            "site": pa.array(["south", "north", None]).dictionary_encode(),
            "state": ["worn", "ok", "ok"],
        }
    )
    pq.write_table(table, tmp_path / "table.parquet")

    check(read(tmp_path / "table.parquet"))


def test_whole_numbers_may_name_classes(tmp_path: Path) -> None:
    """A label column of integers is compared as text."""
    path = as_csv(tmp_path, "load,digit\n1,7\n2,3\n")

    table = read_labelled(path, FEATURES[:1], label="digit", classes=("3", "7"))

    assert table.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("old", "new", "column", "row"),
    [
        ("1.5", "fast", "load", 1),
        ("2e1", "inf", "load", 3),
        (",4,", ",4.5,", "count", 2),
        ("north", "west", "site", 2),
        ("worn", "torn", "state", 1),
        (",ok\n,2e1", ",\n,2e1", "state", 2),
        ("5,1", "5,maybe", "on", 3),
    ],
)
def test_an_error_names_column_and_row_but_no_value(
    tmp_path: Path, old: str, new: str, column: str, row: int
) -> None:
    """Enough to find the cell; what it holds stays out of logs."""
    with pytest.raises(TaskError) as refused:
        read(as_csv(tmp_path, GOOD.replace(old, new)))

    assert f"{column!r}, row {row} " in str(refused.value)
    message = str(refused.value).split("column")[1]
    assert not any(value in message for value in ("fast", "west", "torn", "maybe", "4.5"))


@pytest.mark.parametrize("column", ["load", "site", "state"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_missing_column_is_named(tmp_path: Path, column: str, suffix: str) -> None:
    """A column that is not there is never all missing values."""
    path = as_csv(tmp_path, GOOD.replace(column, "other"))
    if suffix == "parquet":
        path = tmp_path / "table.parquet"
        pq.write_table(pv.read_csv(tmp_path / "table.csv"), path)

    with pytest.raises(TaskError, match=f"column '{column}' is missing"):
        read(path)


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    """Nobody knows which one was meant."""
    with pytest.raises(TaskError, match="'load' is there twice"):
        read(as_csv(tmp_path, GOOD.replace("note", "load")))


def test_a_ragged_row_is_named_without_its_values(tmp_path: Path) -> None:
    """Too few cells in a row: its number, not its content."""
    with pytest.raises(TaskError, match="row 2 has 2 cells, not 6") as refused:
        read(as_csv(tmp_path, GOOD.replace("north,,y,4,false,ok", "north,secret")))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", b""),
        ("table.csv", b"site,load,note,count,on,state\n"),
        ("table.csv", b"\xff\xfe\x00"),
        ("table.parquet", b"no parquet"),
        ("table.xlsx", b""),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Empty, foreign or of another kind: an error of ours."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(TaskError):
        read(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """It says so."""
    with pytest.raises(TaskError, match="cannot read"):
        read(tmp_path / "table.csv")


def test_a_wrong_parquet_type_is_named(tmp_path: Path) -> None:
    """Numbers must be numbers, categories text."""
    columns = {
        "load": [[1.0]],
        "count": [1],
        "on": [True],
        "site": ["north"],
        "state": ["ok"],
    }
    for name, value in (("load", [[1.0]]), ("site", [1.5])):
        pq.write_table(pa.table(columns | {"load": [1.0], name: value}), tmp_path / "table.parquet")
        with pytest.raises(TaskError, match=f"column '{name}' is"):
            read(tmp_path / "table.parquet")
