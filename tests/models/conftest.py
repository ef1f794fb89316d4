"""One built candidate of the digits task, shared by all tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes.digits_base import base_weights

from fedge.models.build import build_candidate
from fedge.tasks.digits import CODE


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A candidate that nobody may change."""
    folder = tmp_path_factory.mktemp("candidate")
    build_candidate(CODE, base_weights(), folder, hardware="x86-avx2", seed=1)
    return folder


@pytest.fixture
def candidate(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "candidate"))
