"""Results show themselves: in pandas, in pictures, in Jupyter; and names load when asked for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import fedge.drift
import fedge.errors
from fedge.drift import Replay, compare, read, replay

NAME = "<i>flow</i>"


@pytest.fixture(scope="module")
def replayed() -> Replay:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({NAME: rng.normal(size=1000), "level": rng.normal(size=1000)})
    frame.loc[700:, NAME] += 2
    return replay(frame, reference_rows=500, window=50)


def test_a_replay_as_a_frame(replayed: Replay) -> None:
    """A row a window, with the strongest statistic of each."""
    frame = replayed.to_frame()

    assert frame["start_row"].tolist() == list(range(500, 1000, 50))
    assert frame.loc[frame["start_row"] < 700, "drifted"].eq(False).all()
    alarm = frame[frame["end_row"] == replayed.alarms[0].row + 1].iloc[0]
    assert (alarm["drifted"], alarm["cause"]) == (True, replayed.alarms[0].cause)
    assert NAME in alarm["strongest"]
    assert alarm["strength"] > 1


def test_notebook_faces_escape_names(replayed: Replay) -> None:
    shown = replayed._repr_html_()

    assert NAME not in shown
    assert "&lt;i&gt;flow" in shown
    assert "1 alarm" in shown


def test_pictures(replayed: Replay) -> None:
    rng = np.random.default_rng(1)
    found = compare({"x": rng.normal(size=300)}, {"x": rng.normal(size=300)})

    assert isinstance(replayed.plot(), Figure)
    assert isinstance(found.plot(), Figure)
    for page in (replayed.to_html(source="a"), found.to_html(source="b")):
        assert page.lstrip().lower().startswith("<!doctype html")


def test_rows_of_findings_are_those_of_the_file() -> None:
    """Also where rows were put in order of time."""
    values: list[object] = [1.5] * 40
    values[3] = "broken"
    times = list(range(40))[::-1]
    findings = {f.kind: f.row for f in read({"t": times, "x": values}, time="t").findings}

    assert findings["mixed-types"] == 3
    assert findings["out-of-order"] == 1


def test_a_table_read_once_may_take_roles() -> None:
    table = read({"x": [1.5, 2.5], "y": [0, 1]}).table

    assert read(table, label="y").table.roles.label == "y"
    assert read(table).table is table
    with pytest.raises(fedge.errors.TableError, match="no column 'z'"):
        read(table, label="z")


def test_public_names() -> None:
    """All of them load, none is missing from `dir`, and importing the package loads no pandas."""
    for name in fedge.drift.__all__:
        assert getattr(fedge.drift, name) is not None
        assert name in dir(fedge.drift)
    with pytest.raises(AttributeError, match="nothing"):
        _ = fedge.drift.nothing  # type: ignore[attr-defined]
    program = "import sys, fedge.drift; print({'pandas', 'scipy', 'numpy'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert loaded.stdout.strip() == "set()"
