"""Two tables compared: drift is seen and named, chance is not, and too little is `unknown`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedge.drift import Comparison, compare
from fedge.errors import SettingError, TableError

Frame = dict[str, Any]


def normal(seed: int, rows: int, columns: int = 6, alike: float = 0.0) -> Frame:
    """Columns of normal numbers; neighbouring rows correlate by `alike`."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(rows, columns))
    values = np.empty_like(noise)
    values[0] = noise[0]
    for row in range(1, rows):
        values[row] = alike * values[row - 1] + np.sqrt(1 - alike**2) * noise[row]
    return {f"x{i}": values[:, i] for i in range(columns)}


def halves(frame: Frame, at: int) -> tuple[Frame, Frame]:
    return {k: v[:at] for k, v in frame.items()}, {k: v[at:].copy() for k, v in frame.items()}


def states(found: Comparison) -> dict[str, str]:
    return {column.name: column.state for column in found.columns}


def drifted(found: Comparison) -> list[str]:
    return [column.name for column in found.columns if column.state == "drift"]


# --- false alarms ---------------------------------------------------------------------


@pytest.mark.parametrize(("alike", "rows"), [(0.0, 600), (0.6, 1500), (0.9, 3000)])
def test_no_alarm_without_drift(alike: float, rows: int) -> None:
    """Independent or not, at most a few of 40 pairs of tables are called drifted at 5 %."""
    alarms = 0
    for seed in range(40):
        old, new = halves(normal(seed, 2 * rows, 5, alike), rows)
        alarms += compare(old, new).state == "drift"

    # Binomial(40, 0.05) exceeds 6 one time in a thousand.
    assert alarms <= 6


def test_the_budget_is_shared_by_all_columns() -> None:
    """Sixty columns and their pairs raise no more alarms than five."""
    alarms = [compare(*halves(normal(s, 1200, 60), 600)).state == "drift" for s in range(12)]

    assert sum(alarms) <= 3


def test_counts_and_categories_without_drift() -> None:
    """Ties, heavy tails, rare categories and missing values are no drift."""
    alarms = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        frame = {
            "counts": rng.poisson(2.0, 1600).astype(float),
            "rain": np.where(rng.random(1600) < 0.8, 0.0, rng.exponential(size=1600)),
            "wild": rng.standard_cauchy(1600),
            "gaps": np.where(rng.random(1600) < 0.1, np.nan, rng.normal(size=1600)),
            "kind": rng.choice([f"k{i}" for i in range(20)], 1600, p=_zipf(20)),
            "flag": rng.random(1600) < 0.05,
        }
        alarms += compare(*halves(frame, 800)).state == "drift"

    assert alarms <= 5


@pytest.mark.parametrize("number", [100, 600])
def test_many_categories_without_drift(number: int) -> None:
    """Rare ones that only one of the tables holds are chance; a new set of them is drift."""
    alarms, seen = 0, 0
    for seed in range(20):
        codes = np.random.default_rng(seed).integers(0, number, 2_000)
        old, new = ({"kind": [f"k{c}" for c in part]} for part in np.split(codes, 2))
        alarms += compare(old, new).state == "drift"
        seen += compare(old, {"kind": [f"n{c}" for c in codes[1_000:]]}).state == "drift"

    assert alarms <= 3
    assert seen >= 18


def _zipf(number: int) -> np.ndarray:
    weights = 1 / np.arange(1, number + 1) ** 1.5
    return weights / weights.sum()


# --- power ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "statistic"),
    [
        (lambda x: x + 0.5, "location"),
        (lambda x: 1.6 * x, "scale"),
        (lambda x: np.where(np.arange(len(x)) % 10 == 0, np.nan, x), "missing"),
        (lambda x: np.sign(x) * np.sqrt(np.abs(x)) * 1.1, "shape"),
        (lambda x: np.full(len(x), 0.3), "any"),
        (lambda x: 1000 * x, "any"),
    ],
)
def test_drift_of_one_column_is_seen(change: Any, statistic: str) -> None:
    """Shifted, spread, gone missing, bent, stuck, in another unit: that column and no other."""
    old, new = normal(1, 1500), normal(2, 1000)
    new["x2"] = change(new["x2"])
    found = compare(old, new)

    assert found.drifted is True
    assert drifted(found) == ["x2"]
    assert found.features[0] == "x2"
    moved = next(c for c in found.columns if c.name == "x2").strongest
    assert moved is not None
    assert statistic in (moved.statistic.name, "any")


def test_correlated_rows_do_not_hide_a_large_shift() -> None:
    old, new = halves(normal(3, 6000, 4, alike=0.8), 3000)
    new["x1"] = new["x1"] + 1.0

    assert drifted(compare(old, new)) == ["x1"]


def test_a_lost_relation_is_seen() -> None:
    """Each column as before, but two no longer go together."""
    rng = np.random.default_rng(4)
    old, new = normal(5, 2000), normal(6, 2000)
    old["x1"] = 0.8 * old["x0"] + 0.6 * rng.normal(size=2000)
    found = compare(old, new)

    assert drifted(found) == []
    assert found.drifted is True
    assert set(found.others[0].statistic.columns) == {"x0", "x1"}


def test_categories_come_and_go() -> None:
    """A new category, and other shares."""
    rng = np.random.default_rng(7)
    old = {"a": rng.choice(["r", "g", "b"], 800), "b": rng.choice(["u", "v"], 800)}
    new = {"a": rng.choice(["r", "g", "new"], 800), "b": rng.choice(["u", "v"], 800, p=[0.3, 0.7])}
    new["c"] = old["c"] = rng.choice(["p", "q"], 800)

    assert drifted(compare(old, new)) == ["a", "b"]


def test_concept_drift_needs_labels() -> None:
    """The same inputs with other answers: seen with a label, and called concept drift."""
    rng = np.random.default_rng(8)

    def rows(rule: Any) -> Frame:
        frame = {f"x{i}": rng.normal(size=2000) for i in range(3)}
        noise = rng.normal(scale=0.3, size=2000)
        return {**frame, "y": rule(frame) + noise > 0}

    old = rows(lambda f: f["x0"] + f["x1"])
    new = rows(lambda f: f["x0"] - f["x1"])

    found = compare(old, new, label="y")
    assert (found.drifted, found.cause) == (True, "concept")
    assert found.features[0] == "y"
    assert drifted(found) == []


def test_small_shifts_of_many_rows_are_no_drift() -> None:
    """What is significant and smaller than the least effect is no drift."""
    old, new = normal(9, 60_000, 2), normal(10, 60_000, 2)
    new["x0"] = new["x0"] + 0.05

    assert compare(old, new).drifted is False
    assert drifted(compare(old, new, min_effect=0.02)) == ["x0"]


# --- what cannot be judged ------------------------------------------------------------


def test_ten_rows_are_never_no_drift() -> None:
    """Too short a table is `unknown`, whichever of the two it is."""
    short, long = normal(11, 10), normal(12, 500)
    for old, new in ((short, long), (long, short), (short, short)):
        found = compare(old, new)
        assert found.state == "unknown"
        assert found.drifted is None
        assert "cannot certify" in found.unknown[0]
        assert set(states(found).values()) == {"unknown"}


def test_rows_that_wander_are_unknown() -> None:
    """Thousands of rows that hardly move say as little as a few independent ones."""
    found = compare(*halves(normal(13, 1200, 3, alike=0.99), 600))

    assert found.state in ("unknown", "drift")
    assert "no drift" not in states(found).values()


def test_detectable_shift_is_detected() -> None:
    """A quiet answer says which shift would have been seen, and it would have been."""
    shift = compare(normal(14, 800, 5), normal(15, 800, 5)).detectable
    seen = 0
    for seed in range(20):
        old, new = normal(200 + seed, 800, 5), normal(100 + seed, 800, 5)
        new["x0"] = new["x0"] + shift
        seen += "x0" in drifted(compare(old, new))

    assert 0.1 < shift < 0.5
    assert seen >= 13


def test_changed_columns_are_never_no_drift() -> None:
    """A column that is gone or of another kind is drift; a new one cannot be judged."""
    old = normal(16, 500, 3)
    gone, retyped, more = (normal(17, 500, 3) for _ in range(3))
    del gone["x1"]
    retyped["x1"] = [f"level {i % 3}" for i in range(500)]
    more["x9"] = np.arange(500.0) % 7

    assert drifted(compare(old, gone)) == ["x1"]
    assert drifted(compare(old, retyped)) == ["x1"]
    assert compare(old, gone).features == ("x1",)
    found = compare(old, more)
    assert (found.state, states(found)["x9"]) == ("unknown", "unknown")
    assert [f.column for f in found.findings if f.kind == "new-column"] == ["x9"]


def test_a_label_that_was_asked_for_is_not_forgotten() -> None:
    """Without labels now, what they would tell is unknown; that some are late is no drift."""
    rng = np.random.default_rng(18)
    old, new = ({**normal(s, 900, 2), "y": rng.integers(0, 2, 900) * 1.0} for s in (18, 19))
    late = {**new, "y": np.where(rng.random(900) < 0.4, np.nan, new["y"])}
    never = {**new, "y": np.full(900, np.nan)}
    del new["y"]

    assert compare(old, late, label="y").state == "no drift"
    for current in (never, new):
        found = compare(old, current, label="y")
        assert found.state == "unknown"
        assert states(found)["y"] == "unknown"


def test_odd_columns() -> None:
    """Without values, with one value, with one category: judged as far as that goes."""
    rows = 300
    same: Frame = {"empty": [None] * rows, "one": [7.0] * rows, "word": ["a"] * rows}
    found = compare({**same, **normal(20, rows, 1)}, {**same, **normal(21, rows, 1)})
    assert states(found) == {
        "empty": "not watched",
        "one": "no drift",
        "word": "no drift",
        "x0": "no drift",
    }
    assert {(f.kind, f.column) for f in found.findings} >= {("no-values", "empty")}

    changed: Frame = {"empty": [1.5] * rows, "one": [8.0] * rows, "word": ["b"] * rows}
    found = compare({**same, **normal(20, rows, 1)}, {**changed, **normal(21, rows, 1)})
    assert drifted(found) == ["empty", "one", "word"]


def test_only_unwatched_columns_are_unknown() -> None:
    """Nothing watched is nothing known."""
    rows = {"No": np.arange(200), "void": [None] * 200}

    assert compare(rows, rows).state == "unknown"


def test_extreme_values_do_no_harm() -> None:
    """Infinite and huge numbers are counted, and nothing overflows into a wrong answer."""
    rng = np.random.default_rng(22)
    old = {"x": rng.normal(size=500) * 1e300, "y": rng.normal(size=500)}
    new = {"x": rng.normal(size=500) * 1e300, "y": np.where(rng.random(500) < 0.3, np.inf, 0.1)}
    with np.errstate(over="raise", invalid="raise"):
        found = compare(old, new)

    assert drifted(found) == ["y"]
    json.dumps(found.to_json(), allow_nan=False)


def test_settings_and_tables_are_checked() -> None:
    old = normal(23, 100)
    for bad in ({"false_alarms": 0.0}, {"false_alarms": 1.5}, {"min_effect": -1.0}):
        with pytest.raises(SettingError):
            compare(old, old, **bad)
    with pytest.raises(TableError, match="no label column 'y'"):
        compare(old, old, label="y")
    with pytest.raises(TableError, match="different columns"):
        compare(old, old, label="x0", prediction="x0")


# --- faces ----------------------------------------------------------------------------


def test_faces_of_a_comparison() -> None:
    """A row a column in pandas; escaped HTML in a notebook; JSON without NaN."""
    rng = np.random.default_rng(24)
    old = {"<b>x</b>": rng.normal(size=400), "kind": rng.choice(["a", "b"], 400), "n": [None] * 400}
    new = {"<b>x</b>": rng.normal(1.0, size=400), "kind": old["kind"], "n": [None] * 400}
    found = compare(old, new)
    frame = found.to_frame()

    assert isinstance(frame, pd.DataFrame)
    assert frame["column"].tolist() == ["<b>x</b>", "kind", "n"]
    assert frame["state"].tolist() == ["drift", "no drift", "not watched"]
    assert frame.loc[0, "psi_low"] < frame.loc[0, "psi"]
    assert "<b>x" not in found._repr_html_()
    assert "&lt;b&gt;x" in found._repr_html_()
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["drifted"] is True
    assert [c["type"] for c in data["columns"]] == ["number", "category", "excluded"]
    assert "array(" not in repr(found)
    assert repr(found) == f"Comparison(drift in 1 of 3 columns, cause {found.cause})"


def test_a_verdict_is_said_once() -> None:
    """In a headline and as an object's name: drift with its cause, calm and doubt in a sentence."""
    old = normal(40, 800, 2)
    calm, few = compare(old, normal(41, 800, 2)), compare(old, normal(42, 10, 2))

    assert calm.headline.startswith("no drift in 2 columns; ")
    assert few.headline.startswith("not known: ")
    assert repr(few) == f"Comparison({few.headline})"


def test_the_cause_is_told_in_long_tables() -> None:
    """A sensor that is stuck is found among 20,000 rows, and its name leads."""
    old, new = normal(43, 20_000, 8), normal(44, 20_000, 8)
    new["x3"][:] = 0.5
    found = compare(old, new)

    assert drifted(found) == ["x3"]
    assert (found.cause, found.features[0]) == ("sensor", "x3")


def test_copies_of_a_column_are_no_changed_relation() -> None:
    """Where a column is another's copy in both tables, as ever, chance leaves no room for error."""
    old, new = normal(45, 500, 2), normal(46, 500, 2)
    for frame in (old, new):
        frame["copy"] = frame["x0"].copy()
    with np.errstate(invalid="raise", divide="raise"):
        found = compare(old, new, min_effect=0.0)

    assert (found.state, found.others) == ("no drift", ())


def test_effects_come_with_each_column() -> None:
    """Shift and Wasserstein in reference deviations; divergences for categories as well."""
    rng = np.random.default_rng(28)
    old = {"x": rng.normal(5, 2, 4000), "kind": rng.choice(["a", "b", "c"], 4000)}
    new = {"x": rng.normal(6, 2, 4000), "kind": rng.choice(["a", "b", "c"], 4000)}
    number, kind = compare(old, new).columns
    effects = {e.name: e for e in number.effects}

    assert effects["shift"].low < 0.5 < effects["shift"].high
    assert effects["wasserstein"].low < 0.5 < effects["wasserstein"].high
    assert effects["psi"].value == pytest.approx(0.25, abs=0.08)
    assert [e.name for e in kind.effects] == ["psi", "jensen_shannon", "hellinger"]
    assert all(e.low == 0 for e in kind.effects)


def test_order_of_time_is_used() -> None:
    """Shuffled rows with a time column judge as the rows in order do."""
    frame = {"t": np.arange(2000) * 60, **normal(26, 2000, 3, alike=0.9)}
    old, new = halves(frame, 1000)
    order = np.random.default_rng(27).permutation(1000)
    shuffled = {name: values[order] for name, values in old.items()}
    plain, mixed = compare(old, new, time="t"), compare(shuffled, new, time="t")

    assert [c.p_value for c in plain.columns] == pytest.approx(
        [c.p_value for c in mixed.columns], nan_ok=True
    )
    assert "out-of-order" in {f.kind for f in mixed.findings}
