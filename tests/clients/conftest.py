"""Fixtures: gateways in folders of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from tests_clients import TASK, WINDOW, Centre, Gateway, write_release

from fedge.config import GatewaySettings
from fedge.delivery.journal import Install, InstallJournal, Running
from fedge.identity import Identity
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def make(
        *,
        block_windows: int = 100,
        spool_bytes: int = 2**20,
        window_s: float = 0.0,
        ring_slots: int = 4096,
        label_rho: float = 0.0,
        identity: Identity | None = None,
        unit: Literal["record", "subject"] = "record",
        max_records: int = 1,
        block: BlockLength | None = None,
        **ports: Any,
    ) -> Gateway:
        state_dir = tmp_path / f"gateway{len(made)}"
        state_dir.mkdir()
        block = block or BlockLength(kind="windows", value=block_windows)
        write_policy(
            new_policy(
                epsilon=3.0,
                delta=1e-5,
                block=block,
                telemetry_rho=0.0281,
                label_rho=label_rho,
                unit=unit,
                max_records=max_records,
            ),
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
            window_s=window_s,
            ring_slots=ring_slots,
            label_watermark_windows=2,
            simulated=True,
        )
        gateway = Gateway(
            settings=settings,
            identity=identity or Identity.from_seed(bytes([len(made)]) * 32),
            writer=RingWriter(
                state_dir / "ring.bin",
                RowLayout.of(TASK),
                ring_slots,
                steady=ports.get("steady", time.monotonic),
            ),
            centre=Centre(),
            manifest=manifest,
            block_windows=block_windows,
            **ports,
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
        gateway.close()
