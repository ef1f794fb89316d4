"""`read`: any file or frame as a typed table, rows in time order, with what is odd about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedge.drift.tables import spelling
from fedge.drift.tables.copies import copies_in
from fedge.drift.tables.findings import TableFinding
from fedge.drift.tables.inference import Inference, Raw, infer, infer_like
from fedge.drift.tables.rawtable import RawTable
from fedge.drift.tables.sources import load
from fedge.drift.tables.table import Column, ColumnKind, Roles, Table
from fedge.errors import TableError

_CLOCK_NAMES = re.compile(
    r"(^|_|\b)(date|time|datetime|timestamp|ts|epoch|no|id|index|seq)($|_|\b)"
)
"""Names of columns that only ever rise. Without such a name a column has to rise from nearly every
row to the next, over at least 200 rows, to be taken for a clock."""

_CALENDAR = {
    "year": (1900, 2200),
    "month": (1, 12),
    "day": (1, 31),
    "hour": (0, 24),
    "minute": (0, 59),
    "second": (0, 60),
    "weekday": (0, 7),
    "dayofweek": (0, 7),
    "dayofyear": (1, 366),
    "week": (0, 53),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A table and what is odd about it."""

    table: Table
    findings: tuple[TableFinding, ...]


def read_table(
    source: Any,
    *,
    label: str | None = None,
    prediction: str | None = None,
    time: str | None = None,
    like: Table | None = None,
) -> Table:
    """`read`, without the findings."""
    return read(source, label=label, prediction=prediction, time=time, like=like).table


def read(
    source: Any,
    *,
    label: str | None = None,
    prediction: str | None = None,
    time: str | None = None,
    like: Table | None = None,
) -> Reading:
    """Read a table and infer what its columns are.

    Args:
        source: path of a CSV (also gzipped), Parquet or Arrow file; a pandas, polars or Arrow
            table; a numpy structured array; a mapping from names to columns; or a `Table`, of
            which only the roles may change.
        label, prediction, time: names of the columns that play these parts. With `time` the rows
            are put in its order, and it must hold a time in every row.
        like: a reference table, whose kinds of columns this one shall have. A label or prediction
            that is missing here is then a finding and no error.

    Raises:
        TableError: the source cannot be read, is empty, or lacks a column that was named; or one
            column was named for two parts.
    """
    named = [name for name in (label, prediction, time) if name is not None]
    if len({*named}) < len(named):
        raise TableError(f"label, prediction and time are different columns, not {named}")
    if isinstance(source, Table):
        return Reading(_with_roles(source, Roles(label, prediction, time)), ())
    raw, findings = _distinct_names(load(source), (label, prediction, time))
    for role, name in (("label", label), ("prediction", prediction), ("time", time)):
        if name is not None and name not in raw.names and (like is None or role == "time"):
            known = ", ".join(repr(n) for n in raw.names[:8])
            raise TableError(f"{raw.place} has no {role} column {name!r}; its columns are {known}")
    roles = Roles(label, prediction, time)
    order, clock = None, None
    if time is not None:
        order, clock, about_time = _in_time(raw, time)
        findings += about_time
    columns: list[Column] = []
    for name, array in zip(raw.names, raw.arrays, strict=True):
        if clock is not None and name == time:
            columns.append(clock)
            continue
        found = _column(name, array, order, raw.decimal_comma, like)
        columns.append(_watched(found, name in (label, prediction), like))
        findings += _in_file(found.findings, order)
    findings += _compared(columns, like, roles) if like is not None else _duplicates(columns)
    return Reading(Table(tuple(columns), roles), tuple(findings))


def _with_roles(table: Table, roles: Roles) -> Table:
    named = [name for name in (roles.label, roles.prediction, roles.time) if name is not None]
    for name in named:
        table.column(name)
    return Table(table.columns, roles) if named else table


def _in_file(
    findings: Sequence[TableFinding], order: NDArray[np.int64] | None
) -> list[TableFinding]:
    """Findings about rows in order of time, with the rows of the file."""
    if order is None:
        return list(findings)
    return [f if f.row is None else replace(f, row=int(order[f.row])) for f in findings]


def _distinct_names(
    raw: RawTable, roles: Sequence[str | None]
) -> tuple[RawTable, list[TableFinding]]:
    """The table with each name once: a second `x` becomes `x.1`."""
    seen: set[str] = set(raw.names)
    names: list[str] = []
    findings = []
    for name in raw.names:
        new, number = name, 0
        while new in names or (number and new in seen):
            number += 1
            new = f"{name}.{number}"
        if new != name:
            if name in roles:
                raise TableError(f"{raw.place} has more than one column {name!r}")
            words = f"there is more than one column {name!r}: a later one is called {new!r}"
            findings.append(TableFinding("duplicate-name", new, None, words))
        names.append(new)
    return replace(raw, names=tuple(names)), findings


def _column(
    name: str,
    array: Raw,
    order: NDArray[np.int64] | None,
    decimal_comma: bool,
    like: Table | None,
) -> Inference:
    if order is not None:
        array = array[order] if isinstance(array, np.ndarray) else array.take(pa.array(order))
    known = {column.name: column for column in like.columns} if like is not None else {}
    if name in known:
        return infer_like(name, array, known[name], decimal_comma=decimal_comma)
    return infer(name, array, decimal_comma=decimal_comma)


def _in_time(
    raw: RawTable, name: str
) -> tuple[NDArray[np.int64] | None, Column, list[TableFinding]]:
    """Row order by the time column (None where rows are in order), the column, what is odd."""
    found = infer(name, raw.arrays[raw.names.index(name)])
    column = found.column
    if column.numeric:
        column = Column(name, "time", spelling.epoch_seconds(column.values))
    if column.kind != "time":
        raise TableError(f"{raw.place}: the time column {name!r} holds no times ({column.kind})")
    values, findings = column.values, []
    if (row := spelling.first(np.isnan(values) | np.isinf(values))) is not None:
        raise TableError(f"{raw.place}: the time column {name!r} has no time in row {row}")
    order = None
    backwards = np.diff(values) < 0
    if backwards.any():
        order = np.argsort(values, kind="stable")
        moved = int((order != np.arange(len(order))).sum())
        words = (
            f"rows are not in the order of column {name!r}: {int(backwards.sum())} times it goes "
            f"back; {moved} rows were moved, and rows are counted in the order of time"
        )
        findings.append(TableFinding("out-of-order", name, int(backwards.argmax()) + 1, words))
        values = values[order]
    findings += _in_file(_irregular(name, values), order)
    return order, Column(name, "time", values), findings


def _irregular(name: str, values: NDArray[np.float64]) -> list[TableFinding]:
    """Repeated times and gaps, in the order of time."""
    findings = []
    steps = np.diff(values)
    repeated = steps == 0
    if repeated.any():
        words = f"column {name!r} has {int(repeated.sum())} times that repeat the one before"
        findings.append(TableFinding("repeated-time", name, int(repeated.argmax()) + 1, words))
    usual = float(np.median(steps)) if len(steps) else 0.0
    gaps = steps > 10 * usual
    if usual > 0 and gaps.any():
        words = f"column {name!r} has {int(gaps.sum())} gaps of more than ten usual steps"
        findings.append(TableFinding("time-gap", name, int(gaps.argmax()) + 1, words))
    return findings


def _watched(found: Inference, role: bool, like: Table | None) -> Column:
    """The column, left out if it is a clock or a counter; nothing is left out by a reference."""
    column = found.column
    if role or like is not None or not (column.numeric or column.kind == "time"):
        return column
    reason = "holds times: it is not watched" if column.kind == "time" else _counts(column)
    if reason is None:
        if column.values.size > 1 and (column.values == column.values[0]).all():
            found.note("constant", None, "holds one value only")
        return column
    found.note("not-watched", None, reason)
    kind: ColumnKind = "time" if column.kind == "time" else "excluded"
    found.column = replace(column, kind=kind, note=reason)
    return found.column


def _counts(column: Column) -> str | None:
    """Why a numeric column is no measurement; None if it may be one."""
    values, name = column.values, column.name.lower()
    if not np.isfinite(values[:1]).all() or len(values) < 5:
        return None
    if column.kind == "integer" and name in _CALENDAR:
        low, high = _CALENDAR[name]
        if low <= np.nanmin(values) and np.nanmax(values) <= high:
            return "is a part of the date: it is not watched"
    head = _steps(values[:64])
    if not ((head >= 0).all() or (head <= 0).all()):
        return None
    steps = _steps(values)
    if column.kind == "integer" and steps[0] != 0 and (steps == steps[0]).all():
        return "counts rows: it is not watched"
    if not (steps >= 0).all():
        return None
    rises = steps > 0
    named = _CLOCK_NAMES.search(name) is not None
    spread = len(rises) >= 40 and all(piece.any() for piece in np.array_split(rises, 10))
    if (named and spread) or (len(rises) >= 200 and rises.mean() > 0.9):
        return "only ever rises, like a clock or a counter: it is not watched"
    return None


def _steps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Between infinite values there is no step: NaN, which neither rises nor falls.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.diff(values)


def _duplicates(columns: Sequence[Column]) -> list[TableFinding]:
    """Columns that hold in every row what another holds, be it on another scale."""
    first: dict[bytes, list[Column]] = {}
    findings = []
    for column in columns:
        values = column.values
        if column.kind == "excluded" or len(values) < 5:
            continue
        known = first.setdefault(values[:: max(1, len(values) // 32)].tobytes(), [])
        same = [c for c in known if c.categories == column.categories and _equal(c, column)]
        constant = bool((values == values[0]).all())
        if same and not constant:
            words = f"column {column.name!r} is a copy of {same[0].name!r}: the same in every row"
            findings.append(TableFinding("duplicate-content", column.name, None, words))
        known.append(column)
    told = {finding.column for finding in findings}
    for copy in copies_in(Table(tuple(columns))):
        if copy.name not in told:
            words = f"column {copy.name!r} is a copy of {copy.original!r} on another scale"
            findings.append(TableFinding("duplicate-content", copy.name, None, words))
    return findings


def _equal(one: Column, other: Column) -> bool:
    return bool(np.array_equal(one.values, other.values, equal_nan=True))


def _compared(columns: Sequence[Column], like: Table, roles: Roles) -> list[TableFinding]:
    """Columns that only one of two tables has."""
    own, known = {c.name for c in columns}, {c.name for c in like.columns}
    findings = []
    for name in (c.name for c in like.columns if c.name not in own):
        words = f"column {name!r} of the reference is missing"
        findings.append(TableFinding("missing-column", name, None, words))
    for name in (c.name for c in columns if c.name not in known):
        words = f"column {name!r} is not in the reference"
        findings.append(TableFinding("new-column", name, None, words))
    return findings
