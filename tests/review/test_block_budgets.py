"""What a reviewer reads of a block is what the ledger enforces, and a price is what a run costs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.ledger_fleet import (
    CENTRE,
    FEATURE_EVENT,
    fleet_policy,
    played_gateway,
    run_spec,
    training_plan,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge.errors import BudgetExhaustedError, SettingError, StateError
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.ledger import Ledger
from fedge.privacy.merkle import tree_hash
from fedge.privacy.rdp import NANO, cap_nano, conversion, telemetry_nano
from fedge.records import DiscreteGaussianEvent, PoissonGaussianEvent
from fedge.review.budget import block_budgets, epsilon_across, worst_first
from fedge.review.prices import price_run, runs_in_fresh_block
from fedge.statefile import StateFile

POLICY = fleet_policy()


def test_a_fresh_block_has_spent_monitorings_share(tmp_path: Path) -> None:
    """It is reserved whether a window comes or not; the rest remains."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(4)
        (budget,) = block_budgets(one.exported())

    assert (budget.block, budget.runs, budget.windows) == (4, 0, 0)
    assert budget.spent_nano == telemetry_nano(POLICY)
    assert budget.remaining_nano == cap_nano(POLICY) - telemetry_nano(POLICY)
    assert 0 < budget.epsilon < budget.epsilon_cap == 3.0


def test_what_was_reserved_counts_and_what_was_released_is_told_apart(tmp_path: Path) -> None:
    """A run that was reserved and never noised costs as much as one that was."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        plan = run_spec(1, (0,)).plan
        one.ledger.reserve_run("never", [0], plan.events, purposes=("training", "evaluation"))
        (reserved,) = block_budgets(one.exported())
        one.run(run_spec(2, (0,)), (0,))
        (released,) = block_budgets(one.exported())

    assert (reserved.released_nano, reserved.runs) == (0, 1)
    assert reserved.training_nano > 0
    assert released.training_nano == 2 * reserved.training_nano
    assert released.released_nano == reserved.training_nano
    assert released.spent_nano + released.remaining_nano == released.cap_nano


def test_the_worst_block_comes_first(tmp_path: Path) -> None:
    with played_gateway(tmp_path) as one:
        for block in range(3):
            one.ledger.open_block(block)
        one.run(run_spec(1, (0,)), (1,))
        found = worst_first(block_budgets(one.exported()))

    assert [budget.block for budget in found] == [1, 0, 2]


def test_a_smaller_policy_lowers_the_cap_of_open_blocks(tmp_path: Path) -> None:
    """The bound that a reviewer reads falls; what is spent stays, and nothing is left."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        one.run(run_spec(1, (0,)), (0,))
    state = StateFile(tmp_path / "state-0.sqlite")
    smaller = fleet_policy(epsilon=1.6)
    ledger = Ledger(state, smaller, clock=lambda: 2e9, gateway=one.identity.fingerprint)
    one.ledger = ledger
    (budget,) = block_budgets(one.exported())
    state.close()

    assert budget.epsilon_cap == 1.6
    assert budget.policy.epsilon == 3.0
    assert budget.remaining_nano == 0 and budget.epsilon > 1.6


def test_a_recovered_block_has_nothing_left(tmp_path: Path) -> None:
    """Whatever the chain says was spent: what happened since is not known."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        one.window(0, 0)
        kept = one.ledger.entries()
        root = tree_hash(kept).hex()
        head = witness_head(CENTRE, sign_head(one.identity, len(kept), root, 1.0), 2.0)
    (tmp_path / "fresh").mkdir()
    with played_gateway(tmp_path / "fresh") as one:
        assert one.ledger.recover(kept, head, 1, "wiped")
        found = block_budgets(one.exported())

    assert [budget.recovered for budget in found] == [True]
    assert found[0].remaining_nano == 0
    assert found[0].epsilon == pytest.approx(3.0, abs=1e-6)


def test_an_exclusion_is_shown_with_its_block(tmp_path: Path) -> None:
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        one.ledger.open_block(1)
        one.ledger.exclude(1, "escalation")
        found = block_budgets(one.exported())

    assert [budget.excluded for budget in found] == [(), ("escalation",)]


def test_a_chain_that_does_not_hold_has_no_budget(tmp_path: Path) -> None:
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        whole = one.exported()
    with pytest.raises(StateError, match="entry 1"):
        block_budgets(replace(whole, entries=(whole.entries[0], *whole.entries[2:])))


def test_the_bound_across_blocks_is_the_sum_of_divergences(tmp_path: Path) -> None:
    """By hand, at every order: blocks * rho * order + conversion, the smallest of them."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        (budget,) = block_budgets(one.exported())
    rho = budget.spent_nano / NANO / budget.policy.alpha

    for blocks in (1, 2, 7):
        by_hand = min(blocks * rho * a + conversion(a, 1e-5) for a in range(2, 1025))
        assert epsilon_across(budget, blocks) == pytest.approx(max(0.0, by_hand))
    assert epsilon_across(budget, 1) <= budget.epsilon + 1e-12
    assert epsilon_across(budget, 2) < 2 * epsilon_across(budget, 1)


def test_a_curved_charge_is_not_moved_to_another_order(tmp_path: Path) -> None:
    """A sampled Gaussian costs no multiple of the order: only the policy's own is proven."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        sampled = PoissonGaussianEvent(
            rate_ppm=100_000, sensitivity2=1, sigma2=16, count=5, dimension=3
        )
        one.ledger.reserve_run("sampled", [0], [sampled])
        (budget,) = block_budgets(one.exported())

    assert not budget.pure
    alpha = budget.policy.alpha
    assert epsilon_across(budget, 3) == pytest.approx(
        3 * budget.spent_nano / NANO + conversion(alpha, 1e-5)
    )


# --- prices -----------------------------------------------------------------------------


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(multiplier=st.floats(9.0, 60.0), steps=st.integers(1, 30))
def test_a_price_is_what_the_ledger_takes(
    tmp_path_factory: pytest.TempPathFactory, multiplier: float, steps: int
) -> None:
    """As many runs as the plan says fit can be reserved, and then no further one."""
    plan = training_plan(multiplier, steps)
    with played_gateway(tmp_path_factory.mktemp("price")) as one:
        one.ledger.open_block(0)
        (price,) = price_run(block_budgets(one.exported()), plan.events)
        fits = min(price.fits, 20)
        for number in range(fits):
            one.ledger.reserve_run(f"run-{number}", [0], plan.events)
        (after,) = block_budgets(one.exported())
        if price.fits <= 20:
            with pytest.raises(BudgetExhaustedError):
                one.ledger.reserve_run("one too many", [0], plan.events)

    assert after.training_nano == fits * price.cost_nano
    assert price.fits == runs_in_fresh_block(POLICY, plan.events)
    assert price.left_nano >= 0 and price.epsilon_after <= 3.0


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    """Its price is told, and the block stays as it is."""
    huge = [DiscreteGaussianEvent(sensitivity2=1, sigma2=1, count=5, dimension=1)]
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        (price,) = price_run(block_budgets(one.exported()), huge)

    assert price.fits == 0 and price.cost_nano > price.budget.remaining_nano
    assert price.left_nano == price.budget.remaining_nano
    assert price.epsilon_after == price.budget.epsilon


def test_no_event_is_no_free_run() -> None:
    """Nothing is never priced as something that may go on for ever."""
    with pytest.raises(SettingError):
        price_run([], [])
    with pytest.raises(SettingError):
        runs_in_fresh_block(POLICY, [])
    assert runs_in_fresh_block(POLICY, [FEATURE_EVENT]) == math.floor(
        (cap_nano(POLICY) - telemetry_nano(POLICY)) / (NANO * POLICY.alpha * 33 / (2 * 588))
    )
