"""Taking in what gateways push: from untrusted bytes to a row of the log.

An envelope is taken whole or not at all, and is on the disk before the answer goes
out. Numbers may arrive in any order. Ledger entries must follow from one another and
from those that are stored; what they add up to, and what the log says about the fleet,
is derived elsewhere. Updates of a round come through Flower and never arrive here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from fedge.errors import (
    AuditConflictError,
    EnvelopeError,
    EnvelopeTooLargeError,
    RecordError,
    SequenceConflictError,
    StateError,
    UnknownKeyError,
    WindowConflictError,
)
from fedge.identity import MAGIC, MAX_HEADER_BYTES, Envelope, EnvelopeKind, Identity
from fedge.privacy.entries import FIRST_HASH, AnyEntry, Created, read_entry
from fedge.profiles.wire import decode_report
from fedge.records import (
    AuditBatch,
    GapRecord,
    GatewayStatus,
    LabelReport,
    Receipt,
)
from fedge_server.database import Database
from fedge_server.fleet import read_stored_audit
from fedge_server.tables import envelopes, gateways
from fedge_server.witness import Witness, keep_refusal

ENVELOPE_BYTES = len(MAGIC) + 2 + MAX_HEADER_BYTES + 64
"""Most that an envelope adds to its payload."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a payload is about, as far as the log must know.

    Attributes:
        window: that it reports.
        labels_window: whose labelled errors it reports.
        entries: of the gateway's ledger, read and checked against one another.
        batch: the same as they came, with the head over them.
        given_up: how many envelopes it says will never come.
    """

    window: int | None = None
    labels_window: int | None = None
    entries: tuple[AnyEntry, ...] = ()
    batch: AuditBatch | None = None
    given_up: int | None = None


Reader = Callable[[bytes, bool], Subject]
"""Reads a payload strictly; the second argument says whether its envelope is a simulated one."""


def _read_report(payload: bytes, _simulated: bool) -> Subject:
    return Subject(window=decode_report(payload).window)


def _read_labels(payload: bytes, _simulated: bool) -> Subject:
    return Subject(labels_window=LabelReport.from_bytes(payload).window)


def _read_status(payload: bytes, _simulated: bool) -> Subject:
    GatewayStatus.from_bytes(payload)
    return Subject()


def _read_gap(payload: bytes, _simulated: bool) -> Subject:
    return Subject(given_up=GapRecord.from_bytes(payload).count)


def _read_audit(payload: bytes, simulated: bool) -> Subject:
    """Entries whose numbers and hashes follow from one another.

    Raises:
        RecordError: they do not, or one is no entry in its canonical form.
    """
    batch = AuditBatch.from_bytes(payload)
    entries: list[AnyEntry] = []
    for seq, data in enumerate(batch.entries, batch.first_seq):
        entry = read_entry(data)
        if entry.to_bytes() != data or entry.seq != seq:
            raise RecordError(f"audit batch: entry {seq} is not written as a ledger writes it")
        if entry.simulated != simulated:
            raise RecordError(f"audit batch: entry {seq} mixes simulated and real")
        begins = seq == 0
        if isinstance(entry, Created) != begins or (entry.previous == FIRST_HASH) != begins:
            raise RecordError(f"audit batch: entry {seq} is out of place: a ledger begins once")
        if entries and entry.previous != entries[-1].hash:
            raise RecordError(f"audit batch: entry {seq} does not follow from the one before it")
        entries.append(entry)
    return Subject(entries=tuple(entries), batch=batch)


READERS: Mapping[EnvelopeKind, Reader] = {
    "report": _read_report,
    "labels": _read_labels,
    "status": _read_status,
    "audit": _read_audit,
    "gap": _read_gap,
}
"""The kinds that are taken."""


class Ingest:
    """The door of the coordinator.

    Args:
        database: where admitted keys are looked up and envelopes are appended.
        clock: seconds since the epoch, for the time of arrival.
        witness: confirms the heads of gateways' ledgers.
        max_payload_bytes: a larger payload is refused unread.
        simulated: takes simulated envelopes and nothing else; a real coordinator takes none.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        witness: Identity,
        *,
        max_payload_bytes: int,
        simulated: bool = False,
    ) -> None:
        self._database, self._clock, self._simulated = database, clock, simulated
        self._witness = Witness(witness, clock)
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
            AuditConflictError: other ledger entries are stored under these numbers, stored ones
                do not follow from these, or the head over them is wrong. Kept as a refusal.
            StateError: the database does not answer; nothing was stored, send again later.
        """
        if len(data) > self.max_bytes:
            raise EnvelopeTooLargeError(self.max_bytes)
        envelope = Envelope.from_bytes(data)
        reader = self._reader(envelope)
        public_key = self._public_key(envelope.header.gateway)
        envelope.verify(public_key)
        # Only bytes of an admitted sender come as far as the parsers of payloads.
        subject = reader(envelope.payload, envelope.header.simulated)
        try:
            self._store(envelope, subject, public_key)
        except AuditConflictError as error:
            keep_refusal(self._database, error, self._clock())
            raise
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

    def _store(self, envelope: Envelope, subject: Subject, public_key: bytes) -> None:
        for last_try in (False, True):
            try:
                with self._database.writing() as connection:
                    if not _stored(connection, envelope, subject):
                        connection.execute(insert(envelopes).values(self._row(envelope, subject)))
                        self._take_ledger(connection, envelope, subject, public_key)
                return
            except IntegrityError as error:
                # Another process stored the number between our look and our insert (SQLite's
                # write lock rules that out, Postgres does not): look again.
                if last_try:
                    raise StateError(f"the envelope log refuses a row: {error.orig}") from error

    def _take_ledger(
        self, connection: Connection, envelope: Envelope, subject: Subject, public_key: bytes
    ) -> None:
        if subject.batch is not None:
            header = envelope.header
            self._witness.take(
                connection, header.gateway, public_key, subject.batch, simulated=header.simulated
            )

    def _row(self, envelope: Envelope, subject: Subject) -> dict[str, object]:
        header = envelope.header
        return {
            "gateway": header.gateway,
            "seq": header.seq,
            "kind": header.kind,
            "payload_sha256": header.payload_sha256,
            "report_window": subject.window,
            "audit_first": subject.entries[0].seq if subject.entries else None,
            "audit_last": subject.entries[-1].seq if subject.entries else None,
            "given_up": subject.given_up,
            "labels_window": subject.labels_window,
            "received_at": self._clock(),
            # Written anew: of all byte strings that hold this envelope, the canonical one.
            "envelope": envelope.to_bytes(),
        }


def _stored(connection: Connection, envelope: Envelope, subject: Subject) -> bool:
    """Whether this envelope is in the log already; refuses what contradicts the log."""
    header, columns = envelope.header, envelopes.c
    own = columns.gateway == header.gateway
    same_number = select(columns.kind, columns.payload_sha256).where(own, columns.seq == header.seq)
    found = connection.execute(same_number).first()
    if found is not None:
        if tuple(found) == (header.kind, header.payload_sha256):
            return True
        raise SequenceConflictError(header.gateway, header.seq)
    for column, window in (
        (columns.report_window, subject.window),
        (columns.labels_window, subject.labels_window),
    ):
        if window is None:
            continue
        same_window = select(columns.seq).where(own, column == window)
        if connection.execute(same_window).first() is not None:
            raise WindowConflictError(header.gateway, window)
    if subject.entries:
        _check_ledger(connection, header.gateway, subject.entries)
    return False


def _check_ledger(connection: Connection, gateway: str, entries: tuple[AnyEntry, ...]) -> None:
    """Compare entries with the stored ones that they overlap or touch.

    Raises:
        AuditConflictError: they cannot be of one ledger.
    """
    # No constraint can say this: on Postgres two batches of one gateway take their turns here.
    connection.execute(
        select(gateways.c.fingerprint).where(gateways.c.fingerprint == gateway).with_for_update()
    )
    columns = envelopes.c
    query = select(columns.envelope).where(
        columns.gateway == gateway,
        columns.audit_last >= entries[0].seq - 1,
        columns.audit_first <= entries[-1].seq + 1,
    )
    hashes = {entry.seq: entry.hash for entry in entries}
    previous = {entry.seq: entry.previous for entry in entries}
    for (data,) in connection.execute(query):
        for entry in map(read_entry, read_stored_audit(data).entries):
            if (
                hashes.get(entry.seq, entry.hash) != entry.hash
                or previous.get(entry.seq + 1, entry.hash) != entry.hash
                or hashes.get(entry.seq - 1, entry.previous) != entry.previous
            ):
                raise AuditConflictError(gateway, entry.seq)
