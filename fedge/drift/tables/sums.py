"""Sums of row scores over consecutive windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Consecutive windows.

    Attributes:
        start, end: int64[W], rows.
        total: float64[W, T], sums of scores.
        count: float64[W, T], rows that had a score.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    total: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, windows: slice) -> Sums:
        return Sums(
            self.start[windows], self.end[windows], self.total[windows], self.count[windows]
        )

    def then(self, later: Sums) -> Sums:
        """These and the windows right after them."""
        return Sums(
            np.concatenate([self.start, later.start]),
            np.concatenate([self.end, later.end]),
            np.concatenate([self.total, later.total]),
            np.concatenate([self.count, later.count]),
        )

    def joined(self, number: int) -> Sums:
        """Every `number` neighbours as one window; so many divide them."""
        first = np.arange(0, len(self), number)
        return Sums(
            self.start[first],
            self.end[first + number - 1],
            np.add.reduceat(self.total, first, axis=0),
            np.add.reduceat(self.count, first, axis=0),
        )


def summed(scores: Floats, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Sums:
    """Sums over consecutive windows of scores that begin where the first window does."""
    present = np.isfinite(scores)
    cuts = starts - starts[0]
    return Sums(
        starts,
        ends,
        np.add.reduceat(np.where(present, scores, 0.0), cuts, axis=0),
        np.add.reduceat(present, cuts, axis=0, dtype=np.float64),
    )
