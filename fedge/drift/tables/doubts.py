"""Which columns may have slow waves that a short autoregression does not see.

Means of a few blocks of rows would show such a wave, but they also suggest one in every
dozenth column that has none, whose drift is then seen late or never. So a column whose rows
look independent is believed as far as its own slow frequencies bear it out. Rows that
resemble their neighbours are not: the slower a wave, the more of it looks like that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SLOWEST = (1, 2, 4, 8, 16)
"""How many of the slowest frequencies are looked at: how slow a wave is nobody knows."""

TURNS = np.arange(1, _SLOWEST[-1] + 1)
"""The frequencies looked at, in turns within all rows."""

_CLEARING_ROWS = 500
"""Rows that clear no column: a wave that would matter does not show in them."""

_NEARLY_INDEPENDENT = 2.0
"""Variance of the mean of all rows over that of independent ones, up to which these look it."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """What means of blocks may say against the autoregression of T columns.

    A column with some chance of a slow wave keeps the power that its blocks suggest; only one
    with a good chance also has its degrees of freedom lowered to what so few blocks know.

    Attributes:
        power: bool[T], they may raise the power.
        degrees: bool[T], they may lower the degrees of freedom.
    """

    power: NDArray[np.bool_]
    degrees: NDArray[np.bool_]

    @classmethod
    def of(cls, unit: Floats, swollen: Floats, expected: Floats, degrees: Floats) -> Doubt:
        """Judge columns by what their autoregressions expect.

        Args:
            unit: float64[n, T], scores without gaps, of mean 0 and variance 1.
            swollen: float64[T], variance of the mean of all rows over that of independent ones.
            expected: float64[16, T], power spectral density at `TURNS`.
            degrees: float64[T], of freedom behind it.
        """
        persistent = swollen > _NEARLY_INDEPENDENT
        # Levels fall with the rows: the more there are, the plainer a wave that matters is.
        level = _CLEARING_ROWS / max(1, len(unit))
        if level >= 1:
            every = np.ones(len(swollen), dtype=np.bool_)
            return cls(every, every)
        chance = chance_of_slow_waves(unit, expected, degrees)
        return cls(persistent | (chance <= level), persistent | (chance <= level**2))


def chance_of_slow_waves(unit: Floats, expected: Floats, degrees: Floats) -> Floats:
    """float64[T], p-values of the power in what turns only a few times within the rows.

    Power at one frequency over what is expected is exponential, so the mean over the m slowest
    is F with 2 m degrees and the expectation's. Several m are combined by Cauchy's law, which holds
    however they depend (Liu and Xie, JASA 2020). Arguments as of `Doubt.of`.
    """
    from scipy.special import fdtrc

    rows = len(unit)
    angles = np.outer(TURNS, np.arange(rows)) * (2 * np.pi / rows)
    seen = ((np.cos(angles) @ unit) ** 2 + (np.sin(angles) @ unit) ** 2) / rows
    tried = np.array(_SLOWEST)
    mean = np.cumsum(seen / np.maximum(expected, 1e-300), axis=0)[tried - 1] / tried[:, None]
    p = np.clip(fdtrc(2 * tried[:, None], degrees, mean), 1e-12, 1 - 1e-12)
    chance: Floats = 0.5 - np.arctan(np.tan((0.5 - p) * np.pi).mean(axis=0)) / np.pi
    return chance
