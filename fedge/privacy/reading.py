"""What stands in a ledger: spending, entries, and proofs about them. Changes nothing."""

from __future__ import annotations

from fedge.errors import StateError
from fedge.privacy.accounts import Accounts
from fedge.privacy.chain import Chain
from fedge.privacy.merkle import root_of
from fedge.privacy.quotas import Standing
from fedge.privacy.replay import Totals, replay
from fedge.privacy.reservations import Reservation, Reservations
from fedge.privacy.tables import LedgerTables
from fedge.records import BlockSpending, PrivacyPolicy
from fedge.statefile import StateFile


class LedgerReader:
    """The reading half of `Ledger`.

    Args:
        chain: the entries that the tables in `state` follow from.
    """

    def __init__(self, state: StateFile, chain: Chain) -> None:
        self._state, self._chain = state, chain
        self._tables, self._reservations = LedgerTables(state), Reservations(state)
        self._accounts = Accounts(self._tables, self._reservations)

    def is_open(self, block: int) -> bool:
        """Whether `block` was opened and has not lost its budget."""
        return block > self.recovered_through and self._tables.policy(block) is not None

    def policy_of(self, block: int) -> PrivacyPolicy:
        """The policy under which `block` was opened.

        Raises:
            ReservationError: it was never opened.
        """
        return self._tables.policy_of(block)

    @property
    def recovered_through(self) -> int:
        """Up to this block nothing is left, because the state was lost; -1 if it never was."""
        return self._tables.recovered_through

    @property
    def next_window(self) -> int:
        """One more than the largest window about which something was reserved; 0 before any."""
        return 1 + max(self._reservations.window_totals(), default=-1)

    def settled(self, reservation: Reservation, key: str) -> str | None:
        """SHA-256 of the bytes settled under `key`, or None while they are not."""
        part = self._reservations.parts(reservation.id).get(key)
        return None if part is None else part.artefact_sha256

    def spending(self, block: int) -> BlockSpending:
        """What counts as spent of one block, settled or not; all of it after a recovery.

        Raises:
            ReservationError: it was never opened.
        """
        return self._accounts.spending(block)

    def spendings(self) -> tuple[BlockSpending, ...]:
        """What counts as spent of each block, in the order of blocks."""
        with self._state.transaction():
            return self._accounts.spendings()

    def quotas(self, block: int) -> tuple[Standing, ...]:
        """How the quotas of training and evaluation stand in an open block."""
        return self._accounts.quotas(block)

    def entries(self) -> tuple[bytes, ...]:
        """All entries, oldest first: canonical JSON, each holding the hash of the one before."""
        return tuple(self._chain.bodies())

    def entries_from(self, seq: int, limit: int | None = None) -> tuple[bytes, ...]:
        """At most `limit` entries from number `seq` on."""
        return tuple(self._chain.bodies(seq, limit))

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self._chain.size

    def root(self, size: int | None = None) -> str:
        """The Merkle root over the first `size` entries in hex; see `Chain.root`."""
        return self._chain.root(size)

    def inclusion_proof(self, seq: int, size: int | None = None) -> tuple[bytes, ...]:
        """Shows that entry `seq` is among the first `size`; see `Chain.inclusion_proof`."""
        return self._chain.inclusion_proof(seq, size)

    def consistency_proof(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """Shows that `old` entries begin the first `new`; see `Chain.consistency_proof`."""
        return self._chain.consistency_proof(old, new)

    def check_chain(self) -> None:
        """Replay all entries and compare them with the tables.

        Raises:
            StateError: an entry or a table was changed, removed or added by other hands.
        """
        with self._state.transaction():
            if not self._agrees(replay(self._chain.bodies())):
                raise StateError(f"the tables of {self._state.path} disagree with the ledger")

    def _agrees(self, totals: Totals) -> bool:
        tables, reservations = self._tables, self._reservations
        return (
            totals.simulated == self._chain.simulated
            and totals.hashes == self._chain.hashes()
            and root_of(totals.hashes).hex() == self._chain.root()
            and (totals.adopted, totals.approval) == tables.adopted()
            and totals.training_nano == reservations.training_totals()
            and totals.window_nano == reservations.window_totals()
            and totals.settled == reservations.settled_parts()
            and totals.lost == reservations.lost_parts()
            and totals.excluded == tables.exclusions()
            and totals.recovered_through == tables.recovered_through
            and all(tables.policy(block) == p for block, p in totals.policies.items())
            and all(tables.epsilon(block) == e for block, e in totals.epsilons.items())
        )
