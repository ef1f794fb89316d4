"""What the data tests share: a block store on a fresh state file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedge.data.blocks import BlockStore
from fedge.statefile import StateFile


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    file = StateFile(tmp_path / "state.sqlite")
    yield file
    file.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def store(folder: Path, state: StateFile) -> BlockStore:
    return BlockStore(folder, state)
