"""A webhook that cannot be used stops its alerts and nothing else, and is not kept quiet."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.centre import Sender
from flow_fakes import Clock, MemoryBus, MemoryInterventions, run_spec
from typer.testing import CliRunner

from fedge.cli.main import app
from fedge.config import AlertSettings, ServerSettings
from fedge.drift.fleet.interventions import Intervention
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength
from fedge_flows.actions import announce
from fedge_flows.context import FlowContext
from fedge_flows.webhook import Webhook, webhook_of
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet

WHO = "a" * 32


def held() -> Intervention:
    return Intervention(
        episode=f"{WHO}-1-4",
        gateway=WHO,
        action="quarantine",
        window=7,
        at=1.0,
        by="policy",
        reason="Drift since window 4.",
    )


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    """A centre whose webhook's token file does not exist."""
    policy = tmp_path / "fleet.toml"
    block = BlockLength(kind="windows", value=60)
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=block), policy)
    alerts = {"webhook_url": "https://alerts.example/fedge", "token_file": "webhook.token"}
    init_server(tmp_path / "host", policy=policy, settings={"alerts": alerts})
    return ServerSettings.load(tmp_path / "host" / "server.toml")


@pytest.fixture
def database(settings: ServerSettings) -> Iterator[Database]:
    with Database(settings.database) as database:
        yield database


class TestFlows:
    def test_monitor_judges_and_starts_what_is_due(
        self, settings: ServerSettings, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its log names the file; a created run is announced all the same."""
        facts, bus = Facts(database, time.time), MemoryBus()
        facts.create_run(run_spec())
        with caplog.at_level(logging.ERROR):
            looked = FlowContext(settings, facts, bus).monitor()

        assert looked is not None
        assert [run_id for _, run_id in looked.events] == ["run-1"]
        assert "webhook.token" in caplog.text and "not sent" in caplog.text

    def test_other_roles_need_no_webhook(
        self, settings: ServerSettings, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Who retrains, builds or publishes never looks for the token."""
        context = FlowContext(settings, Facts(database, time.time), MemoryBus())

        assert context.due_for_training() == ()
        assert caplog.text == ""


class TestAlerts:
    def test_are_owed_to_the_webhook_and_sent_elsewhere(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The bus is told at once; with the file in place nothing is lost."""
        token = tmp_path / "webhook.token"
        alerts = AlertSettings(webhook_url="https://alerts.example", token_file=token)
        log, bus = MemoryInterventions(), MemoryBus()
        log.record(held())
        broken = webhook_of(alerts, Clock().sleep)
        assert broken is not None

        assert announce(log, [bus, broken]) == ()
        assert [alert.gateway for alert in bus.alerts] == [WHO]
        assert list(log.unannounced()) == [held()]
        assert str(token) in caplog.text
        token.write_text("secret\n")
        assert isinstance(webhook_of(alerts, Clock().sleep), Webhook)

    def test_an_address_in_the_clear_stops_nothing_else(self) -> None:
        """No alert goes there, and no flow ends by it."""
        channel = webhook_of(AlertSettings(webhook_url="http://10.0.0.5"), Clock().sleep)

        assert channel is not None and not isinstance(channel, Webhook)

    def test_no_address_is_no_channel(self) -> None:
        """Nothing is owed where nothing was asked for."""
        assert webhook_of(AlertSettings(), Clock().sleep) is None


def test_status_says_what_is_wrong(settings: ServerSettings, database: Database) -> None:
    """The missing file and the owed alerts, beside the fleet; then silence once both are mended."""
    who = Fleet(database, time.time).admit(Sender().public_key, "pump 1").fingerprint
    hold = held().model_copy(update={"gateway": who})
    Facts(database, time.time).interventions.record(hold)
    status = ["server", "status", "--config", str(settings.data_dir.parent / "server.toml")]
    broken = CliRunner().invoke(app, status)
    assert settings.alerts.token_file is not None
    settings.alerts.token_file.write_text("secret\n")
    Facts(database, time.time).interventions.announced(hold)
    mended = CliRunner().invoke(app, status)

    assert (broken.exit_code, mended.exit_code) == (0, 0)
    assert "no alert can be sent" in broken.stderr and "webhook.token" in broken.stderr
    assert "alerts owed: 1" in broken.stderr
    assert mended.stderr == ""
