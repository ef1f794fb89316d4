"""A window report as bytes: Arrow IPC, one row per feature.

The public facts of the report travel as JSON in the schema's metadata, the
noised counts as 32-bit integers: at most 1.5 KiB and 100 bytes per feature with
names of ordinary length. Bytes come from outside, so reading trusts nothing:
neither sizes, nor offsets, nor types. Signing is the envelope's work.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from fedge.errors import RecordError
from fedge.records import WindowReport, canonical
from fedge.records.base import first_fault

MAX_REPORT_BYTES = 4 * 2**20
"""Larger input is refused unread."""

_KINDS = ("numeric", "categorical")
_FACTS = b"fedge.window.1"
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("categorical", pa.bool_(), nullable=False),
        pa.field("sigma2", pa.int64(), nullable=False),
        pa.field("counts", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    ]
)


def encode_report(report: WindowReport) -> bytes:
    """The report as one Arrow IPC stream; `decode_report` gives an equal report back."""
    facts = report.model_dump(mode="json", exclude={"features"})
    counts = [np.asarray(feature.counts, dtype=np.int32) for feature in report.features]
    offsets = np.cumsum([0, *(len(part) for part in counts)], dtype=np.int32)
    batch = pa.record_batch(
        [
            pa.array([feature.name for feature in report.features], pa.string()),
            pa.array([feature.kind == "categorical" for feature in report.features], pa.bool_()),
            pa.array([feature.sigma2 for feature in report.features], pa.int64()),
            pa.ListArray.from_arrays(
                pa.array(offsets), pa.array(np.concatenate(counts)), type=_SCHEMA.field(3).type
            ),
        ],
        schema=_SCHEMA.with_metadata({_FACTS: canonical(facts)}),
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def decode_report(data: bytes) -> WindowReport:
    """Read a report from untrusted bytes.

    Raises:
        RecordError: too large, no Arrow stream of exactly this schema, compressed, damaged, or
            a value is out of range. Names what is wrong.
    """
    facts, batch = _checked(data)
    try:
        # Through JSON, because a strict record takes a list for a tuple only from there.
        return WindowReport.model_validate_json(canonical(facts | {"features": _features(batch)}))
    except ValidationError as error:
        raise RecordError(f"WindowReport: {first_fault(error, 'report')}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"report facts are no plain JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class CountTable:
    """A report as arrays: what adding reports up needs, and no more.

    Attributes:
        names, categorical, sigma2: of each stream, bool[S] and int64[S].
        widths: int64[S], how many counts each stream has.
        counts: int32[sum of widths], all streams' counts one after another.
    """

    reference_sha256: str
    slots: int
    dropped: int
    opened_at: float
    closed_at: float
    names: tuple[str, ...]
    categorical: NDArray[np.bool_]
    sigma2: NDArray[np.int64]
    widths: NDArray[np.int64]
    counts: NDArray[np.int32]


def read_counts(data: bytes) -> CountTable:
    """Read a report's counts from untrusted bytes, some twenty times faster than `decode_report`.

    Checks the Arrow stream as strictly, but of the public facts only those that it gives back.

    Raises:
        RecordError: as for `decode_report`.
    """
    facts, batch = _checked(data)
    names, categorical, sigma2, counts = batch.columns
    widths = np.diff(counts.offsets.to_numpy())
    try:
        table = CountTable(
            reference_sha256=_text(facts, "reference_sha256"),
            slots=int(_number(facts, "slots")),
            dropped=int(_number(facts, "dropped")),
            opened_at=_number(facts, "opened_at"),
            closed_at=_number(facts, "closed_at"),
            names=tuple(names.to_pylist()),
            categorical=categorical.to_numpy(zero_copy_only=False),
            sigma2=sigma2.to_numpy(),
            widths=widths.astype(np.int64),
            counts=counts.flatten().to_numpy(),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"report holds no usable public facts: {error}") from error
    if not len(table.names) or widths.min() < 1 or table.sigma2.min() < 1:
        raise RecordError("report has no streams, a stream without counts, or counts without noise")
    return table


def _text(facts: dict[str, Any], name: str) -> str:
    value = facts[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _number(facts: dict[str, Any], name: str) -> float:
    value = facts[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        raise TypeError(f"{name} is no number of 0 or more")
    return value


def _checked(data: bytes) -> tuple[dict[str, Any], pa.RecordBatch]:
    """The public facts and the one batch of a report.

    Raises:
        RecordError: see `decode_report`.
    """
    if len(data) > MAX_REPORT_BYTES:
        raise RecordError(f"report of {len(data)} bytes, at most {MAX_REPORT_BYTES} are read")
    try:
        batch = _read_batch(data)
        batch.validate(full=True)
        _check_no_nulls(batch)
        facts = json.loads((batch.schema.metadata or {}).get(_FACTS, b"null"))
    except StopIteration as error:
        raise RecordError("report is no readable Arrow stream: a message is missing") from error
    # Arrow reports damage as its own errors, as OSError or as whatever a wrong offset meets.
    except (pa.ArrowException, OSError, ValueError, struct.error, MemoryError) as error:
        raise RecordError(f"report is no readable Arrow stream: {error}") from error
    except RecursionError as error:
        raise RecordError("report facts are nested too deeply") from error
    if not isinstance(facts, dict):
        raise RecordError("report holds no public facts in its schema metadata")
    return facts, batch


def _read_batch(data: bytes) -> pa.RecordBatch:
    reader = pa.BufferReader(data)
    messages = pa.ipc.MessageReader.open_stream(reader)
    head = messages.read_next_message()
    if head.type != "schema":
        raise ValueError("the first message is no schema")
    schema = pa.ipc.read_schema(head)
    if not schema.equals(_SCHEMA, check_metadata=False):
        raise ValueError("its schema is not the report's")
    body = messages.read_next_message()
    if body.type != "record batch":
        raise ValueError("the second message is no record batch")
    if _compressed(body.metadata.to_pybytes()):
        # A few kilobytes could unpack to more than the host's memory.
        raise ValueError("it is compressed")
    try:
        messages.read_next_message()
    except StopIteration:
        pass
    else:
        raise ValueError("it holds more than one batch")
    if reader.tell() != len(data):
        raise ValueError("bytes follow its end")
    return pa.ipc.read_record_batch(body, schema)


def _compressed(message: bytes) -> bool:
    """Whether a record batch message declares compressed buffers.

    Reads two flatbuffer tables by hand (`Message.header` is field 2, `RecordBatch.compression`
    field 3 in Arrow's Message.fbs), because pyarrow unpacks without being asked. Arrow verified
    the message's structure when it parsed it.
    """

    def field(table: int, index: int) -> int:
        """Where a table's field lies; 0 when it is absent."""
        vtable = table - int(struct.unpack_from("<i", message, table)[0])
        (size,) = struct.unpack_from("<H", message, vtable)
        entry = 4 + 2 * index
        if entry + 2 > size:
            return 0
        (offset,) = struct.unpack_from("<H", message, vtable + entry)
        return table + int(offset) if offset else 0

    def follow(position: int) -> int:
        return position + int(struct.unpack_from("<I", message, position)[0])

    header = field(follow(0), 2)
    return header == 0 or field(follow(header), 3) != 0


def _check_no_nulls(batch: pa.RecordBatch) -> None:
    if any(column.null_count for column in batch.columns):
        raise ValueError("a value is null")
    if batch.column(3).flatten().null_count:
        raise ValueError("a count is null")


def _features(batch: pa.RecordBatch) -> list[dict[str, object]]:
    names, categorical, sigma2, counts = batch.columns
    return [
        {"name": name, "kind": _KINDS[is_categorical], "sigma2": variance, "counts": values}
        for name, is_categorical, variance, values in zip(
            names.to_pylist(),
            categorical.to_pylist(),
            sigma2.to_pylist(),
            counts.to_pylist(),
            strict=True,
        )
    ]
