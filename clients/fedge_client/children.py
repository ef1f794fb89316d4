"""Processes that a supervisor starts, watches and ends. Standard library alone.

A child lives in a session of its own, so that everything it started can be ended with
it, and the kernel ends it when the supervisor ends, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fedge.lifetime import die_with_parent

log = logging.getLogger(__name__)

STABLE_S = 10.0
"""A process that lives so long has started; one that ends sooner has failed to."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.25, 30.0
MAX_LOG_BYTES = 8 * 2**20


class ChildFailedError(Exception):
    """A process did not start, or a worker refused before it served.

    `reason` is a short fixed word.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs an installed module; the working folder lends it no code."""
    return [sys.executable, "-P", "-m", module, *arguments]


def backoff_s(failures: int) -> float:
    """Seconds to wait before the next start, after so many failed ones in a row; none after one."""
    if failures <= 1:
        return 0.0
    return min(FIRST_BACKOFF_S * float(2 ** min(failures - 2, 20)), MAX_BACKOFF_S)


class Child:
    """One running process.

    Args:
        name: names its log file, `<logs>/<name>.log`, which holds all its output.
        pass_handles: file descriptors that it inherits.
        environment: added to the supervisor's own.

    Raises:
        ChildFailedError: the system could not start it (no memory, no handles, no log file).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        logs: Path,
        *,
        pass_handles: tuple[int, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.ended = asyncio.Event()
        self.exit_status: int | None = None
        try:
            with _open_log(logs / f"{name}.log") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=pass_handles,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise ChildFailedError("not-started", f"{name}: {error}") from error
        self.pid = self._process.pid
        self._handle = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._handle, self._reap)

    def signal(self, number: signal.Signals) -> None:
        """Signal the child and everything in its session."""
        # Not reaped yet: the number still names this process and no other.
        if self.exit_status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def end(self, grace_s: float) -> None:
        """Wait for it to end by itself, but not longer than `grace_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), grace_s)
        self.signal(signal.SIGKILL)
        await self.ended.wait()

    def _reap(self) -> None:
        # Its own children must not go on without it.
        self.signal(signal.SIGKILL)
        self.exit_status = self._process.wait()
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        log.info("%s (pid %d) ended with status %d", self.name, self.pid, self.exit_status)
        self.ended.set()


class Companion:
    """Keeps one process running: agent or SuperNode."""

    def __init__(self, name: str, command: Sequence[str], logs: Path) -> None:
        self.name, self._command, self._logs = name, command, logs
        self.child: Child | None = None
        self.restarts = 0

    async def keep(self) -> None:
        """Start it, and again whenever it ends, slower each time it does not last."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            started = loop.time()
            try:
                self.child = Child(self.name, self._command, self._logs)
            except ChildFailedError as error:
                log.error("%s", error)
            else:
                await self.child.ended.wait()
                self.restarts += 1
            failures = 0 if loop.time() - started >= STABLE_S else failures + 1
            await asyncio.sleep(backoff_s(failures))

    async def stop(self, grace_s: float) -> None:
        if self.child is not None:
            self.child.signal(signal.SIGTERM)
            await self.child.end(grace_s)


class Worker(Child):
    """An inference worker and the line to it; `fedge.serving.worker` tells what goes over it."""

    def __init__(self, config: Path, slot: str, listening: socket.socket, logs: Path) -> None:
        self.slot = slot
        self._ours, theirs = socket.socketpair()
        handles = listening.fileno(), theirs.fileno()
        command = python(
            "fedge.serving.worker",
            *("--config", str(config), "--slot", slot),
            *("--listen-fd", str(handles[0]), "--control-fd", str(handles[1])),
        )
        with theirs:
            super().__init__(
                f"worker-{slot}",
                command,
                logs,
                pass_handles=handles,
                # Numerical libraries would keep buffers for threads that one row never uses.
                environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.report: dict[str, float] | None = None

    async def ready(self, timeout_s: float) -> dict[str, float]:
        """What its probes measured.

        Raises:
            ChildFailedError: it refused, ended, or took too long.
        """
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._ours)
        said = await self._hear("ready", timeout_s)
        self.report = {
            "latency_us": float(str(said["latency_us"])),
            "golden_max_abs": float(str(said["golden_max_abs"])),
        }
        return self.report

    async def serve(self, timeout_s: float) -> None:
        """Let it accept requests; returns once it does.

        Raises:
            ChildFailedError: it ended, or took too long.
        """
        self._tell({"command": "serve"})
        await self._hear("serving", timeout_s)

    def drain(self, seconds: float) -> None:
        """Let it answer what it has, and end."""
        self._tell({"command": "drain", "seconds": seconds})

    def _tell(self, command: dict[str, object]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(command).encode() + b"\n")

    async def _hear(self, event: str, timeout_s: float) -> dict[str, object]:
        if self._reader is None:
            raise RuntimeError("ready() comes first")
        try:
            line = await asyncio.wait_for(self._reader.readline(), timeout_s)
            said: dict[str, object] = json.loads(line) if line else {}
        except TimeoutError:
            raise ChildFailedError("timeout", f"not {event} after {timeout_s:g} s") from None
        except (OSError, ValueError) as error:
            raise ChildFailedError("ended", f"the line broke: {error}") from error
        if said.get("event") == event:
            return said
        reason, detail = said.get("reason", "ended"), said.get("detail", "see its log")
        raise ChildFailedError(str(reason), str(detail))

    def _reap(self) -> None:
        super()._reap()
        if self._writer is not None:
            self._writer.close()


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")
