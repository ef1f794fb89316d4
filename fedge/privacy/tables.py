"""Entries, blocks and exclusions of the ledger, as rows of a gateway's state file.

Rows in, rows out: every rule about what may be charged or settled is the ledger's.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from fedge.errors import ReservationError
from fedge.privacy.entries import FIRST_HASH, AnyEntry, Entry, Exclusion, read_entry
from fedge.records import PrivacyPolicy
from fedge.records.base import first_fault
from fedge.statefile import StateFile

EntryT = TypeVar("EntryT", bound=Entry)

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS ledger_entries ("
    " seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger_policies (sha256 TEXT PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger_blocks (block INTEGER PRIMARY KEY,"
    " policy TEXT NOT NULL REFERENCES ledger_policies)",
    "CREATE TABLE IF NOT EXISTS ledger_exclusions (block INTEGER NOT NULL, what TEXT NOT NULL,"
    " PRIMARY KEY (block, what)) WITHOUT ROWID",
)


class LedgerTables:
    """Reads and writes entries, blocks and exclusions; writes join the caller's transaction."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        self._policies: dict[str, PrivacyPolicy] = {}
        state.ensure(*_SCHEMA)

    # --- entries ----------------------------------------------------------------------

    def append(self, kind: type[EntryT], at: float, simulated: bool, **facts: object) -> None:
        """Chain a new entry to the last one.

        Raises:
            ReservationError: a fact is out of range; nothing was written.
        """
        with self._state.transaction() as db:
            last = db.execute(
                "SELECT seq, hash FROM ledger_entries ORDER BY seq DESC LIMIT 1"
            ).fetchone()
            seq, previous = (0, FIRST_HASH) if last is None else (last[0] + 1, last[1])
            try:
                entry = kind.model_validate(
                    {"seq": seq, "previous": previous, "at": at, "simulated": simulated, **facts}
                )
            except ValidationError as error:
                fault = first_fault(error, "entry")
                raise ReservationError(f"{kind.__name__}: {fault}") from error
            db.execute(
                "INSERT INTO ledger_entries VALUES (?, ?, ?)", (seq, entry.hash, entry.to_bytes())
            )

    def entry(self, seq: int) -> AnyEntry | None:
        rows = self._state.rows("SELECT body FROM ledger_entries WHERE seq = ?", seq)
        return read_entry(bytes(rows[0][0])) if rows else None

    def bodies(self) -> list[bytes]:
        """All entries, oldest first."""
        rows = self._state.rows("SELECT body FROM ledger_entries ORDER BY seq")
        return [bytes(body) for (body,) in rows]

    # --- blocks -----------------------------------------------------------------------

    def add_block(self, block: int, policy: PrivacyPolicy) -> None:
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO ledger_policies VALUES (?, ?)",
                (policy.content_sha256, policy.to_bytes()),
            )
            db.execute("INSERT INTO ledger_blocks VALUES (?, ?)", (block, policy.content_sha256))

    def policy(self, block: int) -> PrivacyPolicy | None:
        """The policy that `block` was opened under; None if it was never opened."""
        rows = self._state.rows("SELECT policy FROM ledger_blocks WHERE block = ?", block)
        if not rows:
            return None
        sha256 = str(rows[0][0])
        if sha256 not in self._policies:
            ((body,),) = self._state.rows(
                "SELECT body FROM ledger_policies WHERE sha256 = ?", sha256
            )
            self._policies[sha256] = PrivacyPolicy.from_bytes(bytes(body))
        return self._policies[sha256]

    # --- exclusions -------------------------------------------------------------------

    def add_exclusion(self, block: int, what: Exclusion) -> bool:
        """Keep an exclusion; False where it was kept before."""
        with self._state.transaction() as db:
            added = db.execute(
                "INSERT OR IGNORE INTO ledger_exclusions VALUES (?, ?)", (block, what)
            )
            return added.rowcount == 1

    def exclusions(self) -> set[tuple[int, Exclusion]]:
        """What the guarantee leaves out, by block."""
        return {
            (int(block), what)
            for block, what in self._state.rows("SELECT block, what FROM ledger_exclusions")
        }
