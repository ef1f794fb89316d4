"""Evidence of every window and stream of a gateway, for pictures."""

from __future__ import annotations

import numpy as np

from fedge.drift.fleet.watch import ReleaseWatch
from fedge.records import Fingerprint, Record


class HeatMap(Record):
    """Largest evidence of each stream in each window of one gateway on one release.

    Attributes:
        z: one row per window, one value per stream; None where nothing could be tested. Windows
            up to the end of the baseline are shown against the baseline that they belong to.
        limit: the z above which something alarms; None where nothing was judged, and in
            assessments that are older than this field.
    """

    gateway: Fingerprint
    release: int
    streams: tuple[str, ...]
    windows: tuple[int, ...]
    z: tuple[tuple[float | None, ...], ...]
    limit: float | None = None


def heat_map(gateway: str, watch: ReleaseWatch) -> HeatMap:
    """The map of one release."""
    return HeatMap(
        gateway=gateway,
        release=watch.release,
        streams=watch.streams,
        windows=tuple(report.window for report in watch.reports),
        z=tuple(
            tuple(None if np.isnan(value) else round(float(value), 3) for value in row)
            for row in watch.heat
        ),
        limit=None if watch.limit is None else round(watch.limit, 3),
    )
