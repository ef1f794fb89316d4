"""Bad input and bad luck: odd plans, clocks, threads, old and later builds, full disks."""

from __future__ import annotations

import math
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedge.errors import (
    BudgetError,
    BudgetExhaustedError,
    FedgeError,
    ReservationError,
    StateError,
    UnknownEventError,
)
from fedge.privacy.entries import Adopted, read_entry
from fedge.privacy.ledger import Ledger, Reservation
from fedge.privacy.merkle import tree_hash, verify_consistency, verify_inclusion
from fedge.privacy.policy import new_policy, read_policy
from fedge.privacy.rdp import event_nano
from fedge.privacy.replay import replay
from fedge.records import (
    BlockLength,
    DiscreteGaussianEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    sha256_hex,
)
from fedge.statefile import StateFile

GOLDEN = Path(__file__).parent.parent / "golden" / "layout-1.tar.gz"
RELEASE = DiscreteGaussianEvent(sensitivity2=1, sigma2=10_000, count=1, dimension=2)
SAMPLED = PoissonGaussianEvent(rate_ppm=1000, sensitivity2=1, sigma2=25, count=10, dimension=2)
POLICY = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=100))


def settle(ledger: Ledger, reservation: Reservation, key: str, data: bytes = b"noised") -> None:
    ledger.grant(reservation, key, RELEASE).take(1, 10_000, 2)
    ledger.settle(reservation, key, sha256_hex(data), "os")


ODD = [
    (kind, name, value)
    for kind in (DiscreteGaussianEvent, PoissonGaussianEvent)
    for name in ("sensitivity2", "sigma2", "count", "dimension", "rate_ppm")
    for value in (-1, 0, math.nan, math.inf, 1.5, "1", None, 2**31)
    # Sensitivity and variance have no upper bound: their price has.
    if name in kind.model_fields and (value != 2**31 or not name.endswith("2"))
]


class TestOddPlans:
    @pytest.mark.parametrize(("kind", "name", "value"), ODD)
    def test_an_event_of_odd_numbers_is_none(
        self, kind: type[PrivacyEvent], name: str, value: object
    ) -> None:
        """Negative, zero, NaN, fractions, texts and huge numbers never become an event."""
        good = (RELEASE if kind is DiscreteGaussianEvent else SAMPLED).model_dump()
        kind.model_validate(good)
        with pytest.raises(ValidationError):
            kind.model_validate(good | {name: value})

    @pytest.mark.parametrize(
        "event",
        [
            RELEASE.model_copy(update={"sensitivity2": 10**300}),
            RELEASE.model_copy(update={"count": 2**31 - 1, "sigma2": 1}),
            SAMPLED.model_copy(update={"sensitivity2": 10**6, "sigma2": 1}),
            SAMPLED.model_copy(update={"sensitivity2": 10**300, "sigma2": 1}),
            SAMPLED.model_copy(update={"count": 2**31 - 1}),
        ],
    )
    def test_a_huge_charge_is_refused(self, ledger: Ledger, event: PrivacyEvent) -> None:
        """Too dear, or beyond all prices; never an overflow, and nothing is charged."""
        before = ledger.entries()
        for reserve in (
            lambda: ledger.reserve_run("run", [0], [event]),
            lambda: ledger.reserve_window(0, 0, [event]),
        ):
            with pytest.raises((BudgetExhaustedError, UnknownEventError)):
                reserve()
        assert ledger.entries() == before

    def test_a_thousand_retries_are_one_charge(self, ledger: Ledger) -> None:
        """And a thousand names are a thousand charges, until nothing is left."""
        for _ in range(1000):
            ledger.reserve_run("run", [0], [RELEASE])
        assert ledger.spending(0).training_nano == event_nano(RELEASE, POLICY.alpha)

        dear = RELEASE.model_copy(update={"count": 500})
        with pytest.raises(BudgetExhaustedError):
            for number in range(1000):
                ledger.reserve_run(f"other-{number}", [0], [dear])
        spending = ledger.spending(0)
        assert spending.telemetry_nano + spending.training_nano <= spending.cap_nano

    def test_less_noise_under_the_same_reservation_is_refused(self, ledger: Ledger) -> None:
        """More steps, a smaller sigma, a larger rate or full batches: all are other events."""
        reservation = ledger.reserve_run("run", [0], [SAMPLED])
        for name, value in (("count", 11), ("sigma2", 24), ("rate_ppm", 1001), ("sensitivity2", 2)):
            with pytest.raises(ReservationError):
                ledger.grant(reservation, "k", SAMPLED.model_copy(update={name: value}))
        full = {k: v for k, v in SAMPLED.model_dump().items() if k not in ("rate_ppm", "kind")}
        with pytest.raises(ReservationError):
            ledger.grant(reservation, "k", DiscreteGaussianEvent.model_validate(full))

        grant = ledger.grant(reservation, "k", SAMPLED)
        for rate in (None, 0, 1001):
            with pytest.raises(ReservationError):
                grant.take(1, 25, 2, rate)
        grant.take(1, 25, 2, 1000)
        with pytest.raises(ReservationError):
            ledger.settle(reservation, "k", sha256_hex(b"noised"), "seeded")
        ledger.settle(reservation, "k", sha256_hex(b"noised"), "os")
        assert b'"noise":"os-float"' in ledger.entries()[-1]
        ledger.check_chain()

    @pytest.mark.parametrize("block", [-1, 5, 2**53])
    def test_other_blocks_are_refused(self, ledger: Ledger, block: int) -> None:
        """Blocks that were never opened have no budget, whatever their number."""
        for reserve in (
            lambda: ledger.reserve_run("run", [0, block], [RELEASE]),
            lambda: ledger.reserve_window(0, block, [RELEASE]),
            lambda: ledger.spending(block),
        ):
            with pytest.raises(ReservationError):
                reserve()
        assert ledger.spending(0).training_nano == 0

    @pytest.mark.parametrize("block", [-1, 2**53])
    def test_a_block_has_a_number(self, ledger: Ledger, block: int) -> None:
        with pytest.raises(BudgetError):
            ledger.open_block(block)
        ledger.check_chain()


def test_a_clock_that_jumps_back_breaks_nothing(state: StateFile) -> None:
    """Entries say what the clock said; their order is their number."""
    now = iter([5e9, 5e9, 1.0, -7.0, 0.0, 4e9])
    ledger = Ledger(state, POLICY, clock=lambda: next(now))
    for block in range(4):
        ledger.open_block(block)

    assert [read_entry(data).at for data in ledger.entries()] == [5e9, 5e9, 1.0, -7.0, 0.0, 4e9]
    ledger.check_chain()


class TestThreads:
    @settings(max_examples=10, deadline=None)
    @given(counts=st.lists(st.integers(100, 3000), min_size=4, max_size=12))
    def test_no_schedule_overdraws(
        self, counts: list[int], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Runs of any size at once on overlapping blocks, and windows and settlements between."""
        state = StateFile(tmp_path_factory.mktemp("ledger") / "state.sqlite")
        ledger = Ledger(state, POLICY, clock=lambda: 0.0)
        for block in range(3):
            ledger.open_block(block)
        start, failures = threading.Barrier(len(counts)), []

        def ask(number: int, count: int) -> None:
            start.wait()
            try:
                settle(ledger, ledger.reserve_window(number, number % 3, [RELEASE]), "features")
                blocks = [number % 3, (number + 1) % 3]
                event = RELEASE.model_copy(update={"count": count})
                ledger.reserve_run(f"r{number}", blocks, [event])
            except BudgetExhaustedError:
                return
            except FedgeError as error:
                failures.append(error)

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(counts)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            for spending in ledger.spendings():
                assert spending.telemetry_nano + spending.training_nano <= spending.cap_nano
            assert len(replay(ledger.entries()).window_nano) == len(counts)
            ledger.check_chain()
        finally:
            state.close()


class TestProofs:
    def test_entries_and_their_beginnings_are_proven(self, state: StateFile) -> None:
        """Of every size, against roots over the entries themselves, also after a restart."""
        ledger = Ledger(state, POLICY, clock=lambda: 0.0)
        for block in range(9):
            ledger.open_block(block)
            ledger = Ledger(state, POLICY, clock=lambda: 0.0)
            assert ledger.root() == tree_hash(ledger.entries()).hex()
        entries, size = ledger.entries(), ledger.size

        assert size == len(entries) == 11
        assert ledger.entries_from(4, 3) == entries[4:7] and ledger.entries_from(11) == ()
        for old in range(1, size + 1):
            root = bytes.fromhex(ledger.root(old))
            assert root == tree_hash(entries[:old])
            proof = ledger.consistency_proof(old)
            verify_consistency(old, size, root, bytes.fromhex(ledger.root()), proof)
            for seq in range(old):
                leaf = bytes.fromhex(read_entry(entries[seq]).hash)
                verify_inclusion(leaf, seq, old, ledger.inclusion_proof(seq, old), root)

    @pytest.mark.parametrize("size", [-1, 3, 10**9])
    def test_what_is_not_there_has_no_root(self, state: StateFile, size: int) -> None:
        ledger = Ledger(state, POLICY, clock=lambda: 0.0)
        for ask in (ledger.root, lambda size: ledger.inclusion_proof(0, size)):
            with pytest.raises(StateError):
                ask(size)

    @pytest.mark.parametrize(
        "tampering",
        [
            "UPDATE ledger_frontier SET size = 2, peaks = zeroblob(32)",
            "UPDATE ledger_frontier SET peaks = zeroblob(64)",
            "UPDATE ledger_entries SET hash = '" + "ab" * 32 + "' WHERE seq = 2",
        ],
    )
    def test_a_changed_frontier_is_seen(self, state: StateFile, tampering: str) -> None:
        """A head that would be signed over it is wrong."""
        ledger = Ledger(state, POLICY, clock=lambda: 0.0)
        ledger.open_block(0)
        with state.transaction() as db:
            assert db.execute(tampering).rowcount > 0

        with pytest.raises(StateError):
            ledger.check_chain()


class TestOtherBuilds:
    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        """A state directory as the first layout left it."""
        with tarfile.open(GOLDEN) as archive:
            archive.extractall(tmp_path)
        return tmp_path / "state"

    def test_an_old_ledger_goes_on_byte_for_byte(self, old: Path) -> None:
        """Its entries stay as they are; the policy it had is entered behind them."""
        with sqlite3.connect(old / "state.sqlite") as db:
            before = [bytes(b) for (b,) in db.execute("SELECT body FROM ledger_entries")]
        replay(before)
        policy, state = read_policy(old / "policy.toml"), StateFile(old / "state.sqlite")
        try:
            ledger = Ledger(state, policy, clock=lambda: 2e9, gateway="ab" * 16)
            entries = ledger.entries()
            assert list(entries[:-1]) == before
            assert ledger.root(len(before)) == tree_hash(before).hex()
            last = read_entry(entries[-1])
            assert isinstance(last, Adopted) and last.policy == policy
            ledger.check_chain()
            newest = max(spending.block for spending in ledger.spendings()) + 1
            ledger.open_block(newest)
            settle(ledger, ledger.reserve_window(999, newest, [RELEASE]), "features")
            ledger.check_chain()
        finally:
            state.close()

    def test_runs_without_a_purpose_count_as_training(
        self, state: StateFile, ledger: Ledger
    ) -> None:
        """As an earlier build left them, also for quotas."""
        ledger.reserve_run("run", [0], [RELEASE, RELEASE], purposes=("training", "evaluation"))
        nano = ledger.spending(0).training_nano
        with state.transaction() as db:
            for table in ("uses", "frontier"):
                db.execute(f"DROP TABLE ledger_{table}")

        again = Ledger(state, POLICY, clock=lambda: 0.0)

        rows = state.rows("SELECT block, purpose, task, nano FROM ledger_uses")
        assert rows == [(0, "training", "", nano)]
        assert again.root() == tree_hash(again.entries()).hex()
        again.check_chain()

    def test_a_later_builds_ledger_is_left_alone(self, state: StateFile, ledger: Ledger) -> None:
        """Whoever cannot read it cannot know what was spent."""
        with state.transaction() as db:
            db.execute(
                "UPDATE ledger_entries SET body ="
                """ CAST(REPLACE(body, '"schema_version":2', '"schema_version":3') AS BLOB)"""
                " WHERE seq = 2"
            )
        with pytest.raises(StateError, match="later build"):
            Ledger(state, POLICY, clock=lambda: 0.0)


class TestFaultsBetweenSteps:
    """Cut at every few steps of the database: charged is never less than released."""

    def cut(self, state: StateFile, steps: int, work: Callable[[], object]) -> bool:
        """Do the work with a database that fails once, after so many steps; whether it was done."""
        left = [steps]

        def stop() -> int:
            left[0] -= 1
            return int(left[0] == -1)

        state._db.set_progress_handler(stop, 4)
        try:
            work()
        except (StateError, sqlite3.OperationalError):
            return False
        finally:
            state._db.set_progress_handler(None, 0)
        return True

    @pytest.mark.parametrize("part", ["reserve", "grant", "settle"])
    def test_a_cut_leaves_all_of_a_step_or_none(
        self, state: StateFile, ledger: Ledger, part: str
    ) -> None:
        """Bytes are kept where they are settled, settled where they are charged, and no other."""
        state.ensure("CREATE TABLE outbox (run TEXT)")
        price, cuts, done = event_nano(RELEASE, POLICY.alpha), 0, False
        while not done:
            run = f"run-{cuts}"
            ledger.open_block(cuts)

            done = self.release(state, ledger, run, cuts, {part: cuts})

            charged = ledger.spending(cuts).training_nano
            sent = {name for (name,) in state.rows("SELECT run FROM outbox")}
            assert charged in ((0, price) if part == "reserve" else (price,))
            assert charged == price or run not in sent
            reservation = ledger.reserve_run(run, [cuts], [RELEASE])
            assert ledger.spending(cuts).training_nano == price
            assert (run in sent) == (ledger.settled(reservation, "k") is not None)
            assert run in sent or not done
            ledger.check_chain()
            cuts += 1
        assert cuts > 10, f"it was cut at {cuts} places only"

    def release(
        self, state: StateFile, ledger: Ledger, run: str, block: int, steps: dict[str, int]
    ) -> bool:
        """Reserve, grant and settle as an agent does; false where one was cut."""

        def settle() -> None:
            with state.transaction() as db:
                db.execute("INSERT INTO outbox VALUES (?)", (run,))
                ledger.settle(reservation, "k", sha256_hex(run.encode()), "os")

        def cut(part: str, work: Callable[[], object]) -> bool:
            return self.cut(state, steps.get(part, 10**9), work)

        if not cut("reserve", lambda: ledger.reserve_run(run, [block], [RELEASE])):
            return False
        reservation = ledger.reserve_run(run, [block], [RELEASE])
        if not cut("grant", lambda: ledger.grant(reservation, "k", RELEASE)):
            return False
        ledger.grant(reservation, "k", RELEASE).take(1, 10_000, 2)
        return cut("settle", settle)
