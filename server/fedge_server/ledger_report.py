"""How the ledgers of the fleet stand at the centre, for people and scripts.

Derived from the stored entries by a replay each time it is asked for. What a replay
refuses is shown as a fault, never left out; ledgers of simulations stand apart.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select

from fedge.errors import StateError
from fedge.privacy.entries import Recovered, RecoveryReason, read_entry
from fedge.privacy.rdp import epsilon_of, telemetry_nano
from fedge.privacy.replay import Totals, replay
from fedge.records import (
    BlockSpending,
    Count,
    Fingerprint,
    GatewayStatus,
    Name,
    PublicKeyHex,
    Record,
)
from fedge_server.database import Database
from fedge_server.fleet import Fleet, GatewayState
from fedge_server.ledgers import LedgerRefusal, Ledgers, latest_witnessed
from fedge_server.tables import envelopes


class Recovery(Record):
    """A ledger's state was lost or put back; blocks up to `through_block` have no budget left.

    Attributes:
        entry: number of the ledger entry that says so.
        at: seconds since the epoch by the gateway's clock.
    """

    entry: Count
    through_block: Count
    reason: RecoveryReason
    at: float


class LedgerState(Record):
    """One gateway's ledger as the centre holds it.

    Attributes:
        entries: stored without a gap from the first.
        witnessed_size, witnessed_at: the latest head that was confirmed; null before the first.
        lag: entries that the gateway says it has and that are not stored here; null if it never
            said.
        standing: whether the gateway says that its ledger is in step.
        refusals: entries and heads that were refused, the first ones.
        in_conflict: something was refused since the last recovery.
        fault: why the stored entries do not add up; empty where they do.
        spent: charges by block, settled or not; empty where they do not add up.
    """

    gateway: Fingerprint
    name: Name
    simulated: bool
    entries: Count
    witnessed_size: Count | None
    witnessed_at: float | None
    lag: Count | None
    standing: str
    refusals: tuple[LedgerRefusal, ...]
    in_conflict: bool
    recoveries: tuple[Recovery, ...]
    fault: str
    spent: tuple[BlockSpending, ...]

    def describe(self) -> str:
        """A line for people, and one for each block and refusal."""
        confirmed = "none confirmed"
        if self.witnessed_size is not None and self.witnessed_at is not None:
            at = datetime.fromtimestamp(self.witnessed_at, UTC).isoformat(" ", "seconds")
            confirmed = f"{self.witnessed_size} confirmed at {at}"
        lag = "lag unknown" if self.lag is None else f"{self.lag} behind the gateway"
        head = f"{self.name} ({self.gateway}): {self.entries} entries, {confirmed}, {lag}"
        lines = [f"{head}, {'IN CONFLICT' if self.in_conflict else self.standing}"]
        if self.fault:
            lines.append(f"  does not add up: {self.fault}")
        lines += [
            f"  recovered ({one.reason}) at entry {one.entry}: nothing left up to block"
            f" {one.through_block}"
            for one in self.recoveries
        ]
        lines += [f"  refused at entry {one.entry}: {one.reason}" for one in self.refusals]
        lines += [f"  block {one.block}: epsilon {one.epsilon:.4g} spent" for one in self.spent]
        return "\n".join(lines)


class LedgersState(Record):
    """All ledgers by gateways' names; `simulated` ones prove nothing.

    Attributes:
        witness: the public key with which heads are confirmed.
    """

    at: float
    witness: PublicKeyHex
    gateways: tuple[LedgerState, ...]
    simulated: tuple[LedgerState, ...]


def ledgers_state(database: Database, witness: bytes, now: float) -> LedgersState:
    """How every admitted gateway's ledger stands.

    Args:
        witness: the raw public key of this coordinator's witness.
        now: seconds since the epoch.
    """
    fleet = Fleet(database, lambda: now).state()
    states = [_state(database, gateway) for gateway in fleet.gateways]
    return LedgersState(
        at=now,
        witness=witness.hex(),
        gateways=tuple(state for state in states if not state.simulated),
        simulated=tuple(state for state in states if state.simulated),
    )


def _state(database: Database, gateway: GatewayState) -> LedgerState:
    ledgers, who = Ledgers(database), gateway.fingerprint
    entries = tuple(ledgers.entries(who))
    with database.reading() as connection:
        witnessed = latest_witnessed(connection, who)
    totals, fault = _totals(entries)
    recoveries = _recoveries(entries)
    refusals = ledgers.refusals(who)
    since = _arrived(database, who, recoveries[-1].entry) if recoveries else 0.0
    return LedgerState(
        gateway=who,
        name=gateway.name,
        simulated=bool(entries) and read_entry(entries[0]).simulated,
        entries=len(entries),
        witnessed_size=None if witnessed is None else witnessed.head.size,
        witnessed_at=None if witnessed is None else witnessed.at,
        lag=_lag(gateway.status, len(entries)),
        standing="unknown" if gateway.status is None else gateway.status.ledger_standing,
        refusals=refusals,
        in_conflict=any(refusal.at > since for refusal in refusals),
        recoveries=recoveries,
        fault=fault,
        spent=() if totals is None else _spent(totals),
    )


def _totals(entries: tuple[bytes, ...]) -> tuple[Totals | None, str]:
    if not entries:
        return None, ""
    try:
        return replay(entries), ""
    except StateError as error:
        return None, str(error)


def _spent(totals: Totals) -> tuple[BlockSpending, ...]:
    found = []
    for block, policy in sorted(totals.policies.items()):
        telemetry, training = telemetry_nano(policy), totals.training_nano[block]
        found.append(
            BlockSpending(
                block=block,
                cap_nano=totals.cap_nano(block),
                telemetry_nano=telemetry,
                training_nano=training,
                epsilon=epsilon_of(telemetry + training, policy),
            )
        )
    return tuple(found)


def _recoveries(entries: tuple[bytes, ...]) -> tuple[Recovery, ...]:
    found = (read_entry(data) for data in entries if b'"kind":"recovered"' in data)
    return tuple(
        Recovery(
            entry=entry.seq, through_block=entry.through_block, reason=entry.reason, at=entry.at
        )
        for entry in found
        if isinstance(entry, Recovered)
    )


def _lag(status: GatewayStatus | None, stored: int) -> int | None:
    if status is None or status.ledger_entries is None:
        return None
    return max(0, status.ledger_entries - stored)


def _arrived(database: Database, gateway: str, entry: int) -> float:
    """When an entry that is stored came first."""
    columns = envelopes.c
    query = select(func.min(columns.received_at)).where(
        columns.gateway == gateway, columns.audit_first <= entry, columns.audit_last >= entry
    )
    with database.reading() as connection:
        return float(connection.execute(query).scalar_one())
