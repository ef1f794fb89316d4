"""Logs hold events and places, and no text that another library made of somebody's data."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CANARY = "canary-73f1"
PROGRAM = """
import logging, sys, threading
from fedge.logs import log_to_stderr
log_to_stderr("worker", sys.argv[1])

def fails():
    try:
        float(sys.argv[2])
    except ValueError as error:
        raise RuntimeError("about " + sys.argv[2]) from error

class Quoting(logging.Handler):
    # Another library's, which leaves its words for an error with the record.
    def emit(self, record):
        record.exc_text = logging.Formatter().formatException(record.exc_info)

logging.getLogger("fedge.here").addHandler(Quoting())
try:
    fails()
except RuntimeError:
    logging.getLogger("fedge.here").exception("it failed")
thread = threading.Thread(target=fails)
thread.start()
thread.join()
fails()
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_unexpected_errors_are_logged_without_their_text(log_format: str) -> None:
    """Logged, uncaught in a thread, uncaught at the end: kind, cause and place are told."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format, CANARY],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1 and CANARY not in done.stderr + done.stdout
    for told in ("RuntimeError", "ValueError", "in fails"):
        assert done.stderr.count(told) >= 3
    assert "it failed" in done.stderr and done.stderr.count("ended by a bug") == 2
    if log_format == "json":
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert [line["level"] for line in lines] == ["error", "critical", "critical"]
