"""Where drift is: on some gateways alone, or everywhere alike.

The movements of the gateways, weighted by their precision, are partitioned exactly
(Cochran 1954; Lancaster 1949 for chi-square):

    sum w d^2  =  (sum w) mean(d)^2   +   sum w (d - mean(d))^2
      total    =  pooled: the fleet   +   heterogeneity: gateways around it

for every watched statistic and summed over them. Noise alone gives each of the terms
its degrees of freedom, which are taken off before their shares are compared. Where
k of n gateways move by the same amount, the pooled share is k / n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.words import Scope

AGREEMENT = 0.25
"""Part of its own movement that a gateway must have in common with the others to go with them."""

STILL_Z = 3.0
"""Standard errors by which a gateway must fall short of half the fleet's movement to be one that
stayed where it was."""


@dataclass(frozen=True, slots=True)
class Moves:
    """How one gateway moved: float64[statistics] each, the change and its standard error."""

    change: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Partition:
    """The partition, in squared standard errors.

    Attributes:
        total, pooled, heterogeneity: total = pooled + heterogeneity.
        degrees: of freedom of `pooled`; `total` has as many for each gateway.
        gateways: how many were compared.
    """

    total: float
    pooled: float
    heterogeneity: float
    degrees: int
    gateways: int

    @property
    def share(self) -> float:
        """Part of the movement that is the fleet's, noise taken off; 0 where nothing moved."""
        pooled = max(0.0, self.pooled - self.degrees)
        around = max(0.0, self.heterogeneity - self.degrees * (self.gateways - 1))
        return pooled / (pooled + around) if pooled + around > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ScopeFound:
    """Scope of one gateway's drift, why, and who goes with the fleet.

    Attributes:
        partition: None where there was nobody to compare with.
        still: gateways that are shown to have stayed where they were.
    """

    scope: Scope
    reason: str
    partition: Partition | None
    still: tuple[str, ...]


def find_scope(gateway: str, movements: Mapping[str, Moves], fleet_share: float) -> ScopeFound:
    """Whether the fleet moved as this gateway did.

    Args:
        movements: every gateway that can be compared, over the same time, this one among them, in
            the same statistics: those of the streams in which this gateway moved.
        fleet_share: see `PolicySettings`.
    """
    if gateway not in movements or len(movements) < 2:
        reason = "no other gateway can be compared over this time: one alone has no scope"
        return ScopeFound("unknown", reason, None, ())
    names = sorted(movements)
    change = np.array([movements[name].change for name in names])
    weight = 1 / np.array([movements[name].error for name in names]) ** 2
    parts = partition(change, weight)
    own = names.index(gateway)
    others = np.arange(len(names)) != own
    common = _mean(change[others], weight[others])
    own_size = float((weight[own] * change[own] ** 2).sum())
    agreement = float((weight[own] * change[own] * common).sum()) / max(own_size, 1e-12)
    shown = f"{parts.share:.0%} of the movement of {len(names)} gateways is common to them"
    if parts.share >= fleet_share and agreement >= AGREEMENT:
        return ScopeFound("fleet", shown, parts, _still(names, change, weight))
    return ScopeFound("gateway", shown, parts, ())


def partition(change: NDArray[np.float64], weight: NDArray[np.float64]) -> Partition:
    """Partition movements exactly.

    Args:
        change, weight: float64[gateways, statistics]; weight is one over the squared error.
    """
    mean = _mean(change, weight)
    return Partition(
        total=float((weight * change**2).sum()),
        pooled=float((weight.sum(axis=0) * mean**2).sum()),
        heterogeneity=float((weight * (change - mean) ** 2).sum()),
        degrees=change.shape[1],
        gateways=len(change),
    )


def _mean(change: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = (weight * change).sum(axis=0) / weight.sum(axis=0)
    return mean


def _still(
    names: Sequence[str], change: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[str, ...]:
    """Gateways whose movement along the fleet's is surely less than half of it."""
    mean = _mean(change, weight)
    found = []
    for name, own, w in zip(names, change, weight, strict=True):
        # Least squares of the own movement on the fleet's: 1 is moving alike, 0 is staying.
        size = float((w * mean**2).sum())
        slope = float((w * own * mean).sum()) / max(size, 1e-12)
        if slope + STILL_Z / np.sqrt(max(size, 1e-12)) < 0.5:
            found.append(name)
    return tuple(found)
