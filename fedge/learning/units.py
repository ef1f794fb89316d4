"""Whose gradient is bounded: a record's, or the sum over a subject's records in a block.

A unit's rows are added up before they are clipped, so that however many records a
subject has, it moves a sum by one clip. Which rows count follows from the plan and from
arrival slots alone. Clipping and noise are the caller's part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import LabelledRecords
from fedge.records import TrainingPlan

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Units:
    """The units of some rows.

    Attributes:
        of_row: int64 [n], number of each row's unit.
        counts: bool [n], false for null records, which keep their place and add nothing.
        number: units in all, those of null records included.
    """

    of_row: Integers
    counts: Booleans
    number: int

    def sums(self, gradients: Floats) -> Floats:
        """Each unit's gradient, float64 [number, d]; a row that is not finite adds nothing.

        May be `gradients` itself, where every row is a unit and adds something.
        """
        adds = self.counts & _finite(gradients)
        rows = gradients if adds.all() else np.where(adds[:, None], gradients, 0.0)
        if self.number == len(rows):
            return rows
        sums = np.zeros((self.number, gradients.shape[1]))
        # Two huge values may add up to infinity; such a sum is no gradient either.
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(sums, self.of_row, rows)
        return sums


def units_of(records: LabelledRecords, known: Booleans, plan: TrainingPlan) -> Units:
    """The units of the first `len(known)` of `records`.

    Where the plan bounds subjects, the first `plan.max_records` rows of a subject in a block
    count, by slot; a record about nobody is a unit of its own.

    Args:
        known: bool [n], which rows have a label of the task.
    """
    count = len(known)
    alone = np.arange(count, dtype=np.int64)
    if plan.unit == "record" or records.subjects is None:
        return Units(alone, known, count)
    subjects = np.ascontiguousarray(records.subjects[:count])
    blocks = np.ascontiguousarray(records.blocks[:count], dtype="<i8").view(np.uint8)
    keys = np.concatenate([blocks.reshape(count, 8), subjects], axis=1)
    nobody = ~subjects.any(axis=1)
    # A tail that no two rows share keeps records about nobody apart.
    own = np.where(nobody, alone + 1, 0).astype("<i8")[:, None].view(np.uint8)
    _, of_row = np.unique(np.concatenate([keys, own], axis=1), axis=0, return_inverse=True)
    of_row = of_row.reshape(count).astype(np.int64)
    counts = known & (_ranks(of_row) < plan.max_records)
    return Units(of_row, counts, int(of_row.max(initial=-1)) + 1)


def _finite(gradients: Floats) -> Booleans:
    """Which rows hold finite values only, bool [n]."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite: Booleans = np.isfinite(gradients.sum(axis=1))
    # A finite sum has finite terms; one that is not may have overflowed.
    unsure = ~finite
    if unsure.any():
        finite[unsure] = np.isfinite(gradients[unsure]).all(axis=1)
    return finite


def _ranks(of_row: Integers) -> Integers:
    """How many earlier rows each row's unit has."""
    order = np.argsort(of_row, kind="stable")
    ordered = of_row[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty(len(of_row), dtype=np.int64)
    ranks[order] = np.arange(len(of_row)) - starts
    return ranks
