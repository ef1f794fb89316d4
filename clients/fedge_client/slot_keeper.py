"""Two slots, one of them active: which worker owns the socket, and who follows it.

The decision which release goes where is the installer's; it arrives here as
`trial`, `takeover` and `discard`. By itself the keeper only restarts the active
slot's worker, and falls back to the slot before where that one fails to start three
times in a row. A worker that ends within `STABLE_S` of serving counts as one that
failed to start: a model that crashes, or that the system kills for its memory, shows
itself only then. Standard library alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from fedge_client.children import STABLE_S, ChildFailedError, Worker, backoff_s

log = logging.getLogger(__name__)

SLOTS = ("A", "B")
START_TIMEOUT_S, SERVE_TIMEOUT_S = 60.0, 10.0
DRAIN_MARGIN_S = 6.0
"""What a worker may need beyond the draining time, to finish its last answers."""
FAILURES_BEFORE_FALLBACK = 3


class CommandError(Exception):
    """A command was not carried out. `code`: trial-failed, misuse, or failed."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class Active:
    """What `active.json` holds: the active slot, and the one to return to."""

    slot: str
    fallback: str | None

    @classmethod
    def read(cls, path: Path) -> Active | None:
        """What was written last; None on a new gateway.

        Raises:
            ValueError: the file is damaged; it is written in one step, so this is no crash.
        """
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        if not (
            isinstance(values, dict)
            and values.get("slot") in SLOTS
            and values.get("fallback") in (*SLOTS, None)
        ):
            raise ValueError(f"{path} is damaged: restore it, or remove it to install anew")
        return cls(values["slot"], values["fallback"])

    def write(self, path: Path) -> None:
        """Replace the file in one step; on disk when it returns."""
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(json.dumps(asdict(self)).encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class SlotKeeper:
    """Owns the workers.

    Args:
        config: the gateway's settings file, for the workers.
        state_dir: where `active.json` and `logs/` are.
        listening: the bound socket; workers share it.
        drain_s: how long a replaced worker may wait for its callers' next request.

    Raises:
        ValueError: `active.json` is damaged.
    """

    def __init__(
        self, config: Path, state_dir: Path, listening: socket.socket, drain_s: float
    ) -> None:
        self._config, self._listening, self._drain_s = config, listening, drain_s
        self._path, self._logs = state_dir / "active.json", state_dir / "logs"
        self.record = Active.read(self._path)
        self.current: Worker | None = None
        self.restarts = 0
        self._trial: Worker | None = None
        self._workers: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._command = asyncio.Lock()
        self._missing = asyncio.Event()
        self._failures = 0
        self._serving_since = 0.0
        self._stopping = False

    @property
    def trial_slot(self) -> str | None:
        """The slot whose worker passed its probes and waits for its takeover."""
        return self._trial.slot if self._trial is not None and self._trial.report else None

    async def keep(self) -> None:
        """See to it that the active slot's worker serves, for ever."""
        if self.record is not None:
            self._missing.set()
        while True:
            await self._missing.wait()
            await asyncio.sleep(backoff_s(self._failures))
            if self.record is not None and self.current is None:
                await self._restart(self.record.slot)
            else:
                self._missing.clear()

    async def trial(self, slot: str) -> dict[str, float]:
        """Start a worker beside the active one and answer what its probes measured."""
        async with self._command:
            if self.record is not None and slot == self.record.slot:
                raise CommandError("misuse", f"slot {slot} is the active one")
            if self._trial is not None:
                if self._trial.slot == slot and self._trial.report is not None:
                    return self._trial.report
                await self._end_trial()
            try:
                worker = self._trial = self._start(slot)
                return await worker.ready(START_TIMEOUT_S)
            except ChildFailedError as error:
                await self._end_trial()
                raise CommandError("trial-failed", str(error)) from error

    async def takeover(self, slot: str) -> None:
        """Give the socket to the worker on trial; the one before drains and ends."""
        async with self._command:
            if self.record is not None and slot == self.record.slot:
                return
            worker = self._trial
            if worker is None or worker.slot != slot or worker.report is None:
                raise CommandError("trial-failed", f"no worker waits in slot {slot}")
            try:
                await worker.serve(SERVE_TIMEOUT_S)
                # Read again: the keeper may have fallen back to this very slot meanwhile.
                before_slot = self.record.slot if self.record is not None else None
                self._remember(Active(slot, before_slot if before_slot != slot else None))
            except (ChildFailedError, OSError) as error:
                # Both may be accepting now; the one that stays is the one on record.
                self._trial = None
                self._retire(worker)
                code = "trial-failed" if isinstance(error, ChildFailedError) else "failed"
                raise CommandError(code, str(error)) from error
            self._trial = None
            before, self.current = self.current, worker
            self._failures, self._serving_since = 0, asyncio.get_running_loop().time()
            self._missing.clear()
            if worker.ended.is_set():
                self._on_end(worker)
            if before is not None:
                self._retire(before)
            log.info("slot %s serves", slot)

    async def discard(self, slot: str) -> None:
        """End a trial in `slot` and never fall back to it."""
        async with self._command:
            if self.record is not None and slot == self.record.slot:
                raise CommandError("misuse", f"slot {slot} is the active one")
            if self._trial is not None and self._trial.slot == slot:
                await self._end_trial()
            if self.record is not None and self.record.fallback == slot:
                try:
                    self._remember(Active(self.record.slot, None))
                except OSError as error:
                    raise CommandError("failed", str(error)) from error

    async def stop(self, grace_s: float) -> None:
        """Let every worker finish its answers, and end it."""
        self._stopping = True
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        await asyncio.gather(*(worker.end(grace_s) for worker in list(self._workers)))

    async def _restart(self, slot: str) -> None:
        worker = None
        try:
            worker = self._start(slot)
            await worker.ready(START_TIMEOUT_S)
            await worker.serve(SERVE_TIMEOUT_S)
        except ChildFailedError as error:
            log.error("slot %s did not start: %s", slot, error)
            if worker is not None:
                worker.signal(signal.SIGKILL)
            if self.current is None:
                self._failed()
            return
        if self.current is not None:  # another slot took over meanwhile
            self._retire(worker)
            return
        self.current, self._serving_since = worker, asyncio.get_running_loop().time()
        log.info("slot %s serves", slot)
        if worker.ended.is_set():
            self._on_end(worker)

    def _failed(self) -> None:
        """The active slot failed to start once more: try again, or return to the slot before."""
        self._failures += 1
        record = self.record
        if record is None or record.fallback is None or self._failures < FAILURES_BEFORE_FALLBACK:
            return
        log.error("slot %s failed %d times, falling back", record.slot, self._failures)
        try:
            self._remember(Active(record.fallback, None))
        except OSError as error:
            # Serving goes on from the slot that works; what is on disk says so later.
            log.error("cannot write %s: %s", self._path, error)
            self.record = Active(record.fallback, None)
        self._failures = 0

    def _start(self, slot: str) -> Worker:
        worker = Worker(self._config, slot, self._listening, self._logs)
        self._workers.add(worker)

        async def watch() -> None:
            await worker.ended.wait()
            self._on_end(worker)

        self._spawn(asyncio.ensure_future(watch()))
        return worker

    def _on_end(self, worker: Worker) -> None:
        self._workers.discard(worker)
        if worker is self._trial:
            self._trial = None
        if worker is self.current and not self._stopping:
            self.current = None
            self.restarts += 1
            lived = asyncio.get_running_loop().time() - self._serving_since
            if lived >= STABLE_S:
                self._failures = 0
            else:
                self._failed()
            self._missing.set()

    def _retire(self, worker: Worker) -> None:
        worker.drain(self._drain_s)
        self._spawn(asyncio.ensure_future(worker.end(self._drain_s + DRAIN_MARGIN_S)))

    async def _end_trial(self) -> None:
        if self._trial is not None:
            worker, self._trial = self._trial, None
            worker.signal(signal.SIGKILL)
            await worker.ended.wait()

    def _remember(self, record: Active) -> None:
        record.write(self._path)
        self.record = record

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
