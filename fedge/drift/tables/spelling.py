"""How texts spell numbers, booleans, times and the absence of a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NAN", "null", "NULL", "Null", "None", "?", "<NA>")
"""Texts that mean that there is no value, after blanks around them are taken off."""

_BOOLEANS = (("false", "true"), ("no", "yes"), ("off", "on"), ("n", "y"), ("f", "t"))

_TIMES = (
    *("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d"),
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y"),
)
"""Spellings beside ISO 8601 that can be read in one way only. Day and month between slashes
cannot."""


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds texts."""
    types = pa.types
    views = types.is_string_view(kind)
    return bool(types.is_string(kind) or types.is_large_string(kind) or views)


def text_of_bytes(raw: pa.Array) -> pa.Array | None:
    """Texts of a column of bytes, as some writers of Parquet leave them; None if it holds none."""
    kinds = pa.types
    if not (kinds.is_binary(raw.type) or kinds.is_large_binary(raw.type)):
        return None
    try:
        return raw.cast(pa.large_string())
    except pa.ArrowInvalid:
        return None


def clean(texts: pa.Array) -> pa.Array:
    """Texts without blanks around them, null where they mean that there is no value."""
    trimmed = pc.utf8_trim_whitespace(texts.cast(pa.large_string()))
    missing = pc.is_in(trimmed, value_set=pa.array(MISSING, pa.large_string()))
    return pc.if_else(missing, pa.scalar(None, pa.large_string()), trimmed)


def numbers(texts: pa.Array) -> tuple[NDArray[np.float64], int | None]:
    """The numbers that texts spell, NaN elsewhere, and the first row of a text that is none."""
    try:
        return to_float(texts.cast(pa.float64())), None
    except pa.ArrowInvalid:
        pass
    # What a number is, is Arrow's to say: a text is one if it can be cast, and whole columns of
    # numbers never come here. Distinct texts alone are tried, since odd columns are often coded.
    shape = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity)$"
    fits = pc.match_substring_regex(texts, shape)
    candidates = pc.if_else(fits, texts, pa.scalar(None, texts.type))
    try:
        values = to_float(candidates.cast(pa.float64()))
    except pa.ArrowInvalid:
        values = np.full(len(texts), np.nan)
    return values, first(np.isnan(values) & ~to_numpy(texts.is_null()))


def decimal_commas(texts: pa.Array) -> NDArray[np.float64] | None:
    """Numbers of a column in which all texts are numbers with a decimal comma, or whole ones."""
    if not pc.all(pc.match_substring_regex(texts, r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$")).as_py():
        return None
    return to_float(pc.replace_substring(texts, ",", ".").cast(pa.float64()))


def booleans(texts: pa.Array) -> NDArray[np.float64] | None:
    """0 and 1 of a column that spells both in one of the usual ways."""
    head = set(pc.utf8_lower(texts[:1000].unique()).to_pylist()) - {None}
    if len(head) > 2:
        return None
    found = set(pc.utf8_lower(texts.unique()).to_pylist()) - {None}
    for pair in _BOOLEANS:
        if found == set(pair) or (found <= set(pair) and len(pair[1]) > 2):
            lower = pc.utf8_lower(texts)
            return to_float(pc.index_in(lower, value_set=pa.array(pair, lower.type)))
    return None


def times(texts: pa.Array) -> NDArray[np.float64] | None:
    """Seconds since the epoch of a column of times; those without a zone are taken as UTC."""
    if not pc.all(pc.match_substring_regex(texts[:100], r"^\d+[-/.]\d+[-/.]\d+")).as_py():
        return None
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return seconds(texts.cast(kind))
        except pa.ArrowInvalid:
            continue
    for form in _TIMES:
        read = pc.strptime(texts, format=form, unit="us", error_is_null=True)
        if read.null_count == texts.null_count:
            return seconds(read)
    return None


def seconds(times: pa.Array) -> NDArray[np.float64]:
    """Seconds since the epoch of Arrow times or dates, NaN where there is none."""
    micro = times.cast(pa.timestamp("us", getattr(times.type, "tz", None)), safe=False)
    return to_float(micro.cast(pa.int64())) / 1e6


def epoch_seconds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds since the epoch of numbers that count seconds, milli-, micro- or nanoseconds.

    The unit is the one that puts the middle value between the years 1973 and 5138; numbers that
    are too small for that, such as seconds since a start, stay as they are.
    """
    finite = np.abs(values[np.isfinite(values)])
    middle = float(np.median(finite)) if finite.size else 0.0
    for scale in (1e9, 1e6, 1e3):
        if middle / scale >= 1e8:
            return values / scale
    return values


def to_float(values: pa.Array) -> NDArray[np.float64]:
    """float64[n] of an Arrow array of numbers, NaN where it is null. Never shares its memory."""
    found: NDArray[Any] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.array(found, dtype=np.float64)


def to_numpy(values: pa.Array) -> NDArray[np.bool_]:
    """bool[n] of an Arrow array of booleans without nulls."""
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def first(rows: NDArray[np.bool_]) -> int | None:
    """The first row that is True; None where none is."""
    return int(rows.argmax()) if rows.any() else None
