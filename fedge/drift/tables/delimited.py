"""Tables in text: comma, semicolon, tab or bar between values, a header of names above.

Everything stays text. Arrow parses; what is wrong is told by column and row, never by value.
"""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow as pa
import pyarrow.csv

from fedge.drift.tables.rawtable import RawTable, one_piece
from fedge.errors import TableError

_DELIMITERS = ",;\t|"


def delimited(data: bytes, place: str) -> RawTable:
    """Columns of texts from the bytes of a delimited file.

    Args:
        place: how errors call the file.

    Raises:
        TableError: it is not UTF-8 or has no header, or a row has not as many values as that.
        pa.ArrowException: it cannot be parsed for another reason.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TableError(f"{place} is UTF-16: save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data[: 2**16]:
        raise TableError(f"{place} holds binary data: it is no CSV, Parquet or Arrow file")
    if b"\n" not in data:
        # Lines ended by a bare CR, as on the Macs of old and in some spreadsheets' exports still.
        data = data.replace(b"\r", b"\n")
    delimiter, names = _header(data, place)
    arrays = _parse(data, delimiter, names, place)
    texts = tuple(_decoded(array, name, place) for array, name in zip(arrays, names, strict=True))
    return RawTable(names, texts, place, decimal_comma=delimiter != ",")


def _header(data: bytes, place: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter, by which the header has most names, and these names."""
    try:
        head = data[: 2**20].decode("utf-8", errors="strict" if len(data) <= 2**20 else "ignore")
    except UnicodeDecodeError:
        head = data.partition(b"\n")[0].decode("utf-8", errors="replace")
    if "\ufffd" in head.partition("\n")[0]:
        raise TableError(f"{place}: the header is not UTF-8")
    found: tuple[str, list[str]] = (",", [])
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader(io.StringIO(head.lstrip("\r\n")), delimiter=delimiter), [])
        except csv.Error as error:
            why = _bare_cr(head) or "the header cannot be read"
            raise TableError(f"{place}: {why}") from error
        if len(names) > len(found[1]):
            found = (delimiter, names)
    names = [name.strip() for name in found[1]]
    if not names or any(not name.isprintable() for name in names):
        raise TableError(f"{place} has no header line of column names")
    return found[0], tuple(name or f"column {i}" for i, name in enumerate(names))


def _bare_cr(head: str) -> str | None:
    line = head.lstrip("\r\n").partition("\n")[0].removesuffix("\r")
    return (
        "some lines end in a bare CR, others in LF: save it with one of them"
        if "\r" in line
        else None
    )


def _parse(data: bytes, delimiter: str, names: tuple[str, ...], place: str) -> list[pa.Array]:
    bad: list[Any] = []

    def note(row: Any) -> str:
        bad.append(row)
        return "error"

    labels = [f"f{i}" for i in range(len(names))]
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            # One thread, since only then rows are numbered.
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                column_names=labels,
                skip_rows_after_names=1,
                block_size=2**24,
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                newlines_in_values=True,
                ignore_empty_lines=len(names) > 1,
                invalid_row_handler=note,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(labels, pa.large_binary()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if not bad:
            raise
        row, count = bad[0].number - 2, bad[0].actual_columns
        column = names[count] if count < len(names) else names[-1]
        relation = "ends before" if count < len(names) else "goes on after"
        raise TableError(
            f"{place}: row {row} has {count} values where the header has {len(names)} names; it "
            f"{relation} column {column!r}"
        ) from error
    if table.num_rows and data.count(b'"') % 2:
        for name, column in zip(names, table.columns, strict=True):
            if b"\n" in (column[-1].as_py() or b""):
                row = table.num_rows - 1
                raise TableError(f"{place}: a quote in column {name!r}, row {row} never closes")
    return [one_piece(column) for column in table.columns]


def _decoded(array: pa.Array, name: str, place: str) -> pa.Array:
    try:
        return array.cast(pa.large_string())
    except pa.ArrowInvalid:
        for row, value in enumerate(array.to_pylist()):
            try:
                (value or b"").decode("utf-8")
            except UnicodeDecodeError:
                message = f"{place}: column {name!r}, row {row} is not UTF-8"
                raise TableError(message) from None  # the error shows the bytes
        raise
