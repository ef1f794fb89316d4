"""Retraining over a real SuperLink and real SuperNodes, as processes on loopback."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tomli_w
from fakes.flower_fleet import DIMENSION, FlowerFleet, eventually, make_spec

from fedge.errors import OutboundError, RunFailedError, SettingError
from fedge.records import RunResult
from fedge_server.superlink import (
    BUNDLE,
    bundle_content,
    connected_nodes,
    run_status,
    submit_bundle,
    submit_run,
    superlink_arguments,
    wait_run,
)

CANARY = "canary-of-the-bundle"


@pytest.fixture(scope="module")
def running() -> Iterator[FlowerFleet]:
    """Three gateways; the tests of this file that leave it as it was share it."""
    with FlowerFleet.temporary() as fleet:
        fleet.start_superlink()
        for change in (1.0, 3.0, 100.0):
            fleet.add_gateway(change)
        yield fleet


def test_a_run_leaves_its_result_by_run_id(running: FlowerFleet) -> None:
    """Two rounds and an evaluation over three gateways, one of them outside of the cohort."""
    spec = make_spec([agent.identity for agent in running.agents[:2]], run_id="good")
    folder = running.put_run(spec)
    wait_run(running.settings, submit_run(running.settings, "good"), 60)
    result = RunResult.from_bytes((folder / "result.json").read_bytes())
    assert np.load(folder / "adapter.npy").tolist() == [4.0] * DIMENSION
    assert result.spec == spec and result.gain == 6
    assert set(result.contributors[0]) == {p.gateway for p in spec.participants}
    for agent in running.agents:
        messages = [(r.phase, r.round) for r in agent.requests if r.spec.run_id == "good"]
        assert messages in ([("train", 0), ("train", 1), ("evaluate", 2)], messages[:2])
    last = np.frombuffer(running.agents[0].arrays[-1], dtype="<f4")
    assert last.tolist() == [4.0] * DIMENSION


def bundle_with_code() -> bytes:
    """A bundle with a `fedge_client` of its own, which Flower alone would prefer to ours."""
    from flwr.cli.build import build_fab_from_files

    config = tomllib.loads((BUNDLE / "pyproject.toml").read_text())
    del config["tool"]["flwr"]["app"]["fab-include"]
    evil = f"open(__file__ + '.{CANARY}', 'w').close()\nfrom flwr.clientapp import ClientApp\n"
    files: dict[str, bytes | Path] = {
        "pyproject.toml": tomli_w.dumps(config).encode(),
        "fedge_client/__init__.py": evil.encode(),
        "fedge_client/courier.py": (evil + "app = ClientApp()\n").encode(),
    }
    return build_fab_from_files(files)[0]


def bundle_with_another_client(ours: bytes) -> bytes:
    """Our bundle, but the ClientApp is one that happens to be installed."""
    with zipfile.ZipFile(io.BytesIO(ours)) as bundle:
        config = tomllib.loads(bundle.read("pyproject.toml").decode())
    from flwr.cli.build import build_fab_from_files

    config["tool"]["flwr"]["app"]["components"]["clientapp"] = "fedge_client.other:app"
    return build_fab_from_files({"pyproject.toml": tomli_w.dumps(config).encode()})[0]


@pytest.mark.parametrize("kind", ["code", "another ClientApp"])
def test_a_gateway_refuses_any_other_bundle_and_goes_on(running: FlowerFleet, kind: str) -> None:
    """No byte of it is stored on a gateway, the run is told why, and the next run succeeds."""
    ours = bundle_content(running.settings)
    content = bundle_with_code() if kind == "code" else bundle_with_another_client(ours)
    before = [process.pid for process in running.processes]
    name = kind.split()[0] + "-refused"
    identities = [agent.identity for agent in running.agents[:2]]
    folder = running.put_run(make_spec(identities, run_id=name, rounds=1))
    with pytest.raises(RunFailedError, match="failed"):
        wait_run(running.settings, submit_bundle(running.settings, content, name), 60)
    reason = json.loads((folder / "failed.json").read_text())["reason"]
    assert "bundle-refused" in reason
    assert not any(r.spec.run_id == name for agent in running.agents for r in agent.requests)
    for gateway in running.folder.glob("g?"):
        stored = [p.name for p in gateway.rglob("*") if p.is_file()]
        assert not [n for n in stored if CANARY in n or n.endswith(".py")]

    wait_run(running.settings, submit_run(running.settings, name), 60)
    assert (folder / "result.json").exists()
    assert [p.pid for p in running.processes if p.poll() is None] == before


def test_a_gateway_that_declines_is_left_out(running: FlowerFleet) -> None:
    """Its public reason reaches the server; the others' run succeeds without it."""
    spec = make_spec([a.identity for a in running.agents[:2]], run_id="declined", rounds=1)
    folder = running.put_run(spec)
    running.agents[1].decide = lambda _: "budget-exhausted"
    try:
        wait_run(running.settings, submit_run(running.settings, "declined"), 60)
    finally:
        running.agents[1].decide = lambda _: ""
    result = RunResult.from_bytes((folder / "result.json").read_bytes())
    assert result.contributors == ((running.agents[0].identity.fingerprint,),)


def test_an_unknown_run_is_unknown(running: FlowerFleet) -> None:
    """Not "fine" and not "running": Flower does not know it."""
    assert run_status(running.settings, 12345) == "unknown"
    with pytest.raises(RunFailedError, match="unknown"):
        wait_run(running.settings, 12345, 5)


def test_only_loopback_is_bound(running: FlowerFleet) -> None:
    """Flower's control API has no authentication, so no other address is accepted."""
    for address in ("0.0.0.0:8000", "10.1.1.1:8000", "example.org:8000", "127.0.0.1", ":8000"):
        with pytest.raises(SettingError):
            superlink_arguments(running.settings.model_copy(update={"superlink": address}))
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN"
                 and c.pid in {p.pid for p in running.processes}}  # fmt: skip
    assert listening == {"127.0.0.1"}


def test_a_superlink_that_is_away_is_said(running: FlowerFleet) -> None:
    """Whoever submits or asks gets an outbound error and tries again later."""
    nowhere = running.settings.model_copy(update={"superlink": "127.0.0.1:1"})
    with pytest.raises(OutboundError):
        submit_run(nowhere, "good")
    with pytest.raises(OutboundError):
        run_status(nowhere, 1)


@pytest.mark.slow
def test_a_killed_superlink_fails_the_run_and_a_retry_succeeds(fleet: FlowerFleet) -> None:
    """kill -9 in the middle of a round: the attempt is reported as failed soon after the
    restart, the SuperNodes reconnect, and the same run id gets its result."""
    fleet.start_superlink()
    agents = [fleet.add_gateway(1.0), fleet.add_gateway(3.0)]
    folder = fleet.put_run(make_spec([a.identity for a in agents]))
    first = submit_run(fleet.settings, "run-1")
    eventually(lambda: (folder / "round-0.json").exists(), "the first round")
    agents[0].hold.clear()
    eventually(lambda: any(r.round == 1 for r in agents[0].requests), "the second round's message")
    assert fleet.superlink is not None
    fleet.superlink.kill()
    fleet.superlink.wait()
    fleet.start_superlink()
    with pytest.raises(RunFailedError):
        wait_run(fleet.settings, first, 30)
    agents[0].hold.set()
    wait_run(fleet.settings, submit_run(fleet.settings, "run-1"), 60)
    result = RunResult.from_bytes((folder / "result.json").read_bytes())
    assert np.load(folder / "adapter.npy").tolist() == [4.0] * DIMENSION
    assert len(result.contributors) == 2
    nodes = [p for p in fleet.processes if p is not fleet.superlink]
    assert [p.poll() for p in nodes[1:]] == [None, None]


@pytest.mark.slow
def test_nothing_outlives_a_killed_parent(fleet: FlowerFleet) -> None:
    """kill -9 of SuperLink and SuperNode while a message is worked on leaves no process of
    theirs: not the starters, not the ServerApp, not the ClientApp."""
    fleet.start_superlink()
    agent = fleet.add_gateway()
    fleet.put_run(make_spec([agent.identity]))
    agent.hold.clear()
    submit_run(fleet.settings, "run-1")
    eventually(lambda: agent.requests, "the message")
    parents = [psutil.Process(p.pid) for p in fleet.processes]
    family = [c for p in parents for c in p.children(recursive=True)]
    assert len(family) == 4
    for parent in parents:
        parent.kill()
    eventually(
        lambda: not any(c.is_running() and c.status() != "zombie" for c in family),
        "the end of every child",
        5,
    )


@pytest.mark.slow
def test_a_supernode_that_cannot_go_on_ends(fleet: FlowerFleet) -> None:
    """Its starter dead, or its SuperLink without memory of it: it ends, to be started again."""
    fleet.start_superlink()
    fleet.add_gateway()
    fleet.add_gateway()
    starterless, forgotten = fleet.processes[1:]
    eventually(lambda: connected_nodes(fleet.settings) == 2, "both nodes")
    psutil.Process(starterless.pid).children()[0].kill()
    assert starterless.wait(10) == 1
    assert fleet.superlink is not None
    fleet.superlink.kill()
    fleet.superlink.wait()
    for file in fleet.settings.flwr_home.glob("superlink.sqlite*"):
        file.unlink()
    fleet.start_superlink()
    forgotten.wait(40)
