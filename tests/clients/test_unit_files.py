"""The systemd units: valid, hardened, and the SuperNode under a user of its own."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedge.config import GatewaySettings
from fedge.errors import SettingError
from fedge_client.unit_files import UNITS, sample_settings, unit_files, write_units

CONFIG = Path("/etc/fedge/gateway.toml")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if fedge were installed where a service can see it, wherever the tests run."""
    monkeypatch.setattr(sys, "executable", "/bin/sh")


def parsed(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit_files(CONFIG, "8080")[name])
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    paths = write_units(tmp_path, CONFIG, "8080")

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_supernode_runs_under_another_user_in_the_agents_group() -> None:
    gateway, node = parsed("fedge-gateway.service"), parsed("fedge-supernode.service")

    assert gateway["Service"]["User"] != node["Service"]["User"]
    assert gateway["Service"]["Group"] == node["Service"]["Group"]
    assert gateway["Service"]["StateDirectoryMode"] == "0700"
    assert "fedge" in node["Service"]["InaccessiblePaths"]


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_services_are_hardened(name: str) -> None:
    service = parsed(name)["Service"]

    wanted = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": ""}
    assert {key: service[key] for key in wanted} == wanted
    assert service["Restart"] == "always"


def test_the_gateway_is_watched_and_started_by_its_socket() -> None:
    service, listening = parsed("fedge-gateway.service"), parsed("fedge-gateway.socket")

    assert (service["Service"]["Type"], "WatchdogSec" in service["Service"]) == ("notify", True)
    assert listening["Socket"]["ListenStream"] == "8080"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / UNITS[1]).write_text("mine")

    with pytest.raises(SettingError, match=UNITS[1]):
        write_units(tmp_path, CONFIG, "8080")

    assert [p.name for p in tmp_path.iterdir()] == [UNITS[1]]


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(SettingError, match="absolute"):
        unit_files(Path("gateway.toml"), "8080")


def test_the_sample_settings_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(sample_settings())

    assert GatewaySettings.load(path).log_format == "json"


@pytest.mark.parametrize("config", ["/home/ann/gateway.toml", "/etc/fedge/my gateway.toml"])
def test_a_path_that_a_unit_cannot_use_is_refused(config: str) -> None:
    with pytest.raises(SettingError, match=r"gateway\.toml"):
        unit_files(Path(config), "8080")


def test_a_percent_sign_is_kept_from_systemd() -> None:
    text = unit_files(Path("/etc/fedge/100%/gateway.toml"), "8080")["fedge-gateway.service"]

    assert "/etc/fedge/100%%/gateway.toml" in text
