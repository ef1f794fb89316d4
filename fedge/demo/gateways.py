"""The gateways of a demo: each a folder, a supervisor with its processes, and a player."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from fedge.config import GatewaySettings
from fedge.demo.centre import Centre
from fedge.demo.plan import PlayPlan
from fedge.demo.player import InferenceClient, Player
from fedge.demo.services import Services, free_ports
from fedge.demo.streams import stream_of
from fedge.identity import Identity
from fedge.tasks.digits import SCHEMA
from fedge.tasks.glyph_stream import GlyphStream
from fedge_client.setup import init_gateway
from fedge_server.admin import admit
from fedge_server.witness import open_witness

READY_TIMEOUT_S = 240.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoGateway:
    """One gateway of the run.

    Attributes:
        name: `g0`, `g1`, ...: how people see it.
        identity: its key; the fingerprint is how every part of fedge sees it.
        folder: holds `gateway.toml` and `state`.
        stream: what is played to it.
    """

    number: int
    name: str
    identity: Identity
    folder: Path
    settings: GatewaySettings
    stream: GlyphStream

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint


def make_gateways(plan: PlayPlan, folder: Path, runtime: Path, centre: Centre) -> list[DemoGateway]:
    """Set up and admit every gateway, as their operators would with `fedge gateway init`.

    Args:
        runtime: a short path, for their sockets.
    """
    ports = free_ports(plan.gateways)
    witness_key = open_witness(centre.settings).public_key.hex()
    made = []
    for number in range(plan.gateways):
        name = f"g{number}"
        own = folder / "gateways" / name
        identity = init_gateway(
            own,
            policy=centre.policy,
            root=centre.trusted_root,
            coordinator=centre.url,
            witness_key=witness_key,
            superlink=centre.superlink,
            port=0,
            runtime_dir=runtime / name,
            settings={
                "supernode_port": ports[number],
                "window_slots": plan.window_slots,
                "poll_interval_s": 1.0,
                "status_interval_s": 1.0,
                "supernode_poll_s": 1.0,
                "push_interval_s": 1.0,
                "trial_s": 3.0,
            },
        )
        admit(centre.settings, identity.public_key.hex(), name)
        made.append(
            DemoGateway(
                number=number,
                name=name,
                identity=identity,
                folder=own,
                settings=GatewaySettings.load(own / "gateway.toml"),
                stream=stream_of(plan, number),
            )
        )
    return made


def start_gateway(gateway: DemoGateway, services: Services) -> None:
    """Start its supervisor, which starts the rest."""
    services.start(
        gateway.name,
        [sys.executable, "-m", "fedge_client.supervisor", str(gateway.folder / "gateway.toml")],
    )


def connect(gateway: DemoGateway, plan: PlayPlan, services: Services) -> Player:
    """A player on the gateway's inference port, once it is ready.

    Raises:
        OutboundError, ServiceEndedError: it did not become ready.
    """
    port_file = gateway.settings.runtime_dir / "port"
    services.wait_for(gateway.name, port_file.exists, READY_TIMEOUT_S)
    client = InferenceClient(
        int(port_file.read_text()), gateway.settings.family, SCHEMA.input.name, SCHEMA.classes
    )
    services.wait_for(f"the model of {gateway.name}", client.is_ready, READY_TIMEOUT_S)
    return Player(
        client,
        gateway.stream.rows,
        rows_per_s=plan.rows_per_s,
        rows_per_request=plan.rows_per_request,
        label_every=plan.label_every,
    )
