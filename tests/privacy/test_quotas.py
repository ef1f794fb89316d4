"""Quotas: what a purpose or a task may take of a block, refused by name, and no guarantee."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.config import TrainingSettings
from fedge.errors import BudgetError, BudgetExhaustedError, QuotaExceededError, ReservationError
from fedge.learning.planning import plan_training
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import new_policy
from fedge.privacy.quotas import Use, check_quotas, standings
from fedge.privacy.rdp import cap_nano, event_nano
from fedge.privacy.replay import replay
from fedge.records import BlockLength, DiscreteGaussianEvent, PrivacyPolicy, Quota
from fedge.statefile import StateFile

BLOCK = BlockLength(kind="windows", value=100)
QUOTAS = (
    Quota(purpose="training", share=0.5),
    Quota(purpose="training", task="digits", share=0.3),
    Quota(purpose="evaluation", share=0.01),
)


POLICY = new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, quotas=QUOTAS)


@pytest.fixture
def policy() -> PrivacyPolicy:
    return POLICY


@pytest.fixture
def ledger(state: StateFile, policy: PrivacyPolicy) -> Ledger:
    ledger = Ledger(state, policy, clock=lambda: 1000.0)
    ledger.open_block(0)
    return ledger


def release(count: int) -> DiscreteGaussianEvent:
    return DiscreteGaussianEvent(sensitivity2=1, sigma2=10_000, count=count, dimension=2)


def part(policy: PrivacyPolicy, share: float) -> DiscreteGaussianEvent:
    """A release that takes about this share of the cap, and not more."""
    return release(int(share * cap_nano(policy)) // event_nano(release(1), policy.alpha))


class TestRuns:
    def test_the_quota_is_named_with_what_is_left(
        self, ledger: Ledger, policy: PrivacyPolicy
    ) -> None:
        """Also where the block holds more; nothing is charged."""
        ledger.reserve_run("first", [0], [part(policy, 0.25)], task="digits")
        entries, spent = ledger.entries(), ledger.spending(0).training_nano

        with pytest.raises(QuotaExceededError) as refused:
            ledger.reserve_run("second", [0], [part(policy, 0.1)], task="digits")

        error = refused.value
        assert (error.block, error.purpose, error.task) == (0, "training", "digits")
        assert error.left_nano == math.floor(0.3 * cap_nano(policy)) - spent
        assert error.asked_nano == event_nano(part(policy, 0.1), policy.alpha)
        assert "training (digits) in block 0" in str(error)
        assert ledger.entries() == entries
        assert str(pickle.loads(pickle.dumps(error))) == str(error)

    def test_a_quota_for_every_task_counts_them_together(
        self, ledger: Ledger, policy: PrivacyPolicy
    ) -> None:
        """Each task within its own, all within theirs."""
        ledger.reserve_run("digits", [0], [part(policy, 0.29)], task="digits")
        ledger.reserve_run("letters", [0], [part(policy, 0.2)], task="letters")

        with pytest.raises(QuotaExceededError) as refused:
            ledger.reserve_run("more", [0], [part(policy, 0.02)], task="letters")
        assert refused.value.task == "*"
        assert [standing.exceeded for standing in ledger.quotas(0)] == [False, False, False]

    def test_purposes_are_counted_apart(self, ledger: Ledger, policy: PrivacyPolicy) -> None:
        """A run's evaluation takes nothing of training's quota."""
        events = [part(policy, 0.4), part(policy, 0.009)]
        ledger.reserve_run("run", [0], events, purposes=("training", "evaluation"))

        used = {(s.quota.purpose, s.quota.task): s.used_nano for s in ledger.quotas(0)}
        prices = [event_nano(event, policy.alpha) for event in events]
        assert used == {
            ("training", "*"): prices[0],
            ("training", "digits"): 0,
            ("evaluation", "*"): prices[1],
        }
        with pytest.raises(QuotaExceededError, match="evaluation"):
            ledger.reserve_run("again", [0], [part(policy, 0.002)], purposes=("evaluation",))
        ledger.check_chain()

    def test_a_retry_counts_once(self, ledger: Ledger, policy: PrivacyPolicy) -> None:
        """The same run keeps its reservation, however full the quota is."""
        first = ledger.reserve_run("run", [0], [part(policy, 0.5)])

        assert ledger.reserve_run("run", [0], [part(policy, 0.5)]) == first

    def test_all_blocks_or_none(self, ledger: Ledger, policy: PrivacyPolicy) -> None:
        """One block's quota refuses the run for all."""
        ledger.open_block(1)
        ledger.reserve_run("first", [1], [part(policy, 0.4)])

        with pytest.raises(QuotaExceededError):
            ledger.reserve_run("second", [0, 1], [part(policy, 0.2)])
        assert ledger.spending(0).training_nano == 0

    def test_one_purpose_for_each_event(self, ledger: Ledger) -> None:
        """Neither fewer nor others than there are."""
        with pytest.raises(ReservationError, match="purposes"):
            ledger.reserve_run("run", [0], [release(1)], purposes=("training", "evaluation"))
        with pytest.raises(ReservationError, match="purposes"):
            ledger.reserve_run("run", [0], [release(1)], purposes=("spying",))  # type: ignore[arg-type]
        assert ledger.spending(0).training_nano == 0

    def test_the_cap_bounds_what_a_quota_would_give(self, state: StateFile) -> None:
        """A quota is a limit, not a right."""
        policy = new_policy(
            epsilon=3.0,
            delta=1e-5,
            block=BLOCK,
            quotas=[Quota(purpose="training", share=1.0)],
        )
        ledger = Ledger(state, policy, clock=lambda: 0.0)
        ledger.open_block(0)

        with pytest.raises(BudgetExhaustedError):
            ledger.reserve_run("run", [0], [part(policy, 0.95)])

    def test_a_review_counts_the_same(self, ledger: Ledger, policy: PrivacyPolicy) -> None:
        """From the entries alone."""
        ledger.reserve_run("a", [0], [part(policy, 0.1)], task="digits")
        ledger.reserve_run("b", [0], [part(policy, 0.1)], task="letters")

        uses = [
            Use(purpose, task, nano)
            for (_, purpose, task), nano in replay(ledger.entries()).uses.items()
        ]
        assert tuple(standings(policy, cap_nano(policy), uses)) == ledger.quotas(0)


def test_a_plan_stays_within_the_quota(ledger: Ledger, policy: PrivacyPolicy) -> None:
    """A run as the centre plans it from the policy is one that gateways can take."""
    plan = plan_training(policy, TrainingSettings(evaluation_rho=0.002), 26)

    ledger.reserve_run("run", [0], plan.events, purposes=("training", "evaluation"), task="digits")

    used = {standing.quota.task: standing.used_nano for standing in ledger.quotas(0)[:2]}
    assert used["digits"] == used["*"] <= math.floor(0.3 * cap_nano(policy))
    assert used["digits"] > 0.29 * cap_nano(policy)


class TestWindows:
    def test_a_reports_quota_is_checked(self, state: StateFile) -> None:
        """By the name of its purpose, for each window anew."""
        policy = new_policy(
            epsilon=3.0,
            delta=1e-5,
            block=BLOCK,
            telemetry_rho=0.02,
            window_rho=0.01,
            quotas=[Quota(purpose="features", share=0.05)],
        )
        ledger = Ledger(state, policy, clock=lambda: 0.0)
        ledger.open_block(0)
        for window in range(3):
            ledger.reserve_window(window, 0, [part(policy, 0.04)])

        with pytest.raises(QuotaExceededError, match="features"):
            ledger.reserve_window(9, 0, [part(policy, 0.06)])
        ledger.reserve_window(9, 0, [part(policy, 0.06)], purpose="labels")
        ledger.check_chain()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["training", "evaluation"]),
            st.sampled_from(["digits", "letters", ""]),
            st.integers(1, 10**9),
        ),
        max_size=12,
    )
)
def test_no_sequence_of_asks_exceeds_a_quota(asks: list[tuple[str, str, int]]) -> None:
    """What is let through keeps every quota; what is refused would have broken one."""
    policy, cap = POLICY, cap_nano(POLICY)
    taken: list[Use] = []
    for purpose, task, nano in asks:
        asked = Use(purpose, task, nano)
        try:
            check_quotas(policy, cap, 0, taken, [asked])
        except BudgetError:
            assert any(standing.exceeded for standing in standings(policy, cap, [*taken, asked]))
            continue
        taken.append(asked)
        assert not any(standing.exceeded for standing in standings(policy, cap, taken))
