"""What was predicted for the latest rows, until their labels come.

In memory alone: a label that comes after a restart, or after more rows than there are
places, is not judged here. The block store joins labels to records for good; this is for
the local fast path, which also watches rows that are not kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.serving.ring import ANY_BLOCK

Integers = npt.NDArray[np.int64]

_NOTHING = -1
"""The slot of a place that holds no prediction, or one that was judged already."""


class Predictions:
    """A prediction for each of the latest slots.

    Args:
        places: slots that are looked back on.
    """

    def __init__(self, places: int) -> None:
        kind = [("slot", "i8"), ("block", "i8"), ("release", "i8"), ("prediction", "i4")]
        self._table: npt.NDArray[Any] = np.zeros(places, dtype=kind)
        self.forget()

    def forget(self) -> None:
        """Forget all of them."""
        self._table[:] = 0
        self._table["slot"] = _NOTHING

    def add(
        self, slots: Integers, blocks: Integers, releases: Integers, found: npt.NDArray[np.int32]
    ) -> None:
        """Remember the predictions of some rows; `slots` are distinct and increase."""
        start = max(0, len(slots) - len(self._table))
        places = slots[start:] % len(self._table)
        columns: tuple[npt.NDArray[Any], ...] = (slots, blocks, releases, found)
        for name, column in zip(("slot", "block", "release", "prediction"), columns, strict=True):
            self._table[name][places] = column[start:]

    def judge(
        self, slots: Integers, labels: Integers, blocks: Integers
    ) -> tuple[Integers, npt.NDArray[np.float64]]:
        """Hold labels against predictions, each record once.

        Args:
            blocks: which the labels' callers named, or `ANY_BLOCK`; one that is not the record's
                makes the label nobody's.

        Returns:
            of the labels that could be judged, in their order: release, int64[m], and whether the
            prediction was wrong, float64[m] of zeros and ones.
        """
        _, first = np.unique(slots, return_index=True)
        first.sort()
        slots, labels, blocks = slots[first], labels[first], blocks[first]
        at = slots % len(self._table)
        rows = self._table[at]
        fits = (slots >= 0) & (rows["slot"] == slots)
        fits &= (blocks == ANY_BLOCK) | (rows["block"] == blocks)
        self._table["slot"][at[fits]] = _NOTHING
        wrong = rows["prediction"][fits] != labels[fits]
        return rows["release"][fits], wrong.astype(np.float64)
