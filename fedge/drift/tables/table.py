"""A table in memory as the drift engine sees it: typed columns of numbers, rows in time order.

Reading files and frames, and inferring types, is `reading` and `inference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedge.errors import TableError

ColumnKind = Literal["number", "integer", "boolean", "category", "time", "excluded"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        kind: `excluded` ones are shown, with a reason in `note`, and not watched.
        values: float64[n]. Numbers as they are, +-inf kept; booleans 0 and 1; categories as their
            index in `categories`; times as seconds since the epoch. NaN is missing.
        categories: the texts of a category column, in order of first appearance.
        note: what a reader should know about how the column was understood; often empty.
    """

    name: str
    kind: ColumnKind
    values: NDArray[np.float64]
    categories: tuple[str, ...] = ()
    note: str = ""

    @property
    def numeric(self) -> bool:
        """Whether order and distance of the values mean something."""
        return self.kind in ("number", "integer")

    def __getitem__(self, rows: slice) -> Column:
        return Column(self.name, self.kind, self.values[rows], self.categories, self.note)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns are no plain features; None where there is none.

    Attributes:
        label: the truth, known for every row or missing (it came too late, or never).
        prediction: what a model answered.
        time: when the row was taken.
    """

    label: str | None = None
    prediction: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length with distinct names; row 0 is the oldest."""

    columns: tuple[Column, ...]
    roles: Roles = Roles()

    def __post_init__(self) -> None:
        if len({len(column.values) for column in self.columns}) > 1:
            raise RuntimeError("columns of one table differ in length")

    @property
    def rows(self) -> int:
        return len(self.columns[0].values) if self.columns else 0

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that are watched as inputs: no role, no times, not excluded."""
        special = (self.roles.label, self.roles.prediction, self.roles.time)
        unwatched = ("excluded", "time")
        return tuple(c for c in self.columns if c.name not in special and c.kind not in unwatched)

    def column(self, name: str) -> Column:
        """A column by its name.

        Raises:
            TableError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(repr(column.name) for column in self.columns[:8])
        raise TableError(f"there is no column {name!r}; the table has {known}")

    def __getitem__(self, rows: slice) -> Table:
        return Table(tuple(column[rows] for column in self.columns), self.roles)
