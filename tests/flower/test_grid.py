"""The in-process grid: the same courier and rounds, in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.flower_fleet import DIMENSION, make_spec, sealed_answer
from flwr.app import ConfigRecord, Context, Message, RecordDict

import fedge.flower
from fedge.errors import OutboundError, RunFailedError, SettingError
from fedge.flower import MESSAGE_TYPE, RECORD, RUN_KEY
from fedge.identity import Identity
from fedge.records import RoundRequest, RunResult
from fedge.simulation.grid import InProcessGrid
from fedge_client.frames import AgentAnswer
from fedge_server.objects import ObjectStore
from fedge_server.round_files import RunFiles
from fedge_server.rounds import GridExchange, conduct
from fedge_server.rounds import app as server_app
from fedge_server.superlink import SETTINGS_VARIABLE


def agent(identity: Identity, change: float):  # type: ignore[no-untyped-def]
    def ask(request: bytes, array: bytes, timeout_s: float) -> AgentAnswer:
        assert 0 < timeout_s <= 10 and len(array) == 4 * DIMENSION
        asked = RoundRequest.from_bytes(request)
        if identity.fingerprint not in [p.gateway for p in asked.spec.participants]:
            return AgentAnswer(False, "not-in-cohort", b"")
        return AgentAnswer(True, "", sealed_answer(identity, asked, change, simulated=True))

    return ask


@pytest.fixture()
def identities() -> list[Identity]:
    return [Identity.from_seed(bytes([i]) * 32) for i in range(50)]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run-1"


@pytest.fixture()
def files(tmp_path: Path, folder: Path, identities: list[Identity]) -> RunFiles:
    folder.mkdir(parents=True)
    (folder / "spec.json").write_bytes(make_spec(identities[:40]).to_bytes())
    np.save(folder / "initial.npy", np.zeros(DIMENSION, dtype="<f4"))
    return RunFiles(ObjectStore(tmp_path), "run-1")


def test_a_simulated_run_leaves_what_a_real_one_does(
    files: RunFiles, folder: Path, identities: list[Identity]
) -> None:
    """Fifty gateways, forty of them in the cohort, through Flower's own message routing."""
    nodes = {i + 2: agent(identity, 1.0) for i, identity in enumerate(identities)}
    conduct(files, GridExchange(InProcessGrid(nodes), 10), simulated=True)
    result = RunResult.from_bytes((folder / "result.json").read_bytes())
    assert [len(c) for c in result.contributors] == [40, 40]
    assert np.load(folder / "adapter.npy").tolist() == [2.0] * DIMENSION


def test_a_real_run_refuses_simulated_updates(
    files: RunFiles, folder: Path, identities: list[Identity]
) -> None:
    """What a simulation sealed never enters a real adapter."""
    nodes = {i + 2: agent(identity, 1.0) for i, identity in enumerate(identities)}
    with pytest.raises(RunFailedError):
        conduct(files, GridExchange(InProcessGrid(nodes), 10))
    assert (folder / "failed.json").exists()
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("simulated", [True, False])
def test_the_settings_decide_whose_updates_a_run_takes(
    tmp_path: Path, identities: list[Identity], monkeypatch: pytest.MonkeyPatch, simulated: bool
) -> None:
    """A staging centre takes what simulated gateways seal, a real one nothing of it."""
    config = tmp_path / "server.toml"
    said = "simulated = true\n" if simulated else ""
    patience = "[training]\nround_timeout_s = 10\n"
    config.write_text(f'data_dir = "data"\npolicy = "policy.toml"\n{said}{patience}')
    run = tmp_path / "data" / "objects" / "runs" / "run-1"
    run.mkdir(parents=True)
    (run / "spec.json").write_bytes(make_spec(identities[:3]).to_bytes())
    np.save(run / "initial.npy", np.zeros(DIMENSION, dtype="<f4"))
    monkeypatch.setenv(SETTINGS_VARIABLE, str(config))
    grid = InProcessGrid({i + 2: agent(one, 1.0) for i, one in enumerate(identities[:3])})
    context = Context(1, 1, {}, RecordDict(), {RUN_KEY: "run-1"})

    if simulated:
        server_app(grid, context)
    else:
        with pytest.raises(RunFailedError):
            server_app(grid, context)
    assert (run / "result.json").exists() == simulated


def test_a_silent_gateway_is_waited_for_and_then_fails_the_run(
    files: RunFiles, folder: Path, identities: list[Identity]
) -> None:
    """A gateway of the cohort that is not connected has until the round's time is over."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    nodes = {i + 2: agent(identity, 1.0) for i, identity in enumerate(identities[1:])}
    exchange = GridExchange(InProcessGrid(nodes), 9, clock=lambda: clock[0], sleep=sleep)
    with pytest.raises(RunFailedError, match="no answer in time"):
        conduct(files, exchange, simulated=True)
    assert clock[0] >= 9


def test_a_gateway_that_connects_meanwhile_is_asked(
    files: RunFiles, folder: Path, identities: list[Identity]
) -> None:
    """A restarted SuperNode is a new node; it still gets the round's message."""
    nodes = {i + 2: agent(identity, 1.0) for i, identity in enumerate(identities[1:])}
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        nodes[99] = agent(identities[0], 1.0)

    exchange = GridExchange(InProcessGrid(nodes), 9, clock=lambda: clock[0], sleep=sleep)
    conduct(files, exchange, simulated=True)
    assert files.finished() and clock[0] < 3


def test_a_finished_run_is_left_alone(
    files: RunFiles, folder: Path, identities: list[Identity]
) -> None:
    """A run submitted again after its result asks nobody and changes nothing."""
    nodes = {i + 2: agent(identity, 1.0) for i, identity in enumerate(identities)}
    conduct(files, GridExchange(InProcessGrid(nodes), 10), simulated=True)
    before = (folder / "result.json").stat().st_mtime_ns
    conduct(files, GridExchange(InProcessGrid({}), 10), simulated=True)
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_an_agent_that_is_down_is_a_public_fact_without_a_path() -> None:
    """The server learns that the agent is unreachable, and nothing about this host."""

    def ask(request: bytes, array: bytes, timeout_s: float) -> AgentAnswer:
        raise OutboundError("/very/private/path")

    grid = InProcessGrid({2: ask})
    record = ConfigRecord({"request": b"r", "array": b""})
    message = Message(RecordDict({RECORD: record}), dst_node_id=2, message_type=MESSAGE_TYPE)
    (reply,) = grid.send_and_receive([message])
    answered = dict(reply.content.config_records[RECORD])
    assert answered == {"ok": False, "reason": "agent-unreachable", "envelope": b""}


@pytest.mark.parametrize("run_id", ["", "../x", "Run", "a/b", "a" * 65])
def test_a_run_id_never_becomes_another_path(tmp_path: Path, run_id: str) -> None:
    """Flower's run config is not trusted to name a folder."""
    with pytest.raises(RunFailedError):
        RunFiles(ObjectStore(tmp_path), run_id)


def test_files_that_are_not_this_runs_fail_it(
    files: RunFiles, folder: Path, identities: list[Identity]
) -> None:
    """A specification of another run, or an initial adapter of another type, starts nothing."""
    np.save(folder / "initial.npy", np.zeros(DIMENSION))
    with pytest.raises(RunFailedError, match="float64"):
        conduct(files, GridExchange(InProcessGrid({}), 10))
    spec = make_spec(identities, run_id="run-2")
    (folder / "spec.json").write_bytes(spec.to_bytes())
    with pytest.raises(RunFailedError, match="run-2"):
        conduct(files, GridExchange(InProcessGrid({}), 10))


def test_another_version_of_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid uses a private part of one version; any other is refused, loudly."""
    monkeypatch.setattr(fedge.flower, "FLWR_VERSION", "1.42.0")
    with pytest.raises(SettingError, match=r"1\.41\.0 is installed"):
        InProcessGrid({})
