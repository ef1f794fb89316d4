"""What is said about each column of a comparison, in records and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedge.drift.distances import Effect
from fedge.drift.tables.comparison import ColumnVerdict
from fedge.drift.tables.explain import Explanation
from fedge.drift.tables.outcome import Moved
from fedge.drift.tables.table import Column, Table

BLIND = 1.0
"""A column in which a shift of so many reference standard deviations could hide is `unknown`."""

Pair = tuple[Column, Column]


def sorted_out(reference: Table, current: Table) -> tuple[list[Pair], dict[str, ColumnVerdict]]:
    """Columns that can be tested, and verdicts about those that cannot; the reference's first."""
    now = {column.name: column for column in current.columns}
    pairs: list[Pair] = []
    verdicts: dict[str, ColumnVerdict] = {}
    roles = (reference.roles.label, reference.roles.prediction)
    for column in reference.columns:
        other = now.get(column.name)
        role = column.name in roles
        if role and other is not None and np.isnan(other.values).all():
            other = None
        if other is not None and _testable(column, other):
            pairs.append((column, other))
        else:
            verdicts[column.name] = _untestable(column, other, role)
    known = {column.name for column in reference.columns}
    for column in current.columns:
        if column.name not in known:
            words = "is new: the reference has nothing to compare it with"
            verdicts[column.name] = ColumnVerdict(
                name=column.name, kind=column.kind, state="unknown", words=words
            )
    return pairs, verdicts


def _testable(column: Column, other: Column) -> bool:
    watched = ("number", "integer", "boolean", "category")
    return column.kind in watched and other.kind == column.kind


def _untestable(column: Column, other: Column | None, role: bool) -> ColumnVerdict:
    name, kind = column.name, column.kind
    if other is None and role:
        words = "holds nothing in the current table: what it would tell is not known"
        return ColumnVerdict(name=name, kind=kind, state="unknown", words=words)
    if kind == "excluded" and other is not None and _filled(column, other):
        words = "held no value in the reference and holds some now"
        return ColumnVerdict(name=name, kind=kind, state="drift", words=words)
    if kind in ("excluded", "time"):
        words = column.note or "tells the order of rows"
        return ColumnVerdict(name=name, kind=kind, state="not watched", words=words)
    if other is None:
        words = "is missing from the current table"
    else:
        words = f"was {kind} in the reference and is {other.kind} now"
    return ColumnVerdict(name=name, kind=kind, state="drift", words=words)


def _filled(column: Column, other: Column) -> bool:
    return bool(np.isnan(column.values).all() and not np.isnan(other.values).all())


def untested(pair: Pair, why: str) -> ColumnVerdict:
    """A column of both tables that could not be tested."""
    return ColumnVerdict(name=pair[0].name, kind=pair[0].kind, state="unknown", words=why)


def as_copy(copy: ColumnVerdict, original: ColumnVerdict) -> ColumnVerdict:
    """A copy's own figures under the verdict of its original."""
    words = copy.words if copy.state == original.state else original.words
    return replace(
        copy,
        state=original.state,
        p_value=original.p_value,
        rank=original.rank,
        detectable=original.detectable,
        words=f"copy of {original.name!r}: {words}",
    )


def words_for(
    moved: Moved | None,
    effects: Sequence[Effect],
    missing: tuple[float, float],
    detectable: float,
    two_values: tuple[float, float] | None,
) -> str:
    """One sentence about a tested column.

    Args:
        missing, two_values: in reference and current, the share of missing values, and of booleans
            the share of 1; None of others.
    """
    if moved is None:
        if detectable > BLIND:
            return f"too few independent rows: {_hidden(detectable)}"
        return f"no drift seen; a shift of {detectable:.2f} sd would have been"
    by_name = {effect.name: effect for effect in effects}
    name = moved.statistic.name
    if two_values is not None and name == "location":
        return f"1 instead of 0 in {two_values[1]:.1%} of the rows, was {two_values[0]:.1%}"
    if name == "missing":
        return f"missing values went from {missing[0]:.1%} to {missing[1]:.1%}"
    if name == "location":
        shift = by_name.get("shift")
        size = shift.value if shift is not None and abs(shift.value) < 1e6 else moved.effect
        return f"values are {'higher' if moved.effect > 0 else 'lower'}: mean {size:+.2f} sd"
    if name == "scale":
        return f"values spread {'wider' if moved.effect > 0 else 'less'} than in the reference"
    psi = by_name.get("psi")
    return "other shares of values" + (f" (PSI {psi.value:.2f})" if psi else "")


def _hidden(detectable: float) -> str:
    if not math.isfinite(detectable):
        return "no shift would be seen"
    return f"a shift of {detectable:.1f} sd could hide"


def features_of(explained: Explanation | None, drift: Sequence[ColumnVerdict]) -> tuple[str, ...]:
    """Columns behind the drift: those that are gone or of another kind, then by evidence."""
    changed = [column.name for column in drift if column.strongest is None]
    return tuple(dict.fromkeys([*changed, *(explained.features if explained else ())]))


def sentence_for(
    explained: Explanation | None,
    drift: Sequence[ColumnVerdict],
    columns: Sequence[ColumnVerdict],
    unknown: Sequence[str],
) -> str:
    """What a comparison found, for a person."""
    changed = [f"column {c.name!r} {c.words}" for c in drift if c.strongest is None]
    if explained:
        return "; ".join([explained.sentence, *changed])
    if changed:
        return "; ".join(changed)
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        return f"not known: {unknown[0]}{more}"
    watched = [c.detectable for c in columns if c.state == "no drift"]
    return (
        f"no drift in {len(watched)} columns; a shift of {max(watched):.2f} standard deviations "
        "would have been seen in any of them"
    )
