"""Odd tables through both engines: a typed finding or error, never a crash, never a quiet pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedge.cli.drift import app
from fedge.drift import compare, replay
from fedge.errors import FedgeError, TableError

ROWS = 600


def good() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=ROWS),
            "y": rng.normal(size=ROWS),
            "kind": rng.choice(["a", "b"], ROWS),
        }
    )


def mixed(frame: pd.DataFrame) -> pd.DataFrame:
    values = frame["x"].astype(object)
    values.iloc[[40, 90]] = "broken"
    return frame.assign(odd=values)


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame[["x"]]], axis=1)


ODD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str, str]] = {
    "NaN only": (lambda f: f.assign(odd=np.nan), "no-values", "odd"),
    "constant": (lambda f: f.assign(odd=3.25), "constant", "odd"),
    "infinite": (
        lambda f: f.assign(odd=f["x"].where(f["x"] < 2, np.inf)),
        "infinite-values",
        "odd",
    ),
    "mixed types": (mixed, "mixed-types", "odd"),
    "duplicated name": (doubled, "duplicate-name", "x.1"),
    "duplicated content": (lambda f: f.assign(odd=f["x"]), "duplicate-content", "odd"),
    "identifiers": (lambda f: f.assign(odd=[f"id{i}" for i in f.index]), "not-watched", "odd"),
    "row counter": (lambda f: f.assign(odd=f.index), "not-watched", "odd"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_columns_are_named_and_harm_no_others(name: str) -> None:
    """The finding names the column; the verdict about the others is as without it."""
    change, kind, column = ODD[name]
    frame = change(good())
    compared = compare(frame.iloc[:300], frame.iloc[300:].reset_index(drop=True))
    replayed = replay(frame, reference_rows=400, window=50)

    for findings in (compared.findings, replayed.findings):
        assert (kind, column) in {(f.kind, f.column) for f in findings}
        assert all(column is None or f.column for f in findings)
    for found in (compared, replayed):
        json.dumps(found.to_json(), allow_nan=False)
    assert {c.name: c.state for c in compared.columns}["y"] == "no drift"
    assert replayed.alarms == ()
    assert all(window.tested for window in replayed.windows)


def test_one_category_and_constants_alone_can_still_drift() -> None:
    """Where all that was ever seen is one value, another one is drift."""
    frame = pd.DataFrame({"kind": ["a"] * 400 + ["b"] * 200, "level": [1.0] * 400 + [2.0] * 200})
    compared = compare(frame.iloc[:300], frame.iloc[400:])
    replayed = replay(frame, reference_rows=300, window=50)

    assert {c.name: c.state for c in compared.columns} == {"kind": "drift", "level": "drift"}
    assert replayed.alarms
    assert 400 <= replayed.alarms[0].row < 500


def test_hundreds_of_thousands_of_categories() -> None:
    """Pooled, and judged in reasonable time and memory."""
    rng = np.random.default_rng(1)
    rare = np.char.add("r", rng.integers(0, 100_000, 150_000).astype(str))
    texts = np.where(rng.random(150_000) < 0.6, "common", rare)
    old = {"kind": texts, "id": [f"i{i}" for i in range(150_000)]}
    new = {"kind": rng.permutation(texts), "id": old["id"]}
    found = compare(old, new)

    assert {f.kind for f in found.findings} >= {"many-categories", "not-watched"}
    assert {c.name: c.state for c in found.columns} == {"kind": "no drift", "id": "not watched"}


def _odd_column(rng: np.random.Generator, rows: int) -> Any:
    numbers = rng.normal(size=rows)
    return [
        lambda: numbers * 1e307,
        lambda: numbers * 1e-310,
        lambda: np.where(rng.random(rows) < rng.random(), np.nan, numbers),
        lambda: np.where(rng.random(rows) < 0.2, np.inf, -np.inf),
        lambda: np.full(rows, float(rng.integers(-2, 2))),
        lambda: np.full(rows, np.nan),
        lambda: rng.integers(0, 2, rows),
        lambda: rng.choice(["a", "b", None], rows),
        lambda: [f"v{i}" for i in rng.integers(0, rows, rows)],
        lambda: np.where(np.arange(rows) == rows // 2, 1.0, 0.0),
        lambda: np.cumsum(numbers),
        lambda: rng.standard_cauchy(rows) ** 3,
    ][rng.integers(12)]()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_any_odd_columns_are_judged() -> None:
    """Whatever meets in two tables: a verdict that is JSON, or a typed error."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        number = rng.integers(1, 5)
        rows = rng.choice([1, 5, 19, 20, 60, 300], 2)
        old, new = ({f"c{i}": _odd_column(rng, n) for i in range(number)} for n in rows)
        found = compare(old, new)
        json.dumps(found.to_json(), allow_nan=False)
        if min(rows) < 20:
            assert found.state != "no drift"


def test_ten_rows() -> None:
    """Too few rows are an error or unknown, in words."""
    frame = good().head(10)

    assert compare(frame, frame).drifted is None
    with pytest.raises(TableError, match="reference rows are too few"):
        replay(frame, reference_rows=8, window=1)


def test_times_out_of_order_change_no_verdict() -> None:
    """A shuffled stream with its times alarms where the ordered one does."""
    frame = good().assign(t=np.arange(ROWS) * 60)
    frame.loc[450:, "x"] += 3
    ordered = replay(frame, reference_rows=300, window=50, time="t")
    shuffled = replay(frame.sample(frac=1, random_state=0), reference_rows=300, window=50, time="t")

    assert [a.row for a in shuffled.alarms] == [a.row for a in ordered.alarms] != []
    finding = next(f for f in shuffled.findings if f.kind == "out-of-order")
    assert finding.column == "t"
    assert finding.row is not None


@pytest.mark.parametrize("command", ["compare", "replay"])
@pytest.mark.parametrize(
    "content",
    [b"", b"x,y\n", b"\n\n\n", b"x,y\n1\n", b"\x00\x01\x02", b"PAR1PAR1", b"\xff\xff\xff\xff\x10"],
)
def test_files_that_are_no_tables(tmp_path: Path, command: str, content: bytes) -> None:
    """A typed error in either command, whichever place the file has."""
    bad, fine = tmp_path / "bad.csv", tmp_path / "fine.csv"
    bad.write_bytes(content)
    good().to_csv(fine, index=False)
    calls: list[list[Any]] = [["compare", fine, bad], ["compare", bad, fine]]
    if command == "replay":
        calls = [["replay", bad, "--reference-rows", 100, "--window", 10]]
    for call in calls:
        result = CliRunner().invoke(app, [str(part) for part in call])
        assert isinstance(result.exception, FedgeError)
        assert "bad.csv" in str(result.exception)
        assert result.stdout == ""
