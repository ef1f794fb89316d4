"""What a retraining would cost, before anything is spent.

A plan's events are priced at each block's own order and compared with what the block has
left. Nothing is reserved: the ledger decides again, by the same arithmetic, when a run asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedge.errors import SettingError
from fedge.privacy.charges import events_nano
from fedge.privacy.quotas import Use, standings
from fedge.privacy.rdp import cap_nano, epsilon_of, telemetry_nano
from fedge.records import PrivacyEvent, PrivacyPolicy
from fedge.review.budget import BlockBudget


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPrice:
    """One retraining and one block that it would read.

    Attributes:
        cost_nano: what the whole run charges the block, evaluation included.
        allowed: how many such runs the quotas of its policy allow; None where none is about them.
    """

    budget: BlockBudget
    cost_nano: int
    allowed: int | None = None

    @property
    def fits(self) -> int:
        """How many such runs the block still carries, and its quotas allow."""
        carried = self.budget.remaining_nano // self.cost_nano
        return carried if self.allowed is None else min(carried, self.allowed)

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
    budgets: Iterable[BlockBudget],
    events: Sequence[PrivacyEvent],
    purposes: Sequence[str] = (),
    task: str = "",
) -> tuple[BlockPrice, ...]:
    """The price of a run with these events on each of the blocks.

    Args:
        purposes: what each event is for; quotas are left out of account unless given.
        task: whose quotas count, besides those for every task.

    Raises:
        SettingError: there is no event, so there is no price.
        UnknownEventError: an event has none.
    """
    if not events:
        raise SettingError("a run without events costs nothing and releases nothing")
    return tuple(
        BlockPrice(
            budget=budget,
            cost_nano=events_nano(events, budget.policy.alpha),
            allowed=_allowed(
                budget.policy,
                budget.cap_nano,
                budget.uses,
                _uses(events, purposes, task, budget.policy.alpha),
            ),
        )
        for budget in budgets
    )


def runs_in_fresh_block(
    policy: PrivacyPolicy,
    events: Sequence[PrivacyEvent],
    purposes: Sequence[str] = (),
    task: str = "",
) -> int:
    """How many runs with these events a block carries that opens under `policy` now.

    Args:
        purposes, task: see `price_run`.

    Raises:
        SettingError: there is no event, or the policy leaves nothing at its order.
    """
    if not events:
        raise SettingError("a run without events costs nothing and releases nothing")
    cap = cap_nano(policy)
    carried = max(0, cap - telemetry_nano(policy)) // events_nano(events, policy.alpha)
    allowed = _allowed(policy, cap, (), _uses(events, purposes, task, policy.alpha))
    return carried if allowed is None else min(carried, allowed)


def _uses(
    events: Sequence[PrivacyEvent], purposes: Sequence[str], task: str, alpha: int
) -> tuple[Use, ...]:
    if not purposes:
        return ()
    return tuple(
        Use(purpose, task, events_nano((event,), alpha))
        for event, purpose in zip(events, purposes, strict=True)
    )


def _allowed(
    policy: PrivacyPolicy, cap: int, taken: Sequence[Use], asked: Sequence[Use]
) -> int | None:
    """How often quotas allow what is asked; None where none of them is about it."""
    pairs = zip(standings(policy, cap, taken), standings(policy, cap, asked), strict=True)
    counts = [now.left_nano // one.used_nano for now, one in pairs if one.used_nano]
    return min(counts, default=None)
