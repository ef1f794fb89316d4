"""Every notebook runs from top to bottom."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ON_REAL_DATA = ("02_drift",)
"""Notebooks that read a downloaded data set."""


def run(path: Path, folder: Path) -> None:
    """Execute all cells in a fresh kernel."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": folder}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)

    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    """A fresh kernel executes all cells."""
    if path.stem in ON_REAL_DATA and "FEDGE_DATA" not in os.environ:
        pytest.skip("FEDGE_DATA names no folder with downloaded data")

    run(path, tmp_path)


@pytest.mark.parametrize("name", ON_REAL_DATA)
def test_without_its_data_a_notebook_says_what_to_download(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops at once, and not with a traceback only a programmer can read."""
    monkeypatch.delenv("FEDGE_DATA", raising=False)

    with pytest.raises(CellExecutionError, match=r"FEDGE_DATA is not set.*id 501.*UCI"):
        run(FOLDER / f"{name}.ipynb", tmp_path)
