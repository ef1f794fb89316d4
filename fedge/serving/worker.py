"""The inference worker: one process that serves the release in one slot.

    python -m fedge.serving.worker --config gateway.toml --slot A --listen-fd N --control-fd M

It inherits the listening socket and one end of a socket pair from the supervisor.
Over the pair go JSON lines. First the worker loads and probes the release and
says `{"event": "ready", ...}` or `{"event": "failed", ...}` (and ends); no request
was touched so far. Then it obeys: `{"command": "serve"}`, answered by
`{"event": "serving"}`, and `{"command": "drain", "seconds": s}`, after which it ends.
When the line breaks the supervisor is gone, and so is the worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from fedge.config import GatewaySettings
from fedge.errors import FedgeError, UpdateRejectedError
from fedge.identity import Identity
from fedge.lifetime import die_with_parent
from fedge.privacy.policy import read_policy
from fedge.serving.app import InferenceApp, Limits
from fedge.serving.listener import Listener
from fedge.serving.probes import ProbeResult, probe
from fedge.serving.record_ids import block_numbering, id_prefix
from fedge.serving.release import load_release
from fedge.serving.ring import RingWriter

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED = 0, 1


def prepare(settings: GatewaySettings, slot: str) -> tuple[InferenceApp, ProbeResult]:
    """Load and probe the release in `slot`; everything but the socket is ready afterwards.

    Raises:
        FedgeError: it must not serve; says why.
    """
    state_dir = settings.state_dir
    release = load_release(state_dir / "slots" / slot, settings)
    result = probe(release)
    task = release.task
    ring = RingWriter(
        state_dir / "ring.bin",
        features=len(task.features),
        inputs=task.input.size,
        capacity=settings.ring_slots,
    )
    app = InferenceApp(
        release,
        result,
        ring,
        Limits(settings.max_body_bytes, settings.max_batch, settings.feedback_slots),
        # Only the name is kept: the worker signs nothing.
        gateway=id_prefix(Identity.load(state_dir / "identity.pem").fingerprint),
        block_of=block_numbering(
            read_policy(state_dir / "policy.toml").block, settings.window_slots
        ),
        clock=time.time,
    )
    return app, result


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


async def run(settings: GatewaySettings, slot: str, listening: socket.socket, control: int) -> int:
    """Probe, then serve and drain as told. Answers the exit status."""
    line = await ControlLine.open(control)
    try:
        app, result = prepare(settings, slot)
    except FedgeError as error:
        reason = error.reason if isinstance(error, UpdateRejectedError) else "not-ready"
        log.error("slot %s does not serve: %s", slot, error)
        await line.tell("failed", reason=reason, detail=str(error))
        return EXIT_FAILED
    await line.tell("ready", latency_us=result.latency_us, golden_max_abs=result.golden_max_abs)
    listener = Listener(app, listening)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    terminated = asyncio.ensure_future(stopping.wait())
    while True:
        command = asyncio.ensure_future(line.next())
        await asyncio.wait({command, terminated}, return_when=asyncio.FIRST_COMPLETED)
        told = command.result() if command.done() else {"command": "drain", "seconds": 0.0}
        if told["command"] == "serve":
            await listener.serve()
            await line.tell("serving")
        else:
            draining = asyncio.ensure_future(listener.drain(float(str(told["seconds"]))))
            await asyncio.wait({draining, terminated}, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                draining.cancel()
                await listener.drain(0.0)
            return EXIT_OK


def main() -> int:
    die_with_parent()
    parser = argparse.ArgumentParser(prog="fedge.serving.worker")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--slot", choices=["A", "B"], required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Ctrl-C reaches the whole terminal group; the supervisor decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        settings = GatewaySettings.load(args.config)
    except FedgeError as error:
        print(f"fedge worker: {error}", file=sys.stderr)
        return EXIT_FAILED
    listening = socket.socket(fileno=args.listen_fd)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings, args.slot, listening, args.control_fd))


if __name__ == "__main__":
    sys.exit(main())
