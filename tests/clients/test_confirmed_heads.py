"""What a gateway promises about confirmed heads: its own export holds what the coordinator says.

Real agents, the real coordinator in this process, as in `test_lost_state`; time is the test's.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.centre import WITNESS
from test_lost_state import (
    RealCentre,
    agent_of,
    play,
    push,
    restart,
    signed_again,
    state_of,
)
from tests_clients import Gateway

from fedge.errors import OutboundError, StateError
from fedge.identity import Identity
from fedge.privacy.heads import sign_head, verify_witnessed, witness_head
from fedge.privacy.merkle import tree_hash
from fedge.records import WitnessedHead, WitnessedStanding
from fedge.review.source import GatewayLedger
from fedge_client.agent.post import HttpPost
from fedge_client.agent.standing import CONFIRM_S, KEPT_HEADS
from fedge_client.ledger_export import collect_gateway
from fedge_server.fleet import Fleet

OTHER = Identity.from_seed(b"\x0e" * 32)


class Clock:
    now = 5_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[RealCentre]:
    made = RealCentre(tmp_path)
    yield made
    made.close()


@pytest.fixture
def gateway(
    centre: RealCentre, make_gateway: Callable[..., Gateway], tmp_path: Path, clock: Clock
) -> Gateway:
    """Two windows reported, in step; the coordinator was asked once."""
    identity = Identity.create(tmp_path / "identity.pem")
    made = make_gateway(block_windows=2, identity=identity, steady=clock)
    shutil.copy(tmp_path / "identity.pem", made.settings.state_dir)
    made.centre = centre  # type: ignore[assignment]
    Fleet(centre.database, lambda: 1.0).admit(identity.public_key.hex(), "one")
    restart(made)
    play(made, 2)
    push(made)
    assert state_of(made) == "in-step" and len(centre.asked) == 1
    return made


def later(gateway: Gateway, clock: Clock, windows: int = 1) -> None:
    """More windows are reported, and it is time to ask."""
    clock.now += CONFIRM_S
    play(gateway, windows)
    push(gateway)


def exported(gateway: Gateway) -> GatewayLedger:
    (one,) = collect_gateway(gateway.settings).source.gateways
    for head in one.witnessed:
        verify_witnessed(head, WITNESS.public_key, gateway.identity.public_key)
        assert tree_hash(one.entries[: head.head.size]).hex() == head.head.root
    return one


def sizes(gateway: Gateway) -> list[int]:
    return [head.head.size for head in exported(gateway).witnessed]


def twisted(centre: RealCentre, lie: Callable[[WitnessedStanding], bytes]) -> None:
    centre.twist = lambda body: lie(WitnessedStanding.from_bytes(body))


class TestKept:
    def test_as_they_come(self, centre: RealCentre, gateway: Gateway, clock: Clock) -> None:
        """Everything that arrived is confirmed in the export of a running gateway, with the
        coordinator's key named."""
        assert sizes(gateway) == []
        later(gateway, clock)

        one = exported(gateway)
        assert one.witnessed[-1].head.size == len(one.entries) == len(centre.entries(gateway))
        assert collect_gateway(gateway.settings).source.witness_key == WITNESS.public_key.hex()

    def test_asked_now_and_then(self, centre: RealCentre, gateway: Gateway, clock: Clock) -> None:
        """Once in five minutes however many batches arrive, and never where nothing is new."""
        for _ in range(4):
            play(gateway, 1)
            push(gateway)
        assert len(centre.asked) == 1
        later(gateway, clock, windows=3)
        assert len(centre.asked) == 2
        clock.now += 10 * CONFIRM_S
        push(gateway)
        assert len(centre.asked) == 2
        later(gateway, clock)
        assert len(centre.asked) == 3

    def test_before_an_orderly_end(self, centre: RealCentre, gateway: Gateway) -> None:
        """Who exports the ledger of a gateway that was stopped finds it confirmed as far as it was
        sent; a stop without news asks nothing."""
        agent_of(gateway).close()
        gateway.agent = None

        assert sizes(gateway)[-1] == len(centre.entries(gateway))
        restart(gateway)
        push(gateway)
        asked = len(centre.asked)
        agent_of(gateway).close()
        gateway.agent = None
        assert len(centre.asked) == asked

    def test_an_end_without_a_coordinator(self, centre: RealCentre, gateway: Gateway) -> None:
        """Nothing is confirmed, and nothing holds up the stop."""
        centre.down = True
        agent_of(gateway).close()
        gateway.agent = None

        assert sizes(gateway) == []

    def test_few_and_the_latest(self, gateway: Gateway, clock: Clock) -> None:
        """A gateway that runs for years keeps eight of them; what is damaged, or of an earlier
        witness, goes with the next one."""
        head = sign_head(gateway.identity, 1, "0" * 64, 1.0, simulated=True)
        alien = witness_head(OTHER, head, 1.0).to_bytes()
        for number, body in enumerate(("text", b"\xff", alien), start=1):
            row = "INSERT INTO ledger_witnessed VALUES (?, ?)"
            agent_of(gateway).state.rows(row, -number, body)
        later(gateway, clock)
        seen = [agent_of(gateway).ledger.size]
        assert sizes(gateway) == seen
        for _ in range(KEPT_HEADS + 3):
            later(gateway, clock)
            seen.append(agent_of(gateway).ledger.size)
        assert sizes(gateway) == seen[-KEPT_HEADS:]


class TestInNobodysWay:
    def test_reports_go_first_and_rounds_do_not_wait(
        self, centre: RealCentre, gateway: Gateway, clock: Clock
    ) -> None:
        """While the answer is awaited everything was sent, and whoever asks whether the ledger is
        in step gets an answer."""
        agent, real = agent_of(gateway), centre.get
        seen: list[object] = []

        def slow(path: str, max_bytes: int) -> tuple[int, bytes]:
            asking = threading.Thread(target=lambda: seen.append(agent.standing.cleared))
            asking.start()
            asking.join(10)
            seen.append(agent.spool.depth)
            return real(path, max_bytes)

        centre.get = slow  # type: ignore[method-assign]
        later(gateway, clock)

        assert seen == [agent.ledger.size, 0]

    def test_no_answer_delays_no_report(
        self, centre: RealCentre, gateway: Gateway, clock: Clock
    ) -> None:
        """The pause stays what it is; the next question comes when it is time, not before."""
        real, failed = centre.get, []

        def breaks(path: str, max_bytes: int) -> tuple[int, bytes]:
            failed.append(path)
            raise OutboundError("the line broke")

        centre.get = breaks  # type: ignore[method-assign]
        later(gateway, clock)
        pauses = []
        for _ in range(4):
            play(gateway, 1)
            pauses.append(agent_of(gateway).push_once())
        push(gateway)

        assert len(failed) == 1 and set(pauses) == {gateway.settings.push_interval_s}
        assert agent_of(gateway).spool.depth == 0 and state_of(gateway) == "in-step"
        centre.get = real  # type: ignore[method-assign]
        later(gateway, clock)
        assert sizes(gateway)[-1] == agent_of(gateway).ledger.size

    def test_the_breaker_stands_before_it(
        self, centre: RealCentre, gateway: Gateway, clock: Clock
    ) -> None:
        """A coordinator that does not answer is not asked, at a stop neither."""
        breaker = agent_of(gateway).sender.breaker
        while breaker.wait_s == 0:
            breaker.failed()
        agent_of(gateway).close()
        gateway.agent = None

        assert len(centre.asked) == 1

    def test_an_older_coordinator_does_not_tell(
        self, centre: RealCentre, gateway: Gateway, clock: Clock
    ) -> None:
        """HTTP 404 to the question changes nothing."""
        centre.old = True
        later(gateway, clock)

        assert state_of(gateway) == "in-step" and sizes(gateway) == []

    def test_a_full_disk_costs_a_head_and_no_report(
        self, gateway: Gateway, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = agent_of(gateway)
        real = agent.standing._keep

        def full(newest: WitnessedHead) -> None:
            agent.state.rows("PRAGMA query_only = ON")
            try:
                real(newest)
            finally:
                agent.state.rows("PRAGMA query_only = OFF")

        monkeypatch.setattr(agent.standing, "_keep", full)
        later(gateway, clock)

        assert state_of(gateway) == "in-step" and agent.spool.depth == 0
        assert sizes(gateway) == []

    def test_a_server_that_never_answers_does_not_hold_up_an_end(self) -> None:
        """However long an answer may take in mid-life."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            post = HttpPost(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=600.0)
            with pytest.raises(OutboundError):
                post.get_soon("/v1/ledgers", 10)


class TestBelieved:
    def test_only_the_trusted_witness(
        self, centre: RealCentre, gateway: Gateway, clock: Clock
    ) -> None:
        """Under another key nothing is kept, and nothing is sent until the right one answers."""
        twisted(centre, lambda answer: signed_again(answer, OTHER))
        later(gateway, clock)
        sent = len(centre.sent)
        play(gateway, 2)
        push(gateway)

        assert state_of(gateway) == "unknown" and len(centre.sent) == sent
        assert sizes(gateway) == []
        centre.twist = lambda body: body
        push(gateway)
        assert state_of(gateway) == "in-step" and len(centre.sent) > sent

    @pytest.mark.parametrize("lie", ["replayed", "patched", "garbage"])
    def test_what_cannot_be_believed_changes_nothing(
        self, centre: RealCentre, gateway: Gateway, clock: Clock, lie: str
    ) -> None:
        """An answer to an earlier question, one that was changed, and noise."""
        answers: list[bytes] = []
        centre.twist = lambda body: answers.append(body) or body  # type: ignore[func-returns-value]
        later(gateway, clock)
        before = sizes(gateway)
        lies = {
            "replayed": lambda body: answers[0],
            "patched": lambda body: body.replace(b'"next_seq":', b'"next_seq":1'),
            "garbage": lambda body: b"<html>",
        }
        centre.twist = lies[lie]
        later(gateway, clock)

        assert state_of(gateway) == "in-step" and sizes(gateway) == before
        assert agent_of(gateway).spool.depth == 0

    @pytest.mark.parametrize("longer", [False, True])
    def test_another_ledger_under_this_key_stops_it(
        self, centre: RealCentre, gateway: Gateway, clock: Clock, longer: bool
    ) -> None:
        """A copy of this gateway went on, and was confirmed: the head is not kept, and nothing that
        derives from records leaves before the next start, which recovers."""
        size = agent_of(gateway).ledger.size + (100 if longer else 0)
        other = sign_head(gateway.identity, size, "0" * 64, 1.0, simulated=True)
        twisted(
            centre,
            lambda answer: signed_again(answer, witnessed=witness_head(WITNESS, other, 2.0)),
        )
        later(gateway, clock)

        assert state_of(gateway) == "out-of-step" and agent_of(gateway).standing.cleared is None
        assert sizes(gateway) == []

    def test_out_of_step_nothing_is_asked(self, centre: RealCentre, gateway: Gateway) -> None:
        agent_of(gateway).standing.refused()
        agent_of(gateway).standing.confirm(centre.get)

        assert len(centre.asked) == 1


def test_a_spool_with_an_unknown_channel_is_damage(gateway: Gateway) -> None:
    """Named as such, like all other damage of the state file."""
    play(gateway, 1)
    with gateway.agent.state.transaction() as db:
        changed = db.execute("UPDATE spool SET channel = 'elsewhere' WHERE kind = 'report'")
    assert changed.rowcount == 1
    with pytest.raises(StateError, match="unknown channel: 'elsewhere'"):
        collect_gateway(gateway.settings)
