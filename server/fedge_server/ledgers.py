"""What the coordinator holds of gateways' ledgers, for gateways that come back and for reviewers.

Entries and heads are answered byte for byte as gateways signed them, with the coordinator's
own signature beside. Nothing is judged here: a review replays them. Taking entries in and
confirming heads is the witness's part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

from sqlalchemy import Column, Connection, Select, func, select

from fedge.errors import RecordError, StateError
from fedge.identity import Artefact, Envelope, Identity
from fedge.privacy.heads import witness_standing
from fedge.records import (
    AuditBatch,
    Count,
    LedgerStanding,
    Record,
    SignedHead,
    WitnessedHead,
    WitnessedStanding,
)
from fedge_server.database import Database
from fedge_server.objects import ObjectStore
from fedge_server.replies import round_replies
from fedge_server.tables import envelopes, gateways, ledger_heads, ledger_refusals
from fedge_server.witness import batch_with, frontier_of

RecordT = TypeVar("RecordT", bound=Record)

PAGE_BYTES = 256 * 2**10
"""Entries on one page together exceed this by one entry at most."""

_PATH = re.compile(
    r"/v1/ledgers/([0-9a-f]{32})/(?:standing/([0-9a-f]{32})|entries\?from=([0-9]{1,15}))"
)

CONTENT_KINDS = ("report", "labels")
"""Pushed kinds that depend on content, each settled in the ledger."""


class LedgerRefusal(Record):
    """Entries or a head that were refused.

    Attributes:
        entry: number of the entry at which they contradict what is stored.
        reason: in words.
        at: arrival, seconds since the epoch.
    """

    entry: Count
    reason: str
    at: float


class Ledgers:
    """Reads gateways' ledgers from the log.

    Args:
        database: the coordinator's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def answer(self, gateway: str, nonce: str, witness: Identity) -> WitnessedStanding | None:
        """What a gateway is told when it comes back; None if it is not admitted.

        Args:
            nonce: the number of its question, 32 hex digits.
            witness: the coordinator's witness key.
        """
        found = self.standing(gateway)
        return None if found is None else witness_standing(witness, found, nonce)

    def standing(self, gateway: str) -> LedgerStanding | None:
        """How far a gateway's ledger is known here; None if it is not admitted."""
        columns = envelopes.c
        known = select(gateways.c.fingerprint).where(gateways.c.fingerprint == gateway)
        latest = select(
            func.max(columns.seq), func.max(columns.report_window), func.max(columns.labels_window)
        ).where(columns.gateway == gateway)
        with self._database.reading() as connection:
            if connection.execute(known).first() is None:
                return None
            seq, window, labels_window = connection.execute(latest).one()
            windows = [number for number in (window, labels_window) if number is not None]
            return LedgerStanding(
                gateway=gateway,
                witnessed=latest_witnessed(connection, gateway),
                entries=stored_entries(connection, gateway),
                next_seq=0 if seq is None else seq + 1,
                next_window=max(windows, default=-1) + 1,
            )

    def page(self, gateway: str, first: int) -> AuditBatch | None:
        """Entries from number `first` on, as many as a page holds; None where there is none."""
        found: list[bytes] = []
        size = 0
        for entry in self.entries(gateway, first):
            found.append(entry)
            size += len(entry)
            if size >= PAGE_BYTES:
                break
        return AuditBatch(first, tuple(found)) if found else None

    def entries(self, gateway: str, first: int = 0) -> Iterator[bytes]:
        """Stored entries in order from number `first` up to the first that is missing.

        Raises:
            StateError: a stored batch is damaged.
        """
        while (batch := self._batch_with(gateway, first)) is not None:
            yield from batch.entries[first - batch.first_seq :]
            first = batch.last_seq + 1

    def heads(self, gateway: str) -> tuple[SignedHead, ...]:
        """Every head that the gateway signed and that was not found wrong, by size.

        Raises:
            StateError: a stored head is damaged.
        """
        query = _heads_of(gateway, ledger_heads.c.head)
        with self._database.reading() as connection:
            rows = connection.execute(query).scalars()
            return tuple(_read_stored(SignedHead, data) for data in rows if data is not None)

    def witnessed(self, gateway: str) -> tuple[WitnessedHead, ...]:
        """Every head that was confirmed, by size.

        Raises:
            StateError: a stored head is damaged.
        """
        query = _heads_of(gateway, ledger_heads.c.witnessed)
        with self._database.reading() as connection:
            rows = connection.execute(query).scalars()
            return tuple(_read_stored(WitnessedHead, data) for data in rows if data is not None)

    def refusals(self, gateway: str) -> tuple[LedgerRefusal, ...]:
        """What of a gateway's ledger was refused, in the order of arrival."""
        columns = ledger_refusals.c
        query = (
            select(columns.entry, columns.reason, columns.at)
            .where(columns.gateway == gateway)
            .order_by(columns.number)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(LedgerRefusal(entry=row.entry, reason=row.reason, at=row.at) for row in rows)

    def artefacts(self, gateway: str, objects: ObjectStore) -> tuple[Artefact, ...]:
        """Everything content-derived that came from a gateway: pushed, and as replies in runs.

        Raises:
            StateError: something stored is damaged.
        """
        columns = envelopes.c
        query = (
            select(columns.envelope)
            .where(columns.gateway == gateway, columns.kind.in_(CONTENT_KINDS))
            .order_by(columns.seq)
        )
        with self._database.reading() as connection:
            pushed = [_artefact(data) for (data,) in connection.execute(query)]
        return (*pushed, *(one for one in round_replies(objects) if one.header.gateway == gateway))

    def _batch_with(self, gateway: str, seq: int) -> AuditBatch | None:
        with self._database.reading() as connection:
            return batch_with(connection, gateway, seq)


def read_ledger(ledgers: Ledgers, witness: Identity, path: str) -> tuple[int, bytes]:
    """What the coordinator answers to a gateway's question, where both are in one process.

    Args:
        path: as in HTTP, `/v1/ledgers/<gateway>/standing/<nonce>` or `.../entries?from=<n>`.

    Returns:
        status and body.
    """
    match = _PATH.fullmatch(path)
    if match is None or ledgers.standing(match[1]) is None:
        return 404, b""
    if match[2] is not None:
        answer = ledgers.answer(match[1], match[2], witness)
        return (404, b"") if answer is None else (200, answer.to_bytes())
    page = ledgers.page(match[1], int(match[3]))
    return (204, b"") if page is None else (200, page.to_bytes())


def latest_witnessed(connection: Connection, gateway: str) -> WitnessedHead | None:
    """The largest head that was confirmed."""
    columns = ledger_heads.c
    query = _heads_of(gateway, columns.witnessed).where(columns.witnessed.is_not(None))
    data = connection.execute(query.order_by(None).order_by(columns.size.desc()).limit(1)).scalar()
    return None if data is None else _read_stored(WitnessedHead, data)


def stored_entries(connection: Connection, gateway: str) -> int:
    """How many entries are stored without a gap from the first."""
    size = frontier_of(connection, gateway).size
    while (batch := batch_with(connection, gateway, size)) is not None:
        size = batch.last_seq + 1  # an earlier version stored them and followed none
    return size


def _heads_of(gateway: str, column: Column[bytes]) -> Select[tuple[bytes]]:
    columns = ledger_heads.c
    return select(column).where(columns.gateway == gateway).order_by(columns.size)


def _read_stored(kind: type[RecordT], data: bytes) -> RecordT:
    try:
        return kind.from_bytes(data)
    except RecordError as error:
        raise StateError(f"a stored head cannot be read: {error}") from error


def _artefact(data: bytes) -> Artefact:
    try:
        return Artefact.of(Envelope.from_bytes(data), "push")
    except RecordError as error:
        raise StateError(f"a stored envelope cannot be read: {error}") from error
