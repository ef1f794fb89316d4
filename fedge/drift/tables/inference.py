"""What kind of column a column is, judged from its values alone.

Texts are judged by what they spell: numbers, booleans, times, else categories. A few words and
signs mean that there is no value. Clocks, counters and identifiers are recognised, because a
column that never comes back to where it was differs from its past by nature, not by drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedge.drift.tables import spelling
from fedge.drift.tables.findings import FindingKind, TableFinding
from fedge.drift.tables.table import Column, ColumnKind

Raw: TypeAlias = "NDArray[Any] | pa.Array"

MOSTLY = 0.9
"""Share of a column's texts that must be numbers for the column to be one; the others are then
missing values, with a finding."""

MAX_CATEGORIES = 1_000
"""Categories that are kept apart; rarer ones are pooled into `OTHERS`."""

OTHERS = "(others)"

_EXACT_ROWS = 2**20
"""Rows up to which all distinct texts are counted; of longer columns a sample decides which are
kept apart, so that memory does not grow with what is distinct."""

_SAMPLE = 2**16


@dataclass(slots=True)
class Inference:
    """A column as it was understood, and what was odd about it."""

    column: Column
    findings: list[TableFinding] = field(default_factory=list)

    def note(self, kind: FindingKind, row: int | None, words: str) -> Inference:
        """Add a finding about this column; its words begin with the column's name."""
        name = self.column.name
        self.findings.append(TableFinding(kind, name, row, f"column {name!r} {words}"))
        return self


def infer(name: str, raw: Raw, *, decimal_comma: bool = False) -> Inference:
    """Type one column without knowing anything about it.

    Args:
        raw: a numpy array of numbers or booleans, or any Arrow array.
        decimal_comma: whether `1,5` may be a number (the file's delimiter is no comma).
    """
    if isinstance(raw, np.ndarray):
        return _numbers(name, raw)
    kind = raw.type
    if pa.types.is_dictionary(kind):
        texts = raw.dictionary_decode()
        return _categories(name, spelling.clean(_as_text(texts)))
    if spelling.is_text(kind):
        return _texts(name, spelling.clean(raw), decimal_comma)
    if pa.types.is_boolean(kind):
        return Inference(Column(name, "boolean", spelling.to_float(raw.cast(pa.int8()))))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(name, spelling.to_float(raw.cast(pa.float64(), safe=False)))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Inference(Column(name, "time", spelling.seconds(raw)))
    if pa.types.is_null(kind):
        return _empty(name, len(raw))
    if (read := spelling.text_of_bytes(raw)) is not None:
        return _texts(name, spelling.clean(read), decimal_comma)
    column = Column(name, "excluded", _present(raw), note=f"holds {kind}, which is not watched")
    return Inference(column).note("not-watched", None, f"holds {kind}, which is not watched")


def infer_like(name: str, raw: Raw, like: Column, *, decimal_comma: bool = False) -> Inference:
    """Type a column as its namesake in a reference table was typed, if its values allow that.

    Where they do not, the column is typed by itself, with a finding `retyped-column`.
    """
    if like.kind == "category":
        return _categories_like(name, _raw_texts(raw), like)
    found = infer(name, raw, decimal_comma=decimal_comma)
    own = found.column
    if like.kind == "excluded" or own.kind == like.kind:
        found.column = replace(own, kind=like.kind, note=like.note or own.note)
        return found
    if np.isnan(own.values).all():
        found.column = Column(name, like.kind, np.full(len(own.values), np.nan), like.categories)
        return found
    if like.numeric and own.kind in ("number", "integer", "boolean"):
        # Counts that happen to be 0 and 1 here are still counts, and 2 may well be 2.5.
        found.column = replace(own, kind=like.kind, note="")
        return found
    if like.kind == "time" and own.numeric:
        found.column = Column(name, "time", spelling.epoch_seconds(own.values))
        return found
    row = spelling.first(~np.isnan(own.values))
    return found.note("retyped-column", row, f"was {like.kind} in the reference, is {own.kind} now")


def _numbers(name: str, raw: NDArray[Any]) -> Inference:
    if raw.dtype == np.bool_:
        return Inference(Column(name, "boolean", raw.astype(np.float64)))
    values = np.ascontiguousarray(raw, dtype=np.float64)
    missing = np.isnan(values)
    if missing.all():
        return _empty(name, len(values))
    found = Inference(Column(name, _number_kind(values, missing), values))
    infinite = np.isinf(values)
    if infinite.any():
        number = int(infinite.sum())
        found.note("infinite-values", spelling.first(infinite), f"holds {number} infinite values")
    return found


def _number_kind(values: NDArray[np.float64], missing: NDArray[np.bool_]) -> ColumnKind:
    head = values[:64]
    if not _whole(head[~np.isnan(head)]):
        return "number"
    present = values[~missing] if missing.any() else values
    if not _whole(present):
        return "number"
    both = present.min() == 0 and present.max() == 1
    return "boolean" if both else "integer"


def _whole(values: NDArray[np.float64]) -> bool:
    finite = np.isfinite(values)
    return bool((values[finite] == np.floor(values[finite])).all())


def _empty(name: str, rows: int) -> Inference:
    column = Column(name, "excluded", np.full(rows, np.nan), note="holds no value at all")
    return Inference(column).note("no-values", 0 if rows else None, "holds no value at all")


def _texts(name: str, texts: pa.Array, decimal_comma: bool) -> Inference:
    present = len(texts) - texts.null_count
    if present == 0:
        return _empty(name, len(texts))
    numbers, odd = spelling.numbers(texts)
    if odd is None:
        return _numbers(name, numbers)
    for kind, reading in (("boolean", spelling.booleans), ("time", spelling.times)):
        values = reading(texts)
        if values is not None:
            return Inference(Column(name, kind, values))  # type: ignore[arg-type]
    if decimal_comma and (commas := spelling.decimal_commas(texts)) is not None:
        found = _numbers(name, commas)
        found.column = replace(found.column, note="numbers with a decimal comma")
        return found
    share = float((~np.isnan(numbers)).sum()) / present
    if share >= MOSTLY:
        count = present - int((~np.isnan(numbers)).sum())
        words = f"holds numbers, and {count} texts that are none: those count as missing"
        return _numbers(name, numbers).note("mixed-types", odd, words)
    found = _categories(name, texts)
    if share >= 1 - MOSTLY:
        words = f"holds texts and numbers ({share:.0%}): all are taken as categories"
        found.note("mixed-types", odd, words)
    return found


def _categories(name: str, texts: pa.Array) -> Inference:
    """Categories in order of first appearance; identifiers are left out, rare ones pooled."""
    present = len(texts) - texts.null_count
    if present == 0:
        return _empty(name, len(texts))
    kept, distinct, looked = _common(texts)
    if distinct > max(50, looked // 2):
        words = "holds a different text in nearly every row, like an identifier: it is not watched"
        column = Column(name, "excluded", _present(texts), note=words)
        return Inference(column).note("not-watched", None, words)
    found = Inference(_encode(name, texts, kept, pooled=distinct > len(kept)))
    if distinct > len(kept):
        words = f"has more than {MAX_CATEGORIES} categories: the rarer ones are pooled"
        found.column = replace(found.column, note=words)
        found.note("many-categories", None, words)
    return found


def _common(texts: pa.Array) -> tuple[list[str], int, int]:
    """The most frequent texts in order of first appearance, how many there are, of how many rows.

    Looks at all rows of a column that is not too long, else at a sample over its whole length.
    """
    if len(texts) > _EXACT_ROWS:
        # Drawn at random: a regular step might meet one of two sorts of rows that take turns.
        rows = np.random.default_rng(len(texts)).integers(0, len(texts), _SAMPLE)
        texts = texts.take(pa.array(np.sort(rows)))
    counted = pc.value_counts(texts.drop_null())
    values, counts = counted.field(0), counted.field(1).to_numpy()
    distinct, looked = len(values), int(counts.sum())
    if distinct > MAX_CATEGORIES:
        top = np.sort(np.argsort(-counts, kind="stable")[: MAX_CATEGORIES - 1])
        values = values.take(pa.array(top))
    return values.to_pylist(), distinct, looked


def _encode(name: str, texts: pa.Array, kept: list[str], *, pooled: bool) -> Column:
    codes = spelling.to_float(pc.index_in(texts, value_set=pa.array(kept, texts.type)))
    strange = np.isnan(codes) & ~spelling.to_numpy(texts.is_null())
    if pooled or strange.any():
        codes[strange] = len(kept)
        kept = [*kept, OTHERS]
    return Column(name, "category", codes, tuple(kept))


def _categories_like(name: str, texts: pa.Array, like: Column) -> Inference:
    """Categories under the reference's numbers, new ones after them."""
    known = list(like.categories)
    others = known.index(OTHERS) if OTHERS in known else None
    codes = spelling.to_float(pc.index_in(texts, value_set=pa.array(known, texts.type)))
    strange = np.isnan(codes) & ~spelling.to_numpy(texts.is_null())
    if others is not None:
        codes[strange] = others
        return Inference(Column(name, "category", codes, like.categories, like.note))
    row = spelling.first(strange)
    if row is None:
        return Inference(Column(name, "category", codes, like.categories, like.note))
    new, _, _ = _common(texts.filter(pa.array(strange)))
    own = _encode(name, texts.filter(pa.array(strange)), new, pooled=False)
    codes[strange] = own.values + len(known)
    found = Inference(Column(name, "category", codes, (*known, *own.categories), like.note))
    if strange.sum() == len(texts) - texts.null_count and spelling.numbers(texts)[1] is None:
        found.note("retyped-column", row, "was category in the reference, holds numbers now")
    return found


def _raw_texts(raw: Raw) -> pa.Array:
    if isinstance(raw, np.ndarray):
        raw = pa.array(raw, from_pandas=True)
    if pa.types.is_dictionary(raw.type):
        raw = raw.dictionary_decode()
    return spelling.clean(_as_text(raw))


def _as_text(raw: pa.Array) -> pa.Array:
    if spelling.is_text(raw.type):
        return raw
    try:
        return raw.cast(pa.large_string())
    except pa.ArrowException:
        return pa.array([None if v is None else str(v) for v in raw.to_pylist()], pa.large_string())


def _present(raw: pa.Array) -> NDArray[np.float64]:
    """0 where there is a value, NaN where there is none: all that is kept of other types."""
    return np.where(spelling.to_numpy(raw.is_null()), np.nan, 0.0)
