"""The ledger: reserve, grant, settle."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import (
    BudgetExhaustedError,
    DrawLostError,
    NonFiniteValueError,
    ReservationError,
    SettingError,
    StateError,
    UnknownEventError,
)
from fedge.privacy.entries import ErasureReason, Lost, read_entry
from fedge.privacy.grants import Grant
from fedge.privacy.ledger import Ledger, Reservation
from fedge.privacy.policy import new_policy
from fedge.privacy.rdp import cap_nano, event_nano, telemetry_nano
from fedge.records import BlockLength, DiscreteGaussianEvent, PrivacyPolicy, sha256_hex
from fedge.statefile import StateFile

BYTES = sha256_hex(b"noised bytes")
OTHER_BYTES = sha256_hex(b"other noised bytes")


def cheap(count: int = 1) -> DiscreteGaussianEvent:
    """A release that costs little: rho 1/20000 each."""
    return DiscreteGaussianEvent(sensitivity2=1, sigma2=10_000, count=count, dimension=2)


def noised(
    ledger: Ledger, reservation: Reservation, key: str, event: DiscreteGaussianEvent
) -> None:
    """Grant a part and draw its first noise."""
    grant = ledger.grant(reservation, key, event)
    grant.take(event.sensitivity2, event.sigma2, event.dimension)


def gaps(ledger: Ledger) -> list[Lost]:
    """What the ledger says was lost."""
    return [entry for entry in map(read_entry, ledger.entries()) if isinstance(entry, Lost)]


class TestBlocks:
    def test_opening_reserves_the_monitoring_share(
        self, ledger: Ledger, policy: PrivacyPolicy
    ) -> None:
        """Before anything happened in it, a block has paid for its monitoring."""
        spending = ledger.spending(0)

        assert spending.cap_nano == cap_nano(policy)
        assert spending.telemetry_nano == telemetry_nano(policy)
        assert spending.training_nano == 0
        assert 0 <= spending.epsilon < policy.epsilon

    def test_opening_twice_is_opening_once(self, ledger: Ledger) -> None:
        """A restart opens the present block again, and nothing changes."""
        before = ledger.entries()

        ledger.open_block(0)

        assert ledger.entries() == before

    def test_a_block_keeps_its_policy(
        self, state: StateFile, ledger: Ledger, policy: PrivacyPolicy
    ) -> None:
        """A changed policy holds for blocks that open after it, whichever way it changed."""
        generous = new_policy(epsilon=8.0, delta=1e-5, block=policy.block, telemetry_rho=0.05)
        later = Ledger(state, generous, clock=lambda: 2000.0)
        later.open_block(0)
        later.open_block(1)

        assert later.policy_of(0) == policy
        assert later.policy_of(1) == generous
        assert later.spending(0).cap_nano == cap_nano(policy)
        assert later.spending(1).cap_nano == cap_nano(generous)
        with pytest.raises(BudgetExhaustedError):
            later.reserve_run(
                "run", [0, 1], [cheap(int(20_000 * 0.9 * cap_nano(generous) / 1e9 / 8))]
            )

    def test_an_unopened_block_is_refused(self, ledger: Ledger) -> None:
        """What a ledger does not know has no budget."""
        with pytest.raises(ReservationError):
            ledger.spending(5)
        with pytest.raises(ReservationError):
            ledger.reserve_window(0, 5, [cheap()])
        with pytest.raises(ReservationError):
            ledger.reserve_run("run", [0, 5], [cheap()])
        assert ledger.spending(0).training_nano == 0

    def test_a_policy_that_carries_nothing_is_refused(self, state: StateFile) -> None:
        """Monitoring alone would use up the block."""
        greedy = PrivacyPolicy(
            epsilon=1.0,
            delta=1e-5,
            alpha=18,
            telemetry_rho=0.05,
            window_rho=0.01,
            block=BlockLength(kind="windows", value=1),
        )

        with pytest.raises(SettingError):
            Ledger(state, greedy, clock=lambda: 0.0)

    def test_spendings_are_in_order(self, ledger: Ledger) -> None:
        """One line for each block, the newest last."""
        for block in (7, 3):
            ledger.open_block(block)

        assert [spending.block for spending in ledger.spendings()] == [0, 3, 7]
        assert ledger.spendings()[0] == ledger.spending(0)


class TestWindows:
    def test_a_report_fits_its_share(
        self, ledger: Ledger, report_event: DiscreteGaussianEvent
    ) -> None:
        """Any number of windows: a record lies in one of them only."""
        for window in range(20):
            ledger.reserve_window(window, 0, [report_event])

        assert ledger.spending(0).training_nano == 0

    def test_asking_again_is_free(
        self, ledger: Ledger, report_event: DiscreteGaussianEvent
    ) -> None:
        """After a crash the same window gets the same reservation and no second charge."""
        first = ledger.reserve_window(4, 0, [report_event])
        entries = ledger.entries()

        assert ledger.reserve_window(4, 0, [report_event]) == first
        assert ledger.entries() == entries

    def test_releases_about_one_window_add_up(
        self, ledger: Ledger, report_event: DiscreteGaussianEvent, policy: PrivacyPolicy
    ) -> None:
        """A second purpose must fit beside the first one; the refusal says what is left."""
        ledger.reserve_window(4, 0, [report_event])
        left = telemetry_nano(policy) - event_nano(report_event, policy.alpha)

        with pytest.raises(BudgetExhaustedError) as refused:
            ledger.reserve_window(4, 0, [cheap(1000)], purpose="labels")

        assert refused.value.block == 0
        assert refused.value.left_nano == left
        assert refused.value.asked_nano == event_nano(cheap(1000), policy.alpha)

    def test_other_content_under_the_same_name_is_refused(self, ledger: Ledger) -> None:
        """A window is noised once for each purpose, not until it looks right."""
        ledger.reserve_window(4, 0, [cheap()])

        with pytest.raises(ReservationError):
            ledger.reserve_window(4, 0, [cheap(2)])

    def test_a_window_lies_in_one_block(self, ledger: Ledger) -> None:
        """Its share cannot be taken from a second block."""
        ledger.open_block(1)
        ledger.reserve_window(4, 0, [cheap()])

        with pytest.raises(ReservationError):
            ledger.reserve_window(4, 1, [cheap()])
        with pytest.raises(ReservationError):
            ledger.reserve_window(4, 1, [cheap()], purpose="labels")

    def test_training_cannot_silence_monitoring(
        self, ledger: Ledger, report_event: DiscreteGaussianEvent, policy: PrivacyPolicy
    ) -> None:
        """Also a block whose training budget is gone still reports its windows."""
        price = event_nano(cheap(), policy.alpha)
        room = (cap_nano(policy) - telemetry_nano(policy)) // price
        ledger.reserve_run("everything", [0], [cheap(room - 1)])

        ledger.reserve_window(9, 0, [report_event])

        with pytest.raises(BudgetExhaustedError):
            ledger.reserve_run("more", [0], [cheap(3)])


class TestRuns:
    def test_a_run_charges_every_block_in_full(
        self, ledger: Ledger, training_event: DiscreteGaussianEvent, policy: PrivacyPolicy
    ) -> None:
        """The charge is the exact integer, on each block that the run reads."""
        ledger.open_block(1)

        reservation = ledger.reserve_run("run", [1, 0, 1], [training_event, cheap()])

        nano = event_nano(training_event, policy.alpha) + event_nano(cheap(), policy.alpha)
        assert reservation.blocks == (0, 1)
        assert [s.training_nano for s in ledger.spendings()] == [nano, nano]
        assert all(s.epsilon <= policy.epsilon for s in ledger.spendings())

    def test_an_exhausted_block_refuses(
        self, ledger: Ledger, training_event: DiscreteGaussianEvent, policy: PrivacyPolicy
    ) -> None:
        """A second full run does not fit, and the refusal names what was left."""
        ledger.reserve_run("first", [0], [training_event])
        entries = ledger.entries()

        with pytest.raises(BudgetExhaustedError) as refused:
            ledger.reserve_run("second", [0], [training_event])

        nano = event_nano(training_event, policy.alpha)
        assert refused.value.left_nano == cap_nano(policy) - telemetry_nano(policy) - nano
        assert ledger.entries() == entries

    def test_all_blocks_or_none(
        self, ledger: Ledger, training_event: DiscreteGaussianEvent
    ) -> None:
        """One exhausted block refuses the run, and the fresh one pays nothing."""
        ledger.open_block(1)
        ledger.reserve_run("first", [1], [training_event])

        with pytest.raises(BudgetExhaustedError):
            ledger.reserve_run("second", [0, 1], [training_event])

        assert ledger.spending(0).training_nano == 0

    def test_a_retry_is_free(self, ledger: Ledger, training_event: DiscreteGaussianEvent) -> None:
        """The same run id with the same content keeps its reservation."""
        first = ledger.reserve_run("run", [0], [training_event, cheap()])
        spent = ledger.spending(0)

        assert ledger.reserve_run("run", [0], [training_event, cheap()]) == first
        assert ledger.spending(0) == spent

    def test_a_run_id_is_used_for_one_content(self, ledger: Ledger) -> None:
        """Other blocks or other events under a known run id are refused."""
        ledger.open_block(1)
        ledger.reserve_run("run", [0], [cheap()])

        for blocks, events in (([1], [cheap()]), ([0, 1], [cheap()]), ([0], [cheap(2)])):
            with pytest.raises(ReservationError):
                ledger.reserve_run("run", blocks, events)
        assert ledger.spending(1).training_nano == 0

    @pytest.mark.parametrize(("blocks", "events"), [([], [cheap()]), ([0], [])])
    def test_nothing_is_no_run(
        self, ledger: Ledger, blocks: list[int], events: list[DiscreteGaussianEvent]
    ) -> None:
        """A run that reads no block or does nothing is a mistake, not a free one."""
        with pytest.raises(ReservationError):
            ledger.reserve_run("run", blocks, events)

    def test_an_unknown_event_is_refused(self, ledger: Ledger) -> None:
        """What has no price is not reserved, and costs nothing."""

        class Laplace(DiscreteGaussianEvent):
            pass

        unknown = Laplace(sensitivity2=1, sigma2=100, count=1, dimension=1)
        with pytest.raises(UnknownEventError):
            ledger.reserve_run("run", [0], [unknown])
        assert ledger.spending(0).training_nano == 0

    def test_a_price_beyond_64_bits_is_refused(self, ledger: Ledger) -> None:
        """An absurd plan is too expensive, not an overflow."""
        absurd = DiscreteGaussianEvent(sensitivity2=2**80, sigma2=1, count=1, dimension=1)

        with pytest.raises(BudgetExhaustedError):
            ledger.reserve_run("run", [0], [absurd])

    def test_threads_cannot_overdraw(self, ledger: Ledger, policy: PrivacyPolicy) -> None:
        """Sixteen threads ask for a fifth of the budget each: four get it."""
        room = cap_nano(policy) - telemetry_nano(policy)
        fifth = cheap(room // 5 // event_nano(cheap(), policy.alpha) + 1)
        start, outcomes = threading.Barrier(16), []

        def ask(number: int) -> None:
            start.wait()
            try:
                outcomes.append(ledger.reserve_run(f"run-{number}", [0], [fifth]).id)
            except BudgetExhaustedError:
                outcomes.append(None)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(x for x in outcomes if x is not None) == [0, 1, 2, 3]
        assert outcomes.count(None) == 12
        assert ledger.spending(0).epsilon <= policy.epsilon
        ledger.check_chain()

    def test_threads_that_ask_for_the_same_run_share_it(self, ledger: Ledger) -> None:
        """Retries that race are charged once."""
        start, numbers = threading.Barrier(8), []

        def ask() -> None:
            start.wait()
            numbers.append(ledger.reserve_run("run", [0], [cheap()]).id)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert numbers == [0] * 8
        ledger.check_chain()


class TestGrants:
    def test_parts_of_a_run_are_granted(
        self, ledger: Ledger, training_event: DiscreteGaussianEvent
    ) -> None:
        """Two rounds of 20 steps share an event of 40; a third finds nothing."""
        reservation = ledger.reserve_run("run", [0], [training_event, cheap()])
        half = training_event.model_copy(update={"count": 20})

        assert ledger.grant(reservation, "train/0", half).remaining == 20
        assert ledger.grant(reservation, "train/1", half).remaining == 20
        assert ledger.grant(reservation, "evaluate", cheap()).remaining == 1
        for key, event in (("train/2", half), ("evaluate/2", cheap())):
            with pytest.raises(ReservationError):
                ledger.grant(reservation, key, event)

    def test_what_was_not_reserved_is_not_granted(self, ledger: Ledger) -> None:
        """Another mechanism, or more of it, than the reservation holds."""
        reservation = ledger.reserve_run("run", [0], [cheap(3)])

        less_noise = DiscreteGaussianEvent(sensitivity2=1, sigma2=9_999, count=1, dimension=2)
        for event in (less_noise, cheap(4)):
            with pytest.raises(ReservationError):
                ledger.grant(reservation, "k", event)

    def test_an_invented_reservation_is_refused(self, ledger: Ledger) -> None:
        """Only what this ledger charged is granted."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        for invented in (
            dataclasses.replace(reservation, events=(cheap(100),)),
            dataclasses.replace(reservation, id=99),
        ):
            with pytest.raises(ReservationError):
                ledger.grant(invented, "k", invented.events[0])

    def test_a_key_is_granted_again_until_noise_is_drawn(self, ledger: Ledger) -> None:
        """The earlier grant is void; after settlement the stored bytes are all there is."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        first = ledger.grant(reservation, "k", cheap())

        second = ledger.grant(reservation, "k", cheap())

        with pytest.raises(ReservationError):
            first.take(1, 10_000, 2)
        second.take(1, 10_000, 2)
        ledger.settle(reservation, "k", BYTES, "os")
        with pytest.raises(ReservationError):
            ledger.grant(reservation, "k", cheap())

    def test_a_draw_at_the_moment_of_asking_again_is_a_gap(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another thread draws just before its grant becomes void: there is no second one."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        first, void = ledger.grant(reservation, "k", cheap()), Grant.void

        def drawn_first(grant: Grant) -> int:
            if grant.remaining:
                grant.take(1, 10_000, 2)
            return void(grant)

        monkeypatch.setattr(Grant, "void", drawn_first)
        with pytest.raises(DrawLostError):
            ledger.grant(reservation, "k", cheap())
        assert first.remaining == 0 and [entry.key for entry in gaps(ledger)] == ["k"]

    def test_no_grant_comes_out_of_a_transaction_that_may_be_undone(
        self, state: StateFile, ledger: Ledger
    ) -> None:
        """It would be forgotten with it, after noise was drawn, and given again."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        with pytest.raises(RuntimeError, match="transaction"), state.transaction():
            ledger.grant(reservation, "k", cheap())
        noised(ledger, reservation, "k", cheap())
        ledger.settle(reservation, "k", BYTES, "os")

    @pytest.mark.parametrize("drawn", ["here", "in another process"])
    def test_a_lost_draw_is_a_gap_and_never_drawn_again(self, ledger: Ledger, drawn: str) -> None:
        """Noised and asked for again: an entry says so once, and the charge stands."""
        reservation = ledger.reserve_run("run", [0], [cheap(2), cheap()])
        charged = ledger.spending(0).training_nano
        grant = ledger.grant(reservation, "k", cheap(2))
        if drawn == "here":
            grant.take(1, 10_000, 2)
        else:
            grant.to_bytes()

        for _ in range(3):
            with pytest.raises(DrawLostError, match="'k'"):
                ledger.grant(reservation, "k", cheap(2))

        with pytest.raises(ReservationError):  # what was left of it is void
            grant.take(1, 10_000, 2)
        with pytest.raises(DrawLostError):
            ledger.settle(reservation, "k", BYTES, "os")
        with pytest.raises(ReservationError):  # its part of the reservation stays taken
            ledger.grant(reservation, "other", cheap(2))
        assert [entry.key for entry in gaps(ledger)] == ["k"]
        assert ledger.spending(0).training_nano == charged
        ledger.grant(reservation, "evaluate", cheap()).take(1, 10_000, 2)
        ledger.settle(reservation, "evaluate", BYTES, "os")
        ledger.check_chain()

    def test_what_a_process_left_open_is_a_gap_at_the_next_start(
        self, state: StateFile, ledger: Ledger, policy: PrivacyPolicy
    ) -> None:
        """Granted and not settled: nobody knows whether it was noised. All else is no gap."""
        reservation = ledger.reserve_run("run", [0], [cheap(3)])
        noised(ledger, reservation, "settled", cheap())
        ledger.settle(reservation, "settled", BYTES, "os")
        ledger.grant(reservation, "granted", cheap())

        for _ in range(2):
            again = Ledger(state, policy, clock=lambda: 2000.0)

        assert [entry.key for entry in gaps(again)] == ["granted"]
        with pytest.raises(DrawLostError):
            again.grant(reservation, "granted", cheap())
        again.grant(reservation, "unasked", cheap())
        again.check_chain()

    def test_settling_ends_the_grant(self, ledger: Ledger) -> None:
        """What was not drawn by then is never drawn."""
        reservation = ledger.reserve_run("run", [0], [cheap(2)])
        grant = ledger.grant(reservation, "k", cheap(2))
        grant.take(1, 10_000, 2)
        ledger.settle(reservation, "k", BYTES, "os")

        with pytest.raises(ReservationError):
            grant.take(1, 10_000, 2)

    def test_a_key_keeps_its_event(self, ledger: Ledger) -> None:
        """A round that is asked again is the same round."""
        reservation = ledger.reserve_run("run", [0], [cheap(5)])
        ledger.grant(reservation, "k", cheap(2))

        with pytest.raises(ReservationError):
            ledger.grant(reservation, "k", cheap(3))

    def test_reservations_do_not_share_keys(self, ledger: Ledger) -> None:
        """Each window's report has the same key in its own reservation."""
        for window in range(3):
            reservation = ledger.reserve_window(window, 0, [cheap()])
            noised(ledger, reservation, "features", cheap())
            ledger.settle(reservation, "features", sha256_hex(bytes([window])), "os")

            assert ledger.settled(reservation, "features") == sha256_hex(bytes([window]))
        ledger.check_chain()


class TestSettling:
    def test_it_joins_the_callers_transaction(self, state: StateFile, ledger: Ledger) -> None:
        """If the bytes could not be stored they were not settled either, and it is tried again."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        noised(ledger, reservation, "k", cheap())
        entries = ledger.entries()

        class DiskFullError(Exception):
            pass

        with pytest.raises(DiskFullError), state.transaction():
            ledger.settle(reservation, "k", BYTES, "os")
            raise DiskFullError

        assert ledger.settled(reservation, "k") is None
        assert ledger.entries() == entries
        with state.transaction():
            ledger.settle(reservation, "k", BYTES, "os")
        assert ledger.settled(reservation, "k") == BYTES
        ledger.check_chain()

    def test_settling_twice_is_settling_once(self, ledger: Ledger) -> None:
        """The same bytes again change nothing; other bytes are a second release, refused."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        noised(ledger, reservation, "k", cheap())
        ledger.settle(reservation, "k", BYTES, "os")
        entries = ledger.entries()

        ledger.settle(reservation, "k", BYTES, "os")

        assert ledger.entries() == entries
        with pytest.raises(ReservationError):
            ledger.settle(reservation, "k", OTHER_BYTES, "os")

    def test_nothing_is_settled_without_a_grant(self, ledger: Ledger) -> None:
        """Bytes that no grant noised are not released."""
        reservation = ledger.reserve_run("run", [0], [cheap()])

        with pytest.raises(ReservationError):
            ledger.settle(reservation, "k", BYTES, "os")

    def test_nothing_is_settled_without_noise(self, ledger: Ledger) -> None:
        """A grant from which no noise was taken releases nothing."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        ledger.grant(reservation, "k", cheap())

        with pytest.raises(ReservationError):
            ledger.settle(reservation, "k", BYTES, "os")

    @pytest.mark.parametrize("kind", ["seeded", "", "none"])
    def test_a_real_ledger_settles_real_noise(self, ledger: Ledger, kind: str) -> None:
        """Seeded noise, or noise of an unknown kind, is never released for real."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        noised(ledger, reservation, "k", cheap())

        with pytest.raises(ReservationError):
            ledger.settle(reservation, "k", BYTES, kind)

    @pytest.mark.parametrize("artefact", ["", "abc", BYTES.upper()])
    def test_an_artefact_has_a_hash(self, ledger: Ledger, artefact: str) -> None:
        """A settlement names the bytes that left."""
        reservation = ledger.reserve_run("run", [0], [cheap()])
        noised(ledger, reservation, "k", cheap())

        with pytest.raises(ReservationError):
            ledger.settle(reservation, "k", artefact, "os")
        assert ledger.settled(reservation, "k") is None


class TestSimulated:
    @pytest.mark.parametrize("kind", ["os", "seeded"])
    def test_a_simulated_ledger_settles_either_and_says_so(
        self, state: StateFile, policy: PrivacyPolicy, kind: str
    ) -> None:
        """Every entry is marked, and so is every grant."""
        ledger = Ledger(state, policy, clock=lambda: 0.0, simulated=True)
        ledger.open_block(0)
        reservation = ledger.reserve_window(0, 0, [cheap()])

        grant = ledger.grant(reservation, "k", cheap())
        assert grant.simulated
        grant.take(1, 10_000, 2)
        ledger.settle(reservation, "k", BYTES, kind)

        assert all(json.loads(entry)["simulated"] for entry in ledger.entries())
        ledger.check_chain()

    @pytest.mark.parametrize("simulated", [True, False])
    def test_a_ledger_stays_what_it_is(
        self, state: StateFile, policy: PrivacyPolicy, simulated: bool
    ) -> None:
        """A simulation never goes on in a real ledger, nor the other way round."""
        Ledger(state, policy, clock=lambda: 0.0, simulated=simulated)

        with pytest.raises(StateError):
            Ledger(state, policy, clock=lambda: 0.0, simulated=not simulated)


class TestExclusions:
    def test_an_exclusion_is_entered_once(self, state: StateFile, policy: PrivacyPolicy) -> None:
        """Before the block opens, after it, and again after a restart: one entry each."""
        ledger = Ledger(state, policy, clock=lambda: 0.0)
        ledger.exclude(4, "escalation")
        ledger.open_block(4)
        ledger.exclude(4, "sketches")

        again = Ledger(state, policy, clock=lambda: 1.0)
        again.exclude(4, "escalation")

        kinds = [json.loads(entry)["kind"] for entry in again.entries()]
        assert kinds == ["created", "policy", "excluded", "opened", "excluded"]
        again.check_chain()

    def test_an_exclusion_that_was_taken_out_is_seen(
        self, state: StateFile, ledger: Ledger
    ) -> None:
        """The guarantee leaves out what the chain says, whatever the table says."""
        ledger.exclude(0, "escalation")
        with state.transaction() as db:
            db.execute("DELETE FROM ledger_exclusions")

        with pytest.raises(StateError):
            ledger.check_chain()


class TestErasures:
    @pytest.mark.parametrize(
        ("reason", "asked"), [("erasure", 7), ("consent", 0), ("retention", 0), ("quota", 0)]
    )
    def test_only_what_is_public_is_entered(
        self, ledger: Ledger, reason: ErasureReason, asked: int
    ) -> None:
        """How many ids were asked for; no charge changes."""
        ledger.reserve_run("run", [0], [cheap()])
        before = ledger.spendings()

        ledger.note_erasure(reason, asked=asked)

        entry = json.loads(ledger.entries()[-1])
        assert (entry["kind"], entry["reason"], entry["records"]) == ("erased", reason, asked)
        assert ledger.spendings() == before
        ledger.check_chain()

    @pytest.mark.parametrize("reason", ["consent", "retention", "quota"])
    def test_a_number_beside_ids_is_not_entered(
        self, ledger: Ledger, reason: ErasureReason
    ) -> None:
        """How many records a subject or a block had is no public fact."""
        with pytest.raises(ValueError, match="names no record ids"):
            ledger.note_erasure(reason, asked=7)

    def test_it_joins_the_callers_transaction(self, state: StateFile, ledger: Ledger) -> None:
        """What was not removed was not erased."""
        entries = ledger.entries()
        with pytest.raises(ZeroDivisionError), state.transaction():
            ledger.note_erasure("erasure", asked=1)
            raise ZeroDivisionError

        assert ledger.entries() == entries


class TestChain:
    def filled(self, ledger: Ledger) -> None:
        ledger.open_block(1)
        reservation = ledger.reserve_window(0, 0, [cheap()])
        noised(ledger, reservation, "features", cheap())
        ledger.settle(reservation, "features", BYTES, "os")
        ledger.reserve_run("run", [0, 1], [cheap(7)])

    def test_an_untouched_ledger_checks_out(self, ledger: Ledger) -> None:
        """Entries are canonical JSON, numbered, and hold no key that could name a person."""
        self.filled(ledger)

        ledger.check_chain()

        entries = [json.loads(entry) for entry in ledger.entries()]
        assert [entry["seq"] for entry in entries] == list(range(7))
        assert [entry["kind"] for entry in entries] == [
            "created",
            "policy",
            "opened",
            "opened",
            "window",
            "settled",
            "run",
        ]

    @pytest.mark.parametrize(
        "tampering",
        [
            "DELETE FROM ledger_entries WHERE seq = 6",
            "DELETE FROM ledger_entries WHERE seq = 2",
            "UPDATE ledger_entries SET body = CAST(REPLACE(body, '10000', '20000') AS BLOB)"
            " WHERE seq = 4",
            "UPDATE ledger_entries SET body = CAST(body || ' ' AS BLOB) WHERE seq = 6",
            "UPDATE ledger_charges SET nano = nano - 1 WHERE window IS NULL AND block = 1",
            "DELETE FROM ledger_charges WHERE window IS NULL AND block = 1",
            "DELETE FROM ledger_charges WHERE window = 0",
            "UPDATE ledger_parts SET artefact = NULL",
            "UPDATE ledger_parts SET artefact = 'f'",
        ],
    )
    def test_tampering_is_seen(self, state: StateFile, ledger: Ledger, tampering: str) -> None:
        """A changed or missing row or entry does not win any budget back unseen."""
        self.filled(ledger)
        with state.transaction() as db:
            assert db.execute(tampering).rowcount > 0

        with pytest.raises(StateError):
            ledger.check_chain()

    def test_a_clock_that_says_nothing_is_refused(
        self, state: StateFile, policy: PrivacyPolicy
    ) -> None:
        """An entry has a time; a NaN is none, and nothing is written."""
        now = [0.0]
        ledger = Ledger(state, policy, clock=lambda: now[0])
        now[0] = math.nan

        with pytest.raises(NonFiniteValueError):
            ledger.open_block(0)
        assert ledger.spendings() == ()


@settings(max_examples=30, deadline=None)
@given(
    asks=st.lists(
        st.one_of(
            st.tuples(st.just("window"), st.integers(0, 9), st.integers(1, 600)),
            st.tuples(st.just("run"), st.integers(0, 5), st.integers(1, 3000)),
        ),
        max_size=25,
    )
)
def test_no_sequence_of_asks_overdraws(
    asks: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is asked in whatever order, every block stays under its bound, and replays to it."""
    policy = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=5))
    state = StateFile(Path(tmp_path_factory.mktemp("ledger")) / "state.sqlite")
    ledger = Ledger(state, policy, clock=lambda: 0.0)
    ledger.open_block(0)
    ledger.open_block(1)
    granted = {0: 0, 1: 0}
    try:
        for kind, number, count in asks:
            nano = event_nano(cheap(count), policy.alpha)
            try:
                if kind == "window":
                    ledger.reserve_window(number, number // 5, [cheap(count)])
                else:
                    blocks = {0: [0], 1: [1]}.get(number % 3, [0, 1])
                    known = any(f'"run_id":"r{number}"'.encode() in e for e in ledger.entries())
                    ledger.reserve_run(f"r{number}", blocks, [cheap(count)])
                    for block in blocks:
                        granted[block] += 0 if known else nano
            except (BudgetExhaustedError, ReservationError):
                continue
        for spending in ledger.spendings():
            assert spending.training_nano == granted[spending.block]
            assert spending.telemetry_nano + spending.training_nano <= spending.cap_nano
            assert spending.epsilon <= policy.epsilon
        ledger.check_chain()
    finally:
        state.close()
