"""Any file or frame becomes a typed table, or an error that names file, column and row."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge.drift import Table, read, read_table
from fedge.drift.tables import inference
from fedge.errors import TableError

CSV = "x,n,ok,kind,when\n1.5,1,yes,red,2024-01-01 00:00\n2.5,4,no,blue,2024-01-01 01:00\n"
KINDS = {"x": "number", "n": "integer", "ok": "boolean", "kind": "category", "when": "time"}


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def kinds(table: Table) -> dict[str, str]:
    return {column.name: column.kind for column in table.columns}


def found(source: Any, **options: Any) -> dict[str, tuple[str | None, int | None]]:
    """Findings by kind: column and row."""
    return {f.kind: (f.column, f.row) for f in read(source, **options).findings}


# --- sources --------------------------------------------------------------------------


def test_types_are_inferred_from_texts(tmp_path: Path) -> None:
    """Numbers, integers, booleans, categories and times, without any schema."""
    table = read_table(write(tmp_path, CSV))

    assert kinds(table) == KINDS
    assert table.column("ok").values.tolist() == [1.0, 0.0]
    assert table.column("kind").categories == ("red", "blue")
    assert table.column("when").values[1] - table.column("when").values[0] == 3600


def test_every_source_gives_the_same_table(tmp_path: Path) -> None:
    """CSV, gzipped CSV, Parquet, Arrow, pandas, polars, dicts and structured arrays."""
    frame = pd.DataFrame({"x": [0.5, 1.5, np.nan], "n": [3, 1, 2], "kind": ["a", "b", "a"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    write(tmp_path, gzip.compress((tmp_path / "t.csv").read_bytes()), "t.csv.gz")
    frame.to_parquet(tmp_path / "t.parquet")
    arrow = pa.Table.from_pandas(frame)
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), arrow.schema) as file:
        file.write_table(arrow)
    structured = np.array(
        [(0.5, 3, "a"), (1.5, 1, "b"), (np.nan, 2, "a")],
        dtype=[("x", "f8"), ("n", "i4"), ("kind", "U1")],
    )
    sources = [
        *(tmp_path / name for name in ("t.csv", "t.csv.gz", "t.parquet", "t.arrow")),
        *(frame, arrow, pl.from_pandas(frame), frame.to_dict("list"), structured),
    ]

    tables = [read_table(source) for source in sources]

    for table in tables:
        assert kinds(table) == {"x": "number", "n": "integer", "kind": "category"}
        assert np.array_equal(table.column("x").values, [0.5, 1.5, np.nan], equal_nan=True)
        assert table.column("kind").values.tolist() == [0.0, 1.0, 0.0]


def test_what_is_no_table_is_refused() -> None:
    for source in (42, pd.Series([1, 2]), np.ones((2, 2)), {"x": [1, 2], "y": [1]}, {}):
        with pytest.raises(TableError):
            read_table(source)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"x,y\n", "no rows"),
        (b"x,y\n1,2\n3\n", r"row 1 has 1 values.*column 'y'"),
        (b"x,y\n1,2\n3,4,5\n", r"row 1 has 3 values"),
        (b"x,y\n1,2\n3,\xff\xfe\n", r"column 'y', row 1 is not UTF-8"),
        (b"x\xff,y\n1,2\n", "header is not UTF-8"),
        ("x,y\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "binary"),
        (b'x,y\n1,"2\n3,4\n', r"quote in column 'y', row 0"),
        (b"\x1f\x8bjunk", "damaged"),
        (b"PAR1junk", "damaged"),
        (b"ARROW1junk", "damaged"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    """Empty, header only, ragged, of another encoding, binary, cut short: never a traceback."""
    path = write(tmp_path, content)

    with pytest.raises(TableError, match=words) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_wrong_endings(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(TableError, match="no parquet file"):
        read_table(write(tmp_path, CSV, "t.parquet"))


@pytest.mark.parametrize("form", ["parquet", "arrow", "stream"])
def test_damaged_files_never_crash(tmp_path: Path, form: str) -> None:
    """Parquet and Arrow cut at any length, or with flipped bytes, are tables or errors."""
    table = pa.table({"x": np.arange(300.0), "kind": [f"text {i % 7}" for i in range(300)]})
    path = tmp_path / form
    if form == "parquet":
        pq.write_table(table, path)
    else:
        opened = pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream
        with opened(str(path), table.schema) as file:
            file.write_table(table)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for trial in range(150):
        data = bytearray(whole)
        if trial < 50:
            data = data[: int(rng.integers(8, len(data)))]
        else:
            for _ in range(3):
                data[int(rng.integers(8, len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            read_table(path)
        except TableError as error:
            assert str(path) in str(error) or "column" in str(error)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=100).map(lambda b: b"PAR1" + b + b"PAR1"),
        st.binary(max_size=100).map(lambda b: b"ARROW1\0\0" + b),
        st.binary(max_size=100).map(lambda b: b"\xff\xff\xff\xff" + b),
        st.text(alphabet='ab1,;\n\r"\t -.e?é\x1b', max_size=120).map(str.encode),
        st.text(max_size=60).map(lambda t: ("x,y\n1,2\n" + t).encode("utf-8", "surrogatepass")),
    )
)
def test_any_bytes_are_a_table_or_an_error(tmp_path: Path, data: bytes) -> None:
    """Nothing that a file may hold gets through as another exception."""
    path = write(tmp_path, data, "any")
    try:
        table = read_table(path)
    except TableError as error:
        assert str(error)
    else:
        assert table.rows > 0
        assert all(len(column.values) == table.rows for column in table.columns)


def test_errors_show_no_values(tmp_path: Path) -> None:
    """A message may end in a log; what stood in the file may not."""
    for content in (b"x,y\nSECRET\n", b"x,y\nSECRET,\xff\n", b"PAR1SECRET"):
        with pytest.raises(TableError) as caught:
            read_table(write(tmp_path, content))
        assert "SECRET" not in str(caught.value)


# --- values ---------------------------------------------------------------------------


def test_words_for_missing_values(tmp_path: Path) -> None:
    """NA, NaN, null, None, ? and nothing at all are missing; infinity is a value."""
    text = "x,kind\n1.5,a\n,\nNA,NA\nNaN,null\nnull,None\n?,?\n -2 ,b\ninf,a\n"
    table = read_table(write(tmp_path, text))

    assert table.column("x").values[[0, 6, 7]].tolist() == [1.5, -2.0, np.inf]
    assert np.isnan(table.column("x").values[1:6]).all()
    assert np.isnan(table.column("kind").values[1:6]).all()
    assert table.column("kind").categories == ("a", "b")


def test_spellings_of_booleans() -> None:
    for no, yes in (("false", "true"), ("No", "Yes"), ("off", "ON"), ("n", "y"), ("F", "T")):
        column = read_table({"x": [no, yes, yes]}).column("x")
        assert (column.kind, column.values.tolist()) == ("boolean", [0.0, 1.0, 1.0])
    assert read_table({"x": [0, 1, 1]}).column("x").kind == "boolean"
    assert read_table({"x": ["t", "t", "u"]}).column("x").kind == "category"


@pytest.mark.parametrize(
    ("first", "seconds"),
    [
        ("2024-03-01", 1709251200),
        ("2024-03-01T12:30:00", 1709296200),
        ("2024-03-01 12:30:00+02:00", 1709289000),
        ("01.03.2024 12:30", 1709296200),
        ("2024/03/01 12:30:00", 1709296200),
    ],
)
def test_spellings_of_times(first: str, seconds: int) -> None:
    column = read_table({"t": [first, first]}).column("t")

    assert column.kind == "time"
    assert column.values[0] == seconds


def test_bytes_that_are_texts_are_read_as_such() -> None:
    """As some writers of Parquet leave them; others are not watched."""
    table = read_table({"a": [b"1.5", b"2"], "b": [b"red", b""], "c": [b"\xff", b"\xfe"]})

    assert kinds(table) == {"a": "number", "b": "category", "c": "excluded"}


def test_epochs_in_any_unit() -> None:
    """A time column of numbers counts seconds, milli-, micro- or nanoseconds."""
    for unit in (1, 10**3, 10**6, 10**9):
        source = {"t": np.array([1_700_000_000, 1_700_000_060]) * unit, "x": [1.0, 2.0]}
        assert read_table(source, time="t").column("t").values[0] == 1_700_000_000
    assert read_table({"t": [10, 20], "x": [1, 2]}, time="t").column("t").values[0] == 10


def test_decimal_commas(tmp_path: Path) -> None:
    """`1,5` is a number only where the file's delimiter cannot be a comma."""
    clear = read_table(write(tmp_path, "x;y\n1,5;2\n-0,25;3\n"))
    unclear = read_table(write(tmp_path, 'x,y\n"1,5",2\n"0,25",3\n'))

    assert clear.column("x").values.tolist() == [1.5, -0.25]
    assert "decimal comma" in clear.column("x").note
    assert unclear.column("x").kind == "category"


def test_mixed_types_name_column_and_row(tmp_path: Path) -> None:
    """A few texts among numbers are missing values; many make a category."""
    few = "x\n" + "\n".join(["1.5"] * 30 + ["broken"] + ["2.5"] * 20) + "\n"
    many = {"x": [1, "a", 2, "b", 3, "a"] * 4}

    assert found(write(tmp_path, few))["mixed-types"] == ("x", 30)
    table = read_table(write(tmp_path, few))
    assert table.column("x").kind == "number"
    assert np.isnan(table.column("x").values[30])
    assert found(many)["mixed-types"] == ("x", 1)
    assert read_table(many).column("x").kind == "category"


def test_odd_columns_are_findings() -> None:
    """No value, one value, infinite values, the same values as another column."""
    x = np.array([1.5, 2.5, np.inf, 0.5, 3.5, 2.0])
    source = {"empty": [None] * 6, "nan": [np.nan] * 6, "one": [7.5] * 6, "x": x, "copy": x}
    reading = read(source)
    kinds_found = {(f.kind, f.column, f.row) for f in reading.findings}

    assert ("no-values", "empty", 0) in kinds_found
    assert ("no-values", "nan", 0) in kinds_found
    assert ("constant", "one", None) in kinds_found
    assert ("infinite-values", "x", 2) in kinds_found
    assert ("duplicate-content", "copy", None) in kinds_found
    assert [c.name for c in reading.table.features] == ["one", "x", "copy"]


@pytest.mark.parametrize("tail", ["", "\r"])
def test_lines_may_end_as_on_the_macs_of_old(tmp_path: Path, tail: str) -> None:
    """In a bare CR; quoted values and both ends of a file included."""
    text = 'x,"a b"\r1,red\r2,"blue, or so"\r3,red' + tail
    path = tmp_path / "old.csv"
    path.write_bytes(text.encode())
    table = read_table(path)

    assert table.column("x").values.tolist() == [1.0, 2.0, 3.0]
    assert table.column("a b").categories == ("red", "blue, or so")


def test_lines_that_end_in_two_ways_are_told(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_bytes(b"x,y\r1,2\r3,4\n5,6\n")

    with pytest.raises(TableError, match="bare CR"):
        read_table(path)


def test_duplicate_names(tmp_path: Path) -> None:
    """Told apart by a number; an error where a role is meant by one of them."""
    path = write(tmp_path, "x,x,x.1,y\n1,2,3,0\n4,5,6,1\n")

    assert [c.name for c in read_table(path).columns] == ["x", "x.2", "x.1", "y"]
    assert found(path)["duplicate-name"] == ("x.2", None)
    with pytest.raises(TableError, match="more than one column 'x'"):
        read_table(path, label="x")
    with pytest.raises(TableError, match="no label column 'z'"):
        read_table(path, label="z")


def test_clocks_counters_and_identifiers_are_not_watched() -> None:
    """What never comes back differs from its past by nature."""
    rng = np.random.default_rng(0)
    n = 400
    source = {
        "No": np.arange(n) + 5,
        "hour": np.arange(n) % 24,
        "date": np.repeat(np.arange(n / 8), 8),
        "energy_total": np.cumsum(rng.uniform(0.1, 1, n)),
        "name": [f"part {i}" for i in range(n)],
        "when": pd.date_range("2024-01-01", periods=n, freq="h"),
        "x": rng.normal(size=n),
        "valve": np.repeat([0.0, 1.0], n // 2),
    }
    reading = read(source)

    assert [column.name for column in reading.table.features if column.kind != "time"] == [
        "x",
        "valve",
    ]
    shown = {c.name: c.note for c in reading.table.columns}
    assert all(shown[name] for name in source if name not in ("x", "valve"))


def test_very_many_categories_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare ones are pooled and identifiers left out, also where only a sample is counted."""
    rng = np.random.default_rng(0)
    n = 300_000
    ids = pa.array([f"id{i}" for i in range(n)])
    common = rng.integers(0, 5, n)
    mixed = pa.array([f"c{c}" if i % 2 else f"rare{i % 5000}" for i, c in enumerate(common)])
    for exact in (2**20, 2**12):
        monkeypatch.setattr(inference, "_EXACT_ROWS", exact)
        reading = read(pa.table({"id": ids, "mixed": mixed}))
        mixed_column = reading.table.column("mixed")

        assert reading.table.column("id").kind == "excluded"
        assert reading.table.column("id").categories == ()
        assert len(mixed_column.categories) == inference.MAX_CATEGORIES
        assert mixed_column.categories[-1] == inference.OTHERS
        assert {f"c{i}" for i in range(5)} <= set(mixed_column.categories)
        assert {f.kind for f in reading.findings} == {"not-watched", "many-categories"}


# --- time -----------------------------------------------------------------------------


def test_rows_are_put_in_order_of_time() -> None:
    """Stable, and the finding says where it went back and how many rows were moved."""
    source = {"t": [0, 60, 30, 90, 90], "x": [0.5, 2.5, 1.5, 3.5, 4.5]}
    reading = read(source, time="t")
    words = next(f.words for f in reading.findings if f.kind == "out-of-order")

    assert reading.table.column("x").values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert "2 rows were moved" in words
    assert {f.kind: f.row for f in reading.findings}["out-of-order"] == 2
    assert {f.kind: f.row for f in reading.findings}["repeated-time"] == 4
    assert reading.table.column("t") not in reading.table.features


def test_gaps_and_missing_times() -> None:
    steady = [float(i) for i in range(30)]
    gap = {"t": [*steady, 200.0], "x": [*steady, 1.0]}

    assert found(gap, time="t")["time-gap"] == ("t", 30)
    with pytest.raises(TableError, match=r"'t' has no time in row 1"):
        read_table({"t": [1.0, np.nan, 2.0], "x": [1, 2, 3]}, time="t")
    with pytest.raises(TableError, match="holds no times"):
        read_table({"t": ["a", "b"], "x": [1, 2]}, time="t")


# --- like a reference -----------------------------------------------------------------

REFERENCE = {
    "n": [3, 5, 4, 3],
    "x": [1.5, 2.5, 0.5, 1.0],
    "ok": ["yes", "no", "no", "yes"],
    "kind": ["a", "b", "a", "c"],
}


def test_a_current_table_takes_the_references_types() -> None:
    """Whole numbers stay numbers, categories keep their places, new ones come after."""
    like = read_table(REFERENCE)
    current = {"n": [1, 0, 1], "x": [1, 2, 3], "ok": ["no", "no", None], "kind": ["c", "d", "a"]}
    reading = read(current, like=like)

    assert kinds(reading.table) == kinds(like)
    assert reading.table.column("kind").values.tolist() == [2.0, 3.0, 0.0]
    assert reading.table.column("kind").categories == ("a", "b", "c", "d")
    assert reading.findings == ()


def test_a_changed_schema_is_found_not_crashed_on() -> None:
    """Missing, new and retyped columns, by name."""
    like = read_table(REFERENCE)
    current = {
        "n": ["low", "high", "low"],
        "ok": [3.5, 2.5, 1.5],
        "kind": [1, 2, 3],
        "new": [1] * 3,
    }
    kinds_found = {(f.kind, f.column) for f in read(current, like=like).findings}

    assert kinds_found >= {
        ("missing-column", "x"),
        ("new-column", "new"),
        ("retyped-column", "n"),
        ("retyped-column", "ok"),
        ("retyped-column", "kind"),
    }


def test_columns_without_values_fit_any_type() -> None:
    """A column that fell silent is missing values, not another type."""
    like = read_table(REFERENCE)
    silent = {name: [None] * 3 for name in REFERENCE}
    reading = read(silent, like=like)

    assert kinds(reading.table) == kinds(like)
    assert all(np.isnan(column.values).all() for column in reading.table.columns)
