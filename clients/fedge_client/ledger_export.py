"""A gateway's own ledger as a reviewer gets it: read beside a running agent, changing nothing.

The state file is opened read-only and read in one transaction, so that entries and
envelopes are of one moment. Only ledger entries, headers and signatures are read; no
payload goes in.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedge.config import GatewaySettings
from fedge.errors import RecordError, StateError
from fedge.identity import Artefact, Envelope, Identity
from fedge.privacy.entries import read_entry
from fedge.privacy.heads import sign_head
from fedge.privacy.merkle import tree_hash
from fedge.privacy.replay import replay
from fedge.records import SignedHead, WitnessedHead
from fedge.review.source import BundleSource, GatewayLedger

CONTENT_KINDS = ("report", "labels", "update", "counts")
"""Kinds of envelope whose payload derives from records."""

CHANNELS = ("push", "reply")

SHORT = 8
"""Digits of a fingerprint that name a gateway to people: it has no name of its own, the
coordinator's people give it one."""


@dataclass(frozen=True, slots=True)
class GatewayExport:
    """What to write, and the key that signs for it: of the gateway's first model."""

    source: BundleSource
    identity: Identity


def collect_gateway(
    settings: GatewaySettings, clock: Callable[[], float] = time.time
) -> GatewayExport:
    """Every ledger of a gateway host, one per served model, each under a head signed now.

    Raises:
        SettingError: a key cannot be read.
        StateError: there is no state file yet, it cannot be read, or it is damaged.
    """
    several = len(settings.served) > 1
    ledgers = [_ledger(served, clock(), several=several) for served in settings.served]
    witnesses = {head.witness for one in ledgers for head in one.witnessed}
    source = BundleSource(
        made_by="gateway",
        simulated=settings.simulated,
        # Two coordinators may have countersigned over the years: then no one key is named.
        witness_key=witnesses.pop() if len(witnesses) == 1 else None,
        gateways=tuple(ledgers),
    )
    return GatewayExport(source, Identity.load(settings.state_dir / "identity.pem"))


def _ledger(served: GatewaySettings, at: float, *, several: bool) -> GatewayLedger:
    """One served model's; named by its key, and by its family where the host serves several."""
    identity = Identity.load(served.state_dir / "identity.pem")
    name = identity.fingerprint[:SHORT]
    with _reading(served.state_dir / "state.sqlite") as db:
        entries = tuple(_entries(db))
        artefacts, witnessed = tuple(_artefacts(db)), tuple(_witnessed(db))
    if not entries:
        raise StateError(f"{served.state_dir} holds no ledger yet")
    return GatewayLedger(
        gateway=identity.fingerprint,
        public_key=identity.public_key.hex(),
        name=f"{name} {served.family}" if several else name,
        entries=entries,
        heads=(_head(identity, entries, at),),
        witnessed=tuple(head for head in witnessed if head.head.size <= len(entries)),
        artefacts=artefacts,
    )


def _head(identity: Identity, entries: tuple[bytes, ...], at: float) -> SignedHead:
    replay(entries)  # no signature over what does not hold together
    simulated = read_entry(entries[0]).simulated
    return sign_head(identity, len(entries), tree_hash(entries).hex(), at, simulated=simulated)


def _entries(db: sqlite3.Connection) -> Iterator[bytes]:
    for seq, body in db.execute("SELECT seq, body FROM ledger_entries ORDER BY seq"):
        yield _stored(body, f"ledger entry {seq}")


def _artefacts(db: sqlite3.Connection) -> Iterator[Artefact]:
    """Envelopes that still lie in the spool; the others are with the coordinator."""
    if not _has(db, "spool"):
        return
    marks = ",".join("?" * len(CONTENT_KINDS))
    query = (
        "SELECT channel, CAST(envelope AS BLOB) FROM spool"
        f" WHERE state <> 'corrupt' AND kind IN ({marks}) ORDER BY channel, seq"
    )
    for channel, data in db.execute(query, CONTENT_KINDS):
        try:
            envelope = Envelope.from_bytes(bytes(data))
        except RecordError:
            continue  # the spool sets damaged bytes aside when it comes to them
        if channel not in CHANNELS:
            raise StateError(f"the spool holds an envelope for an unknown channel: {channel!r}")
        yield Artefact.of(envelope, channel)


def _witnessed(db: sqlite3.Connection) -> Iterator[WitnessedHead]:
    """Heads that the coordinator confirmed and the gateway kept."""
    if not _has(db, "ledger_witnessed"):
        return
    for (data,) in db.execute("SELECT body FROM ledger_witnessed ORDER BY size"):
        try:
            yield WitnessedHead.from_bytes(_stored(data, "a confirmed head"))
        except RecordError as error:
            raise StateError(f"a confirmed head cannot be read: {error}") from error


def _stored(value: object, what: str) -> bytes:
    """Bytes as they were stored: SQLite keeps a value of any type in any column."""
    if not isinstance(value, bytes):
        raise StateError(f"the state file is damaged: {what} is no string of bytes")
    return value


def _has(db: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return db.execute(query, (table,)).fetchone() is not None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only look at one moment of the state file, whoever writes to it meanwhile."""
    if not path.exists():
        raise StateError(f"{path} is missing: the gateway never ran")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            if not _has(db, "ledger_entries"):
                raise StateError(f"{path} holds no ledger yet")
            yield db
    except sqlite3.DatabaseError as error:
        raise StateError(f"cannot read {path}: {error}") from error
