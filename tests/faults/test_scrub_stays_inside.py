"""Writing the state file anew puts no byte of it into a folder of the system's choice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.faults_disk import Fault, FaultyDisk, calls

from fedge.statefile import StateFile

MIB = 1 << 20
SIZE_MIB = 64
SCRUB = """
import sys
from pathlib import Path
from fedge.statefile import StateFile
state = StateFile(Path(sys.argv[1]))
for statement in sys.argv[2:]:
    state.rows(statement)
def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
before = resident("VmRSS")
state.scrub_later()
state.scrub()
print((resident("VmHWM") - before) // 1024)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state file as large as a full spool makes it."""
    path = tmp_path_factory.mktemp("large") / "state.sqlite"
    state = StateFile(path)
    state.ensure("CREATE TABLE facts (one INTEGER PRIMARY KEY, data BLOB)")
    with state.transaction() as db:
        rows = ((None, os.urandom(16_000)) for _ in range(SIZE_MIB * MIB // 16_384))
        db.executemany("INSERT INTO facts VALUES (?, ?)", rows)
    state.checkpoint()
    state.close()
    return path


def scrubbed(path: Path, temporary: Path, disk: FaultyDisk, *statements: str) -> tuple[int, int]:
    """Scrub in a process of its own; MiB it grew by, and calls that changed temporary files."""
    temporary.mkdir()
    log = temporary.with_suffix(".log")
    environment = disk.environment(temporary, log, Fault())
    found = subprocess.run(
        [sys.executable, "-c", SCRUB, str(path), *statements],
        env={**os.environ, **environment, "SQLITE_TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(found.stdout), len(calls(log))


def test_no_temporary_file_and_bounded_memory(
    large: Path, tmp_path: Path, disk: FaultyDisk
) -> None:
    """It takes as much memory as the file is large, and no more."""
    grown, outside = scrubbed(large, tmp_path / "ours", disk)
    assert outside == 0 and grown < SIZE_MIB + 16
    # The check itself sees what SQLite does by default.
    _, outside = scrubbed(large, tmp_path / "default", disk, "PRAGMA temp_store=FILE")
    assert outside > 0
