"""`fedge drift` says what it found: by its exit status, to machines on stdout, and in words."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedge.cli.main import main

ROWS = 600


def frame(seed: int, shift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, ROWS)
    y = rng.normal(size=ROWS)
    kind = rng.choice(["red", "blue"], ROWS)
    return pd.DataFrame({"No": np.arange(ROWS), "x": x, "y": y, "kind": kind, "ok": x + y > 0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    frame(1).to_csv(path / "old.csv", index=False)
    frame(2).to_parquet(path / "same.parquet")
    frame(3, shift=0.8).to_csv(path / "moved.csv", index=False)
    frame(4).head(10).to_csv(path / "short.csv", index=False)
    stream = pd.concat([frame(5), frame(6), frame(7, shift=1.5)], ignore_index=True)
    stream["No"] = np.arange(len(stream))
    stream.to_csv(path / "stream.csv", index=False)
    stream.head(2 * ROWS).to_csv(path / "quiet.csv", index=False)
    (path / "bad.csv").write_text("x,y\n1,2\n3\n")
    return path


class Call:
    """Runs `fedge` in this process, inside a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.chdir(folder)

    def __call__(self, *args: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["fedge", "drift", *args])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = self._capsys.readouterr()
        return int(left.value.code or 0), out, err


@pytest.fixture
def fedge(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Call:
    return Call(folder, monkeypatch, capsys)


REPLAY = ("--reference-rows", "500", "--window", "100")


def test_exit_status_tells_the_verdict(fedge: Call) -> None:
    """0 no drift, 3 drift, 1 not known or failed, 2 wrong usage."""
    assert fedge("compare", "old.csv", "same.parquet")[0] == 0
    assert fedge("compare", "old.csv", "moved.csv")[0] == 3
    assert fedge("compare", "old.csv", "short.csv")[0] == 1
    assert fedge("compare", "old.csv", "bad.csv")[0] == 1
    assert fedge("compare", "old.csv")[0] == 2
    assert fedge("replay", "quiet.csv", *REPLAY)[0] == 0
    assert fedge("replay", "stream.csv", *REPLAY)[0] == 3
    assert fedge("replay", "bad.csv", *REPLAY)[0] == 1


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("replay", "--window", "0"),
        ("replay", "--window", "-5"),
        ("replay", "--reference-rows", "0"),
        ("replay", "--reference-rows", "29"),
        ("replay", "--epsilon", "-1"),
        ("replay", "--epsilon", "nan"),
        ("replay", "--epsilon", "inf"),
        ("replay", "--false-alarms", "0"),
        ("replay", "--false-alarms", "nan"),
        ("compare", "--false-alarms", "0"),
        ("compare", "--false-alarms", "1"),
        ("compare", "--false-alarms", "nan"),
    ],
)
def test_an_option_that_no_file_could_make_right_is_wrong_usage(
    fedge: Call, command: str, option: str, value: str
) -> None:
    """Exit status 2, the option named, no file read."""
    files = ("none.csv",) if command == "replay" else ("none.csv", "none.csv")
    usual = REPLAY if command == "replay" else ()
    status, out, err = fedge(command, *files, *usual, option, value)

    assert (status, out) == (2, "")
    assert option in re.sub(r"\x1b\[[0-9;]*m", "", err)  # colours, where they are forced


def test_quiet_windows_that_were_not_tested_are_no_success(
    fedge: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 1, the reason on stderr, JSON all the same."""
    from fedge.drift.tables import replay as engine

    judge = engine.replay

    def with_an_untested_window(*args: Any, **settings: Any) -> Any:
        found = judge(*args, **settings)
        last = replace(found.windows[-1], tested=False)
        return replace(found, windows=(*found.windows[:-1], last))

    monkeypatch.setattr(engine, "replay", with_an_untested_window)
    status, out, err = fedge("replay", "quiet.csv", *REPLAY, "--json")

    assert (status, json.loads(out)["drifted"]) == (1, None)
    assert "not known: 1 of 7 windows could not be tested" in err


def test_labels_that_stop_leave_concept_drift_unknown(fedge: Call, tmp_path: Path) -> None:
    """The rest was judged, and is fine; words and JSON say what was not."""
    stream = pd.concat([frame(5), frame(6)], ignore_index=True)[["x", "y", "ok"]]
    stream["ok"] = stream["ok"].astype(float).where(stream.index < 850)
    path = str(tmp_path / "late.csv")
    stream.to_csv(path, index=False)
    status, out, _ = fedge("replay", path, *REPLAY, "--label", "ok")
    found = json.loads(fedge("replay", path, *REPLAY, "--label", "ok", "--json")[1])

    assert (status, found["drifted"], found["unlabelled_from"]) == (0, False, 850)
    assert "concept drift: unknown from row 850 on, labels stop there" in out
    assert [w["concept_tested"] for w in found["windows"]] == [True] * 4 + [False] * 3
    assert any("850" in note and "unknown" in note for note in found["reference"]["notes"])


def test_infinite_values_are_told_with_column_and_row(fedge: Call, tmp_path: Path) -> None:
    stream = pd.concat([frame(5), frame(6)], ignore_index=True)[["x", "y"]]
    stream.loc[900:, "y"] = np.inf
    stream.to_csv(tmp_path / "inf.csv", index=False)
    _, out, _ = fedge("replay", str(tmp_path / "inf.csv"), *REPLAY)

    assert "y: infinite values" in out
    assert "no signal" not in out
    assert "column 'y' holds 300 infinite values, first in row 900" in out


@pytest.mark.parametrize(("options", "shown"), [((), True), (("--json",), False)])
def test_progress_is_shown_on_a_terminal_alone(
    folder: Path, options: tuple[str, ...], shown: bool
) -> None:
    """On stderr, so that results can be piped; not where a program reads the answer."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fedge.cli.main", "drift", "replay", "quiet.csv"]
    done = subprocess.run(
        [*command, *REPLAY, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=False,
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # what a terminal says at its end
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)

    assert done.returncode == 0
    assert (b"replaying" in said and b"100%" in said) == shown
    assert shown or said == b""
    assert b"replaying" not in done.stdout


def test_compare_in_words(fedge: Call) -> None:
    """Columns, what they were taken for, verdicts, and what was left out."""
    _, out, err = fedge("compare", "old.csv", "moved.csv")

    assert out.startswith("drift: ")
    assert "covariate" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "number" in lines["x"]
    assert "drift" in lines["x"]
    assert "no drift" in lines["y"]
    assert "category" in lines["kind"]
    assert "counts rows" in lines["No"]
    assert err == ""


def test_compare_as_json(fedge: Call) -> None:
    """One object on stdout, and nothing else there."""
    status, out, err = fedge("compare", "old.csv", "moved.csv", "--json", "--label", "ok")
    found = json.loads(out)

    assert (status, err) == (3, "")
    assert (found["state"], found["drifted"], found["cause"]) == ("drift", True, "covariate")
    assert "x" in found["features"]
    assert {c["name"]: c["type"] for c in found["columns"]} == {
        "No": "excluded",
        "x": "number",
        "y": "number",
        "kind": "category",
        "ok": "boolean",
    }


def test_what_is_not_known_is_said(fedge: Call) -> None:
    """Exit status 1, JSON all the same, the reason on stderr."""
    status, out, err = fedge("compare", "old.csv", "short.csv", "--json")

    assert status == 1
    assert json.loads(out)["drifted"] is None
    assert "cannot certify" in err


def test_replay_as_json(fedge: Call) -> None:
    """Rows counted from 0, ends excluded; the alarm names the last row seen."""
    _, out, _ = fedge("replay", "stream.csv", *REPLAY, "--json")
    found = json.loads(out)

    assert (found["rows"], found["window"]) == (3 * ROWS, 100)
    assert {c["name"]: c["type"] for c in found["columns"]}["x"] == "number"
    starts = [(w["start_row"], w["end_row"]) for w in found["windows"]]
    assert starts[0] == (500, 600)
    assert starts[-1] == (1700, 1800)
    alarm = found["alarms"][0]
    assert 2 * ROWS <= alarm["row"] < 2 * ROWS + 300
    assert alarm["features"][0] == "x"
    assert {"cause", "scope", "confidence"} <= set(alarm)
    assert "certified_false_alarms" in found["reference"]
    assert any(f["column"] == "No" for f in found["findings"])
    assert {"drifted", "cause", "features"} <= set(found["windows"][0])


def test_replay_in_words(fedge: Call) -> None:
    _, out, _ = fedge("replay", "stream.csv", *REPLAY)

    assert "1 alarm" in out
    assert "counts rows" in out
    assert "500 rows" in out


def test_errors_are_one_line(fedge: Call) -> None:
    """File, column and row; no traceback; nothing on stdout."""
    for args in (
        ("compare", "old.csv", "bad.csv"),
        ("compare", "old.csv", "none.csv"),
        ("compare", "old.csv", "moved.csv", "--label", "none"),
        ("replay", "quiet.csv", "--reference-rows", "5000", "--window", "100"),
    ):
        status, out, err = fedge(*args, "--json")
        assert status == 1
        assert out == ""
        assert err.startswith("fedge: ")
        assert err.count("\n") == 1
    assert "row 1" in fedge("compare", "old.csv", "bad.csv")[2]


def test_html_reports(fedge: Call, tmp_path: Path) -> None:
    """Written beside the answer; one that cannot be written is an error."""
    fedge("compare", "old.csv", "moved.csv", "--html", str(tmp_path / "c.html"))
    fedge("replay", "stream.csv", *REPLAY, "--html", str(tmp_path / "r.html"))

    for name in ("c.html", "r.html"):
        assert "<html" in (tmp_path / name).read_text(encoding="utf-8")
    status, _, err = fedge("compare", "old.csv", "moved.csv", "--html", str(tmp_path / "no" / "x"))
    assert status == 1
    assert "cannot write" in err


def test_names_from_files_steer_no_terminal(fedge: Call, tmp_path: Path) -> None:
    """Escape sequences and markup in names are shown, not obeyed."""
    table = pd.DataFrame({"\x1b[31mred": np.random.default_rng(0).normal(size=50), "[bold]b": 1.5})
    table.to_parquet(tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    _, out, err = fedge("compare", path, path)

    assert "\x1b[31m" not in out + err
    assert "[bold]b" in out


def test_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The guide's example does what the guide says."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "drift.md"
    example = guide.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(example, {})
    compared, replayed = capsys.readouterr().out.splitlines()

    assert compared.startswith("drift ('flow',)")
    assert "'covariate', ('flow',)" in replayed


def test_interrupt_ends_with_130(tmp_path: Path) -> None:
    """Ctrl-C during long work ends it at once, without a traceback."""
    pipe = tmp_path / "endless.csv"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "fedge.cli.main", "drift", "compare", str(pipe), str(pipe)],
        stderr=subprocess.PIPE,
        text=True,
    )
    writer = os.open(pipe, os.O_WRONLY)  # returns when the command reads
    try:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        os.close(writer)
    assert process.returncode == 130
    assert "Traceback" not in err
