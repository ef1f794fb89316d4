"""Logs stay within bounds while the processes that write them go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.gateways import wait_until

from fedge_client.logfiles import open_log, rotate

LIMIT = 1000


def test_a_long_log_is_emptied_after_its_tail_was_kept(tmp_path: Path) -> None:
    with open_log(tmp_path / "logs" / "worker.log") as log:
        log.write(b"early " * 1000 + b"x" * (LIMIT - 4) + b"late")
    rotate(tmp_path / "logs", LIMIT)
    assert (tmp_path / "logs" / "worker.log").read_bytes() == b""
    assert (tmp_path / "logs" / "worker.log.1").read_bytes() == b"x" * (LIMIT - 4) + b"late"


def test_a_short_log_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "agent.log").write_bytes(b"x" * LIMIT)
    rotate(tmp_path, LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.log"]


def test_a_running_process_goes_on_in_the_emptied_log(tmp_path: Path) -> None:
    """Nobody has to reopen anything: the next line stands at the file's new beginning."""
    path = tmp_path / "agent.log"
    program = "import sys; print('a' * 2000, flush=True); sys.stdin.read(); print('after')"
    with open_log(path) as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=log
        )
    wait_until(lambda: path.stat().st_size > LIMIT)
    rotate(tmp_path, LIMIT)
    process.communicate()
    assert path.read_text() == "after\n"


def test_a_log_that_cannot_be_kept_is_emptied_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk is never filled by logs, not even where the copy finds no room."""
    path = tmp_path / "agent.log"
    path.write_bytes(b"x" * 2 * LIMIT)
    (tmp_path / "agent.log.1").mkdir()
    rotate(tmp_path, LIMIT)
    assert path.stat().st_size == 0 and "is lost" in caplog.text
