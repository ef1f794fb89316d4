"""Writing a file where only a folder can be is refused like any refusal of the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedge.durable import create_file, write_file


@pytest.mark.parametrize("write", [write_file, create_file])
@pytest.mark.parametrize("name", [".", "/", "..", "folder/..", ""])
def test_a_folder_is_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, bytes], None],
    name: str,
) -> None:
    """An `OSError`, which every caller turns into its own; no remains lie anywhere."""
    inside = tmp_path / "folder"
    inside.mkdir()
    monkeypatch.chdir(inside)

    with pytest.raises(IsADirectoryError):
        write(Path(name), b"data")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]
