"""What operators read about a fleet is as old as it is, whoever fell silent."""

from __future__ import annotations

import pytest
from fakes.centre import Centre, Sender
from fakes.drifting_sites import REFERENCE, SHA, Site

from fedge.config import DriftSettings
from fedge.drift.fleet.monitor import StoredFacts, assess
from fedge_server.objects import ObjectStore
from fedge_server.verdicts import LATEST, fleet_standing

HOUR = 3600.0


def judged(centre: Centre, sender: Sender, *, now: float) -> None:
    """What `monitor` would store of a steady gateway, at that moment."""
    stored = StoredFacts(heard=centre.facts.heard(), now=now)
    windows = {sender.fingerprint: Site(seed=1).stream(20)}
    found = assess(windows, {SHA: REFERENCE}, DriftSettings(baseline_windows=12), (), stored)
    ObjectStore(centre.settings.objects_dir).replace(LATEST, found.to_bytes())


def sentence(centre: Centre, now: float) -> str:
    (gateway,) = fleet_standing(centre.settings, centre.database, now).gateways
    return gateway.sentence


def test_the_latest_report_is_known_by_the_centres_clock(centre: Centre) -> None:
    """Whatever the windows say of themselves, and of gateways that reported alone."""
    one, silent = centre.admitted(1), centre.admitted(2)
    centre.post(silent.status(0))
    centre.post(one.report(0))
    first = centre.facts.heard()[one.fingerprint]
    centre.post(one.report(1))

    assert set(centre.facts.heard()) == {one.fingerprint}
    assert centre.facts.heard()[one.fingerprint] > first


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (0.5, "Stable on release 1: 8 windows tested against 12. Last report 30 min ago."),
        (5.9, "Stable on release 1: 8 windows tested against 12. Last report 5 h ago."),
        (6.1, "Unknown: no report for 6 h. Last report 6 h ago."),
    ],
)
def test_a_silent_gateway_is_unknown_though_nobody_judged_again(
    centre: Centre, hours: float, said: str
) -> None:
    """The stored verdict was stable; read later it is no more than old."""
    sender = centre.admitted()
    centre.post(sender.report(0))
    heard = centre.facts.heard()[sender.fingerprint]
    judged(centre, sender, now=heard)

    assert sentence(centre, heard + hours * HOUR) == said


def test_a_monitor_that_stopped_is_told_from_a_silent_gateway(centre: Centre) -> None:
    """The gateway reports, nobody looks: so the sentence says."""
    sender = centre.admitted()
    centre.post(sender.report(0))
    heard = centre.facts.heard()[sender.fingerprint]
    judged(centre, sender, now=heard - 7 * HOUR)

    assert sentence(centre, heard) == "Unknown: not judged for 7 h. Last report 0 s ago."
