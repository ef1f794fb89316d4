"""The coordinator as witness: it confirms the heads of gateways' ledgers, each at most one way.

A head is countersigned once all entries below it are stored, each chained to the one before,
and their Merkle root is the one that the gateway signed. So a ledger that went back, or two
that part, cannot both be confirmed. Every step is part of the transaction that stores the
entries, and costs as much as the entries that are new: the tree's frontier is kept with each
head. Batches may come in any order; heads wait until what lies before them has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, update

from fedge.config import ServerSettings
from fedge.durable import make_folder
from fedge.errors import AuditConflictError, ProofError, SettingError, SignatureError, StateError
from fedge.identity import Identity
from fedge.privacy.heads import verify_head, witness_head
from fedge.privacy.merkle import Frontier, leaf_hash
from fedge.records import AuditBatch, SignedHead
from fedge_server.database import Database
from fedge_server.fleet import read_stored_audit
from fedge_server.tables import envelopes, ledger_heads, ledger_refusals

KEY_FILE = "witness.pem"
MAX_REFUSALS = 100
"""Refusals kept of one gateway: the first ones, for what follows is mostly the same."""

WRONG_ROOT = "its signed head is not that of the entries that are stored"
OTHER_HEAD = "another head was signed for as many entries"


def open_witness(settings: ServerSettings) -> Identity:
    """The key with which this coordinator confirms heads.

    Made in the data folder, readable by its owner alone, where `keys.witness` names none.

    Raises:
        SettingError: the key cannot be read or made.
    """
    if settings.keys.witness is not None:
        return Identity.load(settings.keys.witness)
    path = settings.data_dir / KEY_FILE
    if not path.exists():
        return _made(path)
    return Identity.load(path)


def _made(path: Path) -> Identity:
    make_folder(path.parent)
    try:
        return Identity.create(path)
    except SettingError:
        if path.exists():  # another process was faster
            return Identity.load(path)
        raise


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A head that was signed and is not confirmed yet."""

    root: str
    head: SignedHead


class Witness:
    """Checks, keeps and countersigns heads.

    Args:
        identity: the coordinator's witness key.
        clock: seconds since the epoch.
    """

    def __init__(self, identity: Identity, clock: Callable[[], float]) -> None:
        self._identity, self._clock = identity, clock

    def take(
        self,
        connection: Connection,
        gateway: str,
        public_key: bytes,
        batch: AuditBatch,
        *,
        simulated: bool,
    ) -> None:
        """Take a batch whose envelope was stored in this transaction into account.

        Raises:
            AuditConflictError: its head is not this gateway's, not of this batch, or not of the
                entries that are stored.
        """
        size = batch.last_seq + 1
        if batch.head is not None:
            _check_head(batch.head, gateway, public_key, size, simulated=simulated)
            self._keep(connection, gateway, batch.head)
        stored = self._advance(connection, gateway)
        if batch.head is not None and size <= stored.size:
            self._confirm_late(connection, gateway, batch.head)

    def _keep(self, connection: Connection, gateway: str, head: SignedHead) -> None:
        """Keep a signed head, the first one of its size."""
        columns = ledger_heads.c
        here = (columns.gateway == gateway) & (columns.size == head.size)
        found = connection.execute(select(columns.root, columns.head).where(here)).first()
        if found is None:
            row = {"gateway": gateway, "size": head.size, "root": head.root}
            connection.execute(
                insert(ledger_heads).values(**row, head=head.to_bytes(), at=self._clock())
            )
        elif found.root != head.root:
            raise AuditConflictError(
                gateway, head.size - 1, WRONG_ROOT if found.head is None else OTHER_HEAD
            )
        elif found.head is None:
            connection.execute(update(ledger_heads).where(here).values(head=head.to_bytes()))

    def _advance(self, connection: Connection, gateway: str) -> Frontier:
        """Follow the stored entries as far as there is no gap, confirming heads on the way."""
        frontier = frontier_of(connection, gateway)
        waiting = _waiting(connection, gateway, frontier.size)
        while (batch := batch_with(connection, gateway, frontier.size)) is not None:
            for entry in batch.entries[frontier.size - batch.first_seq :]:
                frontier = frontier.appended(leaf_hash(entry))
                if (one := waiting.get(frontier.size)) is not None:
                    self._judge(connection, gateway, one, frontier)
            if frontier.size not in waiting:
                self._note_unsigned(connection, gateway, frontier)
        return frontier

    def _judge(
        self, connection: Connection, gateway: str, waiting: _Waiting, frontier: Frontier
    ) -> None:
        """Confirm a head whose entries are all there; one that is wrong gives way to the truth."""
        columns, at = ledger_heads.c, self._clock()
        here = (columns.gateway == gateway) & (columns.size == frontier.size)
        root = frontier.root.hex()
        values: dict[str, object] = {"root": root, "frontier": frontier.to_bytes(), "at": at}
        if waiting.root == root:
            values["witnessed"] = witness_head(self._identity, waiting.head, at).to_bytes()
        else:
            values["head"] = None
            note_refusal(connection, gateway, frontier.size - 1, WRONG_ROOT, at)
        connection.execute(update(ledger_heads).where(here).values(**values))

    def _note_unsigned(self, connection: Connection, gateway: str, frontier: Frontier) -> None:
        """Remember how far the stored entries were followed where no head says so."""
        connection.execute(
            insert(ledger_heads).values(
                gateway=gateway,
                size=frontier.size,
                root=frontier.root.hex(),
                frontier=frontier.to_bytes(),
                at=self._clock(),
            )
        )

    def _confirm_late(self, connection: Connection, gateway: str, head: SignedHead) -> None:
        """Confirm a head whose entries had all been there before, or refuse it."""
        columns = ledger_heads.c
        here = (columns.gateway == gateway) & (columns.size == head.size)
        if connection.execute(select(columns.witnessed).where(here)).scalar() is not None:
            return
        frontier = frontier_of(connection, gateway, at_most=head.size)
        while frontier.size < head.size:
            batch = batch_with(connection, gateway, frontier.size)
            if batch is None:
                raise StateError(f"stored entries of gateway {gateway} are gone")
            first = frontier.size - batch.first_seq
            for entry in batch.entries[first : head.size - batch.first_seq]:
                frontier = frontier.appended(leaf_hash(entry))
        if frontier.root.hex() != head.root:
            raise AuditConflictError(gateway, head.size - 1, WRONG_ROOT)
        self._judge(connection, gateway, _Waiting(head.root, head), frontier)


def note_refusal(connection: Connection, gateway: str, entry: int, reason: str, at: float) -> None:
    """Keep that something about a gateway's ledger was refused."""
    columns = ledger_refusals.c
    count = select(func.count()).select_from(ledger_refusals).where(columns.gateway == gateway)
    if connection.execute(count).scalar_one() < MAX_REFUSALS:
        row = {"gateway": gateway, "entry": entry, "reason": reason, "at": at}
        connection.execute(insert(ledger_refusals).values(**row))


def keep_refusal(database: Database, error: AuditConflictError, at: float) -> None:
    """The same in a transaction of its own, for what was rolled back."""
    with database.writing() as connection:
        note_refusal(connection, error.gateway, error.seq, error.reason, at)


def _check_head(
    head: SignedHead, gateway: str, public_key: bytes, size: int, *, simulated: bool
) -> None:
    fault = ""
    if head.gateway != gateway:
        fault = f"its head is that of gateway {head.gateway}"
    elif head.size != size:
        fault = f"its head is of {head.size} entries, and comes with {size}"
    elif head.simulated != simulated:
        fault = "its head mixes simulated and real"
    else:
        try:
            verify_head(head, public_key)
        except SignatureError as error:
            fault = f"its head is not signed by the gateway: {error}"
    if fault:
        raise AuditConflictError(gateway, size - 1, fault)


def frontier_of(connection: Connection, gateway: str, at_most: int | None = None) -> Frontier:
    """The largest frontier that is kept, of no more than so many entries."""
    columns = ledger_heads.c
    query = (
        select(columns.size, columns.frontier)
        .where(columns.gateway == gateway, columns.frontier.is_not(None))
        .order_by(columns.size.desc())
        .limit(1)
    )
    if at_most is not None:
        query = query.where(columns.size <= at_most)
    found = connection.execute(query).first()
    try:
        return Frontier() if found is None else Frontier.from_bytes(found.size, found.frontier)
    except ProofError as error:
        raise StateError(f"a stored frontier cannot be read: {error}") from error


def _waiting(connection: Connection, gateway: str, above: int) -> dict[int, _Waiting]:
    """Heads of more than `above` entries that are not confirmed yet, by size."""
    columns = ledger_heads.c
    query = select(columns.size, columns.root, columns.head).where(
        columns.gateway == gateway, columns.size > above, columns.frontier.is_(None)
    )
    return {
        size: _Waiting(root, SignedHead.from_bytes(head))
        for size, root, head in connection.execute(query)
    }


def batch_with(connection: Connection, gateway: str, seq: int) -> AuditBatch | None:
    """A stored batch that holds entry `seq`."""
    columns = envelopes.c
    query = (
        select(columns.envelope)
        .where(columns.gateway == gateway, columns.audit_last >= seq, columns.audit_first <= seq)
        # Upwards: where there is no gap the first one that the index names is it.
        .order_by(columns.audit_last)
        .limit(1)
    )
    data = connection.execute(query).scalar()
    return None if data is None else read_stored_audit(data)
