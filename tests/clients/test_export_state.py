"""The export helps support and holds no record, label, sketch, key or token."""

from __future__ import annotations

import json
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from fakes.gateways import make_gateway

from fedge.config import GatewaySettings
from fedge.errors import StateError
from fedge_client.export import QUERIES, export_state

GOLDEN = Path(__file__).parent.parent / "golden"
TOKEN = "canary-token-5d1be40a"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A gateway that served for a while, with a token file and an escalation token."""
    make_gateway(tmp_path, token_file="tokens")
    (tmp_path / "tokens").write_text(TOKEN)
    with tarfile.open(GOLDEN / "layout-1.tar.gz") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "state" / "logs").mkdir()
    (tmp_path / "state" / "logs" / "agent.log").write_text("started\n")
    (tmp_path / "state" / "subject.key").write_bytes(b"S" * 32)
    return tmp_path / "gateway.toml"


def exported(config: Path) -> dict[str, bytes]:
    target = config.parent / "export.zip"
    export_state(GatewaySettings.load(config), config, target)
    with zipfile.ZipFile(target) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_holds_what_support_asks_for(config: Path) -> None:
    found = exported(config)

    family = tomllib.loads(config.read_text())["family"]
    wanted = {"settings.json", "doctor.json", "status.json", f"{family}/ledger.jsonl"}
    assert wanted | {f"{family}/spool.json", f"{family}/logs/agent.log"} <= set(found)
    first = json.loads(found[f"{family}/ledger.jsonl"].splitlines()[0])
    assert first["kind"] == "created"


def test_no_secret_is_in_it(config: Path) -> None:
    everything = b"".join(exported(config).values())

    state = config.parent / "state"
    pem = (state / "identity.pem").read_bytes().splitlines()[1]
    assert TOKEN.encode() not in everything
    assert pem not in everything
    assert b"S" * 32 not in everything


def test_what_addresses_and_tables_hide_is_left_out(config: Path) -> None:
    """A password in an address, secrets of further models; and only its owner reads the file."""
    text = config.read_text()
    address = "https://me:canary-pass@centre.example/c"
    config.write_text(
        f'coordinator_url = "{address}"\n{text}\n'
        '[[models]]\nfamily = "second"\ntask = "toy"\n'
        '[models.escalation]\ntoken_file = "canary-path"\n'
    )

    found = exported(config)

    assert not any(b"canary" in data for data in found.values())
    assert b"https://(left out)@centre.example/c" in found["settings.json"]
    assert (config.parent / "export.zip").stat().st_mode & 0o777 == 0o600


def test_no_payload_label_sketch_or_row_is_read(config: Path) -> None:
    """What is read of the state file is a closed list, and no content is on it."""
    columns = " ".join(QUERIES.values())

    assert not {"block_labels", "profiles", "subject"} & set(columns.replace(",", " ").split())
    spool = json.loads(exported(config)["toy/spool.json"])
    assert spool
    assert all("envelope" not in row for row in spool)


def test_an_existing_file_is_kept(config: Path) -> None:
    target = config.parent / "export.zip"
    target.write_text("mine")

    with pytest.raises(StateError, match="exists"):
        export_state(GatewaySettings.load(config), config, target)

    assert target.read_text() == "mine"


def test_a_damaged_state_file_is_named_and_nothing_is_left_behind(config: Path) -> None:
    (config.parent / "state" / "state.sqlite").write_bytes(b"damaged" * 1000)

    with pytest.raises(StateError, match=r"state\.sqlite"):
        exported(config)

    assert not list(config.parent.glob("*.zip*")) + list(config.parent.glob(".*.part"))
