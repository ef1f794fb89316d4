"""A changed policy: entered once, with who allowed it; open blocks can only fall to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import BudgetError, BudgetExhaustedError, SettingError, StateError
from fedge.identity import Identity
from fedge.privacy.approval import approve
from fedge.privacy.entries import Adopted, Created, read_entry
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import new_policy
from fedge.privacy.rdp import cap_nano, event_nano, telemetry_nano
from fedge.privacy.replay import replay
from fedge.records import BlockLength, DiscreteGaussianEvent, PrivacyPolicy
from fedge.statefile import StateFile

REVIEWER, GATEWAY = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
BLOCK = BlockLength(kind="windows", value=100)
Reopen = Callable[..., Ledger]


@cache
def of(epsilon: float) -> PrivacyPolicy:
    return new_policy(epsilon=epsilon, delta=1e-5, block=BLOCK, telemetry_rho=0.005)


def changed(policy: PrivacyPolicy, **values: object) -> PrivacyPolicy:
    return PrivacyPolicy.model_validate(policy.model_dump() | values)


def release(count: int = 1) -> DiscreteGaussianEvent:
    return DiscreteGaussianEvent(sensitivity2=1, sigma2=10_000, count=count, dimension=2)


@pytest.fixture
def reopen(state: StateFile) -> Reopen:
    """The ledger as the gateway's next start opens it."""

    def start(policy: PrivacyPolicy, **facts: object) -> Ledger:
        return Ledger(state, policy, clock=lambda: 1000.0, **facts)  # type: ignore[arg-type]

    return start


def adoptions(ledger: Ledger) -> list[Adopted]:
    entries = map(read_entry, ledger.entries())
    return [entry for entry in entries if isinstance(entry, Adopted)]


class TestAdoption:
    def test_the_first_policy_is_entered_before_any_block(self, reopen: Reopen) -> None:
        """A start without a change enters nothing."""
        ledger = reopen(of(3.0))
        ledger.open_block(0)
        before = ledger.entries()

        assert [read_entry(data).kind for data in before] == ["created", "policy", "opened"]
        assert reopen(of(3.0)).entries() == before

    def test_a_change_is_entered_with_its_reviewer(self, reopen: Reopen) -> None:
        """And again when it changes back: the order of policies can be read."""
        reopen(of(3.0))
        mine = approve(of(2.0), REVIEWER, reviewer="Ada", reason="less is enough", at=7.0)
        reopen(of(2.0), approval=mine)
        ledger = reopen(of(3.0))

        assert [entry.policy for entry in adoptions(ledger)] == [of(3.0), of(2.0), of(3.0)]
        assert [entry.approval for entry in adoptions(ledger)] == [None, mine, None]
        ledger.check_chain()

    def test_a_policy_that_is_signed_later_is_entered_again(self, reopen: Reopen) -> None:
        """Once; who opens the ledger without the approval changes nothing."""
        mine = approve(of(3.0), REVIEWER, reviewer="Ada", reason="as it is", at=7.0)
        for approval in (None, mine, mine, None):
            ledger = reopen(of(3.0), approval=approval)

        assert [entry.approval for entry in adoptions(ledger)] == [None, mine]
        ledger.check_chain()

    def test_an_approval_of_something_else_is_refused(self, reopen: Reopen) -> None:
        """Nothing is entered."""
        ledger = reopen(of(3.0))
        other = approve(of(2.0), REVIEWER, reviewer="Ada", reason="less", at=7.0)

        for wrong in (other, other.model_copy(update={"reviewer": "Eve"})):
            with pytest.raises(SettingError, match="approval"):
                reopen(of(3.0), approval=wrong)
        assert len(ledger.entries()) == 2

    def test_a_policy_that_carries_nothing_is_not_adopted(self, reopen: Reopen) -> None:
        """The ledger goes on under the one before."""
        ledger = reopen(of(3.0))
        with pytest.raises(SettingError):
            reopen(changed(of(3.0), alpha=2))
        assert len(adoptions(ledger)) == 1


class TestOpenBlocks:
    def test_the_cap_falls_and_never_rises(self, reopen: Reopen) -> None:
        """At the block's own order and delta; a block opened later has the new policy's."""
        reopen(of(3.0)).open_block(0)
        assert reopen(of(2.0)).spending(0).cap_nano == cap_nano(changed(of(3.0), epsilon=2.0))
        ledger = reopen(of(5.0))
        ledger.open_block(1)

        assert ledger.spending(0).cap_nano == cap_nano(changed(of(3.0), epsilon=2.0))
        assert ledger.spending(1).cap_nano == cap_nano(of(5.0))
        assert ledger.policy_of(0) == of(3.0)
        ledger.check_chain()

    def test_what_is_spent_stays_spent(self, reopen: Reopen) -> None:
        """A cap below it leaves nothing, and shows no negative rest."""
        ledger = reopen(of(3.0))
        ledger.open_block(0)
        run = release(4000)
        ledger.reserve_run("run", [0], [run])
        spent = telemetry_nano(of(3.0)) + event_nano(run, of(3.0).alpha)

        ledger = reopen(of(1.0))

        spending = ledger.spending(0)
        assert spending.cap_nano == spent == spending.telemetry_nano + spending.training_nano
        with pytest.raises(BudgetExhaustedError) as refused:
            ledger.reserve_run("more", [0], [release()])
        assert refused.value.left_nano == 0
        ledger.check_chain()

    def test_windows_keep_what_was_reserved_for_them(self, reopen: Reopen) -> None:
        """Monitoring's share was taken when the block opened; no change silences it."""
        reopen(of(3.0)).open_block(0)
        event = release(90)
        assert event_nano(event, of(3.0).alpha) <= telemetry_nano(of(3.0))

        ledger = reopen(of(0.5))
        ledger.reserve_window(0, 0, [event])
        with pytest.raises(BudgetExhaustedError):
            ledger.reserve_run("run", [0], [release()])
        ledger.check_chain()

    def test_order_and_unit_of_an_open_block_stay(self, reopen: Reopen) -> None:
        """Charges are priced at the order under which it was opened."""
        reopen(of(3.0)).open_block(0)
        later = changed(of(6.0), unit="subject", max_records=5)
        assert later.alpha != of(3.0).alpha

        ledger = reopen(later)
        ledger.open_block(1)
        ledger.reserve_run("run", [0, 1], [release(100)])

        charged = [spending.training_nano for spending in ledger.spendings()]
        assert charged == [event_nano(release(100), p.alpha) for p in (of(3.0), later)]
        assert ledger.policy_of(0).unit == "record"
        ledger.check_chain()

    @settings(max_examples=25, deadline=None)
    @given(draw=st.data())
    def test_whatever_is_adopted_ledger_and_replay_agree(
        self, draw: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Any order of policies, blocks and runs: one set of caps, and none is overdrawn."""
        state = StateFile(tmp_path_factory.mktemp("ledger") / "state.sqlite")
        try:
            for number in range(draw.draw(st.integers(1, 5))):
                epsilon = draw.draw(st.sampled_from([0.4, 0.9, 1.7, 3.0, 5.0]))
                ledger = Ledger(state, of(epsilon), clock=lambda: 0.0)
                ledger.open_block(number)
                for run in range(draw.draw(st.integers(0, 3))):
                    blocks = draw.draw(st.lists(st.integers(0, number), min_size=1, max_size=3))
                    try:
                        count = draw.draw(st.integers(1, 3000))
                        ledger.reserve_run(f"{number}-{run}", blocks, [release(count)])
                    except BudgetError:
                        continue
            totals = replay(ledger.entries())
            for spending in ledger.spendings():
                spent = spending.telemetry_nano + spending.training_nano
                assert spent <= spending.cap_nano
                assert spending.cap_nano == max(spent, totals.cap_nano(spending.block))
                assert spending.epsilon <= ledger.policy_of(spending.block).epsilon
            ledger.check_chain()
        finally:
            state.close()

    @pytest.mark.parametrize(
        "tampering",
        [
            "DELETE FROM ledger_lowered",
            "UPDATE ledger_lowered SET epsilon = 2.9",
            "UPDATE ledger_adopted SET approval = NULL",
            "DELETE FROM ledger_adopted",
        ],
    )
    def test_tampering_is_seen(self, state: StateFile, reopen: Reopen, tampering: str) -> None:
        """The tables say what the entries say."""
        reopen(of(3.0)).open_block(0)
        mine = approve(of(2.0), REVIEWER, reviewer="Ada", reason="less", at=7.0)
        ledger = reopen(of(2.0), approval=mine)
        with state.transaction() as db:
            assert db.execute(tampering).rowcount > 0

        with pytest.raises(StateError):
            ledger.check_chain()


class TestOwner:
    def test_the_first_entry_says_whose_ledger_it_is(self, reopen: Reopen) -> None:
        """Another gateway that finds it, as in a copied folder, does not go on with it."""
        key = GATEWAY.public_key.hex()
        ledger = reopen(of(3.0), gateway=GATEWAY.fingerprint, public_key=key)

        first = read_entry(ledger.entries()[0])
        assert isinstance(first, Created)
        assert (first.gateway, first.public_key) == (GATEWAY.fingerprint, key)
        reopen(of(3.0), gateway=GATEWAY.fingerprint, public_key=key)
        with pytest.raises(StateError, match=GATEWAY.fingerprint):
            reopen(of(3.0), gateway=REVIEWER.fingerprint)
        ledger.check_chain()

    def test_a_ledger_without_a_name_is_taken_up(self, reopen: Reopen) -> None:
        """As those of earlier builds are."""
        before = reopen(of(3.0)).entries()

        assert reopen(of(3.0), gateway=GATEWAY.fingerprint).entries() == before
