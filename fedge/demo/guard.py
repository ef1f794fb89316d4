"""Ending every process of a run, however the run ends.

Every process that a demo starts, and everything those start in turn, inherits
one environment variable with a name of this run. A small guard process holds a
pipe to the demo; when the pipe breaks, be it by a clean exit, Ctrl-C or
`kill -9`, it ends whatever still carries that name, and then itself. Standard
library alone, so that the guard is cheap.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "FEDGE_RUN_MARK"
GRACE_S = 5.0


def marked_processes(mark: str) -> list[int]:
    """Ids of all processes of this user that carry `mark`, this one left out."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if needle in (entry / "environ").read_bytes().split(b"\0") and not _is_zombie(entry):
                found.append(int(entry.name))
    return found


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def end_marked(mark: str, *, grace_s: float = GRACE_S) -> int:
    """SIGTERM to every marked process, SIGKILL to those that stay. Answers how many were killed."""
    deadline = time.monotonic() + grace_s
    _signal_all(marked_processes(mark), signal.SIGTERM)
    while time.monotonic() < deadline:
        if not marked_processes(mark):
            return 0
        time.sleep(0.05)
    killed = 0
    # More than one pass: a process may have started another meanwhile.
    while left := marked_processes(mark):
        _signal_all(left, signal.SIGKILL)
        killed += len(left)
        time.sleep(0.05)
    return killed


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


class Guard:
    """Starts the guard process; `release` (or this process's end) lets it clean up."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        environment = {k: v for k, v in os.environ.items() if k != MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fedge.demo.guard", mark],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal must not end the guard first
        )

    def release(self) -> None:
        """End everything marked and wait until it is gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def main() -> int:
    """Wait until the demo is gone, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
