"""What a retraining would cost, before anything is spent.

A plan's events are priced at each block's own order and compared with what the block has
left. Nothing is reserved: the ledger decides again, by the same arithmetic, when a run asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedge.errors import SettingError
from fedge.privacy.charges import events_nano
from fedge.privacy.rdp import cap_nano, epsilon_of, telemetry_nano
from fedge.records import PrivacyEvent, PrivacyPolicy
from fedge.review.budget import BlockBudget


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPrice:
    """One retraining and one block that it would read.

    Attributes:
        cost_nano: what the whole run charges the block, evaluation included.
    """

    budget: BlockBudget
    cost_nano: int

    @property
    def fits(self) -> int:
        """How many such runs the block still carries."""
        return self.budget.remaining_nano // self.cost_nano

    @property
    def left_nano(self) -> int:
        """What the block has left after one of them; after none, where none fits."""
        left = self.budget.remaining_nano
        return left - self.cost_nano if self.fits else left

    @property
    def epsilon_after(self) -> float:
        """The bound after one of them; as it is, where none fits."""
        spent = self.budget.spent_nano + (self.cost_nano if self.fits else 0)
        return epsilon_of(spent, self.budget.policy)


def price_run(
    budgets: Iterable[BlockBudget], events: Sequence[PrivacyEvent]
) -> tuple[BlockPrice, ...]:
    """The price of a run with these events on each of the blocks.

    Raises:
        SettingError: there is no event, so there is no price.
        UnknownEventError: an event has none.
    """
    if not events:
        raise SettingError("a run without events costs nothing and releases nothing")
    return tuple(
        BlockPrice(budget=budget, cost_nano=events_nano(events, budget.policy.alpha))
        for budget in budgets
    )


def runs_in_fresh_block(policy: PrivacyPolicy, events: Sequence[PrivacyEvent]) -> int:
    """How many runs with these events a block carries that opens under `policy` now.

    Raises:
        SettingError: there is no event, or the policy leaves nothing at its order.
    """
    if not events:
        raise SettingError("a run without events costs nothing and releases nothing")
    free = cap_nano(policy) - telemetry_nano(policy)
    return max(0, free) // events_nano(events, policy.alpha)
