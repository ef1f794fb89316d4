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
from collections.abc import Callable, Sequence
from pathlib import Path

from fedge.lifetime import die_with_parent
from fedge_client.logfiles import open_log
from fedge_client.sockets import Doors

log = logging.getLogger(__name__)

STABLE_S = 10.0
"""A process that lives so long has started; one that ends sooner has failed to."""
SECOND_LOOK_S = 0.5
"""After a pause of the whole machine an answer may lie unread while its time is over."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.25, 30.0


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
            with open_log(logs / f"{name}.log") as output:
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

    @property
    def pid(self) -> int | None:
        """Of the running process; None between two."""
        child = self.child
        return child.pid if child is not None and not child.ended.is_set() else None

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

    def __init__(self, config: Path, family: str, slot: str, doors: Doors, logs: Path) -> None:
        self.slot = slot
        self.hung = False
        self._ours, theirs = socket.socketpair()
        handles = [doors.shared.fileno(), theirs.fileno()]
        command = python(
            "fedge.serving.worker",
            *("--config", str(config), "--model", family, "--slot", slot),
            *("--listen-fd", str(handles[0]), "--control-fd", str(handles[1])),
        )
        if doors.local is not None:
            handles.append(doors.local.fileno())
            command += ["--local-fd", str(handles[-1])]
        with theirs:
            super().__init__(
                f"worker-{slot}",
                command,
                logs,
                pass_handles=tuple(handles),
                # Numerical libraries would keep buffers for threads that one row never uses.
                environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._one_at_a_time = asyncio.Lock()
        self.report: dict[str, float] | None = None

    @property
    def killed_from_outside(self) -> bool:
        """Whether it ended because somebody else wanted so: an operator, the OOM killer."""
        asked = (0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
        return not self.hung and self.exit_status in asked

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

    async def ping(self, timeout_s: float, progress: Callable[[], object]) -> None:
        """Return once it answered; what it shows is that its event loop turns.

        Args:
            timeout_s: how long it may be deaf, as long as nothing moves.
            progress: something that changes with every answered request. A worker under
                heavy load may be deaf for long, and is at work all the same.

        Raises:
            ChildFailedError: it ended, or neither answered nor did anything in time.
        """
        async with self._one_at_a_time:
            self._tell({"command": "ping"})
            before, looks_again = progress(), False
            while True:
                try:
                    await self._hear("pong", SECOND_LOOK_S if looks_again else timeout_s)
                    return
                except ChildFailedError as error:
                    now = progress()
                    if error.reason != "timeout" or (looks_again and now == before):
                        raise
                    before, looks_again = now, now == before

    def unready(self) -> None:
        """Have it say that it is not ready; it serves all the same."""
        self._tell({"command": "unready"})

    def end_as_hung(self) -> None:
        """Kill it, and remember that this was its own doing."""
        self.hung = True
        self.signal(signal.SIGKILL)

    async def drain(self, seconds: float, timeout_s: float) -> None:
        """Let it answer what it has, and end; returns once it takes no new connection.

        Also returns where it does not say so within `timeout_s`: it hangs, or is gone.
        """
        self._tell({"command": "drain", "seconds": seconds})
        with contextlib.suppress(ChildFailedError, TimeoutError):
            async with asyncio.timeout(timeout_s), self._one_at_a_time:
                await self._hear("draining", timeout_s)

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
