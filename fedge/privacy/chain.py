"""The entries of a ledger as rows of a state file: appended, read, and proven.

Beside each entry its leaf hash is kept, and of the Merkle tree over all of them the
frontier, which changes in the same transaction. What an entry may say is the ledger's
business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import ValidationError

from fedge.errors import NonFiniteValueError, RecordError, ReservationError, StateError
from fedge.privacy.entries import FIRST_HASH, AnyEntry, Entry, read_entry
from fedge.privacy.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
)
from fedge.records.base import first_fault
from fedge.statefile import StateFile

EntryT = TypeVar("EntryT", bound=Entry)

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS ledger_entries ("
    " seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger_frontier (only INTEGER PRIMARY KEY CHECK (only = 1),"
    " size INTEGER NOT NULL, peaks BLOB NOT NULL)",
)


class Chain:
    """Appends and reads entries; writes join the caller's transaction.

    Args:
        state: the gateway's one file of truth.
        clock: seconds since the epoch, for the entries; it may go back.
        simulated: what every entry says of itself.
    """

    def __init__(self, state: StateFile, clock: Callable[[], float], *, simulated: bool) -> None:
        self._state, self._clock, self.simulated = state, clock, simulated
        state.ensure(*_SCHEMA)
        with state.transaction():
            if not state.rows("SELECT size FROM ledger_frontier"):
                # An earlier build kept entries without one.
                self._grow(Frontier(), self.bodies())

    def append(self, kind: type[EntryT], **facts: object) -> EntryT:
        """Chain a new entry to the last one.

        Raises:
            ReservationError: a fact is out of range; nothing was written.
            NonFiniteValueError: the clock says nothing.
        """
        with self._state.transaction():
            frontier = self.frontier
            values = {
                "seq": frontier.size,
                "previous": self._last_hash(),
                "at": self._now(),
                "simulated": self.simulated,
                **facts,
            }
            try:
                entry = kind.model_validate(values)
            except ValidationError as error:
                fault = first_fault(error, "entry")
                raise ReservationError(f"{kind.__name__}: {fault}") from error
            self._insert(entry.seq, entry.to_bytes())
            self._grow(frontier, [entry.to_bytes()])
            return entry

    def replace(self, bodies: Sequence[bytes]) -> None:
        """Hold these entries instead, byte for byte; whoever calls has checked them."""
        with self._state.transaction() as db:
            db.execute("DELETE FROM ledger_entries")
            for seq, body in enumerate(bodies):
                self._insert(seq, body)
            self._grow(Frontier(), bodies)

    # --- reading ----------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.frontier.size

    @property
    def frontier(self) -> Frontier:
        """What is kept of the Merkle tree over all entries."""
        ((size, peaks),) = self._state.rows("SELECT size, peaks FROM ledger_frontier")
        return Frontier.from_bytes(int(size), bytes(peaks))

    def entry(self, seq: int) -> AnyEntry | None:
        """Entry `seq`, counted from the end where it is negative; None where there is none.

        Raises:
            StateError: it was written by a later build, or by other hands.
        """
        number = seq if seq >= 0 else self.size + seq
        rows = self._state.rows("SELECT body FROM ledger_entries WHERE seq = ?", number)
        if not rows:
            return None
        try:
            return read_entry(bytes(rows[0][0]))
        except RecordError as error:
            raise StateError(
                f"{self._state.path}: entry {number} of the ledger is damaged or was written by a "
                f"later build of fedge, which must read it: {error}"
            ) from error

    def bodies(self, first: int = 0, limit: int | None = None) -> list[bytes]:
        """Entries from `first` on, oldest first: the very bytes."""
        rows = self._state.rows(
            "SELECT body FROM ledger_entries WHERE seq >= ? ORDER BY seq LIMIT ?",
            first,
            -1 if limit is None else limit,
        )
        return [bytes(body) for (body,) in rows]

    # --- proofs -----------------------------------------------------------------------

    def root(self, size: int | None = None) -> str:
        """The Merkle root over the first `size` entries in hex; over all of them unless given.

        Raises:
            StateError: there are not so many.
        """
        frontier = self.frontier
        if size is None or size == frontier.size:
            return frontier.root.hex()
        return root_of(self.hashes(size)).hex()

    def inclusion_proof(self, seq: int, size: int | None = None) -> tuple[bytes, ...]:
        """Shows that entry `seq` is among the first `size`; see `merkle.verify_inclusion`.

        Raises:
            ProofError: it is not.
            StateError: there are not so many.
        """
        return inclusion_proof(self.hashes(size), seq)

    def consistency_proof(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """Shows that the first `old` entries begin the first `new`; see `merkle`.

        Raises:
            ProofError: `old` is 0 or more than `new`.
            StateError: there are not so many.
        """
        return consistency_proof(self.hashes(new), old)

    def hashes(self, size: int | None = None) -> list[bytes]:
        """The stored leaf hashes of the first `size` entries; of all of them unless given.

        Raises:
            StateError: there are not so many.
        """
        wanted = self.size if size is None else size
        rows = self._state.rows(
            "SELECT hash FROM ledger_entries WHERE seq < ? ORDER BY seq", wanted
        )
        if wanted < 0 or len(rows) != wanted:
            raise StateError(f"{self._state.path}: the ledger has no {wanted} entries")
        return [bytes.fromhex(one) for (one,) in rows]

    def _last_hash(self) -> str:
        rows = self._state.rows("SELECT hash FROM ledger_entries ORDER BY seq DESC LIMIT 1")
        return str(rows[0][0]) if rows else FIRST_HASH

    def _insert(self, seq: int, body: bytes) -> None:
        with self._state.transaction() as db:
            row = (seq, leaf_hash(body).hex(), body)
            db.execute("INSERT INTO ledger_entries VALUES (?, ?, ?)", row)

    def _grow(self, frontier: Frontier, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            frontier = frontier.appended(leaf_hash(body))
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO ledger_frontier VALUES (1, ?, ?)",
                (frontier.size, frontier.to_bytes()),
            )

    def _now(self) -> float:
        now = self._clock()
        if not math.isfinite(now):
            raise NonFiniteValueError(f"the clock says {now}")
        return float(now)
