"""Several models on one gateway: one port, and a worker, slots and a state folder each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.gateways import FAMILY, Caller, Load, ask_once, infer_body, toy_inputs, toy_logits
from fakes.supervisors import SupervisedGateway, alive, wait_until

from fedge.config import GatewaySettings
from fedge.errors import SettingError
from fedge.identity import Identity
from fedge_client.setup import add_model, init_gateway
from fedge_client.supervisor import Supervisor
from fedge_client.supervisor_settings import SupervisorSettings

PUMPS = "pumps"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupervisedGateway]:
    """Release 1 of the first model and release 7 of the second serve from slot A."""
    with SupervisedGateway(tmp_path_factory.mktemp("gw"), further=[PUMPS]) as gateway:
        gateway.install("A", 1)
        gateway.install("A", 7, PUMPS)
        yield gateway


def test_each_model_has_its_own_worker_and_slots(gateway: SupervisedGateway) -> None:
    """The first model's facts are as ever; the second's are asked for by its name."""
    first, second = (gateway.client_of(family).status() for family in (None, PUMPS))
    assert first["model"] == FAMILY and first["models"] == [FAMILY, PUMPS]
    assert second["model"] == PUMPS and second["port"] == first["port"]
    assert second["worker_pid"] not in (None, first["worker_pid"])
    own = gateway.settings.state_dir / "models" / PUMPS
    assert (own / "active.json").exists() and (own / "logs" / "worker-A.log").exists()
    models = gateway.client.facts()["models"]
    assert [models[family]["worker"]["release"] for family in (FAMILY, PUMPS)] == [1, 7]
    with pytest.raises(RuntimeError, match="no model 'nobody'"):
        gateway.client_of("nobody").status()


def test_one_port_serves_both(gateway: SupervisedGateway) -> None:
    """Whichever worker accepts a connection, each request is answered by its own model."""
    inputs = toy_inputs(2)
    for _ in range(10):
        caller = Caller(gateway.port)
        for family, release in ((FAMILY, 1), (PUMPS, 7), (FAMILY, 1)):
            status, answer, _ = caller.ask("POST", f"/v2/models/{family}/infer", infer_body(inputs))
            assert status == 200, answer
            assert answer["parameters"]["fedge_release"] == release
            wanted = toy_logits(release, inputs).ravel().tolist()
            assert answer["outputs"][0]["data"] == pytest.approx(wanted, abs=1e-4)
        caller.close()
    assert ask_once(gateway.port, "GET", "/v2/models/nobody")[0] == 404


def test_slots_swap_independently(gateway: SupervisedGateway) -> None:
    """A new release of one model takes no request and no slot of the other."""
    before = gateway.worker_pid()
    with Load(gateway.port, callers=2, pause_s=0.002) as load:
        served = load.served
        gateway.install("B", 8, PUMPS)
        wait_until(lambda: load.served > served + 50, what="the first model goes on")
    assert load.failed == []
    assert gateway.worker_pid() == before and gateway.client.active() == "A"
    assert gateway.client_of(PUMPS).active() == "B"
    # A connection that was relayed to the old worker gets its last answer there.
    wait_until(lambda: gateway.release(PUMPS) == 8, what="release 8 serves")


def test_one_worker_killed_the_other_goes_on(gateway: SupervisedGateway) -> None:
    """kill -9 of one model's worker: it comes back, and the other's was never touched."""
    first = gateway.worker_pid()
    gateway.kill_worker(PUMPS)
    assert gateway.worker_pid() == first
    assert gateway.client.worker_restarts() == 0
    assert gateway.client_of(PUMPS).worker_restarts() == 1
    wait_until(lambda: answered(gateway, PUMPS), what="the killed model answers")
    assert answered(gateway, FAMILY)


def answered(gateway: SupervisedGateway, family: str) -> bool:
    body = infer_body(toy_inputs(1))
    return ask_once(gateway.port, "POST", f"/v2/models/{family}/infer", body)[0] == 200


def test_the_local_sockets_are_the_owners_alone(gateway: SupervisedGateway) -> None:
    for family in (FAMILY, PUMPS):
        path = gateway.settings.runtime_dir / f"model-{family}.sock"
        assert path.is_socket() and path.stat().st_mode & 0o177 == 0


def test_a_single_model_needs_no_local_socket(tmp_path: Path) -> None:
    with SupervisedGateway(tmp_path) as gateway:
        assert list(gateway.settings.runtime_dir.glob("model-*")) == []


def test_stopping_ends_all_of_them(gateway: SupervisedGateway) -> None:
    """SIGTERM: every worker ends, no socket file stays. Nobody uses this gateway afterwards."""
    pids = [gateway.worker_pid(), gateway.worker_pid(PUMPS)]
    assert gateway.stop() == 0
    assert not any(alive(pid) for pid in pids if pid)
    left = {path.name for path in gateway.settings.runtime_dir.iterdir()}
    assert not any(name.endswith(".sock") or "port" in name for name in left)


# --- adding a model ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A gateway with one model, its policy and root beside it."""
    source = SupervisedGateway(tmp_path / "source").settings.state_dir / "policy.toml"
    (tmp_path / "policy.toml").write_bytes(source.read_bytes())
    (tmp_path / "root.json").write_text("{}")
    init_gateway(
        tmp_path / "gw",
        policy=tmp_path / "policy.toml",
        root=tmp_path / "root.json",
        coordinator="http://127.0.0.1:1",
        runtime_dir=tmp_path / "run",
    )
    return tmp_path


def test_a_model_is_added_by_command(folder: Path) -> None:
    """Its own identity, policy and root; the settings that were there stay word for word."""
    config = folder / "gw" / "gateway.toml"
    before = config.read_text()
    command = [sys.executable, "-m", "fedge.cli.main", "gateway", "add-model", str(folder / "gw")]
    command += ["--family", PUMPS, "--task", "pump", "--task-version", "2"]
    command += ["--root", str(folder / "root.json"), "--policy", str(folder / "policy.toml")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert config.read_text().startswith(before.rstrip())
    settings = GatewaySettings.load(config)
    own = settings.for_model(PUMPS)
    assert (own.task, own.task_version, own.superlink) == ("pump", 2, "")
    identity = Identity.load(own.state_dir / "identity.pem")
    assert answer.stdout.strip() == identity.public_key.hex()
    assert identity.fingerprint != Identity.load(settings.state_dir / "identity.pem").fingerprint
    assert (own.state_dir / "policy.toml").read_bytes() == (folder / "policy.toml").read_bytes()
    assert own.state_dir.stat().st_mode & 0o077 == 0
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1 and "served once" in again.stderr


def add(folder: Path, family: str = PUMPS, **changes: Path) -> Identity:
    paths = {"root": folder / "root.json", "policy": folder / "policy.toml", **changes}
    return add_model(folder / "gw", family=family, task="pump", **paths)


def test_a_call_that_was_cut_off_is_repeated(folder: Path) -> None:
    """The identity that it made already is kept: its key may have been admitted."""
    config = folder / "gw" / "gateway.toml"
    before = config.read_bytes()
    identity = add(folder)
    config.write_bytes(before)
    assert add(folder).fingerprint == identity.fingerprint
    assert add(folder, "valves").fingerprint != identity.fingerprint
    served = [settings.family for settings in GatewaySettings.load(config).served]
    assert served == ["digits", PUMPS, "valves"]


def test_the_settings_keep_their_mode_and_reach_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that others may not read stays so, nothing lies beside it, its folder is synced."""
    config = folder / "gw" / "gateway.toml"
    config.chmod(0o600)
    before = sorted((folder / "gw").iterdir())
    synced: list[int] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr("fedge.durable.os.fsync", noted)
    add(folder)
    assert config.stat().st_mode & 0o777 == 0o600
    assert sorted((folder / "gw").iterdir()) == before
    assert synced[-2:] == [config.stat().st_ino, (folder / "gw").stat().st_ino]


def test_what_cannot_be_added_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """A bad name, a missing file, no gateway: said, and the settings are as before."""
    config = folder / "gw" / "gateway.toml"
    before = config.read_bytes()
    with pytest.raises(SettingError, match="family"):
        add(folder, "../../etc")
    with pytest.raises(SettingError, match="no trusted root"):
        add(folder, root=tmp_path / "absent")
    with pytest.raises(SettingError):
        add(folder, policy=tmp_path / "absent")
    with pytest.raises(SettingError, match="no gateway"):
        add_model(
            tmp_path / "nowhere", family="x", task="x", root=tmp_path / "r", policy=tmp_path / "p"
        )
    assert config.read_bytes() == before and not (folder / "gw" / "state" / "models").exists()


def test_a_model_without_a_state_folder_is_named(tmp_path: Path) -> None:
    """Written into gateway.toml by hand: the supervisor says which command makes the folder."""
    gateway = SupervisedGateway(tmp_path)
    with gateway.config.open("a") as file:
        file.write('[[models]]\nfamily = "valves"\ntask = "toy"\n')
    with pytest.raises(SettingError, match=r"valves .*add-model"):
        Supervisor(SupervisorSettings.load(gateway.config), {})


@pytest.mark.parametrize(
    "table", ['[[models]]\nfamily = "toy"', '[[models]]\nfamily = "../x"', "models = 3"]
)
def test_wrong_models_are_refused(tmp_path: Path, table: str) -> None:
    """A family twice, a name that is a path, no table at all."""
    text = f'state_dir = "s"\nruntime_dir = "r"\nfamily = "toy"\n{table}\n'
    (tmp_path / "gateway.toml").write_text(text)
    with pytest.raises(SettingError, match=r"famil|models"):
        SupervisorSettings.load(tmp_path / "gateway.toml")


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    """107 bytes hold a socket's path; the setting is wrong before anything starts."""
    long = tmp_path / ("x" * 90)
    gateway = SupervisedGateway(tmp_path, runtime_dir=str(long))
    state = gateway.settings.state_dir / "models" / "valves"
    state.mkdir(parents=True)
    with gateway.config.open("a") as file:
        file.write('[[models]]\nfamily = "valves"\ntask = "toy"\n')
    with pytest.raises(SettingError, match="cannot open the socket"):
        Supervisor(SupervisorSettings.load(gateway.config), {})
