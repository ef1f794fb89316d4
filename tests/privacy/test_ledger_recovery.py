"""A state that was lost or put back: the witnessed chain is taken up, and budgets are gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fedge.errors import BudgetError, RecoveredBlockError, ReservationError, StateError
from fedge.identity import Identity
from fedge.privacy.entries import Recovered, read_entry
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.ledger import Ledger, Reservation
from fedge.privacy.merkle import tree_hash
from fedge.privacy.rdp import cap_nano
from fedge.privacy.replay import replay
from fedge.records import DiscreteGaussianEvent, PrivacyPolicy, WitnessedHead, sha256_hex
from fedge.statefile import StateFile

GATEWAY, WITNESS, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
RELEASE = DiscreteGaussianEvent(sensitivity2=1, sigma2=10_000, count=1, dimension=2)
BYTES = sha256_hex(b"noised bytes")
MakeLedger = Callable[[str], Ledger]


@pytest.fixture
def make(tmp_path: Path, policy: PrivacyPolicy) -> Iterator[MakeLedger]:
    """A ledger of the same gateway in a state file of its own, by name."""
    states: dict[str, StateFile] = {}

    def open_named(name: str) -> Ledger:
        if name in states:
            states[name].close()
        states[name] = StateFile(tmp_path / f"{name}.sqlite")
        return opened(states[name], policy)

    yield open_named
    for state in states.values():
        state.close()


def opened(state: StateFile, policy: PrivacyPolicy, gateway: Identity = GATEWAY) -> Ledger:
    return Ledger(
        state,
        policy,
        clock=lambda: 1000.0,
        gateway=gateway.fingerprint,
        public_key=gateway.public_key.hex(),
    )


def settle(ledger: Ledger, reservation: Reservation, key: str) -> None:
    ledger.grant(reservation, key, RELEASE).take(1, 10_000, 2)
    ledger.settle(reservation, key, BYTES, "os")


def witnessed(
    entries: Sequence[bytes], size: int | None = None, gateway: Identity = GATEWAY
) -> WitnessedHead:
    """What a witness confirmed of a chain."""
    known = list(entries)[:size]
    root = tree_hash(known).hex()
    return witness_head(WITNESS, sign_head(gateway, len(known), root, 1.0), 2.0)


@pytest.fixture
def lived(make: MakeLedger) -> Ledger:
    """Two blocks, a window and a run, each settled, and a second run that is not."""
    ledger = make("lived")
    for block in (0, 1):
        ledger.open_block(block)
    settle(ledger, ledger.reserve_window(0, 0, [RELEASE]), "features")
    settle(ledger, ledger.reserve_run("run", [0, 1], [RELEASE]), "train/0")
    ledger.exclude(1, "escalation")
    ledger.reserve_run("second", [1], [RELEASE])
    return ledger


class TestAWipedState:
    def test_the_chain_goes_on_and_the_blocks_are_spent(
        self, make: MakeLedger, lived: Ledger, policy: PrivacyPolicy
    ) -> None:
        """Every known block counts as spent in full, and none up to the present one opens."""
        entries, ledger = lived.entries(), make("new")

        assert ledger.recover(entries, witnessed(entries), 4, "wiped")

        assert ledger.entries()[: len(entries)] == entries
        last = read_entry(ledger.entries()[-1])
        assert isinstance(last, Recovered)
        assert (last.through_block, last.reason) == (4, "wiped")
        assert (last.witnessed_size, last.witnessed_root) == (len(entries), lived.root())
        for spending in ledger.spendings():
            assert spending.telemetry_nano + spending.training_nano == cap_nano(policy)
            assert spending.epsilon == pytest.approx(policy.epsilon)
            assert not ledger.is_open(spending.block)
        for block in (0, 2, 4):
            with pytest.raises(RecoveredBlockError):
                ledger.reserve_run("third", [block], [RELEASE])
            with pytest.raises(RecoveredBlockError):
                ledger.reserve_window(9, block, [RELEASE])
        with pytest.raises(RecoveredBlockError):
            ledger.open_block(3)
        ledger.check_chain()

    def test_later_blocks_have_their_budget(self, make: MakeLedger, lived: Ledger) -> None:
        """The gateway works on with the next block."""
        entries, ledger = lived.entries(), make("new")
        ledger.recover(entries, witnessed(entries), 4, "wiped")

        ledger.open_block(5)
        settle(ledger, ledger.reserve_run("third", [5], [RELEASE]), "train/0")

        assert ledger.is_open(5)
        ledger.check_chain()
        stood = ledger.entries()
        assert make("new").entries() == stood

    def test_what_was_settled_is_known_again(self, make: MakeLedger, lived: Ledger) -> None:
        """Tables follow from the entries: charges, parts, windows, exclusions and numbers."""
        entries, ledger = lived.entries(), make("new")
        ledger.recover(entries, witnessed(entries), 1, "wiped")

        totals, before = replay(ledger.entries()), replay(entries)
        assert totals.training_nano == before.training_nano
        assert totals.settled == before.settled == {(0, "features"): BYTES, (1, "train/0"): BYTES}
        assert totals.excluded == {(1, "escalation")}
        ledger.open_block(2)
        assert ledger.reserve_run("third", [2], [RELEASE]).id == 3
        ledger.exclude(1, "escalation")
        assert replay(ledger.entries()).excluded == {(1, "escalation")}

    def test_twice_is_once(self, make: MakeLedger, lived: Ledger) -> None:
        """Also after a restart, and after the ledger went on."""
        entries, ledger = lived.entries(), make("new")
        head = witnessed(entries)
        ledger.recover(entries, head, 4, "wiped")
        after = ledger.entries()

        assert not make("new").recover(entries, head, 4, "wiped")
        again = make("new")
        again.open_block(5)
        assert not again.recover(entries, head, 6, "wiped")
        assert again.entries()[:-1] == after

    def test_entries_beyond_the_confirmed_ones_are_taken_up(
        self, make: MakeLedger, lived: Ledger
    ) -> None:
        """The head says how far the witness confirmed, and the entry repeats it."""
        entries, ledger = lived.entries(), make("new")
        ledger.recover(entries, witnessed(entries, 3), 1, "wiped")

        last = read_entry(ledger.entries()[-1])
        assert isinstance(last, Recovered) and last.witnessed_size == 3
        assert ledger.size == len(entries) + 1
        ledger.check_chain()

    def test_a_stricter_policy_of_the_new_state_is_adopted(
        self, tmp_path: Path, lived: Ledger, policy: PrivacyPolicy
    ) -> None:
        """After the chain that knows the earlier one."""
        stricter = policy.model_copy(update={"epsilon": 2.5})
        state = StateFile(tmp_path / "strict.sqlite")
        try:
            ledger = opened(state, stricter)
            ledger.recover(lived.entries(), witnessed(lived.entries()), 1, "wiped")
            kinds = [read_entry(data).kind for data in ledger.entries()[-2:]]
            assert kinds == ["recovered", "policy"]
            ledger.check_chain()
        finally:
            state.close()


class TestARestoredState:
    def test_what_was_granted_before_is_dead(self, make: MakeLedger, lived: Ledger) -> None:
        """A copy from before the settlement cannot noise the same part a second time."""
        ledger = make("copy")
        for block in (0, 1):
            ledger.open_block(block)
        reservation = ledger.reserve_run("mine", [0], [RELEASE])
        grant = ledger.grant(reservation, "train/0", RELEASE)
        entries = lived.entries()

        ledger.recover(entries, witnessed(entries), 1, "restored")

        with pytest.raises(ReservationError):
            grant.take(1, 10_000, 2)
        with pytest.raises(BudgetError):
            ledger.grant(reservation, "train/0", RELEASE)

    def test_an_unsettled_part_is_never_noised_again(self, make: MakeLedger, lived: Ledger) -> None:
        """Whether its bytes left before the state was lost, nobody knows."""
        entries, ledger = lived.entries(), make("new")
        ledger.recover(entries, witnessed(entries), 1, "restored")
        second = Reservation(2, "run", (1,), (RELEASE,))

        with pytest.raises(RecoveredBlockError):
            ledger.grant(second, "train/0", RELEASE)
        with pytest.raises(RecoveredBlockError):
            ledger.reserve_run("second", [1], [RELEASE])
        with pytest.raises(RecoveredBlockError):
            ledger.settle(second, "train/0", BYTES, "os")

    def test_blocks_of_the_copy_are_cut_through_too(self, make: MakeLedger, lived: Ledger) -> None:
        """Two chains that parted: what only the dropped one knew has no budget either."""
        fork = make("fork")
        for block in (0, 1, 8):
            fork.open_block(block)
        entries = lived.entries()

        fork.recover(entries, witnessed(entries), 2, "forked")

        assert fork.recovered_through == 8
        fork.check_chain()

    def test_a_ledger_that_is_ahead_is_left_alone(self, make: MakeLedger, lived: Ledger) -> None:
        """What the witness has not seen yet is not lost."""
        before = lived.entries()

        assert not lived.recover(before[:4], witnessed(before, 4), 9, "restored")
        assert lived.entries() == before and lived.recovered_through == -1


class TestRefusals:
    """Nothing changes where what came is not this gateway's confirmed chain."""

    def refused(self, ledger: Ledger, entries: Sequence[bytes], head: WitnessedHead) -> None:
        before = ledger.entries()
        with pytest.raises(StateError):
            ledger.recover(entries, head, 4, "wiped")
        assert ledger.entries() == before and ledger.recovered_through == -1
        ledger.check_chain()

    def test_fewer_entries_than_were_confirmed(self, make: MakeLedger, lived: Ledger) -> None:
        entries = lived.entries()
        self.refused(make("new"), entries[:-1], witnessed(entries))
        self.refused(make("new"), (), witnessed(entries))

    def test_other_entries_than_were_confirmed(self, make: MakeLedger, lived: Ledger) -> None:
        fork = make("fork")
        for block in range(8):
            fork.open_block(block)
        self.refused(make("new"), fork.entries(), witnessed(lived.entries()))

    def test_entries_that_are_no_chain(self, make: MakeLedger, lived: Ledger) -> None:
        entries = [*lived.entries()]
        swapped = [*entries[:2], entries[3], entries[2], *entries[4:]]
        self.refused(make("new"), swapped, witnessed(swapped))
        self.refused(make("new"), entries[1:], witnessed(entries[1:]))

    def test_another_gateways_ledger(
        self, make: MakeLedger, tmp_path: Path, policy: PrivacyPolicy
    ) -> None:
        state = StateFile(tmp_path / "other.sqlite")
        try:
            entries = opened(state, policy, OTHER).entries()
        finally:
            state.close()
        self.refused(make("new"), entries, witnessed(entries, gateway=OTHER))
        self.refused(make("new"), entries, witnessed(entries))

    def test_a_simulated_ledger(
        self, make: MakeLedger, tmp_path: Path, policy: PrivacyPolicy
    ) -> None:
        state = StateFile(tmp_path / "simulated.sqlite")
        try:
            entries = Ledger(state, policy, clock=lambda: 0.0, simulated=True).entries()
        finally:
            state.close()
        self.refused(make("new"), entries, witnessed(entries))


def test_a_fault_in_a_recovery_leaves_everything_as_it_was(make: MakeLedger, lived: Ledger) -> None:
    """At every single statement: the old chain stands, and the next try succeeds."""
    entries, head = lived.entries(), witnessed(lived.entries())
    ledger = make("new")
    before = ledger.entries()
    step = 0
    while True:
        left = [step]

        def failing(*_: object, left: list[int] = left) -> int:
            left[0] -= 1
            return int(left[0] == -1)

        ledger._state._db.set_progress_handler(failing, 40)
        try:
            ledger.recover(entries, head, 4, "wiped")
        except (StateError, sqlite3.OperationalError):
            ledger._state._db.set_progress_handler(None, 0)
            assert ledger.entries() == before
            ledger.check_chain()
            step += 3
            continue
        ledger._state._db.set_progress_handler(None, 0)
        break
    assert step > 20, "the recovery was cut at too few places"
    assert ledger.recovered_through == 4
    ledger.check_chain()
