"""Labelled errors of a fleet, from the ring to the verdict: what labels alone can show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedge.config import DriftSettings
from fedge.drift.fleet.monitor import FleetAssessment
from fedge.simulation.fleet import FleetOptions, SimulatedFleet
from fedge.simulation.gateway import Inputs, Labels
from fedge.tasks.digits import CODE, gateway_share
from fedge.tasks.glyph_stream import GlyphStream

GATEWAYS, ONSET, WINDOWS = 2, 14, 24


def played(folder: Path, label_rho: float) -> tuple[FleetAssessment, int]:
    """From window `ONSET` on the first gateway's labels say other classes of the same inputs.

    Returns:
        what the drift rules find, and how many pairs the centre holds.
    """
    drift = DriftSettings(baseline_windows=12, gather_windows=9, max_fleet=GATEWAYS)
    options = FleetOptions(gateways=GATEWAYS, seed=4, label_rho=label_rho, drift=drift)
    streams = [GlyphStream(gateway_share(n, GATEWAYS), (4, n)) for n in range(GATEWAYS)]

    def next_batch(gateway: int, first_row: int, rows: int) -> tuple[Inputs, Labels]:
        piece = streams[gateway].rows(first_row, rows)
        turned = gateway == 0 and first_row >= ONSET * options.window_slots
        return piece.inputs, np.where(turned, (piece.labels + 1) % 10, piece.labels)

    fleet = SimulatedFleet(CODE, next_batch, folder, options)
    try:
        fleet.release_first()
        fleet.play(WINDOWS)
        return fleet.assess(), sum(len(own) for own in fleet.facts.labels().values())
    finally:
        fleet.close()


@pytest.mark.slow
def test_labels_that_turn_wrong_are_concept_drift(tmp_path: Path) -> None:
    """The inputs stay, their truth changes: that gateway drifted, the other is well."""
    found, pairs = played(tmp_path / "fleet", label_rho=0.01)

    assert pairs == GATEWAYS * (WINDOWS - 1)  # all but the last, which waits for its watermark
    drifted = [verdict for verdict in found.verdicts if verdict.state == "drift"]
    assert [(v.cause, v.scope) for v in drifted] == [("concept", "gateway")]
    assert drifted[0].since_window is not None and abs(drifted[0].since_window - ONSET) <= 1
    assert {v.state for v in found.verdicts} == {"drift", "stable"}


@pytest.mark.slow
def test_without_a_charge_for_labels_nobody_knows(tmp_path: Path) -> None:
    """The same world under the default policy: no pair leaves, and nothing else moved."""
    found, pairs = played(tmp_path / "fleet", label_rho=0.0)

    assert pairs == 0
    assert {v.state for v in found.verdicts} == {"stable"}
