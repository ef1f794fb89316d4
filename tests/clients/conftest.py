"""Fixtures: gateways in folders of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_clients import WINDOW, Centre, Gateway, write_release

from fedge.config import GatewaySettings
from fedge.delivery.journal import Install, InstallJournal, Running
from fedge.identity import Identity
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength
from fedge.serving.ring import RingWriter


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def make(*, block_windows: int = 100, spool_bytes: int = 2**20) -> Gateway:
        state_dir = tmp_path / f"gateway{len(made)}"
        state_dir.mkdir()
        block = BlockLength(kind="windows", value=block_windows)
        write_policy(
            new_policy(epsilon=3.0, delta=1e-5, block=block, telemetry_rho=0.0281),
            state_dir / "policy.toml",
        )
        manifest = write_release(state_dir / "slots" / "A")
        settings = GatewaySettings(
            state_dir=state_dir,
            runtime_dir=state_dir,
            task="pump",
            family="pump",
            window_slots=WINDOW,
            spool_bytes=spool_bytes,
            simulated=True,
        )
        gateway = Gateway(
            settings=settings,
            identity=Identity.from_seed(bytes([len(made)]) * 32),
            writer=RingWriter(state_dir / "ring.bin", features=1, inputs=2, capacity=4096),
            centre=Centre(),
            manifest=manifest,
            block_windows=block_windows,
        )
        agent = gateway.start()
        InstallJournal(agent.state).commit(
            Install(state="committed", manifest=manifest, variant="float", slot="A"),
            Running(slot="A", variant="float", manifest=manifest, floor=1),
        )
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        gateway.writer.close()
        if gateway.agent is not None:
            gateway.agent.close()
