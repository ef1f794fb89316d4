"""What each block may still release: caps, charges and quotas, read from the ledger's tables."""

from __future__ import annotations

from collections.abc import Sequence

from fedge.errors import BudgetExhaustedError, RecoveredBlockError, ReservationError
from fedge.privacy.charges import cap_at, events_nano
from fedge.privacy.quotas import Standing, Use, check_quotas, standings
from fedge.privacy.rdp import epsilon_of, telemetry_nano
from fedge.privacy.reservations import Reservations
from fedge.privacy.tables import LedgerTables
from fedge.records import BlockSpending, PrivacyEvent


class Accounts:
    """Prices what is asked of blocks, and refuses what they do not hold; writes nothing."""

    def __init__(self, tables: LedgerTables, reservations: Reservations) -> None:
        self._tables, self._reservations = tables, reservations

    def cap(self, block: int) -> int:
        """Nano-RDP that an open block may spend in all.

        At its own order and delta, of the smallest epsilon adopted since it was opened. Never
        less than what is spent already: what was released cannot be taken back.

        Raises:
            ReservationError: it was never opened.
        """
        return max(self._lowered(block), self._spent(block))

    def window_charge(
        self, window: int, block: int, events: Sequence[PrivacyEvent], purpose: str
    ) -> int:
        """The price of releases about a window, if its block holds them.

        Raises:
            BudgetExhaustedError, QuotaExceededError, ReservationError, UnknownEventError: see
                `Ledger.reserve_window`.
        """
        policy = self._tables.policy_of(block)
        nano = events_nano(events, policy.alpha)
        if self._reservations.block_of_window(window) not in (None, block):
            raise ReservationError(f"window {window} belongs to another block than {block}")
        left = telemetry_nano(policy) - self._reservations.window_nano(window)
        if nano > left:
            raise BudgetExhaustedError(block, nano, left)
        # A record lies in one window, and a window has one reservation for each purpose.
        check_quotas(policy, self.cap(block), block, (), [Use(purpose, "", nano)])
        return nano

    def run_uses(
        self, block: int, events: Sequence[PrivacyEvent], purposes: Sequence[str], task: str
    ) -> list[Use]:
        """The price of a run, apart by purpose, if the block holds it.

        Raises:
            BudgetExhaustedError, QuotaExceededError, ReservationError, UnknownEventError: see
                `Ledger.reserve_run`.
        """
        policy = self._tables.policy_of(block)
        prices: dict[str, int] = {}
        for event, purpose in zip(events, purposes, strict=True):
            prices[purpose] = prices.get(purpose, 0) + events_nano((event,), policy.alpha)
        nano = sum(prices.values())
        left = self._lowered(block) - self._spent(block)
        if nano > left:
            raise BudgetExhaustedError(block, nano, max(0, left))
        asked = [Use(purpose, task, price) for purpose, price in prices.items()]
        check_quotas(policy, self.cap(block), block, self._reservations.uses(block), asked)
        return asked

    def check_open(self, block: int) -> None:
        """Refuse a block that lost its budget with the state that knew of it.

        Raises:
            RecoveredBlockError: it did.
        """
        if 0 <= block <= self._tables.recovered_through:
            raise RecoveredBlockError(block)

    def quotas(self, block: int) -> tuple[Standing, ...]:
        """How the quotas of training and evaluation stand in an open block.

        Raises:
            ReservationError: it was never opened.
        """
        uses = self._reservations.uses(block)
        return tuple(standings(self._tables.policy_of(block), self.cap(block), uses))

    def spending(self, block: int) -> BlockSpending:
        """What counts as spent of one block, settled or not.

        Raises:
            ReservationError: it was never opened.
        """
        return self._spending(block, self._reservations.training_nano(block))

    def spendings(self) -> tuple[BlockSpending, ...]:
        """The same of every block, in the order of blocks."""
        totals = self._reservations.training_totals()
        return tuple(self._spending(block, nano) for block, nano in totals.items())

    def _spending(self, block: int, training: int) -> BlockSpending:
        policy = self._tables.policy_of(block)
        telemetry = telemetry_nano(policy)
        cap = max(self._lowered(block), telemetry + training)
        if block <= self._tables.recovered_through:
            # What the lost state had spent is unknown; it obeyed the cap, so all of it counts.
            training = cap - telemetry
        return BlockSpending(
            block=block,
            cap_nano=cap,
            telemetry_nano=telemetry,
            training_nano=training,
            epsilon=epsilon_of(telemetry + training, policy),
        )

    def _lowered(self, block: int) -> int:
        return cap_at(self._tables.policy_of(block), self._tables.epsilon(block))

    def _spent(self, block: int) -> int:
        policy = self._tables.policy_of(block)
        return self._reservations.training_nano(block) + telemetry_nano(policy)
