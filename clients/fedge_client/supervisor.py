"""The supervisor of a gateway: owns the inference socket and keeps its processes alive.

    python -m fedge_client.supervisor gateway.toml

It starts worker, agent and SuperNode; each survives the others, none survives the
supervisor. The installer tells it over `runtime_dir/supervisor.sock` which slot to
try and to serve: one JSON object a line, each answered by one. On the standard
library alone, because it must neither grow nor break. SIGTERM and SIGINT end
everything; what is being answered is answered first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedge.errors import FedgeError, SettingError, StateError
from fedge_client.children import Companion, python
from fedge_client.slot_keeper import SLOTS, CommandError, SlotKeeper

log = logging.getLogger(__name__)

STOP_GRACE_S = 6.0
MAX_LINE_BYTES = 4096
OPTIONAL = ("host", "port", "superlink", "train", "drain_s")


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """What the supervisor needs of `gateway.toml`; `fedge.config` checks all of it."""

    config: Path
    state_dir: Path
    runtime_dir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    superlink: str = ""
    train: bool = True
    drain_s: float = 10.0

    @classmethod
    def load(cls, config: Path) -> SupervisorSettings:
        """Read the file; relative paths start at its folder.

        Raises:
            SettingError: it cannot be read, or a setting that is needed is missing.
        """
        config = config.resolve()
        try:
            values = tomllib.loads(config.read_text())
            state_dir, runtime_dir = values["state_dir"], values["runtime_dir"]
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingError(f"cannot read settings {config}: {error}") from error
        except KeyError as error:
            raise SettingError(f"{config}: {error} is missing") from error
        others = {name: values[name] for name in OPTIONAL if name in values}
        folder = config.parent
        return cls(config, folder / state_dir, folder / runtime_dir, **others)

    @property
    def companions(self) -> dict[str, list[str]]:
        """The commands that run beside the worker, by name."""
        config = ("--config", str(self.config))
        commands = {"agent": python("fedge_client.agent", *config)}
        if self.superlink and self.train:
            commands["supernode"] = python("fedge_client.supernode", *config)
        return commands


def bind(host: str, port: int) -> socket.socket:
    """The inference socket, bound; the first worker makes it listen.

    Until then a caller is refused at once, instead of waiting for a model that is not there.

    Raises:
        SettingError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SettingError(f"cannot serve on {host}:{port}: {error}") from error
    return listening


class Supervisor:
    """One gateway's processes.

    Args:
        companions: commands to keep running beside the worker, by name.

    Raises:
        SettingError: the inference address is not to be had.
        StateError: another supervisor runs on this state directory, or it is damaged.
    """

    def __init__(
        self, settings: SupervisorSettings, companions: Mapping[str, list[str]] | None = None
    ) -> None:
        self._settings = settings
        self._lock = _own(settings.state_dir)
        try:
            settings.runtime_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"cannot use runtime_dir: {error}") from error
        self._listening = bind(settings.host, settings.port)
        self.port: int = self._listening.getsockname()[1]
        try:
            self._keeper = SlotKeeper(
                settings.config, settings.state_dir, self._listening, settings.drain_s
            )
        except ValueError as error:
            raise StateError(str(error)) from error
        logs = settings.state_dir / "logs"
        commands = settings.companions if companions is None else companions
        self._companions = [Companion(name, command, logs) for name, command in commands.items()]

    async def run(self) -> None:
        """Keep everything alive until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        server = await self._open_control()
        _write_port(self._settings.runtime_dir / "port", self.port)
        log.info("inference port %d, active slot %s", self.port, self._keeper.record)
        keepers = [asyncio.ensure_future(c.keep()) for c in self._companions]
        keepers.append(asyncio.ensure_future(self._keeper.keep()))
        stopped = asyncio.ensure_future(stop.wait())
        done, _ = await asyncio.wait([stopped, *keepers], return_when=asyncio.FIRST_COMPLETED)
        for task in (*keepers, stopped):
            task.cancel()
        server.close()
        await asyncio.gather(
            self._keeper.stop(STOP_GRACE_S), *(c.stop(STOP_GRACE_S) for c in self._companions)
        )
        self._listening.close()
        # A keeper ends only by a bug; then everything ends, and this says why.
        for task in done - {stopped}:
            task.result()

    def status(self) -> dict[str, object]:
        """Public facts about the processes."""
        record, worker = self._keeper.record, self._keeper.current
        facts: dict[str, object] = {
            "slot": record.slot if record else None,
            "fallback": record.fallback if record else None,
            "trial": self._keeper.trial_slot,
            "port": self.port,
            "worker_pid": worker.pid if worker else None,
            "worker_restarts": self._keeper.restarts,
        }
        for companion in self._companions:
            child = companion.child
            alive = child is not None and not child.ended.is_set()
            facts[f"{companion.name}_pid"] = child.pid if child and alive else None
            facts[f"{companion.name}_restarts"] = companion.restarts
        return facts

    async def _open_control(self) -> asyncio.AbstractServer:
        path = self._settings.runtime_dir / "supervisor.sock"
        path.unlink(missing_ok=True)  # left by a killed supervisor; the lock says it is gone
        mask = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._converse, path, limit=MAX_LINE_BYTES)
        except OSError as error:  # a path longer than 107 bytes, most of all
            raise SettingError(f"cannot open the control socket {path}: {error}") from error
        finally:
            os.umask(mask)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
            command, slot = request["command"], request.get("slot")
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"ok": False, "code": "misuse", "detail": "not a command"}
        try:
            if command == "status":
                return {"ok": True, **self.status()}
            if slot not in SLOTS:
                raise CommandError("misuse", f"no slot {slot!r}")
            if command == "trial":
                return {"ok": True, **await self._keeper.trial(slot)}
            if command == "takeover":
                await self._keeper.takeover(slot)
            elif command == "discard":
                await self._keeper.discard(slot)
            else:
                raise CommandError("misuse", f"no command {command!r}")
        except CommandError as error:
            log.warning("%s %s: %s", command, slot, error)
            return {"ok": False, "code": error.code, "detail": error.detail}
        return {"ok": True}


def _own(state_dir: Path) -> object:
    """Keep a second supervisor out for as long as the answer is held."""
    try:
        handle = (state_dir / "supervisor.lock").open("a")
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
    parser = argparse.ArgumentParser(prog="fedge_client.supervisor")
    parser.add_argument("config", type=Path)
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(Supervisor(SupervisorSettings.load(args.config)).run())
    except FedgeError as error:
        print(f"fedge supervisor: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
