"""What a gateway promises about whose word counts for its ledger: one key's, and no other's.

Real agents on real state directories, the real coordinator in this process, as in
`test_lost_state`; here somebody else may answer in the coordinator's place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.centre import WITNESS
from test_lost_state import (
    ARRAYS,
    BLOCK_WINDOWS,
    RealCentre,
    _commit_release,
    _request,
    agent_of,
    check_released_is_charged,
    play,
    push,
    recovered,
    restart,
    signed_again,
    state_of,
    wipe,
)
from tests_clients import Gateway
from typer.testing import CliRunner

from fedge.cli.gateway import _rows, app
from fedge.config import GatewaySettings
from fedge.errors import (
    OutboundError,
    ParticipationRefusedError,
    RecordError,
    WitnessKeyError,
)
from fedge.identity import Envelope, Identity
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength, WitnessedStanding
from fedge.statefile import StateFile
from fedge_client.agent.standing import Standing
from fedge_client.agent.trusted_witness import TrustedWitness
from fedge_client.doctor import Finding, examine
from fedge_server.fleet import Fleet

KEY = WITNESS.public_key.hex()
OTHER = Identity.from_seed(b"\x0e" * 32)
OTHER_KEY = OTHER.public_key.hex()
NO_WORKER = {"slot": "A", "trial": None, "fallback": None, "worker": None, "worker_restarts": 0}
"""What `fedge gateway status` is told of a model beside the agent's part."""


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[RealCentre]:
    made = RealCentre(tmp_path)
    yield made
    made.close()


@pytest.fixture
def gateway(centre: RealCentre, make_gateway: Callable[..., Gateway]) -> Gateway:
    """Two windows reported, in step."""
    made = make_gateway(block_windows=BLOCK_WINDOWS, label_rho=0.005)
    made.centre = centre  # type: ignore[assignment]
    Fleet(centre.database, lambda: 1.0).admit(made.identity.public_key.hex(), "one")
    restart(made)
    play(made, 2)
    push(made)
    assert state_of(made) == "in-step"
    return made


def pin(gateway: Gateway, key: str | None) -> None:
    gateway.settings = gateway.settings.model_copy(update={"witness_key": key})


def said_by_doctor(gateway: Gateway) -> Finding:
    (finding,) = [one for one in examine(gateway.settings) if one.check == "ledger"]
    return finding


def lying(centre: RealCentre, lie: Callable[[WitnessedStanding], bytes]) -> None:
    """Somebody answers in the coordinator's place: about standings with lies, with the true
    entries to whoever asks for them."""

    def twist(body: bytes) -> bytes:
        try:
            answer = WitnessedStanding.from_bytes(body)
        except RecordError:
            return body
        return lie(answer)

    centre.twist = twist


def impostor(centre: RealCentre, **claims: object) -> None:
    """Somebody answers in the coordinator's place, and signs what they claim."""
    lying(centre, lambda answer: signed_again(answer, OTHER, **claims))


def honest(centre: RealCentre) -> None:
    centre.twist = lambda body: body


class TestAnotherKey:
    def test_nothing_is_lost_or_given_to_it(self, centre: RealCentre, gateway: Gateway) -> None:
        """The first key is kept over starts. Under another one windows go on and wait, statuses
        alone are sent, no round is answered; under the right one everything arrives."""
        impostor(centre)
        restart(gateway)
        sent = len(centre.sent)
        play(gateway, 5)
        agent_of(gateway).report_facts_once()
        push(gateway)

        assert state_of(gateway) == "unknown"
        assert {Envelope.from_bytes(data).header.kind for data in centre.sent[sent:]} == {"status"}
        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent_of(gateway).answer(_request(gateway), ARRAYS)
        assert gateway.trainers == [] and agent_of(gateway).watcher.windows == 7
        honest(centre)
        push(gateway)

        assert state_of(gateway) == "in-step"
        assert recovered(centre, gateway) == []
        assert agent_of(gateway).spool.depth == agent_of(gateway).spool.dropped == 0
        reports = [e for e in map(Envelope.from_bytes, centre.sent) if e.header.kind == "report"]
        assert len(reports) == 7
        check_released_is_charged(centre, gateway)
        agent_of(gateway).answer(_request(gateway), ARRAYS)

    def test_the_operator_is_told(
        self, centre: RealCentre, gateway: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Log, status and doctor name both keys and the setting; once, not with every question."""
        impostor(centre)
        restart(gateway)
        caplog.clear()  # the process that ended saw it too
        push(gateway)

        facts, finding = agent_of(gateway).local_facts(), said_by_doctor(gateway)
        assert (facts["witness_key"], facts["refused_witness_key"]) == (KEY, OTHER_KEY)
        told = [record for record in caplog.records if record.name == Standing.__module__]
        errors = [record.getMessage() for record in told if record.levelname == "ERROR"]
        assert len(errors) == 1 and finding.level == "fail"
        shown = str(
            _rows({**NO_WORKER, "agent": agent_of(gateway).commands()["status"]({})})["ledger"]
        )
        for text in (shown, errors[0], finding.detail + finding.todo):
            assert KEY in text and OTHER_KEY in text and "witness_key" in text
        honest(centre)
        push(gateway)
        assert agent_of(gateway).local_facts()["refused_witness_key"] is None
        assert said_by_doctor(gateway).level == "ok"

    def test_a_setting_replaces_the_key_that_was_kept(
        self, centre: RealCentre, gateway: Gateway
    ) -> None:
        """A coordinator with a new key confirms again what it has; set by the operator, the ledger
        goes on, and the old key counts no more."""
        impostor(centre)
        restart(gateway)
        push(gateway)
        pin(gateway, OTHER_KEY)
        assert said_by_doctor(gateway).level != "fail"
        restart(gateway)
        push(gateway)

        assert state_of(gateway) == "in-step" and recovered(centre, gateway) == []
        pin(gateway, None)
        honest(centre)
        restart(gateway)
        push(gateway)
        assert state_of(gateway) == "unknown"
        assert agent_of(gateway).witness.key == OTHER_KEY

    def test_kept_before_it_is_acted_on(self, centre: RealCentre, gateway: Gateway) -> None:
        """A recovery that began under one key is not ended under another."""
        play(gateway, 2)
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
        centre.get = real  # type: ignore[method-assign]
        impostor(centre)
        restart(gateway)
        push(gateway)

        assert agent_of(gateway).witness.key == KEY and state_of(gateway) == "unknown"
        assert agent_of(gateway).ledger.recovered_through == -1


class TestAMadeUpHistory:
    @pytest.mark.parametrize("lie", ["none", "signed", "replayed", "renumbered", "patched"])
    def test_a_wiped_gateway_takes_none(
        self, centre: RealCentre, gateway: Gateway, lie: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With the key in its settings only what the coordinator says now counts: not that there
        was no ledger, not an earlier state of it, whoever has seen the answers to earlier
        questions. Nothing is released meanwhile; then the true history is taken up."""
        asked: list[bytes] = []
        centre.twist = lambda body: asked.append(body) or body  # type: ignore[func-returns-value]
        restart(gateway)
        push(gateway)
        honest(centre)
        play(gateway, 3)
        push(gateway)
        before, content = centre.entries(gateway), centre.content()
        pin(gateway, KEY)
        wipe(gateway)
        _commit_release(restart(gateway), gateway)
        own = agent_of(gateway).ledger.entries()

        _lie(centre, lie, asked[0])
        caplog.set_level(logging.INFO)
        caplog.clear()
        push(gateway)
        assert agent_of(gateway).ledger.entries() == own
        play(gateway, 2)
        push(gateway)

        # Not for a moment: whoever takes what is sent may keep it from the coordinator.
        assert not [r for r in caplog.records if r.getMessage().startswith("ledger in-step")]
        assert state_of(gateway) != "in-step" and centre.content() == content
        with pytest.raises(ParticipationRefusedError, match="ledger-not-in-step"):
            agent_of(gateway).answer(_request(gateway), ARRAYS)
        honest(centre)
        restart(gateway)
        push(gateway)
        assert "ledger in-step" in caplog.text and state_of(gateway) == "in-step"
        assert len(recovered(centre, gateway)) == 1
        assert centre.entries(gateway)[: len(before)] == before
        check_released_is_charged(centre, gateway)


def _lie(centre: RealCentre, lie: str, earlier: bytes) -> None:
    """Answer with less than what is known.

    Args:
        earlier: what the real coordinator answered when it knew less.
    """
    nothing = {"witnessed": None, "entries": 0, "next_seq": 0, "next_window": 0}
    if lie == "none":
        impostor(centre, **nothing)
    elif lie == "signed":
        old = WitnessedStanding.from_bytes(earlier).standing
        impostor(centre, **dict(old))
    elif lie == "replayed":
        lying(centre, lambda _: earlier)
    elif lie == "renumbered":
        then = WitnessedStanding.from_bytes(earlier)
        lying(centre, lambda now: then.model_copy(update={"nonce": now.nonce}).to_bytes())
    else:
        lying(centre, lambda now: _patched(now, nothing).to_bytes())


def _patched(answer: WitnessedStanding, changes: dict[str, object]) -> WitnessedStanding:
    told = answer.standing.model_copy(update=changes)
    return answer.model_copy(update={"standing": told})


class TestTrusting:
    def test_the_first_key_is_on_the_disk(self, tmp_path: Path) -> None:
        """Also where nothing else was stored; another is refused by type, with both keys."""
        with contextlib.closing(StateFile(tmp_path / "state.sqlite")) as state:
            trusted = TrustedWitness(state, None)
            assert trusted.key is None
            trusted.accept(KEY)
        with contextlib.closing(StateFile(tmp_path / "state.sqlite")) as state:
            trusted = TrustedWitness(state, None)
            with pytest.raises(WitnessKeyError) as refused:
                trusted.accept(OTHER_KEY)
            assert (refused.value.offered, refused.value.trusted) == (OTHER_KEY, KEY)
            assert (trusted.key, trusted.refused) == (KEY, OTHER_KEY)
            assert TrustedWitness(state, None).refused == OTHER_KEY
            trusted.accept(KEY)
            assert TrustedWitness(state, None).refused is None

    def test_a_pinned_key_is_never_the_first_that_answers(self, tmp_path: Path) -> None:
        with contextlib.closing(StateFile(tmp_path / "state.sqlite")) as state:
            trusted = TrustedWitness(state, KEY)
            with pytest.raises(WitnessKeyError):
                trusted.accept(OTHER_KEY)
            assert trusted.key == KEY


class TestSettings:
    def test_a_model_of_another_coordinator_has_another_key(self, tmp_path: Path) -> None:
        """The gateway's own key speaks for the gateway's own coordinator alone."""
        models = [
            {"family": "a", "task": "a"},
            {"family": "b", "task": "b", "coordinator_url": "https://other.example"},
            {"family": "c", "task": "c", "witness_key": OTHER_KEY},
        ]
        values = {"state_dir": "s", "runtime_dir": "r", "witness_key": KEY, "models": models}
        settings = GatewaySettings.parse(values, tmp_path)

        keys = [served.witness_key for served in settings.served]
        assert keys == [KEY, KEY, None, OTHER_KEY]

    @pytest.mark.parametrize("key", [KEY, KEY[:-2], "x" * 64])
    def test_it_is_written_when_a_gateway_is_set_up(self, tmp_path: Path, key: str) -> None:
        """As given; what is no key is refused and nothing is made."""
        policy = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=4))
        write_policy(policy, tmp_path / "policy.toml")
        (tmp_path / "root.json").write_text("{}")
        files = ["--policy", str(tmp_path / "policy.toml"), "--root", str(tmp_path / "root.json")]
        command = ["init", str(tmp_path / "gw"), *files, "--coordinator", "http://127.0.0.1:1"]
        answer = CliRunner().invoke(app, [*command, "--witness-key", key])

        config = tmp_path / "gw" / "gateway.toml"
        assert (answer.exit_code == 0) == (key == KEY) == config.exists()
        if key == KEY:
            assert GatewaySettings.load(config).witness_key == KEY
