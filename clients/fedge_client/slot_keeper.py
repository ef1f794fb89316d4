"""Two slots, one of them active: which worker owns the socket, and who follows it.

The decision which release goes where is the installer's; it arrives here as
`trial`, `takeover` and `discard`. By itself the keeper only restarts the active
slot's worker, ends one that hangs, and falls back to the slot before where the active
one fails several times in a row.

What counts as a failure of the release: its worker does not get to serve, it crashes
within `STABLE_S` of serving (a model may show only then what is wrong with it), or it
hangs. A worker that served and was killed from outside says little about its release: an
operator or a system short of memory killed it. Three such kills must not throw a good
release away; ten in a row, each within `STABLE_S`, are taken for a release that does not
fit this machine's memory. Standard library alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fedge.durable import write_file
from fedge_client.children import STABLE_S, ChildFailedError, Worker, backoff_s
from fedge_client.sockets import Doors
from fedge_client.supervisor_settings import ServedModel

log = logging.getLogger(__name__)

SLOTS = ("A", "B")
START_TIMEOUT_S, SERVE_TIMEOUT_S = 60.0, 10.0
DRAIN_MARGIN_S = 6.0
"""What a worker may need beyond the draining time, to finish its last answers."""
DRAIN_CONFIRM_S = 2.0
"""How long a replaced worker may take to stop accepting; a hung one never does."""
IN_HAND_MARGIN_S = 5.0
"""From the kill of a hung worker to its end, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When a worker, or its release, is given up.

    Attributes:
        failures: of the release in a row; then the slot before serves again.
        kills: from outside in a row, each soon after the worker served; then likewise.
        ping_every_s: seconds between two pings of the serving worker.
        deaf_s: a worker that neither answers a ping nor a request for so long hangs.
    """

    failures: int = 3
    kills: int = 10
    ping_every_s: float = 5.0
    deaf_s: float = 10.0


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
        write_file(path, json.dumps(asdict(self)).encode())


class SlotKeeper:
    """Owns the workers of one served model.

    Args:
        config: the gateway's settings file, for the workers.
        model: names the workers' model; `active.json` and `logs/` are in its state folder.
        doors: the bound sockets; workers share them.
        drain_s: how long a replaced worker may wait for its callers' next request.
        max_batch: rows that a worker may run at once, deaf meanwhile.
        patience: when to give up.
        progress: something that changes with each request that a worker answered.

    Raises:
        ValueError: `active.json` is damaged.
    """

    def __init__(
        self,
        config: Path,
        model: ServedModel,
        doors: Doors,
        *,
        drain_s: float,
        max_batch: int,
        patience: Patience,
        progress: Callable[[Worker], object],
    ) -> None:
        self.model = model
        self._config, self._doors, self._drain_s = config, doors, drain_s
        self._max_batch, self._patience, self._progress = max_batch, patience, progress
        self._path, self.logs = model.state_dir / "active.json", model.state_dir / "logs"
        self.record = Active.read(self._path)
        self.current: Worker | None = None
        self.restarts = 0
        self.settled = asyncio.Event()
        """Set once the first attempt to serve ended, or there is nothing to serve."""
        self._trial: Worker | None = None
        self._workers: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._command = asyncio.Lock()
        self._missing = asyncio.Event()
        self._failures = self._kills = 0
        self._serving_since = self._answered = 0.0
        self._moved_to: object = None
        self._leaving = self._stopping = False

    @property
    def trial_slot(self) -> str | None:
        """The slot whose worker passed its probes and waits for its takeover."""
        return self._trial.slot if self._trial is not None and self._trial.report else None

    async def keep(self) -> None:
        """See to it that the active slot's worker serves, for ever."""
        if self.record is not None:
            self._missing.set()
        else:
            self.settled.set()
        while True:
            await self._missing.wait()
            await asyncio.sleep(backoff_s(self._failures + self._kills))
            if self.record is not None and self.current is None:
                await self._restart(self.record.slot)
                self.settled.set()
            else:
                self._missing.clear()

    async def watch(self) -> None:
        """End the serving worker whenever it hangs, for ever; `keep` starts the next one."""
        while True:
            await asyncio.sleep(self._patience.ping_every_s)
            worker = self.current
            if worker is None or worker.hung or worker.ended.is_set():
                continue
            await self._check(worker)

    @property
    def in_hand(self) -> bool:
        """Whether the serving worker answers, or what follows it is under way.

        False means that a worker hangs and was not ended: this process is what is wrong.
        """
        worker = self.current
        if worker is None:
            return True
        silent_s = asyncio.get_running_loop().time() - self._answered
        return silent_s <= self._patience.ping_every_s + self._deaf_s(worker) + IN_HAND_MARGIN_S

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
        """Give the socket to the worker on trial; the one before drains and ends.

        When this returns new connections reach the new release alone.
        """
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
                await self._retire(worker)
                code = "trial-failed" if isinstance(error, ChildFailedError) else "failed"
                raise CommandError(code, str(error)) from error
            self._trial = None
            before = self.current
            self._failures = self._kills = 0
            self._serves(worker)
            self._missing.clear()
            if worker.ended.is_set():
                self._on_end(worker)
            if before is not None:
                await self._retire(before)
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

    def leave(self) -> None:
        """Say from now on that the model is not ready here, whichever worker serves it."""
        self._leaving = True
        if self.current is not None:
            self.current.unready()

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
            await self._retire(worker)
            return
        self._serves(worker)
        log.info("slot %s serves", slot)
        if worker.ended.is_set():
            self._on_end(worker)

    async def _check(self, worker: Worker) -> None:
        try:
            await worker.ping(self._deaf_s(worker), lambda: self._moved(worker))
        except ChildFailedError as error:
            # One that was replaced meanwhile drains, and need not answer.
            if worker is self.current and not worker.ended.is_set():
                log.error("the worker in slot %s hangs (%s), ending it", worker.slot, error)
                worker.end_as_hung()
        else:
            self._has_answered(worker)

    def _serves(self, worker: Worker) -> None:
        self.current = worker
        if self._leaving:
            worker.unready()
        self._serving_since = self._answered = asyncio.get_running_loop().time()

    def _deaf_s(self, worker: Worker) -> float:
        """How long it may be deaf: one run of a slow model, and then some."""
        row_us = worker.report["latency_us"] if worker.report else 0.0
        return self._patience.deaf_s + 1e-6 * row_us * self._max_batch

    def _moved(self, worker: Worker) -> object:
        moved = self._progress(worker)
        if moved != self._moved_to:
            self._moved_to, self._answered = moved, asyncio.get_running_loop().time()
        return moved

    def _has_answered(self, worker: Worker) -> None:
        if worker is not self.current:
            return
        self._answered = asyncio.get_running_loop().time()
        if self._answered - self._serving_since >= STABLE_S:
            self._failures = self._kills = 0

    def _failed(self) -> None:
        """The active slot's release failed once more."""
        self._failures += 1
        if self._failures >= self._patience.failures:
            self._fall_back()

    def _fall_back(self) -> None:
        """Return to the slot before, where there is one; else go on trying."""
        record = self.record
        if record is None or record.fallback is None:
            return
        log.error("slot %s failed again and again, falling back", record.slot)
        try:
            self._remember(Active(record.fallback, None))
        except OSError as error:
            # Serving goes on from the slot that works; what is on disk says so later.
            log.error("cannot write %s: %s", self._path, error)
            self.record = Active(record.fallback, None)
        self._failures = self._kills = 0

    def _start(self, slot: str) -> Worker:
        worker = Worker(self._config, self.model.family, slot, self._doors, self.logs)
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
            self._count_end(worker)
            self._missing.set()

    def _count_end(self, worker: Worker) -> None:
        lived_s = asyncio.get_running_loop().time() - self._serving_since
        if worker.hung:
            # Its last answers, not its age, say whether it ever worked: see `_has_answered`.
            self._failed()
        elif lived_s >= STABLE_S:
            self._failures = self._kills = 0
        elif worker.killed_from_outside:
            self._kills += 1
            if self._kills >= self._patience.kills:
                self._fall_back()
        else:
            self._failed()

    async def _retire(self, worker: Worker) -> None:
        """Let it go; when this returns it takes no new connection."""
        await worker.drain(self._drain_s, DRAIN_CONFIRM_S)
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
