"""Taking in what gateways push: from untrusted bytes to a row of the log.

An envelope is taken whole or not at all, and is on the disk before the answer goes
out. Numbers may arrive in any order. What the log says about the fleet is derived
elsewhere; updates of a round come through Flower and never arrive here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from fedge.errors import (
    EnvelopeError,
    EnvelopeTooLargeError,
    SequenceConflictError,
    StateError,
    UnknownKeyError,
    WindowConflictError,
)
from fedge.identity import MAGIC, MAX_HEADER_BYTES, Envelope, EnvelopeKind
from fedge.profiles.wire import decode_report
from fedge.records import Count, Fingerprint, GatewayStatus, Record, Sha256
from fedge_server.database import Database
from fedge_server.tables import envelopes, gateways

ENVELOPE_BYTES = len(MAGIC) + 2 + MAX_HEADER_BYTES + 64
"""Most that an envelope adds to its payload."""

Reader = Callable[[bytes], int | None]
"""Reads a payload strictly and answers the window that it reports, if it is a report."""


class Receipt(Record):
    """The answer to a stored envelope: the same for each copy of it."""

    gateway: Fingerprint
    seq: Count
    payload_sha256: Sha256


def _report_window(payload: bytes) -> int:
    return decode_report(payload).window


def _check_status(payload: bytes) -> None:
    GatewayStatus.from_bytes(payload)


READERS: Mapping[EnvelopeKind, Reader] = {"report": _report_window, "status": _check_status}
"""The kinds that are taken."""


class Ingest:
    """The door of the coordinator.

    Args:
        database: where admitted keys are looked up and envelopes are appended.
        clock: seconds since the epoch, for the time of arrival.
        max_payload_bytes: a larger payload is refused unread.
        simulated: takes simulated envelopes and nothing else; a real coordinator takes none.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        *,
        max_payload_bytes: int,
        simulated: bool = False,
    ) -> None:
        self._database, self._clock, self._simulated = database, clock, simulated
        self.max_bytes = max_payload_bytes + ENVELOPE_BYTES

    def accept(self, data: bytes) -> Receipt:
        """Check an envelope and store it; the same envelope again is stored once.

        Raises:
            EnvelopeTooLargeError: too many bytes.
            RecordError: the bytes are no envelope, or its payload is not of its kind.
            EnvelopeError: a kind that does not come this way, or simulated where it must not be.
            UnknownKeyError: the gateway is not admitted.
            SignatureError: the signature does not fit.
            SequenceConflictError: the number is stored for another payload.
            WindowConflictError: the window is stored under another number.
            StateError: the database does not answer; nothing was stored, send again later.
        """
        if len(data) > self.max_bytes:
            raise EnvelopeTooLargeError(self.max_bytes)
        envelope = Envelope.from_bytes(data)
        reader = self._reader(envelope)
        envelope.verify(self._public_key(envelope.header.gateway))
        # Only bytes of an admitted sender come as far as the parsers of payloads.
        self._store(envelope, reader(envelope.payload))
        header = envelope.header
        return Receipt(gateway=header.gateway, seq=header.seq, payload_sha256=header.payload_sha256)

    def _reader(self, envelope: Envelope) -> Reader:
        header = envelope.header
        if header.simulated != self._simulated:
            raise EnvelopeError(
                "a simulated envelope is not taken by a real coordinator"
                if header.simulated
                else "a simulation takes simulated envelopes only"
            )
        reader = READERS.get(header.kind)
        if reader is None:
            raise EnvelopeError(f"kind {header.kind!r} is not pushed here, only {sorted(READERS)}")
        return reader

    def _public_key(self, gateway: str) -> bytes:
        query = select(gateways.c.public_key).where(gateways.c.fingerprint == gateway)
        with self._database.reading() as connection:
            found = connection.execute(query).scalar()
        if found is None:
            raise UnknownKeyError(gateway)
        return bytes.fromhex(found)

    def _store(self, envelope: Envelope, window: int | None) -> None:
        for last_try in (False, True):
            try:
                with self._database.writing() as connection:
                    if not _stored(connection, envelope, window):
                        connection.execute(insert(envelopes).values(self._row(envelope, window)))
                return
            except IntegrityError as error:
                # Another process stored the number between our look and our insert (SQLite's
                # write lock rules that out, Postgres does not): look again.
                if last_try:
                    raise StateError(f"the envelope log refuses a row: {error.orig}") from error

    def _row(self, envelope: Envelope, window: int | None) -> dict[str, object]:
        header = envelope.header
        return {
            "gateway": header.gateway,
            "seq": header.seq,
            "kind": header.kind,
            "payload_sha256": header.payload_sha256,
            "report_window": window,
            "received_at": self._clock(),
            # Written anew: of all byte strings that hold this envelope, the canonical one.
            "envelope": envelope.to_bytes(),
        }


def _stored(connection: Connection, envelope: Envelope, window: int | None) -> bool:
    """Whether this envelope is in the log already; refuses what contradicts the log."""
    header, columns = envelope.header, envelopes.c
    own = columns.gateway == header.gateway
    same_number = select(columns.kind, columns.payload_sha256).where(own, columns.seq == header.seq)
    found = connection.execute(same_number).first()
    if found is not None:
        if tuple(found) == (header.kind, header.payload_sha256):
            return True
        raise SequenceConflictError(header.gateway, header.seq)
    if window is not None:
        same_window = select(columns.seq).where(own, columns.report_window == window)
        if connection.execute(same_window).first() is not None:
            raise WindowConflictError(header.gateway, window)
    return False
