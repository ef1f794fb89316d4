"""Collecting the public facts that a gateway reports about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fedge.delivery.installer import Installer
from fedge.models.hardware import hardware_class
from fedge.privacy.ledger import Ledger
from fedge.records import GatewayStatus
from fedge_client.agent.spool import Spool
from fedge_client.agent.standing import State

MAX_BLOCKS = 64


class StreamFacts(Protocol):
    """What is public about the stream."""

    @property
    def windows(self) -> int: ...
    @property
    def next_slot(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def withheld(self) -> int: ...
    @property
    def lost(self) -> int: ...


def collect(
    *,
    installer: Installer,
    ledger: Ledger,
    spool: Spool,
    standing: State,
    stream: StreamFacts,
    worker_restarts: Callable[[], int],
    now: float,
) -> GatewayStatus:
    """One snapshot of this gateway's public facts; the latest blocks only."""
    status = installer.status()
    return GatewayStatus.model_validate(
        {
            "release": status.release,
            "release_sha256": status.sha256,
            "variant": status.variant,
            "slot": status.slot,
            "hardware": hardware_class(),
            "install_state": status.state,
            "refused_release": status.refused_release,
            "refused_reason": status.refused_reason,
            "next_slot": stream.next_slot,
            "windows": stream.windows,
            "dropped_observations": stream.dropped,
            "withheld_windows": stream.withheld,
            "lost_records": stream.lost,
            "refused_envelopes": spool.refused,
            "spool_depth": spool.depth,
            "spool_dropped": spool.dropped,
            "spool_gaps": spool.gaps,
            "spool_corrupt": spool.corrupt,
            "ledger_entries": ledger.size,
            "ledger_standing": standing,
            "worker_restarts": worker_restarts(),
            "blocks": tuple(ledger.spendings()[-MAX_BLOCKS:]),
            "at": now,
        }
    )
