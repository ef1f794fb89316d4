"""A simulated fleet of cameras that read digits: the built-in task, ready to play."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from fedge.errors import SettingError
from fedge.simulation.fleet import FleetOptions, SimulatedFleet
from fedge.simulation.gateway import Inputs, Labels
from fedge.tasks.camera import fault_named
from fedge.tasks.digits import CODE, gateway_share
from fedge.tasks.glyph_stream import GlyphStream


def digits_fleet(
    folder: Path | str,
    *,
    onset_windows: Mapping[int, int],
    fault: str = "lens",
    options: FleetOptions | None = None,
) -> SimulatedFleet:
    """Cameras before real glyphs, some of which break.

    Args:
        folder: empty or missing; everything the fleet keeps goes there.
        onset_windows: gateway number -> window in which its camera breaks; the others stay well.
        fault: `lens` or `dirt`.

    Raises:
        SettingError: a gateway or fault does not exist, or the folder is not empty.
    """
    chosen = options or FleetOptions()
    if unknown := sorted(set(onset_windows) - set(range(chosen.gateways))):
        raise SettingError(f"there is no gateway {unknown[0]}; there are {chosen.gateways}")
    streams = [
        GlyphStream(
            gateway_share(number, chosen.gateways),
            (chosen.seed, number),
            fault=fault_named(fault),
            onset_row=(
                onset_windows[number] * chosen.window_slots if number in onset_windows else None
            ),
        )
        for number in range(chosen.gateways)
    ]

    def next_batch(gateway: int, first_row: int, rows: int) -> tuple[Inputs, Labels]:
        piece = streams[gateway].rows(first_row, rows)
        return piece.inputs, piece.labels

    shared = dataclasses.replace(
        chosen, drift=chosen.drift.model_copy(update={"max_fleet": chosen.gateways})
    )
    return SimulatedFleet(CODE, next_batch, Path(folder), shared)
