"""Real inference apps on real sockets, in this process: no worker has to start."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fakes.gateways import TASK, fill_slot, make_gateway

from fedge.config import GatewaySettings
from fedge.identity import Identity
from fedge.privacy.policy import read_policy
from fedge.records import ReleaseManifest, TaskSchema
from fedge.serving.app import InferenceApp, Limits
from fedge.serving.engine import DirectEngine
from fedge.serving.listener import Listener
from fedge.serving.marks import NOBODY
from fedge.serving.probes import ProbeResult
from fedge.serving.record_ids import block_numbering, id_prefix
from fedge.serving.release import load_release
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout


def make_served(
    folder: Path, family: str = "toy", *, counter: int = 1, task: TaskSchema = TASK, **more: object
) -> GatewaySettings:
    """A gateway's folder with one release of a family in slot A.

    Args:
        more: settings besides.
    """
    settings = make_gateway(folder, family=family, **more)
    slot = fill_slot(settings.state_dir, "A", counter, task=task)
    manifest = ReleaseManifest.from_bytes((slot / "release.json").read_bytes())
    named = manifest.model_copy(update={"family": family})
    (slot / "release.json").write_bytes(named.to_bytes())
    return settings


def make_app(settings: GatewaySettings, **hooks: Any) -> InferenceApp:
    """The app of the release in slot A.

    Args:
        hooks: further arguments of `InferenceApp`, such as `relay`.
    """
    state_dir = settings.state_dir
    release = load_release(state_dir / "slots" / "A", settings)
    ring = RingWriter(state_dir / "ring.bin", RowLayout.of(release.task), settings.ring_slots)
    block_of = block_numbering(read_policy(state_dir / "policy.toml").block, settings.window_slots)
    return InferenceApp(
        release,
        ProbeResult(latency_us=1.0, golden_max_abs=0.0),
        DirectEngine(release, ring, block_of, time.time),
        ring,
        Limits(settings.max_body_bytes, settings.max_batch, settings.feedback_slots),
        gateway=gateway_of(settings),
        subject_of=lambda _: NOBODY,
        **hooks,
    )


def gateway_of(settings: GatewaySettings) -> str:
    """The prefix of this gateway's record ids."""
    return id_prefix(Identity.load(settings.state_dir / "identity.pem").fingerprint)


@asynccontextmanager
async def listening(app: InferenceApp, path: Path | None = None) -> AsyncIterator[int]:
    """Serve on a free loopback port, or on a unix socket; yields the port, or 0."""
    if path is None:
        bound = socket.create_server(("127.0.0.1", 0))
    else:
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
    port = bound.getsockname()[1] if path is None else 0
    listener = Listener(app, bound)
    await listener.serve()
    try:
        yield port
    finally:
        app.draining = True
        await listener.drain(0.0)
        bound.close()
