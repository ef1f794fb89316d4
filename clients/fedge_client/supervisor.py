"""The supervisor of a gateway: owns the inference socket and keeps its processes alive.

    python -m fedge_client.supervisor gateway.toml

It starts a worker for each served model, the agent and SuperNode; each survives the others,
none survives the supervisor. The installer tells it over `runtime_dir/supervisor.sock` which
slot to try and to serve; `ops` shows on loopback how everything is. Under systemd it takes
the inference socket from a socket unit, says when it is ready, and feeds the watchdog. On
the standard library alone, because it must neither grow nor break. SIGTERM and SIGINT end
everything, after `stop_delay_s` or at once when they come a second time; what is being answered is
answered first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Iterable, Mapping
from pathlib import Path

from fedge.errors import FedgeError, SettingError, StateError
from fedge.logs import log_to_stderr
from fedge_client.children import Companion
from fedge_client.control_port import ControlPort
from fedge_client.facts import GatewayFacts, counters
from fedge_client.logfiles import rotate
from fedge_client.metrics import CONTENT_TYPE, exposition
from fedge_client.notify import Notifier
from fedge_client.ops import OpsListener, Page
from fedge_client.slot_keeper import SLOTS, CommandError, Patience, SlotKeeper
from fedge_client.sockets import Doors, bind, bind_local, inherited
from fedge_client.supervisor_settings import ServedModel, SupervisorSettings

log = logging.getLogger(__name__)

STOP_GRACE_S = 6.0
ROTATE_EVERY_S = 30.0
STATUS_EVERY_S = 1.0


class Supervisor:
    """One gateway's processes.

    Args:
        companions: commands to keep running beside the workers, by name.
        listening: the inference socket where somebody else bound it.
        notifier: the line to the service manager.
        patience: when a worker or a release is given up.

    Raises:
        SettingError: an address is not to be had, or a model's state folder is missing.
        StateError: another supervisor runs on this state directory, or it is damaged.
    """

    def __init__(
        self,
        settings: SupervisorSettings,
        companions: Mapping[str, list[str]] | None = None,
        *,
        listening: socket.socket | None = None,
        notifier: Notifier | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._settings, self._notifier = settings, notifier or Notifier()
        self._lock = _own(settings.state_dir)
        try:
            settings.runtime_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"cannot use runtime_dir: {error}") from error
        self._listening = listening or bind(settings.host, settings.port)
        self.port: int = self._listening.getsockname()[1]
        self._local: dict[Path, socket.socket] = {}
        self._keepers = {
            model.family: self._keeper(model, patience or Patience()) for model in settings.served
        }
        commands = settings.companions if companions is None else companions
        logs = settings.state_dir / "logs"
        self._companions = [Companion(name, command, logs) for name, command in commands.items()]
        self._control = ControlPort(settings.runtime_dir / "supervisor.sock", self._obey)
        self._facts = GatewayFacts(
            settings.runtime_dir, list(self._keepers.values()), self._companions, time.time()
        )
        self._ops: OpsListener | None = None
        if settings.ops_port >= 0:
            pages = {"/status": self._status_page, "/metrics": self._metrics_page}
            self._ops = OpsListener(pages, settings.ops_port)

    async def run(self) -> None:
        """Keep everything alive until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await self._open()
        keepers = self._keepers.values()
        log.info("port %d, slots %s", self.port, [keeper.record for keeper in keepers])
        endless: list[Awaitable[None]] = [keeper.keep() for keeper in keepers]
        endless += [keeper.watch() for keeper in keepers]
        endless += [self._keep_later(companion) for companion in self._companions]
        endless += [self._rotate_logs(), self._report(), self._feed_watchdog()]
        tasks = [asyncio.ensure_future(work) for work in endless]
        stopped = asyncio.ensure_future(stop.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        self._notifier.stopping()
        if done == {stopped}:
            stop.clear()
            await self._leave(stop)
        for task in (*tasks, stopped):
            task.cancel()
        await self._close()
        # An endless task ends only by a bug; then everything ends, and this says why.
        for task in done - {stopped}:
            task.result()

    def status(self, family: str) -> dict[str, object]:
        """Public facts about the processes of one model."""
        keeper = self._keepers[family]
        record, worker = keeper.record, keeper.current
        facts: dict[str, object] = {
            "model": family,
            "models": list(self._keepers),
            "slot": record.slot if record else None,
            "fallback": record.fallback if record else None,
            "trial": keeper.trial_slot,
            "port": self.port,
            "ops_port": self._ops.port if self._ops else -1,
            "worker_pid": worker.pid if worker else None,
            "worker_restarts": keeper.restarts,
        }
        for companion in self._companions:
            facts[f"{companion.name}_pid"] = companion.pid
            facts[f"{companion.name}_restarts"] = companion.restarts
        return facts

    def _keeper(self, model: ServedModel, patience: Patience) -> SlotKeeper:
        settings = self._settings
        if not model.state_dir.is_dir():
            raise SettingError(
                f"model {model.family} has no state folder {model.state_dir}; "
                "`fedge gateway add-model` makes it"
            )
        local = None
        if settings.models:
            path = settings.runtime_dir / f"model-{model.family}.sock"
            local = self._local[path] = bind_local(path)
        try:
            return SlotKeeper(
                settings.config,
                model,
                Doors(self._listening, local),
                drain_s=settings.drain_s,
                max_batch=settings.max_batch,
                patience=patience,
                progress=lambda worker: counters(settings.runtime_dir, model.family, worker).get(
                    "requests"
                ),
            )
        except ValueError as error:
            raise StateError(str(error)) from error

    async def _open(self) -> None:
        runtime_dir = self._settings.runtime_dir
        if self._ops is not None:
            await self._ops.open()
            self._facts.ops_port = self._ops.port
            _write_port(runtime_dir / "ops_port", self._ops.port)
        self._facts.port = self.port
        _write_port(runtime_dir / "port", self.port)
        await self._control.open()

    async def _leave(self, at_once: asyncio.Event) -> None:
        """Serve on for the stop delay, and say meanwhile that nothing is ready here."""
        delay_s = self._settings.stop_delay_s
        if delay_s > 0:
            for keeper in self._keepers.values():
                keeper.leave()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(at_once.wait(), delay_s)

    async def _close(self) -> None:
        self._control.close()
        if self._ops is not None:
            self._ops.close()
        await asyncio.gather(
            *(keeper.stop(STOP_GRACE_S) for keeper in self._keepers.values()),
            *(companion.stop(STOP_GRACE_S) for companion in self._companions),
        )
        for listening in (self._listening, *self._local.values()):
            listening.close()
        runtime_dir = self._settings.runtime_dir
        for path in (runtime_dir / "port", runtime_dir / "ops_port", *self._local):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    async def _keep_later(self, companion: Companion) -> None:
        """Serving comes first: a companion starts when the workers had the machine's cores."""
        await _all_settled(self._keepers.values())
        await companion.keep()

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_EVERY_S)
            for keeper in self._keepers.values():  # the first one's folder holds the others' too
                rotate(keeper.logs)

    async def _report(self) -> None:
        """Tell the service manager that start-up is over, then how it goes on."""
        # Also where a release does not start: the agent, which may install a better one,
        # must not be ended for it by a start-up limit.
        await _all_settled(self._keepers.values())
        self._notifier.ready()
        while True:
            self._notifier.status("; ".join(map(_in_words, self._keepers.values())))
            await asyncio.sleep(STATUS_EVERY_S)

    async def _feed_watchdog(self) -> None:
        """A sign of life at half the time that is left, while nothing hangs for good."""
        if self._notifier.watchdog_s is None:
            await asyncio.Event().wait()
            return
        while True:
            if all(keeper.in_hand for keeper in self._keepers.values()):
                self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_s / 2)

    async def _status_page(self) -> Page:
        return Page("application/json", json.dumps(await self._facts.gather()).encode())

    async def _metrics_page(self) -> Page:
        return Page(CONTENT_TYPE, exposition(await self._facts.gather()).encode())

    async def _obey(self, request: dict[str, object]) -> dict[str, object]:
        """Carry out one command of the control socket."""
        command, slot = request["command"], request.get("slot")
        family = request.get("model", self._settings.family)
        if not isinstance(family, str) or family not in self._keepers:
            raise CommandError("misuse", f"no model {family!r} is served here")
        keeper = self._keepers[family]
        if command == "status":
            return self.status(family)
        if command == "facts":
            return await self._facts.gather()
        if not isinstance(slot, str) or slot not in SLOTS:
            raise CommandError("misuse", f"no slot {slot!r}")
        if command == "trial":
            return {**await keeper.trial(slot)}
        if command == "takeover":
            await keeper.takeover(slot)
        elif command == "discard":
            await keeper.discard(slot)
        else:
            raise CommandError("misuse", f"no command {command!r}")
        return {}


async def _all_settled(keepers: Iterable[SlotKeeper]) -> None:
    for keeper in keepers:
        await keeper.settled.wait()


def _in_words(keeper: SlotKeeper) -> str:
    family = keeper.model.family
    if keeper.record is None:
        return f"{family}: no release is installed yet"
    if keeper.current is None:
        return f"{family}: slot {keeper.record.slot} does not serve"
    return f"{family}: slot {keeper.record.slot} serves"


def _own(state_dir: Path) -> object:
    """Keep a second supervisor out for as long as the answer is held."""
    path = state_dir / "supervisor.lock"
    try:
        try:
            handle = path.open("a")
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            handle = path.open()  # a lock writes nothing, and serving needs no more
    except OSError as error:
        raise StateError(f"cannot use {state_dir}: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise StateError(f"another supervisor runs on {state_dir}") from error
    return handle


def _write_port(path: Path, port: int) -> None:
    part = path.with_suffix(".part")
    part.write_text(str(port))
    part.replace(path)


def main() -> int:
    """Keep the gateway of one `gateway.toml` running until a signal ends it.

    Returns:
        the exit status: 0 when everything ended as asked, 1 when it could not start.
    """
    parser = argparse.ArgumentParser(prog="fedge_client.supervisor")
    parser.add_argument("config", type=Path)
    args = parser.parse_args()
    try:
        settings = SupervisorSettings.load(args.config)
        log_to_stderr("supervisor", settings.log_format)
        notifier, listening = Notifier.from_environment(os.environ), inherited(os.environ)
        asyncio.run(Supervisor(settings, listening=listening, notifier=notifier).run())
    except FedgeError as error:
        print(f"fedge supervisor: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
