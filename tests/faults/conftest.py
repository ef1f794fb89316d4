from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.loop import Loop


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A centre and a gateway that serves release 1."""
    running = Loop(tmp_path)
    yield running
    running.close()
