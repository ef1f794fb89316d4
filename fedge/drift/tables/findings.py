"""What is odd about a table itself: data quality and schema, before any statistic is asked.

A finding never stops the work. It names the column and the first row that shows it, and says in
words what was done about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FindingKind = Literal[
    "missing-column",
    "new-column",
    "retyped-column",
    "mixed-types",
    "duplicate-name",
    "duplicate-content",
    "no-values",
    "constant",
    "infinite-values",
    "many-categories",
    "not-watched",
    "out-of-order",
    "repeated-time",
    "time-gap",
    "missing-time",
]

SCHEMA: tuple[FindingKind, ...] = ("missing-column", "new-column", "retyped-column")
"""Kinds by which two tables differ in shape. The others are about one table alone."""


@dataclass(frozen=True, slots=True)
class TableFinding:
    """One thing that a reader should know about a table.

    Attributes:
        column: its name; None where the finding is about the whole table.
        row: the first row that shows it, counted from 0 without the header, in the order of the
            file; None where it belongs to no row.
        words: a sentence without any value of the table in it, names of columns excepted.
    """

    kind: FindingKind
    column: str | None
    row: int | None
    words: str

    def to_json(self) -> dict[str, Any]:
        """As it is printed by `--json`."""
        return {"kind": self.kind, "column": self.column, "row": self.row, "words": self.words}
