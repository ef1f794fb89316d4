"""A coordinator in memory and one in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.centre import Centre, Coordinator, FakeClock, server_settings

from fedge_server.database import Database


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    settings = server_settings(tmp_path, max_report_bytes=20_000)
    with Database(settings.database) as database:
        yield Centre(settings, database, FakeClock())


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    running = Coordinator(tmp_path)
    try:
        yield running
    finally:
        running.close()
