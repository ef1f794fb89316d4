"""Would another mix of classes explain how a gateway's streams moved?

Under label shift the rows of one class look as ever, there are only more or fewer of
them. So each stream is a mixture of the reference's per-class histograms, and the
shares are what black-box shift estimation solves for from the predicted classes alone
(Lipton, Wang and Smola 2018). Here every stream is a witness: shares that explain the
predicted classes but not the features explain nothing. Needs a reference that holds
per-class histograms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.fleet.movement import Movement, node_shares
from fedge.profiles.counts import dyadic
from fedge.records import CLASS_STREAM, Reference

_SUM_WEIGHT = 1e4
"""Weight of the equation that shares add up to one, in standard errors per unit."""


@dataclass(frozen=True, slots=True)
class ClassMix:
    """The mix of classes that explains a movement best.

    Attributes:
        before, after: estimated share of each class.
        explained: part of the movement that the change of shares explains, 0 to 1, noise taken
            off.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    explained: float

    @property
    def change(self) -> float:
        """Total variation distance between the two mixes: the share of rows that changed class."""
        return float(np.abs(self.after - self.before).sum() / 2)


def class_mix(reference: Reference, moved: Movement) -> ClassMix | None:
    """Fit class shares to a movement; None where the reference cannot say how classes look."""
    looks = _looks(reference)
    if looks is None:
        return None
    names = [stream.name for stream in reference.streams]
    weights, change = _weights(reference, moved), _change(moved)
    klass = names.index(CLASS_STREAM)
    start = sum(len(counts) for counts in moved.after.counts[:klass])
    own = slice(start, start + len(moved.after.counts[klass]))
    before = _shares(looks[own], moved.before.counts[klass] / moved.before.rows, weights[own])
    after = _shares(looks, change + looks @ before, weights)
    total = float(((change * weights) ** 2).sum())
    left = float((((change - looks @ (after - before)) * weights) ** 2).sum())
    equations, shares = len(change), looks.shape[1]
    # Noise alone leaves one for each equation; what is fitted takes some of them along.
    beyond = max(0.0, left - (equations - shares + 1))
    evidence = max(total - equations, 1e-9)
    return ClassMix(before, after, float(np.clip(1 - beyond / evidence, 0.0, 1.0)))


def _looks(reference: Reference) -> NDArray[np.float64] | None:
    """float64[all counts, classes]: what one row of each class adds to each released count."""
    if reference.class_histograms is None or CLASS_STREAM not in {
        stream.name for stream in reference.streams
    }:
        return None
    parts = []
    for stream, by_class in zip(reference.streams, reference.class_histograms, strict=True):
        histograms = np.asarray(by_class, dtype=np.int64)
        if stream.kind == "numeric":
            counts = np.stack([np.append(dyadic(one), 0) for one in histograms])
        else:
            counts = histograms
        parts.append((counts / np.maximum(histograms.sum(axis=1, keepdims=True), 1)).T)
    return np.concatenate(parts).astype(np.float64)


def _change(moved: Movement) -> NDArray[np.float64]:
    old, new = moved.before, moved.after
    return np.concatenate(
        [b / new.rows - a / old.rows for a, b in zip(old.counts, new.counts, strict=True)]
    )


def _weights(reference: Reference, moved: Movement) -> NDArray[np.float64]:
    """One over the standard error of each change, from known noise and counting alone."""
    parts = []
    for column, stream in enumerate(reference.streams):
        cells = np.asarray(stream.histogram)
        row = np.maximum(node_shares(stream.kind == "numeric", cells), 1e-3)
        old, new = moved.before, moved.after
        noise = moved.before.noise[column] / old.rows**2 + moved.after.noise[column] / new.rows**2
        parts.append(noise + row * (1 / old.rows + 1 / new.rows))
    weights: NDArray[np.float64] = 1 / np.sqrt(np.concatenate(parts))
    return weights


def _shares(
    looks: NDArray[np.float64], rates: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Non-negative shares that add up to one and explain the rates best."""
    from scipy.optimize import nnls  # heavy, and needed only where a gateway drifted

    matrix = np.vstack([looks * weights[:, None], np.full(looks.shape[1], _SUM_WEIGHT)])
    solution, _ = nnls(matrix, np.append(rates * weights, _SUM_WEIGHT))
    shares: NDArray[np.float64] = solution / max(float(solution.sum()), 1e-9)
    return shares
