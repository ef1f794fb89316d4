"""What a column that wanders does to its own spread.

`scale` is the mean distance of a column's normal scores from the reference's middle. Where
the level of a slow column strays, that distance grows without any change of its spread,
and the reference, in which the level strayed less, does not tell by how much. The
allowance is what the location's own wander would do to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.baselines import Baseline
from fedge.drift.tables.encoding import RowStatistic

Floats = NDArray[np.float64]

_REACH = 3.0
"""Standard deviations of the location's wander that are allowed for. One that strays farther is
rare, and alarms by itself."""


def allowance(statistics: tuple[RowStatistic, ...], baseline: Baseline, rows: int) -> Floats:
    """float64[T], how far a mean over `rows` rows may be off for its column's wander alone.

    For standard normal Z and a level that strayed by d, the mean distance E|Z + d| - E|Z| is
    d (2 Phi(d) - 1) + 2 phi(d) - 2 phi(0).
    """
    from scipy.special import ndtr

    places = {s.columns: i for i, s in enumerate(statistics) if s.name == "location"}
    wander = baseline.of_mean(rows) + baseline.of_mean(baseline.rows)
    allowed = np.zeros(len(statistics))
    for index, statistic in enumerate(statistics):
        if statistic.name == "scale" and statistic.columns in places:
            strayed = _REACH * np.sqrt(wander[places[statistic.columns]])
            densities = 2 * (np.exp(-(strayed**2) / 2) - 1) / np.sqrt(2 * np.pi)
            allowed[index] = strayed * (2 * ndtr(strayed) - 1) + densities
    return allowed


def beyond(difference: Floats, allowed: Floats) -> Floats:
    """What is left of float64[..., T] differences when what is allowed is taken off."""
    left: Floats = np.sign(difference) * np.maximum(0.0, np.abs(difference) - allowed)
    return left
