"""What the centre knows about each gateway, derived from the envelope log.

Holds public facts only. A gateway that never sent a status has none: unknown is
shown as null, never as a healthy default. Whether a stream drifted is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import Connection, Row, func, insert, select, update

from fedge.errors import RecordError, SettingError, StateError
from fedge.identity import Envelope, fingerprint
from fedge.profiles.wire import decode_report
from fedge.records import (
    AuditBatch,
    Count,
    Fingerprint,
    GapRecord,
    GatewayStatus,
    LabelReport,
    Name,
    PublicKeyHex,
    Record,
    WindowReport,
)
from fedge_server.database import Database
from fedge_server.tables import envelopes, gateways

MAX_GAPS = 100
"""Gaps listed for one gateway, the oldest first."""

LARGEST_COUNT = 2**53 - 1
"""More is shown as this."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)

Payload = TypeVar("Payload")


class Gateway(Record):
    """An admitted gateway. `name` is for people; the fingerprint is who it is."""

    fingerprint: Fingerprint
    public_key: PublicKeyHex
    name: Name
    admitted_at: float


class LastReport(Record):
    """Public facts of the report of a gateway's latest window."""

    window: Count
    block: Count
    release: int
    slots: Count
    planned_slots: int
    dropped: Count
    closed_at: float
    received_at: float


class GatewayState(Record):
    """One gateway as the log shows it.

    Attributes:
        last_seen_at: arrival of the latest envelope; null if there is none.
        envelopes, reports: how many are stored.
        next_seq: one more than the largest number seen.
        missing: numbers below `next_seq` that are not stored. Such an envelope still waits in
            the gateway's spool, was refused here for good, or was pushed out of the spool.
        given_up: how many were pushed out of the spool, by the gap records that came.
        audit_seq: number of the latest ledger entry that is stored; null if none is.
        status: the latest by number; null if none ever came.
        last_report: of the latest window; null if none ever came.
    """

    fingerprint: Fingerprint
    name: Name
    admitted_at: float
    last_seen_at: float | None
    envelopes: Count
    reports: Count
    next_seq: int = Field(ge=0)
    missing: int = Field(ge=0)
    given_up: Count = 0
    audit_seq: Count | None = None
    status: GatewayStatus | None
    last_report: LastReport | None

    def describe(self) -> str:
        """One line for people; what was never heard is said to be unknown."""
        parts = [f"{self.name} ({self.fingerprint}): {_installed(self.status)}"]
        if self.status is not None and self.status.refused_reason:
            refused = self.status.refused_release
            parts.append(f"refused release {refused}: {self.status.refused_reason}")
        last = self.last_report
        parts.append(f"last window {last.window}" if last is not None else "no window reported")
        if self.missing:
            given_up = f", {self.given_up} of them given up there" if self.given_up else ""
            parts.append(f"{self.missing} numbers missing{given_up}")
        elif self.given_up:
            parts.append(f"{self.given_up} envelopes given up there")
        if self.audit_seq is not None:
            parts.append(f"ledger up to entry {self.audit_seq}")
        parts.append(f"last seen {_time(self.last_seen_at)}")
        return ", ".join(parts)


class FleetState(Record):
    """All admitted gateways, by name, at one moment."""

    at: float
    gateways: tuple[GatewayState, ...]


class GatewayDetail(Record):
    """One gateway and where its numbers have gaps.

    Attributes:
        gaps: first and last missing number of each gap, the oldest first, `MAX_GAPS` at most.
        gap_records: what the gateway's spool says it gave up, the latest `MAX_GAPS` of them.
    """

    at: float
    gateway: GatewayState
    gaps: tuple[tuple[int, int], ...]
    gap_records: tuple[GapRecord, ...] = ()


class Fleet:
    """Reads fleet state and admits gateways.

    Args:
        database: the coordinator's.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def admit(self, public_key: str, name: str) -> Gateway:
        """Accept what the holder of this key signs. Again with a new name renames it.

        Args:
            public_key: the raw Ed25519 key, 64 hex digits.
            name: for people.

        Raises:
            SettingError: no such key, or the name is not 1 to 64 plain characters.
        """
        fields = {"fingerprint": fingerprint(_raw_key(public_key)), "name": _checked_name(name)}
        who = gateways.c.fingerprint == fields["fingerprint"]
        with self._database.writing() as connection:
            renamed = update(gateways).where(who).values(name=name)
            if connection.execute(renamed).rowcount == 0:
                fields |= {"public_key": public_key.lower()}
                connection.execute(insert(gateways).values(**fields, admitted_at=self._clock()))
            return _gateway(connection.execute(select(gateways).where(who)).one())

    def admitted(self) -> tuple[Gateway, ...]:
        """All admitted gateways, by name."""
        with self._database.reading() as connection:
            return _admitted(connection)

    def state(self) -> FleetState:
        """Every admitted gateway as the log shows it now."""
        with self._database.reading() as connection:
            return FleetState(at=self._clock(), gateways=_states(connection, _admitted(connection)))

    def detail(self, gateway: str) -> GatewayDetail | None:
        """One gateway with its gaps; None if it is not admitted."""
        with self._database.reading() as connection:
            found = [g for g in _admitted(connection) if g.fingerprint == gateway]
            if not found:
                return None
            (state,) = _states(connection, found, gateway)
            return GatewayDetail(
                at=self._clock(),
                gateway=state,
                gaps=_gaps(connection, gateway),
                gap_records=_gap_records(connection, gateway),
            )


def read_stored_report(data: bytes) -> WindowReport:
    """The report inside a stored envelope.

    Raises:
        StateError: it was readable when it was taken and is not now: the database is damaged.
    """
    return _read_stored("a stored report", decode_report, data)


def read_stored_labels(data: bytes) -> LabelReport:
    """The label report inside a stored envelope.

    Raises:
        StateError: it was readable when it was taken and is not now.
    """
    return _read_stored("a stored label report", LabelReport.from_bytes, data)


def read_stored_audit(data: bytes) -> AuditBatch:
    """The ledger entries inside a stored envelope.

    Raises:
        StateError: they were readable when they were taken and are not now.
    """
    return _read_stored("a stored audit", AuditBatch.from_bytes, data)


def _read_stored(what: str, read: Callable[[bytes], Payload], data: bytes) -> Payload:
    try:
        return read(Envelope.from_bytes(data).payload)
    except RecordError as error:
        raise StateError(f"{what} cannot be read: {error}") from error


def _installed(status: GatewayStatus | None) -> str:
    if status is None:
        return "status unknown"
    if status.release == 0:
        return "no release yet"
    return f"release {status.release} ({status.variant}), {status.install_state}"


def _time(at: float | None) -> str:
    if at is None:
        return "never"
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds")


def _raw_key(public_key: str) -> bytes:
    try:
        raw = bytes.fromhex(public_key)
        Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise SettingError(f"{public_key!r} is no Ed25519 public key in hex: {error}") from error
    return raw


def _checked_name(name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        message = "a gateway's name is 1 to 64 letters, digits, blanks and `_.-`"
        raise SettingError(f"{name!r}: {message}") from error


def _admitted(connection: Connection) -> tuple[Gateway, ...]:
    query = select(gateways).order_by(gateways.c.name, gateways.c.fingerprint)
    return tuple(_gateway(row) for row in connection.execute(query))


def _gateway(row: Row[Any]) -> Gateway:
    return Gateway(
        fingerprint=row.fingerprint,
        public_key=row.public_key,
        name=row.name,
        admitted_at=row.admitted_at,
    )


def _states(
    connection: Connection, admitted: Iterable[Gateway], only: str | None = None
) -> tuple[GatewayState, ...]:
    """States of `admitted`; `only` keeps the queries to one of them."""
    columns = envelopes.c
    # By number and not by arrival: a retried envelope may come after a newer one.
    totals = select(
        columns.gateway,
        columns.kind,
        func.count().label("stored"),
        func.max(columns.seq).label("seq"),
        func.max(columns.report_window).label("window"),
        func.max(columns.received_at).label("received_at"),
        func.max(columns.audit_last).label("audit_last"),
        # Not as integers, whose sum of wrong ones could be too large for a database.
        func.sum(columns.given_up * 1.0).label("given_up"),
    ).group_by(columns.gateway, columns.kind)
    if only is not None:
        totals = totals.where(columns.gateway == only)
    rows = {(row.gateway, row.kind): row for row in connection.execute(totals)}
    return tuple(_state(connection, gateway, rows) for gateway in admitted)


def _state(
    connection: Connection, gateway: Gateway, totals: dict[tuple[str, str], Row[Any]]
) -> GatewayState:
    own = [row for (who, _), row in totals.items() if who == gateway.fingerprint]
    stored = sum(row.stored for row in own)
    next_seq = max((row.seq + 1 for row in own), default=0)
    status = totals.get((gateway.fingerprint, "status"))
    report = totals.get((gateway.fingerprint, "report"))
    audit = totals.get((gateway.fingerprint, "audit"))
    gap = totals.get((gateway.fingerprint, "gap"))
    return GatewayState(
        fingerprint=gateway.fingerprint,
        name=gateway.name,
        admitted_at=gateway.admitted_at,
        last_seen_at=max((row.received_at for row in own), default=None),
        envelopes=stored,
        reports=report.stored if report else 0,
        next_seq=next_seq,
        missing=next_seq - stored,
        given_up=min(int(gap.given_up), LARGEST_COUNT) if gap else 0,
        audit_seq=audit.audit_last if audit else None,
        status=_status(connection, gateway.fingerprint, status.seq) if status else None,
        last_report=_report(connection, gateway.fingerprint, report.window) if report else None,
    )


def _status(connection: Connection, gateway: str, seq: int) -> GatewayStatus:
    columns = envelopes.c
    query = select(columns.envelope).where(columns.gateway == gateway, columns.seq == seq)
    data = connection.execute(query).scalar_one()
    return _read_stored("a stored status", GatewayStatus.from_bytes, data)


def _report(connection: Connection, gateway: str, window: int) -> LastReport:
    columns = envelopes.c
    query = select(columns.envelope, columns.received_at).where(
        columns.gateway == gateway, columns.report_window == window
    )
    data, received_at = connection.execute(query).one()
    report = read_stored_report(data)
    shown = set(LastReport.model_fields) - {"received_at"}
    return LastReport(**report.model_dump(include=shown), received_at=received_at)


def _gap_records(connection: Connection, gateway: str) -> tuple[GapRecord, ...]:
    columns = envelopes.c
    query = (
        select(columns.envelope)
        .where(columns.gateway == gateway, columns.kind == "gap")
        .order_by(columns.seq.desc())
        .limit(MAX_GAPS)
    )
    found = [
        _read_stored("a stored gap record", GapRecord.from_bytes, data)
        for (data,) in connection.execute(query)
    ]
    return tuple(reversed(found))


def _gaps(connection: Connection, gateway: str) -> tuple[tuple[int, int], ...]:
    before = func.coalesce(func.lag(envelopes.c.seq).over(order_by=envelopes.c.seq), -1)
    pairs = (
        select(envelopes.c.seq, before.label("before"))
        .where(envelopes.c.gateway == gateway)
        .subquery()
    )
    query = (
        select(pairs.c.before + 1, pairs.c.seq - 1)
        .where(pairs.c.seq > pairs.c.before + 1)
        .order_by(pairs.c.seq)
        .limit(MAX_GAPS)
    )
    return tuple((int(first), int(last)) for first, last in connection.execute(query))
