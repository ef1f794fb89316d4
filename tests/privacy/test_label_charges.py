"""What labelled errors of a window cost: the rest of monitoring's share, and never more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedge.cli.main import app
from fedge.errors import BudgetExhaustedError, SettingError, StateError
from fedge.privacy.entries import Settled, WindowReserved, read_entry
from fedge.privacy.ledger import FEATURES, LABELS, Ledger
from fedge.privacy.policy import label_event, new_policy, read_policy
from fedge.privacy.rdp import event_nano, telemetry_nano
from fedge.privacy.replay import replay
from fedge.records import BlockLength, DiscreteGaussianEvent, PrivacyPolicy
from fedge.statefile import StateFile

BLOCK = BlockLength(kind="seconds", value=86_400)


def policy_with(label_rho: float, telemetry_rho: float = 0.0281) -> PrivacyPolicy:
    return new_policy(
        epsilon=3.0, delta=1e-5, block=BLOCK, telemetry_rho=telemetry_rho, label_rho=label_rho
    )


def features(policy: PrivacyPolicy) -> DiscreteGaussianEvent:
    """A feature report that spends all of `window_rho`, as far as integers let it."""
    sigma2 = int(33 / (2 * policy.window_rho)) + 1
    return DiscreteGaussianEvent(sensitivity2=33, sigma2=sigma2, count=1, dimension=130)


class TestPolicy:
    def test_by_default_nothing_is_left_for_labels(self) -> None:
        """Also where a policy file says so in other words."""
        assert label_event(new_policy(epsilon=3.0, delta=1e-5, block=BLOCK)) is None
        assert label_event(policy_with(0.0)) is None

    def test_what_labels_get_is_taken_from_features(self) -> None:
        """A block's share for monitoring stays; one record moves one of two cells by one."""
        policy = policy_with(0.005)

        assert (policy.telemetry_rho, policy.window_rho) == (0.0281, 0.0231)
        event = label_event(policy)
        assert event is not None
        assert (event.sensitivity2, event.count, event.dimension) == (1, 1, 2)
        assert 100 <= event.sigma2 <= 101

    @settings(max_examples=40, deadline=None)
    @given(
        epsilon=st.floats(0.3, 10),
        share=st.floats(0.01, 0.99),
        telemetry=st.floats(1e-4, 3e-3),
    )
    def test_both_together_fit_the_share(
        self, epsilon: float, share: float, telemetry: float
    ) -> None:
        """Whatever the split, in the ledger's own integers."""
        policy = new_policy(
            epsilon=epsilon,
            delta=1e-5,
            block=BLOCK,
            telemetry_rho=telemetry,
            label_rho=share * telemetry,
        )
        event = label_event(policy)

        assert event is not None
        nano = [event_nano(one, policy.alpha) for one in (features(policy), event)]
        assert sum(nano) <= telemetry_nano(policy)
        assert nano[1] >= 0.98 * policy.alpha * share * telemetry * 1e9 - 2

    @pytest.mark.parametrize("label_rho", [-0.001, 0.0281, 1.0, float("nan"), float("inf")])
    def test_a_share_that_is_none_is_refused(self, label_rho: float) -> None:
        """Features must keep something, and nothing is paid back."""
        with pytest.raises(SettingError, match="label_rho"):
            policy_with(label_rho)

    def test_two_answers_are_refused(self) -> None:
        """One of `window_rho` and `label_rho` follows from the other."""
        with pytest.raises(SettingError, match="follows"):
            new_policy(epsilon=3.0, delta=1e-5, block=BLOCK, window_rho=0.01, label_rho=0.01)

    def test_the_command_line_makes_one(self, tmp_path: Path) -> None:
        """`--label-rho` splits the share; without it the file is as it was."""
        made, said = {}, {}
        for name, options in {"with": ["--label-rho", "0.004"], "without": []}.items():
            path = tmp_path / name
            answer = CliRunner().invoke(app, ["policy", "new", str(path), *options])
            assert answer.exit_code == 0
            made[name], said[name] = read_policy(path), answer.output

        assert made["with"].telemetry_rho == made["without"].telemetry_rho
        assert made["with"].window_rho == pytest.approx(made["without"].window_rho - 0.004)
        assert label_event(made["with"]) is not None and label_event(made["without"]) is None
        assert "with noise of 11 records" in said["with"]
        assert "Labelled errors are not reported" in said["without"]


class TestLedger:
    @pytest.fixture
    def split(self) -> PrivacyPolicy:
        return policy_with(0.005)

    def test_entries_name_the_purpose_and_replay(
        self, state: StateFile, split: PrivacyPolicy
    ) -> None:
        """Features, then labels of the same window: two charges, two settlements, one sum."""
        ledger = Ledger(state, split, clock=lambda: 1000.0)
        ledger.open_block(0)
        event = label_event(split)
        assert event is not None
        for purpose, part in ((FEATURES, features(split)), (LABELS, event)):
            reservation = ledger.reserve_window(7, 0, [part], purpose=purpose)
            grant = ledger.grant(reservation, purpose, part)
            grant.take(part.sensitivity2, part.sigma2, part.dimension)
            ledger.settle(reservation, purpose, "ab" * 32, "os")

        entries = [read_entry(data) for data in ledger.entries()]
        assert [e.purpose for e in entries if isinstance(e, WindowReserved)] == [FEATURES, LABELS]
        assert [e.key for e in entries if isinstance(e, Settled)] == [FEATURES, LABELS]
        totals = replay(ledger.entries())
        assert totals.window_nano == {
            7: sum(event_nano(one, split.alpha) for one in (features(split), event))
        }
        assert totals.settled == {(0, FEATURES): "ab" * 32, (1, LABELS): "ab" * 32}
        ledger.check_chain()

    def test_labels_are_charged_once(self, state: StateFile, split: PrivacyPolicy) -> None:
        """Asked again it is the same charge; a second one under another name finds nothing left."""
        ledger = Ledger(state, split, clock=lambda: 1000.0)
        ledger.open_block(0)
        event = label_event(split)
        assert event is not None
        ledger.reserve_window(7, 0, [features(split)])
        first = ledger.reserve_window(7, 0, [event], purpose=LABELS)

        assert ledger.reserve_window(7, 0, [event], purpose=LABELS) == first
        with pytest.raises(BudgetExhaustedError):
            ledger.reserve_window(7, 0, [event], purpose="labels-again")

    def test_a_chain_with_more_labels_than_the_share_is_refused(
        self, state: StateFile, split: PrivacyPolicy
    ) -> None:
        """Who replays the entries finds an overdrawn window, whatever the tables said."""
        ledger = Ledger(state, split, clock=lambda: 1000.0)
        ledger.open_block(0)
        event = label_event(split)
        assert event is not None
        ledger.reserve_window(7, 0, [features(split)])
        ledger.reserve_window(7, 0, [event], purpose=LABELS)
        chain = list(ledger.entries())
        last = read_entry(chain[-1])
        assert isinstance(last, WindowReserved)
        louder = event.model_copy(update={"sigma2": event.sigma2 // 2})
        chain[-1] = last.model_copy(update={"events": (louder,)}).to_bytes()

        with pytest.raises(StateError, match="overdraws"):
            replay(chain)
