"""Starts real agents in a tenth of the time: forks of a process that has imported everything.

    python -m fakes.faults_nursery

A line of JSON in (`config`, `stderr`, and the arguments of `faulty_disk`), a line out when
the agent runs (`pid`), and one when it ended (`status`, as of `waitpid`). What a fork runs is
`python -m fedge_client.agent` from its first line on; only the noise is replaced by none, so
that counts can be compared: such gateways are simulated ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from fakes.faults_disk import Fault, FaultyDisk

from fedge.lifetime import die_with_parent
from fedge_client.agent.lean import become_lean


def main() -> None:
    die_with_parent()
    become_lean()
    from fakes.exact_noise import ExactNoise

    import fedge_client.agent.process as process

    process.OsNoise = ExactNoise  # type: ignore[assignment,misc]
    # Arrow's allocator has a thread of its own, which sees to forks.
    assert threading.active_count() == 1, "a process with threads cannot be forked"
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_an_agent(order)
        print(json.dumps({"pid": child}), flush=True)
        print(json.dumps({"status": os.waitpid(child, 0)[1]}), flush=True)


def _be_an_agent(order: dict[str, Any]) -> None:
    code = 70
    try:
        log = os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for there, here in ((null, 0), (null, 1), (log, 2)):
            os.dup2(there, here)
        sys.argv = ["fedge_client.agent", "--config", order["config"]]
        texts = [order[name].encode() for name in ("below", "log", "while_exists")]
        numbers = [ctypes.c_int(order["how"])]
        numbers += [ctypes.c_long(order[name]) for name in ("first", "calls")]
        ctypes.CDLL(None).faulty_disk(*texts, *numbers)
        from fedge_client.agent.__main__ import main as agent

        code = agent()
    except BaseException:  # noqa: BLE001  a fork must never go on as the nursery
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class Nursery:
    """The test's end: starts one agent at a time."""

    def __init__(self, disk: FaultyDisk) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fakes.faults_nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what was read must show in `select`
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "LD_PRELOAD": str(disk.library), "OMP_NUM_THREADS": "1"},
        )
        self._running: int | None = None

    def start(self, config: Path, below: Path, log: Path, stderr: Path, fault: Fault) -> int:
        """Start an agent; answers its process id."""
        self.end()
        order = {
            "config": str(config),
            "stderr": str(stderr),
            "below": str(below),
            "log": str(log),
            "while_exists": str(fault.while_exists or ""),
            "how": int(fault.how),
            "first": fault.first,
            "calls": fault.calls,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._running = int(self._hear()["pid"])
        return self._running

    def ended(self, within_s: float) -> bool:
        """Whether the agent ended, or does so soon."""
        return bool(select.select([self._process.stdout], [], [], within_s)[0])

    def wait(self) -> int:
        """Wait until the agent ended; answers its exit status, negative for a signal."""
        status = int(self._hear()["status"])
        self._running = None
        return os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Kill the agent that a failed test left, if there is one."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._running, signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        self.end()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery ended"
        heard: dict[str, Any] = json.loads(line)
        return heard


if __name__ == "__main__":
    main()
