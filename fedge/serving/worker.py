"""The inference worker: one process that serves the release in one slot.

    python -m fedge.serving.worker --config gateway.toml --slot A --listen-fd N --control-fd M

It inherits the listening socket and one end of a socket pair from the supervisor.
Over the pair go JSON lines. First the worker loads and probes the release and
says `{"event": "ready", ...}` or `{"event": "failed", ...}` (and ends); no request
was touched so far. Then it obeys:

- `{"command": "serve"}`, answered by `{"event": "serving"}`;
- `{"command": "ping"}`, answered by `{"event": "pong"}`;
- `{"command": "unready"}`: says from now on that it is not ready, and serves all the same;
- `{"command": "drain", "seconds": s}`: no new connections, which `{"event": "draining"}`
  confirms, and the last answers; then it ends.

When the line breaks the supervisor is gone, and so is the worker. What is put together
from which settings is told by `fedge.serving.composition`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop

from fedge.config import GatewaySettings
from fedge.errors import FedgeError, UpdateRejectedError
from fedge.lifetime import die_with_parent
from fedge.logs import log_to_stderr
from fedge.serving.composition import Serving, compose
from fedge.serving.listener import Listener

log = logging.getLogger(__name__)

GC_THRESHOLD = 20_000
EXIT_OK, EXIT_FAILED = 0, 1
SPARE_HANDLES = 128
"""File handles beside those of connections: ring, logs, upstream and the like."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The sockets that were inherited: the shared port, and where other models' workers call."""

    shared: socket.socket
    local: socket.socket | None = None


class ControlLine:
    """The worker's end of the line to the supervisor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, handle: int) -> ControlLine:
        return cls(*await asyncio.open_unix_connection(sock=socket.socket(fileno=handle)))

    async def tell(self, event: str, **facts: object) -> None:
        self._writer.write(json.dumps({"event": event, **facts}).encode() + b"\n")
        await self._writer.drain()

    async def next(self) -> dict[str, object]:
        """The next command; a broken line is the command to drain at once."""
        line = await self._reader.readline()
        if not line:
            return {"command": "drain", "seconds": 0.0}
        command: dict[str, object] = json.loads(line)
        return command


class Service:
    """What was put together, on its sockets."""

    def __init__(self, serving: Serving, doors: Doors) -> None:
        self._serving = serving
        limits, observer = serving.limits, serving.observer
        self._upkeep: asyncio.Future[None] | None = None
        self._listeners = [
            Listener(serving.guard, doors.shared, limits, tls=serving.tls, observer=observer)
        ]
        if doors.local is not None:
            # Its callers are workers of this gateway, and passed their own guard.
            self._listeners.append(Listener(serving.app, doors.local, limits, observer=observer))

    async def serve(self) -> None:
        """Accept requests; returns once all sockets listen."""
        if self._upkeep is None:
            self._upkeep = asyncio.ensure_future(self._serving.upkeep.run())
        for listener in self._listeners:
            await listener.serve()
        self._tell_ready(True)

    def unready(self) -> None:
        """Say that this worker is not ready, so that callers go elsewhere; serve who does not."""
        self._serving.app.draining = True
        self._tell_ready(False)

    @property
    def accepting(self) -> bool:
        return any(listener.accepting for listener in self._listeners)

    async def drain(self, seconds: float) -> None:
        """See `Listener.drain`."""
        self.unready()
        if self._serving.batcher is not None:
            self._serving.batcher.drain()
        await asyncio.gather(*(listener.drain(seconds) for listener in self._listeners))

    def _tell_ready(self, ready: bool) -> None:
        if self._serving.stats is not None:
            self._serving.stats.ready(ready)


async def run(settings: GatewaySettings, family: str, slot: str, doors: Doors, control: int) -> int:
    """Probe, then serve and drain as told. Answers the exit status."""
    line = await ControlLine.open(control)
    try:
        serving = compose(settings, family, slot)
    except FedgeError as error:
        reason = error.reason if isinstance(error, UpdateRejectedError) else "not-ready"
        log.error("slot %s does not serve: %s", slot, error)
        await line.tell("failed", reason=reason, detail=str(error))
        return EXIT_FAILED
    # What was loaded stays: collecting garbage need not look at it again, request after request.
    gc.collect()
    gc.freeze()
    # What a request makes is freed without it; looking often would only cost.
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    probed = serving.probed
    await line.tell("ready", latency_us=probed.latency_us, golden_max_abs=probed.golden_max_abs)
    service = Service(serving, doors)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    terminated = asyncio.ensure_future(stopping.wait())
    while True:
        command = asyncio.ensure_future(line.next())
        await asyncio.wait({command, terminated}, return_when=asyncio.FIRST_COMPLETED)
        told = command.result() if command.done() else {"command": "drain", "seconds": 0.0}
        if told["command"] == "serve":
            await service.serve()
            await line.tell("serving")
        elif told["command"] == "ping":
            await line.tell("pong")
        elif told["command"] == "unready":
            service.unready()
        else:
            draining = asyncio.ensure_future(service.drain(float(str(told["seconds"]))))
            while service.accepting:
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):  # the line may be what broke
                await line.tell("draining")
            await asyncio.wait({draining, terminated}, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                draining.cancel()
                await service.drain(0.0)
            return EXIT_OK


def allow_handles(connections: int) -> None:
    """Raise the process's own limit of open files as far as so many connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_HANDLES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> int:
    """Serve one slot until the supervisor, or a signal, ends it; dies with the supervisor.

    Returns:
        the exit status: `EXIT_OK` when drained, `EXIT_FAILED` when it must not serve.
    """
    die_with_parent()
    parser = argparse.ArgumentParser(prog="fedge.serving.worker")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", help="the served model's family; the first one's if left out")
    parser.add_argument("--slot", choices=["A", "B"], required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--local-fd", type=int, help="where other models' workers hand on requests")
    args = parser.parse_args()
    # Ctrl-C reaches the whole terminal group; the supervisor decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        settings = GatewaySettings.load(args.config)
        family = args.model or settings.family
        settings.for_model(family)
    except FedgeError as error:
        print(f"fedge worker: {error}", file=sys.stderr)
        return EXIT_FAILED
    log_to_stderr("worker", settings.log_format)
    allow_handles(settings.limits.max_connections)
    local = None if args.local_fd is None else socket.socket(fileno=args.local_fd)
    doors = Doors(socket.socket(fileno=args.listen_fd), local)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings, family, args.slot, doors, args.control_fd))


if __name__ == "__main__":
    sys.exit(main())
