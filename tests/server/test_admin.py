"""What setting up a central host promises."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from fakes.centre import Sender

from fedge.config import KeySettings, ServerSettings
from fedge.delivery.repository import ReleaseRepository
from fedge.errors import SettingError
from fedge.privacy.policy import new_policy, read_policy, write_policy
from fedge.records import BlockLength
from fedge_server.admin import admit, fleet_state, init_server
from fedge_server.database import HEAD, Database


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    block = BlockLength(kind="seconds", value=86_400)
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=block), path)
    return path


def test_a_new_server_can_start(tmp_path: Path, policy: Path) -> None:
    """Settings, policy, database and an empty release repository are there."""
    folder = tmp_path / "centre"

    settings = init_server(folder, policy=policy, settings={"port": 0, "drift": {"max_fleet": 5}})

    assert ServerSettings.load(folder / "server.toml") == settings
    assert settings.drift.max_fleet == 5
    assert read_policy(settings.policy) == read_policy(policy)
    assert ReleaseRepository(settings.releases_dir).next_counter("digits") == 1
    with Database(settings.database) as database:
        assert database.revision == HEAD


def test_no_settings_name_two_keys(tmp_path: Path, policy: Path) -> None:
    """Each process that signs reads the file that names its one key; the others name none."""
    folder = tmp_path / "centre"
    server = init_server(folder, policy=policy)

    assert server.keys == KeySettings()
    for name, key in (("builder", "builder"), ("evaluator", "evaluator"), ("publisher", "online")):
        own = ServerSettings.load(folder / f"{name}.toml")
        named = {k: v for k, v in own.keys.model_dump().items() if v is not None}
        assert list(named) == [key] and named[key].is_file()
        assert own.model_copy(update={"keys": KeySettings()}) == server


def test_offline_keys_lie_apart(tmp_path: Path, policy: Path) -> None:
    """No settings file names them, and no other key lies beside them."""
    folder, safe = tmp_path / "centre", tmp_path / "safe"

    init_server(folder, policy=policy, offline_keys=safe)

    assert sorted(path.name for path in safe.glob("*.pem") if ".pub" not in path.name) == [
        "root.pem",
        "targets.pem",
    ]
    assert not list(folder.rglob("root.pem"))
    assert all("safe" not in path.read_text() for path in folder.glob("*.toml"))


def test_nothing_is_overwritten(tmp_path: Path, policy: Path) -> None:
    """A second `init` leaves keys and settings as they are."""
    folder = tmp_path / "centre"
    init_server(folder, policy=policy)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with pytest.raises(SettingError, match="already holds"):
        init_server(folder, policy=policy)

    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("wrong", [{"port": 70_000}, {"nonsense": 1}, {"drift": {"max_fleet": 0}}])
def test_wrong_settings_make_nothing(
    tmp_path: Path, policy: Path, wrong: dict[str, object]
) -> None:
    """A wrong setting is named before anything is written."""
    with pytest.raises(SettingError):
        init_server(tmp_path / "centre", policy=policy, settings=wrong)
    assert not (tmp_path / "centre").exists()


def test_settings_survive_their_file(tmp_path: Path, policy: Path) -> None:
    """Quotes, backslashes, lists and tables come back from TOML as they were."""
    strange: dict[str, object] = {
        "data_dir": str(tmp_path / 'a "b" \\c'),
        "superlink": "127.0.0.1:9000",
        "monitor_interval_s": 0.5,
        "drift": {"lengths": (1, 2), "min_effect": 0.25},
        "training": {"adapter": "head"},
    }
    settings = init_server(tmp_path / "centre", policy=policy, settings=strange)

    assert settings.drift.lengths == (1, 2)
    assert ServerSettings.load(tmp_path / "centre" / "server.toml") == settings
    values = tomllib.loads((tmp_path / "centre" / "server.toml").read_text())
    assert values["data_dir"] == strange["data_dir"]


def test_admitting_needs_no_running_coordinator(tmp_path: Path, policy: Path) -> None:
    """The command line works on the database itself."""
    settings = init_server(tmp_path / "centre", policy=policy)
    sender = Sender()

    gateway = admit(settings, sender.public_key, "one")

    assert gateway.fingerprint == sender.fingerprint
    assert [g.name for g in fleet_state(settings).gateways] == ["one"]
