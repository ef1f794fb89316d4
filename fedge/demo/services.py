"""Starting the processes of a run and noticing when one of them ends."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from fedge.demo.guard import MARK, Guard
from fedge.errors import FedgeError, OutboundError

FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Many processes share two cores here: each computes on one thread."""


class ServiceEndedError(FedgeError):
    """A process of the run ended by itself; `log` says why."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        super().__init__(name, code, str(log))
        self.name, self.code, self.log = name, code, log

    def __str__(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-3:] if self.log.exists() else []
        return f"{self.name} ended with status {self.code}; {self.log} says: {' | '.join(lines)}"


class Services:
    """The processes of one run, each with its log file; all of them end with this one.

    Args:
        logs: folder for `<name>.log`.
    """

    def __init__(self, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self.mark = secrets.token_hex(8)
        self._guard = Guard(self.mark)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._errands: set[str] = set()

    def start(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        errand: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, so that Ctrl-C reaches only the demo.

        Args:
            errand: it does one thing and ends, and may have ended before anybody waits for it.
        """
        if errand:
            self._errands.add(name)
        base = dict(os.environ if environment is None else environment)
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**base, **FEW_THREADS, MARK: self.mark},
                start_new_session=True,
            )
        self._running[name] = process
        return process

    def abandon(self, name: str) -> None:
        """End a process that was started to do one thing and is not needed any more."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def end_others(self, kept: str, *, first: Collection[str], grace_s: float = 15.0) -> None:
        """End every process but one in good order: SIGTERM, and time to hand over what it holds.

        Args:
            first: processes that end before the rest, to which they may have a last word to say.
        """
        others = [name for name in self._running if name != kept]
        self._end([name for name in others if name in first], grace_s)
        self._end([name for name in others if name not in first], grace_s)

    def _end(self, names: Sequence[str], grace_s: float) -> None:
        ended = {name: self._running[name] for name in names}
        for process in ended.values():
            process.terminate()
        deadline = time.monotonic() + grace_s
        for name, process in ended.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            del self._running[name]

    def finish(self, name: str, timeout_s: float) -> None:
        """Wait until a process that was started to do one thing has done it.

        Raises:
            ServiceEndedError: it failed.
            OutboundError: it did not end in time.
        """
        process = self._running[name]
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise OutboundError(
                f"{name} was not done after {timeout_s:.0f} s; see {self._logs / f'{name}.log'}"
            ) from error
        if code:
            raise ServiceEndedError(name, code, self._logs / f"{name}.log")
        del self._running[name]

    def check(self) -> None:
        """Raise for the first process that ended although it should run."""
        for name, process in self._running.items():
            code = process.poll()
            if code is not None and (code or name not in self._errands):
                raise ServiceEndedError(name, code, self._logs / f"{name}.log")

    def wait_for(self, what: str, ready: Callable[[], bool], timeout_s: float) -> None:
        """Poll `ready` while all processes run.

        Raises:
            OutboundError: it was not ready in time.
            ServiceEndedError: a process ended meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise OutboundError(f"{what} was not ready after {timeout_s:g} s")
            time.sleep(0.1)

    def end(self) -> None:
        """End every process of the run, also those that they started."""
        self._guard.release()
        for process in self._running.values():
            process.wait()
        self._running.clear()


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
