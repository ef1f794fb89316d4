"""A simulated fleet runs the same code, and closes the same loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedge.errors import RunFailedError, SettingError
from fedge.identity import Envelope
from fedge.privacy.policy import read_policy
from fedge.records import GatewayStatus
from fedge.simulation.digits import digits_fleet
from fedge.simulation.fleet import FleetOptions


@pytest.mark.slow
def test_a_simulated_fleet_closes_the_loop(tmp_path: Path) -> None:
    """Two of three cameras break; only these two retrain, take the release and recover."""
    options = FleetOptions(gateways=3, seed=2)
    fleet = digits_fleet(tmp_path / "fleet", onset_windows={0: 14, 2: 15}, options=options)
    fleet.release_first()
    fleet.play(26)
    noticed = fleet.assess()
    drifted = [verdict for verdict in noticed.verdicts if verdict.state == "drift"]
    assert len(noticed.episodes) == len(drifted) == 2
    # A lens moves everything that is seen through it: never one sensor's fault.
    assert {v.cause for v in drifted} == {"covariate"} and noticed.due == ()
    assert all("Expected accuracy" in v.sentence for v in drifted)

    result = fleet.retrain()
    counter = fleet.release(result)
    fleet.play(24)

    final = fleet.assess()
    assert counter == 2
    assert [g.agent.installer.status().release for g in fleet.gateways] == [2, 1, 2]
    assert [e.state for e in final.episodes] == ["closed", "closed"]
    assert {v.state for v in final.verdicts} == {"stable"}
    for drifted in (0, 2):
        shares = fleet.accuracy[drifted]
        assert sum(shares[-20:]) / 20 > sum(shares[17:26]) / 9 + 0.15
    assert fleet.epsilon() <= 3.0
    for gateway in fleet.gateways:
        gateway.agent.ledger.check_chain()
    with pytest.raises(RunFailedError, match="no cohort"):
        fleet.retrain()
    fleet.close()


@pytest.mark.soak
def test_fifty_gateways_live_through_a_day(tmp_path: Path) -> None:
    """Fifty gateways, a virtual day of hourly windows: every window is reported, none alarms."""
    fleet = digits_fleet(
        tmp_path / "fleet", onset_windows={}, options=FleetOptions(gateways=50, seed=3)
    )
    fleet.release_first()

    fleet.play(24)

    assert fleet.clock() == 24 * 3600
    reports = fleet.facts.reports()
    assert [len(own) for own in reports.values()] == [24] * 50
    assert fleet.assess().episodes == ()
    fleet.close()


def test_a_simulation_marks_everything(tmp_path: Path) -> None:
    """Envelopes of a simulation say so, and its policy is a real one."""
    fleet = digits_fleet(
        tmp_path / "fleet", onset_windows={}, options=FleetOptions(gateways=1, seed=1)
    )
    agent = fleet.gateways[0].agent
    agent.report_facts_once()

    (waiting,) = agent.spool.waiting()
    envelope = Envelope.from_bytes(waiting.envelope)

    assert envelope.header.simulated
    assert GatewayStatus.from_bytes(envelope.payload).release == 0
    assert read_policy(tmp_path / "fleet" / "gateways" / "0" / "policy.toml") == fleet.policy
    fleet.close()


def test_a_simulation_never_writes_over_another(tmp_path: Path) -> None:
    """A folder that holds something is refused."""
    (tmp_path / "something").touch()

    with pytest.raises(SettingError, match="not empty"):
        digits_fleet(tmp_path, onset_windows={})


def test_an_unknown_camera_is_named(tmp_path: Path) -> None:
    """An onset for a gateway that does not exist is refused by number."""
    with pytest.raises(SettingError, match="gateway 7"):
        digits_fleet(tmp_path / "fleet", onset_windows={7: 14})
