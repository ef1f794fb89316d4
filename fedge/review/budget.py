"""What each block of a ledger may release, has released, and has left: for people to read.

Everything reserved counts against the guarantee, whether it was released or not; the
two are told apart here only because a reviewer asks. Prices and caps are the ledger's
own arithmetic; a report puts the verifier's beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fedge.privacy.charges import events_nano
from fedge.privacy.entries import Opened, RunReserved, WindowReserved, read_entry
from fedge.privacy.quotas import Use
from fedge.privacy.rdp import NANO, conversion, epsilon_of, telemetry_nano
from fedge.privacy.replay import Totals, replay
from fedge.records import PoissonGaussianEvent, PrivacyPolicy
from fedge.review.source import GatewayLedger

LARGEST_ORDER = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBudget:
    """One block of one gateway, in nano-RDP at its policy's order.

    Attributes:
        policy: the one under which the block was opened.
        epsilon_cap: its bound now: the smallest that was adopted since.
        opened_at: seconds since the epoch, by the gateway's clock.
        cap_nano: what the block may spend in all.
        telemetry_nano: reserved for monitoring when it opened.
        window_nano: of that, what was reserved about the window with most.
        training_nano: reserved by retrainings, evaluation included.
        released_nano: of that, what was noised and kept to be sent.
        uses: of the retrainings' part, what each purpose of each task took; quotas are about it.
        runs, windows: how many reserved something.
        excluded: what the guarantee leaves out.
        recovered: the block lost its budget when a state was lost or put back.
        pure: every charge is a Gaussian one, whose cost is in proportion to the order.
    """

    gateway: str
    name: str
    block: int
    policy: PrivacyPolicy
    epsilon_cap: float
    opened_at: float
    cap_nano: int
    telemetry_nano: int
    window_nano: int
    training_nano: int
    released_nano: int
    uses: tuple[Use, ...]
    runs: int
    windows: int
    excluded: tuple[str, ...]
    recovered: bool
    pure: bool

    @property
    def spent_nano(self) -> int:
        """What counts against the cap; all of it where the block lost its budget."""
        spent = self.telemetry_nano + self.training_nano
        return max(spent, self.cap_nano) if self.recovered else spent

    @property
    def remaining_nano(self) -> int:
        return max(0, self.cap_nano - self.spent_nano)

    @property
    def epsilon(self) -> float:
        """The bound that what was spent amounts to, at the policy's order and delta."""
        return epsilon_of(self.spent_nano, self.policy)

    @property
    def share(self) -> float:
        """Spent part of the cap; 1 where there is no cap."""
        return self.spent_nano / self.cap_nano if self.cap_nano else 1.0


def block_budgets(ledger: GatewayLedger) -> tuple[BlockBudget, ...]:
    """Every block of a ledger in the order of blocks.

    Raises:
        StateError: the chain does not hold together; names the entry.
    """
    totals, tally = replay(ledger.entries), _Tally.of(ledger.entries)
    return tuple(_budget(ledger, totals, tally, block) for block in sorted(totals.policies))


def worst_first(budgets: Iterable[BlockBudget]) -> tuple[BlockBudget, ...]:
    """By the bound that was spent, the largest first."""
    return tuple(sorted(budgets, key=lambda b: (-b.epsilon, -b.share, b.name, b.block)))


def epsilon_across(budget: BlockBudget, blocks: int) -> float:
    """The bound for one who is present in `blocks` blocks spent like this one.

    Renyi divergences of independent releases add up at each order. Where every charge is
    Gaussian, the order that gives the smallest bound is taken, else the policy's.
    """
    delta, alpha = budget.policy.delta, budget.policy.alpha
    per_order = budget.spent_nano / NANO / alpha
    orders: Sequence[int] = range(2, LARGEST_ORDER + 1) if budget.pure else (alpha,)
    found = min(blocks * per_order * order + conversion(order, delta) for order in (*orders, alpha))
    return max(0.0, found)


@dataclass
class _Tally:
    """What a replay's totals do not keep, from the entries of a chain that was replayed.

    Attributes:
        opened: when each block was opened.
        runs: of each block, the reservations of runs about it.
        windows: of each block, its windows.
        curved: blocks with a charge that is no multiple of the order.
    """

    opened: dict[int, float] = field(default_factory=dict)
    runs: dict[int, list[int]] = field(default_factory=dict)
    windows: dict[int, set[int]] = field(default_factory=dict)
    curved: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, entries: Iterable[bytes]) -> _Tally:
        """From the bytes of all entries of a chain, in their order."""
        tally = cls()
        for entry in map(read_entry, entries):
            match entry:
                case Opened():
                    tally.opened[entry.block] = entry.at
                case WindowReserved():
                    tally.windows.setdefault(entry.block, set()).add(entry.window)
                case RunReserved():
                    tally._add_run(entry)
        return tally

    def _add_run(self, entry: RunReserved) -> None:
        for block in entry.blocks:
            self.runs.setdefault(block, []).append(entry.reservation)
        if any(isinstance(event, PoissonGaussianEvent) for event in entry.events):
            self.curved.update(entry.blocks)


def _budget(ledger: GatewayLedger, totals: Totals, tally: _Tally, block: int) -> BlockBudget:
    policy, runs = totals.policies[block], tally.runs.get(block, [])
    windows = tally.windows.get(block, set())
    return BlockBudget(
        gateway=ledger.gateway,
        name=ledger.name,
        block=block,
        policy=policy,
        epsilon_cap=totals.epsilons[block],
        opened_at=tally.opened[block],
        cap_nano=totals.cap_nano(block),
        telemetry_nano=telemetry_nano(policy),
        window_nano=max((totals.window_nano[window] for window in windows), default=0),
        training_nano=totals.training_nano[block],
        released_nano=sum(_released(totals, run, policy.alpha) for run in runs),
        uses=tuple(
            Use(purpose, task, nano)
            for (of, purpose, task), nano in sorted(totals.uses.items())
            if of == block
        ),
        runs=len(runs),
        windows=len(windows),
        excluded=tuple(sorted(what for b, what in totals.excluded if b == block)),
        recovered=block <= totals.recovered_through,
        pure=block not in tally.curved,
    )


def _released(totals: Totals, reservation: int, alpha: int) -> int:
    """What was settled of a run; parts are rounded up one by one, so never more than the whole."""
    used = events_nano(totals.used.get(reservation, ()), alpha)
    return min(used, events_nano(totals.reserved[reservation], alpha))
