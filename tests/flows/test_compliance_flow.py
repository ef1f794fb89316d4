"""The report on schedule: over a real coordinator's database, with real ledgers in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fakes.ledger_fleet import REVIEWER, START, played_gateway, push_ledger
from flow_fakes import MemoryBus

from fedge.config import ServerSettings
from fedge.errors import BundleError, SettingError, StateError
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength
from fedge.review.bundle import read_bundle, write_bundle
from fedge_flows import compliance as module
from fedge_flows.compliance import make_compliance
from fedge_flows.context import FlowContext
from fedge_flows.deploy import deployments
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.witness import open_witness

AT = START + 86_400.0


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    policy = tmp_path / "fleet.toml"
    block = BlockLength(kind="seconds", value=86_400)
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=block), policy)
    return init_server(tmp_path / "host", policy=policy, settings={"compliance": {"keep": 2}})


@pytest.fixture
def fleet(settings: ServerSettings, tmp_path: Path) -> Iterator[Database]:
    """A coordinator that took and countersigned the ledgers of two gateways."""
    with Database(settings.database) as database:
        for number in range(2):
            with played_gateway(tmp_path, number) as one:
                one.ledger.open_block(0)
                one.window(0, 0)
                push_ledger(database, settings, one)
        yield database


def test_it_leaves_a_bundle_and_a_report_in_every_format(
    settings: ServerSettings, fleet: Database
) -> None:
    """Under a name by its moment, in the data folder, verified with the witness's own key."""
    made = make_compliance(settings, fleet, AT)

    assert made.verdict == "proven" and not any(lag.lags for lag in made.lags)
    assert made.folder == settings.data_dir / "compliance" / "20260922T141320Z"
    names = {path.suffix for path in made.folder.iterdir()}
    assert names == {".zip", ".html", ".pdf", ".json", ".csv"}
    bundle = read_bundle(made.folder / "ledger-bundle.zip")
    assert bundle.exporter_key == open_witness(settings).public_key.hex()
    assert len(bundle.source.gateways) == 2
    report = json.loads((made.folder / "compliance.json").read_text())
    assert report["state"] == "proven" and len(report["blocks"]) == 2
    assert "if the reviewers' keys in the bundle are the right ones" in report["verdict"]


def test_latest_points_to_the_newest_and_the_oldest_go(
    settings: ServerSettings, fleet: Database
) -> None:
    made = [make_compliance(settings, fleet, AT + day * 86_400.0) for day in range(3)]
    parent = made[0].folder.parent

    assert (parent / "latest").resolve() == made[2].folder.resolve()
    assert not made[0].folder.exists() and made[1].folder.exists()


def test_the_flow_spends_nothing(settings: ServerSettings, fleet: Database) -> None:
    """Two reports of the same ledgers hold the same entries."""
    first, second = (make_compliance(settings, fleet, AT + n) for n in range(2))

    entries = [
        [one.entries for one in read_bundle(made.folder / "ledger-bundle.zip").source.gateways]
        for made in (first, second)
    ]
    assert entries[0] == entries[1]


def test_rejected_ledgers_fail_the_flow_and_leave_the_report(
    settings: ServerSettings, fleet: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody changed on the way into the bundle is not reported as proven."""

    def tampering(path: Path, source: object, identity: object, at: float) -> str:
        sha256 = write_bundle(path, source, identity, at)  # type: ignore[arg-type]
        path.write_bytes(path.read_bytes().replace(b'"window":0', b'"window":1'))
        return sha256

    monkeypatch.setattr(module, "write_bundle", tampering)
    with pytest.raises(BundleError, match="rejected"):
        make_compliance(settings, fleet, AT)

    (folder,) = (settings.data_dir / "compliance").glob("2*")
    assert json.loads((folder / "compliance.json").read_text())["verdict"] == "rejected"
    assert "REJECTED" in (folder / "compliance.html").read_text()


def test_a_policy_of_nobody_who_may_approve_is_rejected(
    settings: ServerSettings, fleet: Database
) -> None:
    """The setting names who may; the fleet's policy was approved by somebody else."""
    own = settings.compliance.model_copy(update={"reviewers": ("ab" * 32,)})
    strict = settings.model_copy(update={"compliance": own})
    with pytest.raises(BundleError, match="rejected"):
        make_compliance(strict, fleet, AT)

    own = settings.compliance.model_copy(update={"reviewers": (REVIEWER.public_key.hex(),)})
    right = settings.model_copy(update={"compliance": own})
    assert make_compliance(right, fleet, AT + 1).verdict == "proven"


def test_an_empty_fleet_is_nothing_to_report_about(settings: ServerSettings) -> None:
    with Database(settings.database) as database, pytest.raises(StateError, match="no gateway"):
        make_compliance(settings, database, AT)

    assert not (settings.data_dir / "compliance").exists()


def test_a_wrong_contacts_file_is_named(settings: ServerSettings, fleet: Database) -> None:
    file = settings.data_dir / "controller.toml"
    file.write_text("controler = 'a typing mistake'\n")
    own = settings.compliance.model_copy(update={"controller": file})
    wrong = settings.model_copy(update={"compliance": own})

    with pytest.raises(SettingError, match="controler"):
        make_compliance(wrong, fleet, AT)


def test_only_one_process_reports_at_a_time(settings: ServerSettings, fleet: Database) -> None:
    context = FlowContext(settings, Facts(fleet, lambda: AT), MemoryBus())
    with context.claims.claim("compliance") as mine:
        assert mine and context.compliance() is None

    made = context.compliance()
    # By this machine's clock the ledgers may be old, and then nothing newer is proven of them.
    assert made is not None and made.verdict != "rejected"


def test_the_flow_reads_the_servers_settings(
    settings: ServerSettings, fleet: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Prefect calls: the settings come from the environment, the answer is the folder."""
    from fedge_flows.flows import compliance_flow

    file = settings.data_dir.parent / "server.toml"
    monkeypatch.setenv("FEDGE_SERVER_CONFIG", str(file))
    folder = compliance_flow.fn()

    assert folder is not None and (Path(folder) / "compliance.html").exists()


def test_it_is_deployed_with_its_own_interval() -> None:
    """The interval of `[compliance]` reaches Prefect; the entrypoint exists."""
    found = {one["name"]: one for one in deployments(3.0, 7200.0)["deployments"]}

    assert found["compliance"]["schedules"] == [{"interval": 7200.0, "active": True}]
    assert found["monitor"]["schedules"][0]["interval"] == 3.0
    assert found["renew"]["schedules"][0]["interval"] == 86_400
    from fedge_flows import flows

    assert found["compliance"]["entrypoint"] == f"{flows.__name__}.compliance_flow"
    assert flows.compliance_flow.name == "compliance"
    assert yaml.safe_dump(found)
