"""What a gateway promises whose state was wiped, put back, copied or cut off, and who checks it.

Real agents on real state directories; the coordinator is the real one, with its database, in
this process. What it holds at the end is replayed: of every block no more was released than
its stored ledger charges for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.centre import WITNESS
from fakes.kills import KillPoints, killed
from tests_clients import WINDOW, Gateway

from fedge.config import TrainingSettings
from fedge.delivery.journal import Install, InstallJournal, Running
from fedge.errors import FedgeError, OutboundError, ParticipationRefusedError, StateError
from fedge.identity import Envelope, Identity
from fedge.learning.planning import plan_training
from fedge.privacy.chain import Chain
from fedge.privacy.entries import Recovered, Settled, read_entry
from fedge.privacy.heads import sign_head, verify_witnessed, witness_head, witness_standing
from fedge.privacy.ledger import Ledger
from fedge.privacy.replay import replay
from fedge.profiles.wire import decode_report
from fedge.records import (
    AuditBatch,
    LedgerStanding,
    Participant,
    Receipt,
    RoundRequest,
    RunSpec,
    WitnessedStanding,
    sha256_hex,
)
from fedge.statefile import StateFile
from fedge_client.agent import audit
from fedge_client.agent.agent import Agent
from fedge_client.agent.audit import AuditTrail
from fedge_client.agent.label_report import LabelReporter
from fedge_client.agent.spool import Spool
from fedge_client.agent.standing import Standing
from fedge_client.agent.training import TrainingDesk
from fedge_client.agent.watch_state import WatchState
from fedge_server.app import status_of
from fedge_server.database import Database
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.ledger_report import LedgerState, ledgers_state
from fedge_server.ledgers import Ledgers, read_ledger
from fedge_server.witness import Witness

BLOCK_WINDOWS = 2
DIMENSION = 4
ARRAYS = np.zeros(DIMENSION, dtype="<f4").tobytes()


STEPS: list[tuple[type, str]] = [
    (Ledger, "recover"),
    (Chain, "replace"),
    (Chain, "append"),
    (Spool, "start_over"),
    (AuditTrail, "go_on_from"),
    (LabelReporter, "forget_planned"),
    (WatchState, "go_on_from"),
    (Standing, "_in_step"),
    (Spool, "never_below"),
    (Witness, "take"),
]
"""Between any two of these a gateway, or the coordinator, may be killed."""


@dataclass
class RealCentre:
    """The way to a real coordinator in this process, for `fakes`' gateways.

    Attributes:
        old: it is of a version that knows no ledgers.
        twist: changes answers to questions on their way.
        witness: the key with which it confirms.
        sent: everything that left the gateways, taken or not.
    """

    folder: Path
    now: float = 1_700_000_000.0
    down: bool = False
    old: bool = False
    twist: Callable[[bytes], bytes] = lambda body: body
    witness: Identity = WITNESS
    sent: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(f"sqlite:///{self.folder / 'centre.sqlite'}")
        self.ingest = Ingest(
            self.database, self._clock, self.witness, max_payload_bytes=2**22, simulated=True
        )
        self.ledgers = Ledgers(self.database)

    def _clock(self) -> float:
        self.now += 1.0
        return self.now

    def __call__(self, envelope: bytes) -> int:
        if self.down:
            raise OutboundError("no coordinator")
        self.sent.append(envelope)
        try:
            self.ingest.accept(envelope)
        except FedgeError as error:
            return status_of(error)
        return 200

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        if self.down:
            raise OutboundError("no coordinator")
        self.asked.append(path)
        if self.old:
            return 404, b""
        status, body = read_ledger(self.ledgers, self.witness, path)
        return status, self.twist(body)

    # --- what it knows ----------------------------------------------------------------

    def state(self, gateway: Gateway) -> LedgerState:
        found = ledgers_state(self.database, WITNESS.public_key, self.now)
        return next(s for s in found.simulated if s.gateway == gateway.identity.fingerprint)

    def entries(self, gateway: Gateway) -> list[bytes]:
        return list(self.ledgers.entries(gateway.identity.fingerprint))

    def content(self) -> set[str]:
        """Hashes of all content-derived payloads that were sent here."""
        envelopes = map(Envelope.from_bytes, self.sent)
        return {e.header.payload_sha256 for e in envelopes if e.header.kind in ("report", "labels")}

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[RealCentre]:
    made = RealCentre(tmp_path)
    yield made
    made.close()


@pytest.fixture
def gateway(centre: RealCentre, make_gateway: Callable[..., Gateway]) -> Iterator[Gateway]:
    made = make_gateway(block_windows=BLOCK_WINDOWS, label_rho=0.005)
    made.centre = centre  # type: ignore[assignment]
    Fleet(centre.database, lambda: 1.0).admit(made.identity.public_key.hex(), "one")
    restart(made)
    yield made


def restart(gateway: Gateway) -> Agent:
    return gateway.start()


def play(gateway: Gateway, windows: int) -> None:
    """Serve full windows and let the agent work; nothing is pushed."""
    assert gateway.agent is not None
    for _ in range(windows):
        gateway.serve(WINDOW)
        while gateway.agent.watch_once():
            pass


def push(gateway: Gateway, rounds: int = 6) -> None:
    assert gateway.agent is not None
    for _ in range(rounds):
        gateway.agent.push_once()


def agent_of(gateway: Gateway) -> Agent:
    assert gateway.agent is not None
    return gateway.agent


def state_of(gateway: Gateway) -> str:
    return agent_of(gateway).public_facts().ledger_standing


def backup(gateway: Gateway, to: Path) -> None:
    """Copy what a cold backup of the state file holds."""
    agent_of(gateway).close()
    gateway.agent = None
    shutil.copy(gateway.settings.state_dir / "state.sqlite", to)


def wipe(gateway: Gateway) -> None:
    if gateway.agent is not None:
        gateway.agent.close()
        gateway.agent = None
    for path in gateway.settings.state_dir.glob("state.sqlite*"):
        path.unlink()


def restore(gateway: Gateway, copy: Path) -> None:
    wipe(gateway)
    shutil.copy(copy, gateway.settings.state_dir / "state.sqlite")


def copied(centre: RealCentre, gateway: Gateway, make_gateway: Callable[..., Gateway]) -> Gateway:
    """A second gateway that goes on from this one's state and records, under the same key."""
    twin = make_gateway(block_windows=BLOCK_WINDOWS, label_rho=0.005)
    twin.centre, twin.identity = centre, gateway.identity  # type: ignore[assignment]
    copy = gateway.settings.state_dir / "copy"
    backup(gateway, copy)
    blocks = "blocks"
    shutil.copytree(
        gateway.settings.state_dir / blocks, twin.settings.state_dir / blocks, dirs_exist_ok=True
    )
    restart(gateway)
    restore(twin, copy)
    twin.wall = lambda: 1001.5  # its entries are others, be it by their times alone
    restart(twin)
    push(twin)
    return twin


def recovered(centre: RealCentre, gateway: Gateway) -> list[Recovered]:
    entries = map(read_entry, centre.entries(gateway))
    return [entry for entry in entries if isinstance(entry, Recovered)]


def check_released_is_charged(centre: RealCentre, gateway: Gateway) -> None:
    """Whatever was sent was settled in the one chain that the coordinator confirmed, and that
    chain adds up: no block spent more than its cap."""
    entries = centre.entries(gateway)
    totals = replay(entries)
    settled = {e.artefact_sha256 for e in map(read_entry, entries) if isinstance(e, Settled)}
    assert centre.content() <= settled
    head = centre.ledgers.witnessed(gateway.identity.fingerprint)[-1]
    verify_witnessed(head, WITNESS.public_key, gateway.identity.public_key)
    assert head.head.size == len(entries)
    assert totals.simulated


def check_nothing_left_of(centre: RealCentre, gateway: Gateway, through: int) -> None:
    """After the last recovery nothing is opened, reserved or settled about those blocks."""
    entries = [read_entry(data) for data in centre.entries(gateway)]
    last = max(e.seq for e in entries if isinstance(e, Recovered))
    for entry in entries[last:]:
        assert getattr(entry, "block", through + 1) > through
        assert min(getattr(entry, "blocks", [through + 1])) > through


class TestInStep:
    def test_reports_follow_their_charges(self, centre: RealCentre, gateway: Gateway) -> None:
        """A gateway asks once, is in step, and of all that arrives the ledger is there first."""
        play(gateway, 5)
        push(gateway)

        assert state_of(gateway) == "in-step"
        assert len(centre.asked) == 1
        check_released_is_charged(centre, gateway)
        reports = [e for e in map(Envelope.from_bytes, centre.sent) if e.header.kind == "report"]
        assert len(reports) == 5
        state = centre.state(gateway)
        assert state.entries == state.witnessed_size == agent_of(gateway).ledger.size
        assert not state.in_conflict and not state.fault

    def test_at_no_moment_has_the_coordinator_content_without_its_charge(
        self, centre: RealCentre, gateway: Gateway
    ) -> None:
        """After each single envelope: what came before it is settled in what is stored."""
        fingerprint = gateway.identity.fingerprint
        ingest = centre.ingest.accept

        def watched(envelope: bytes) -> object:
            answer = ingest(envelope)
            stored = map(read_entry, centre.ledgers.entries(fingerprint))
            settled = {e.artefact_sha256 for e in stored if isinstance(e, Settled)}
            assert centre.content() <= settled
            return answer

        centre.ingest.accept = watched  # type: ignore[method-assign, assignment]
        for _ in range(4):
            play(gateway, 2)
            push(gateway, 2)
        assert centre.content()

    def test_a_window_that_closes_while_entries_are_sent_waits(
        self, centre: RealCentre, gateway: Gateway
    ) -> None:
        """Its report is ready before its charge was handed over: it goes with the next push."""
        play(gateway, 1)
        agent_of(gateway).audit.hand_over()
        play(gateway, 1)
        agent_of(gateway).sender.push()

        assert len(centre.content()) == 1
        check_released_is_charged(centre, gateway)
        push(gateway)
        assert len(centre.content()) == 2

    def test_no_entries_overtake_those_that_were_not_taken(
        self, centre: RealCentre, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hole at the coordinator would contradict the ledger of a state that is lost then."""
        monkeypatch.setattr(audit, "BATCH_ENTRIES", 6)
        play(gateway, 1)
        push(gateway)
        taken = centre.ingest.accept
        first = agent_of(gateway).audit.next_seq

        def fails_once_in_the_middle(data: bytes) -> Receipt:
            envelope = Envelope.from_bytes(data)
            is_audit = envelope.header.kind == "audit"
            if is_audit and AuditBatch.from_bytes(envelope.payload).first_seq == first:
                raise StateError("the disk is full")
            return taken(data)

        monkeypatch.setattr(centre.ingest, "accept", fails_once_in_the_middle)
        play(gateway, 5)
        push(gateway, 3)
        assert len(centre.entries(gateway)) == first
        monkeypatch.setattr(centre.ingest, "accept", taken)

        wipe(gateway)
        restart(gateway)
        push(gateway)
        play(gateway, 3)
        push(gateway)

        assert state_of(gateway) == "in-step"
        assert len(centre.entries(gateway)) > first

    def test_a_month_offline(self, centre: RealCentre, gateway: Gateway) -> None:
        """Nobody answers, windows close all the same; then everything arrives and is in step."""
        play(gateway, 2)
        push(gateway)
        restart(gateway)
        centre.down = True
        play(gateway, 30)
        push(gateway, 3)
        assert state_of(gateway) == "unknown"

        centre.down = False
        push(gateway, 20)

        assert state_of(gateway) == "in-step"
        assert recovered(centre, gateway) == []
        check_released_is_charged(centre, gateway)
        assert agent_of(gateway).spool.depth == 0

    def test_a_coordinator_that_lost_entries_gets_them_again(
        self, centre: RealCentre, gateway: Gateway, tmp_path: Path
    ) -> None:
        """Its database was put back: the gateway sends what is missing under new numbers."""
        play(gateway, 2)
        push(gateway)
        centre.database.close()
        shutil.copy(tmp_path / "centre.sqlite", tmp_path / "old.sqlite")
        centre.__post_init__()
        play(gateway, 3)
        push(gateway)
        centre.database.close()
        for path in tmp_path.glob("centre.sqlite*"):
            path.unlink()
        shutil.copy(tmp_path / "old.sqlite", tmp_path / "centre.sqlite")
        centre.__post_init__()

        restart(gateway)
        play(gateway, 2)
        push(gateway)

        assert state_of(gateway) == "in-step"
        assert centre.state(gateway).entries == agent_of(gateway).ledger.size


class TestRecovery:
    @pytest.mark.parametrize("reason", ["wiped", "restored", "forked"])
    def test_a_lost_state_has_no_budget_left_and_goes_on(
        self, centre: RealCentre, gateway: Gateway, tmp_path: Path, reason: str
    ) -> None:
        """Whatever became of the state: known blocks spend nothing more, later ones do."""
        play(gateway, 3)
        push(gateway)
        backup(gateway, tmp_path / "backup.sqlite")
        restart(gateway)
        play(gateway, 3)
        push(gateway)
        before = centre.entries(gateway)
        if reason == "wiped":
            wipe(gateway)
        else:
            restore(gateway, tmp_path / "backup.sqlite")
        sent = len(centre.sent)
        _commit_release(restart(gateway), gateway)
        if reason == "forked":
            play(gateway, 1)

        push(gateway)

        (entry,) = recovered(centre, gateway)
        assert entry.reason == reason
        assert centre.entries(gateway)[: len(before)] == before
        assert entry.witnessed_size == len(before) == entry.seq
        assert entry.through_block >= 2
        assert state_of(gateway) == "in-step"
        news = [Envelope.from_bytes(data).header for data in centre.sent[sent:]]
        assert not [h for h in news if h.kind in ("report", "labels")]

        play(gateway, 2 * BLOCK_WINDOWS + 3)
        push(gateway)

        later = [Envelope.from_bytes(data) for data in centre.sent[sent:]]
        assert [e for e in later if e.header.kind == "report"], "new blocks work"
        check_released_is_charged(centre, gateway)
        check_nothing_left_of(centre, gateway, entry.through_block)
        assert centre.state(gateway).recoveries[-1].reason == reason
        agent_of(gateway).ledger.check_chain()

    def test_what_waited_is_given_up_and_counted(
        self, centre: RealCentre, gateway: Gateway, tmp_path: Path
    ) -> None:
        """Reports that a lost ledger charged for never leave; a gap record says so."""
        play(gateway, 3)
        push(gateway)
        wipe(gateway)
        _commit_release(restart(gateway), gateway)
        play(gateway, 2)
        assert agent_of(gateway).spool.depth

        push(gateway)

        gaps = [e for e in map(Envelope.from_bytes, centre.sent) if e.header.kind == "gap"]
        assert any(b'"kind":"report"' in gap.payload for gap in gaps)
        assert agent_of(gateway).spool.refused == 0
        check_released_is_charged(centre, gateway)

    def test_numbers_are_never_used_twice(self, centre: RealCentre, gateway: Gateway) -> None:
        """Windows and envelopes go on above all that the coordinator has seen."""
        play(gateway, 4)
        push(gateway)
        wipe(gateway)
        _commit_release(restart(gateway), gateway)
        push(gateway)
        play(gateway, 3 * BLOCK_WINDOWS)
        push(gateway)

        sent = [Envelope.from_bytes(data) for data in centre.sent]
        numbers = [e.header.seq for e in sent]
        assert len(set(numbers)) == len(numbers)
        reports = [decode_report(e.payload) for e in sent if e.header.kind == "report"]
        assert [report.window for report in reports] == list(range(4 + 3 * BLOCK_WINDOWS))
        assert agent_of(gateway).spool.refused == 0

    def test_windows_that_were_charged_and_never_sent_keep_their_numbers(
        self, centre: RealCentre, gateway: Gateway
    ) -> None:
        """The ledger knows of them though the coordinator has no report: their numbers would be
        refused in a later block, and their windows lost."""
        play(gateway, 4)
        centre_takes, kinds = centre.ingest.accept, ("report", "labels")

        def entries_alone(envelope: bytes) -> None:
            if Envelope.from_bytes(envelope).header.kind in kinds:
                raise OutboundError("the line broke")
            centre_takes(envelope)

        centre.ingest.accept = entries_alone  # type: ignore[method-assign, assignment]
        push(gateway)
        centre.ingest.accept = centre_takes  # type: ignore[method-assign]
        wipe(gateway)
        _commit_release(restart(gateway), gateway)
        push(gateway)
        sent = len(centre.sent)
        play(gateway, 3 * BLOCK_WINDOWS)
        push(gateway)

        news = [Envelope.from_bytes(data) for data in centre.sent[sent:]]
        reports = [decode_report(e.payload) for e in news if e.header.kind == "report"]
        assert [report.window for report in reports] == list(range(4, 4 + 3 * BLOCK_WINDOWS))
        check_released_is_charged(centre, gateway)

    def test_killed_at_any_point_it_recovers_once(
        self, centre: RealCentre, gateway: Gateway
    ) -> None:
        """Between any two steps: the next start does it again, and there is one entry of it."""
        play(gateway, 3)
        push(gateway)
        wipe(gateway)
        _commit_release(restart(gateway), gateway)
        agent_of(gateway).close()
        gateway.agent = None

        def work(points: KillPoints) -> None:
            for owner, name in STEPS:
                points.wrap(owner, name)
            restart(gateway)
            push(gateway, 3)

        steps = 0
        centre.database.close()
        while killed(work, steps):
            steps += 1
        assert steps > len(STEPS)
        restart(gateway)
        push(gateway)

        assert len(recovered(centre, gateway)) == 1
        assert state_of(gateway) == "in-step"
        check_released_is_charged(centre, gateway)
        agent_of(gateway).ledger.check_chain()

    def test_a_line_that_breaks_while_entries_are_fetched(
        self, centre: RealCentre, gateway: Gateway
    ) -> None:
        """Nothing is done by halves: it is asked again, and recovers then."""
        play(gateway, 3)
        push(gateway)
        wipe(gateway)
        _commit_release(restart(gateway), gateway)
        real = centre.get

        def breaks(path: str, max_bytes: int) -> tuple[int, bytes]:
            if "entries" in path:
                raise OutboundError("the line broke")
            return real(path, max_bytes)

        centre.get = breaks  # type: ignore[method-assign]
        push(gateway, 2)
        assert state_of(gateway) == "unknown"
        assert agent_of(gateway).ledger.recovered_through == -1
        centre.get = real  # type: ignore[method-assign]

        push(gateway)
        assert state_of(gateway) == "in-step"
        assert len(recovered(centre, gateway)) == 1


class TestTwoAgents:
    def test_a_copied_state_directory(
        self, centre: RealCentre, gateway: Gateway, make_gateway: Callable[..., Gateway]
    ) -> None:
        """Of two that go on from one state the second is refused, sends nothing more, answers no
        round, and is seen; at its next start it has no budget left."""
        play(gateway, 2)
        push(gateway)
        twin = make_gateway(block_windows=BLOCK_WINDOWS, label_rho=0.005)
        twin.centre, twin.identity = centre, gateway.identity  # type: ignore[assignment]
        backup(gateway, gateway.settings.state_dir / "copy")
        restart(gateway)
        restore(twin, gateway.settings.state_dir / "copy")
        restart(twin)
        push(twin)
        assert state_of(twin) == "in-step"
        play(gateway, 2)
        play(twin, 4)
        push(gateway)
        content = centre.content()

        push(twin)

        assert state_of(twin) == "out-of-step"
        assert centre.content() == content
        assert centre.state(gateway).in_conflict
        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent_of(twin).answer(_request(twin), ARRAYS)
        restart(twin)
        push(twin)
        assert state_of(twin) == "in-step"
        assert recovered(centre, gateway)[-1].reason == "forked"
        assert not centre.state(gateway).in_conflict
        play(gateway, 1)
        push(gateway)
        assert state_of(gateway) == "out-of-step"
        check_released_is_charged(centre, gateway)

    def test_a_round_is_answered_by_one_of_them(
        self, centre: RealCentre, gateway: Gateway, make_gateway: Callable[..., Gateway]
    ) -> None:
        """The charge of a run must have arrived before a record is read: the second one's
        cannot."""
        play(gateway, 2)
        push(gateway)
        twin = copied(centre, gateway, make_gateway)

        agent_of(gateway).answer(_request(gateway), ARRAYS)
        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent_of(twin).answer(_request(twin), ARRAYS)
        assert len(twin.trainers) == 0
        assert len(gateway.trainers) == 1

    def test_a_copy_made_after_the_charge_hands_out_no_second_answer(
        self,
        centre: RealCentre,
        gateway: Gateway,
        make_gateway: Callable[..., Gateway],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Both hold the reservation and may draw; what is handed out must be settled first where
        the other would find it."""
        play(gateway, 2)
        push(gateway)
        with monkeypatch.context() as patch:
            patch.setattr(TrainingDesk, "_trainer_for", _dies)
            with pytest.raises(OSError, match="killed"):
                agent_of(gateway).answer(_request(gateway), ARRAYS)
        twin = copied(centre, gateway, make_gateway)
        push(gateway)

        agent_of(gateway).answer(_request(gateway), ARRAYS)

        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent_of(twin).answer(_request(twin), ARRAYS)

    def test_a_stored_answer_waits_for_its_settlement(
        self, centre: RealCentre, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The line breaks after the draw: nothing is handed out until the centre has the entry,
        then the very bytes that were stored."""
        play(gateway, 2)
        push(gateway)
        agent = agent_of(gateway)
        drawn = agent.desk._train

        def cut(*asked: Any) -> bytes:
            payload = drawn(*asked)
            centre.down = True
            return payload

        monkeypatch.setattr(agent.desk, "_train", cut)
        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent.answer(_request(gateway), ARRAYS)
        centre.down = False

        first = agent.answer(_request(gateway), ARRAYS)

        assert agent.answer(_request(gateway), ARRAYS) == first
        settled = [e for e in map(read_entry, centre.entries(gateway)) if isinstance(e, Settled)]
        assert Envelope.from_bytes(first).header.payload_sha256 in {
            entry.artefact_sha256 for entry in settled
        }


class TestMalice:
    def test_an_older_coordinator(self, centre: RealCentre, gateway: Gateway) -> None:
        """It does not know the question: only statuses go, and rounds are declined."""
        centre.old = True
        play(gateway, 3)
        agent_of(gateway).report_facts_once()
        push(gateway)

        kinds = {Envelope.from_bytes(data).header.kind for data in centre.sent}
        assert kinds == {"status"}
        assert state_of(gateway) == "unknown"
        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent_of(gateway).answer(_request(gateway), ARRAYS)
        centre.old = False
        push(gateway)
        assert state_of(gateway) == "in-step"
        check_released_is_charged(centre, gateway)

    @pytest.mark.parametrize("lie", ["root", "key", "gateway", "real", "portal"])
    def test_a_head_that_this_key_did_not_sign(
        self, centre: RealCentre, gateway: Gateway, lie: str
    ) -> None:
        """A coordinator that lies about the root makes a gateway neither send nor spend."""
        play(gateway, 3)
        push(gateway)
        restart(gateway)
        content = centre.content()
        centre.twist = lambda body: _lied(body, lie)
        play(gateway, 2)
        push(gateway)

        assert state_of(gateway) != "in-step"
        assert centre.content() == content
        assert agent_of(gateway).ledger.recovered_through == -1

    def test_a_ledger_that_was_made_up(
        self, centre: RealCentre, gateway: Gateway, tmp_path: Path
    ) -> None:
        """It adds up and its head fits it, but this gateway's key did not sign that."""
        play(gateway, 3)
        push(gateway)
        restart(gateway)
        centre.twist = _forged(centre, gateway, tmp_path)
        own = agent_of(gateway).ledger.entries()
        push(gateway)

        assert state_of(gateway) != "in-step"
        assert agent_of(gateway).ledger.entries() == own

    @pytest.mark.parametrize("number", ["next_seq", "next_window"])
    def test_numbers_that_would_leave_none(
        self, centre: RealCentre, gateway: Gateway, number: str
    ) -> None:
        """One answer cannot use up all numbers of envelopes or windows: it is not believed, and the
        gateway goes on when it is told the truth."""
        play(gateway, 3)
        push(gateway)
        if number == "next_window":
            wipe(gateway)
        _commit_release(restart(gateway), gateway)
        own = agent_of(gateway).ledger.entries()
        centre.twist = lambda body: _told(body, **{number: 2**53 - 1})
        push(gateway)

        assert state_of(gateway) != "in-step" and agent_of(gateway).ledger.entries() == own
        centre.twist = lambda body: body
        restart(gateway)
        push(gateway)
        play(gateway, 2 * BLOCK_WINDOWS)
        push(gateway)
        assert state_of(gateway) == "in-step"
        assert agent_of(gateway).watcher.windows < 100
        assert Envelope.from_bytes(centre.sent[-1]).header.seq < 100
        check_released_is_charged(centre, gateway)

    def test_more_entries_than_this_ledger_has(self, centre: RealCentre, gateway: Gateway) -> None:
        """Whoever holds more knows another ledger, also where the head that is shown fits this one:
        nothing is sent or answered."""
        play(gateway, 3)
        push(gateway)
        restart(gateway)
        content, size = centre.content(), agent_of(gateway).ledger.size
        centre.twist = lambda body: _told(body, entries=size + 1)
        push(gateway)
        play(gateway, 1)
        push(gateway)

        assert state_of(gateway) == "out-of-step" and centre.content() == content
        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent_of(gateway).answer(_request(gateway), ARRAYS)

    def test_entries_that_are_not_those_of_the_head(
        self, centre: RealCentre, gateway: Gateway
    ) -> None:
        """A chain that this gateway did not sign is not taken up, whatever else fits."""
        play(gateway, 3)
        push(gateway)
        wipe(gateway)
        _commit_release(restart(gateway), gateway)
        centre.twist = lambda body: body.replace(b'"count":1', b'"count":2')
        own = agent_of(gateway).ledger.entries()
        push(gateway)

        assert state_of(gateway) == "out-of-step"
        assert agent_of(gateway).ledger.entries() == own


def _dies(*_: object) -> None:
    raise OSError("killed")


def _forged(centre: RealCentre, gateway: Gateway, folder: Path) -> Callable[[bytes], bytes]:
    """Answers of a coordinator that made up a ledger, and signs its head itself."""
    state = StateFile(folder / "forged.sqlite")
    identity = gateway.identity
    forged = Ledger(
        state,
        agent_of(gateway).policy,
        clock=lambda: 5.0,
        simulated=True,
        gateway=identity.fingerprint,
        public_key=identity.public_key.hex(),
    )
    for block in range(9):
        forged.open_block(block)
    entries, size = forged.entries(), forged.size
    named = sign_head(identity, size, forged.root(), 1.0, simulated=True)
    head = named.model_copy(update={"signature": WITNESS.sign(named.signed).hex()})
    state.close()

    def twist(body: bytes) -> bytes:
        try:
            answer = WitnessedStanding.from_bytes(body)
        except FedgeError:
            return AuditBatch(0, entries).to_bytes()
        return signed_again(answer, witnessed=witness_head(WITNESS, head, 1.0), entries=size)

    return twist


def signed_again(
    answer: WitnessedStanding, witness: Identity = WITNESS, **changes: object
) -> bytes:
    """What a coordinator says that lies, and signs what it says."""
    told: LedgerStanding = answer.standing.model_copy(update=changes)
    return witness_standing(witness, told, answer.nonce).to_bytes()


def _commit_release(agent: Agent, gateway: Gateway) -> None:
    """What the installer does again where its journal is gone: the release in slot A serves."""
    InstallJournal(agent.state).commit(
        Install(state="committed", manifest=gateway.manifest, variant="float", slot="A"),
        Running(slot="A", variant="float", manifest=gateway.manifest, floor=1),
    )


def _request(gateway: Gateway) -> RoundRequest:
    plan = plan_training(agent_of(gateway).policy, TrainingSettings(records=50), DIMENSION)
    mine = Participant(
        gateway=gateway.identity.fingerprint,
        public_key=gateway.identity.public_key.hex(),
        first_window=0,
        last_window=1,
    )
    spec = RunSpec(
        run_id="run-1",
        task="pump",
        base_release=1,
        base_sha256=gateway.manifest.content_sha256,
        plan=plan,
        participants=(mine,),
        episodes=("e",),
    )
    return RoundRequest(spec=spec, phase="train", round=0, arrays_sha256=sha256_hex(ARRAYS))


def _told(body: bytes, **claims: object) -> bytes:
    """An answer about a ledger's standing with other claims; other answers as they are."""
    try:
        return signed_again(WitnessedStanding.from_bytes(body), WITNESS, **claims)
    except FedgeError:
        return body


def _lied(body: bytes, lie: str) -> bytes:
    if lie == "portal":
        return b"<html>Welcome!</html>"
    answer = WitnessedStanding.from_bytes(body)
    assert answer.standing.witnessed is not None
    head = answer.standing.witnessed.head
    if lie == "gateway":
        return signed_again(answer, gateway="0" * 32)
    if lie == "root":
        head = head.model_copy(update={"root": "0" * 64})
    elif lie == "real":
        head = head.model_copy(update={"simulated": False})
    else:
        head = sign_head(WITNESS, head.size, "0" * 64, head.at, simulated=True)
    return signed_again(answer, witnessed=witness_head(WITNESS, head, 1.0))
