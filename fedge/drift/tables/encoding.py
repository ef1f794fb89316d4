"""Row scores: what turns rows into numbers whose window means are watched.

An encoder is fitted on reference rows once. Whether a mean moved is decided
elsewhere; an encoder only says what one row contributes, and what unit it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.table import Table

Group = Literal["feature", "missing", "structure", "prediction", "label", "error"]
"""What a statistic is about: one column's values, its gaps, several columns together, the model's
answers, the truth, or how the two agree."""


@dataclass(frozen=True, slots=True)
class RowStatistic:
    """One watched mean.

    Attributes:
        columns: names of the columns that it speaks about, most important first.
        name: such as `location`, `scale`, `missing`, `cell <category>`, `error`.
    """

    columns: tuple[str, ...]
    name: str
    group: Group


class Encoder(Protocol):
    """Row scores of one kind, fitted on reference rows."""

    @property
    def statistics(self) -> tuple[RowStatistic, ...]:
        """What each column of the scores is."""

    @property
    def unit(self) -> NDArray[np.float64]:
        """float64[T], the size of one reference standard deviation of each score, floored so that
        effects stay meaningful for constant columns."""

    @property
    def reference_scores(self) -> NDArray[np.float64]:
        """float64[n, T], scores of the reference rows, as new rows would score: whatever was
        fitted was fitted on other rows. NaN where a row has no score."""

    def scores(self, rows: Table) -> NDArray[np.float64]:
        """float64[m, T], scores of any rows; NaN where a row has no score."""


Fit = Callable[[Table], Encoder | None]
"""Fits an encoder on reference rows; None where the table has nothing for it (no label, say)."""
