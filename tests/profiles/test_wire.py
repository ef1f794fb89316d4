"""Reports as bytes: equal again, small, and safe to read from anyone."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import RecordError
from fedge.profiles.wire import decode_report, encode_report
from fedge.records import FeatureCounts, WindowReport


def report(features: int = 9, *, spread: int = 10_000) -> WindowReport:
    rng = np.random.default_rng(features)
    return WindowReport(
        task="digits",
        window=2**40,
        block=2**40,
        release=12,
        reference_sha256="b" * 64,
        first_slot=2**50,
        slots=200,
        planned_slots=200,
        dropped=3,
        opened_at=1_790_000_000.123456,
        closed_at=1_790_000_100.654321,
        features=tuple(
            FeatureCounts(
                name=f"feature_{index:04d}",
                kind="numeric",
                counts=tuple(rng.integers(-spread, spread, size=16).tolist()),
                sigma2=10**12,
            )
            for index in range(features)
        ),
    )


def categorical(report: WindowReport, cells: int) -> WindowReport:
    klass = FeatureCounts(name="class", kind="categorical", counts=tuple(range(cells)), sigma2=4)
    return report.model_copy(update={"features": (*report.features, klass)})


def test_equal_again() -> None:
    """What was encoded comes back equal, cells of different numbers and extremes included."""
    plain = categorical(report(), 11)
    extreme = plain.features[0].model_copy(update={"counts": (2**31 - 1, -(2**31) + 1)})
    changed = plain.model_copy(update={"features": (extreme, *plain.features[1:])})

    assert decode_report(encode_report(plain)) == plain
    assert decode_report(encode_report(changed)) == changed


@pytest.mark.parametrize("features", [1, 9, 64, 1000])
def test_small(features: int) -> None:
    """A report takes at most 1.5 KiB and 100 bytes per feature."""
    assert len(encode_report(report(features))) <= 1536 + 100 * features


def _stream(batch: pa.RecordBatch, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _batch() -> pa.RecordBatch:
    return pa.ipc.open_stream(encode_report(report())).read_next_batch()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_is_refused(codec: str) -> None:
    """A compressed report is refused unread: it could unpack to any size."""
    with pytest.raises(RecordError, match="compressed"):
        decode_report(_stream(_batch(), compression=codec))


def test_other_streams_are_refused() -> None:
    """Another schema, two batches, none, or bytes behind the end: each is refused by name."""
    batch = _batch()
    good = encode_report(report())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    two = sink.getvalue().to_pybytes()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema):
        pass
    none = sink.getvalue().to_pybytes()

    for data, why in [
        (_stream(batch.drop_columns(["sigma2"])), "schema"),
        (two, "more than one"),
        (none, "Arrow"),
        (good + b"x", "Arrow|end"),
        (b"", "Arrow"),
        (b"\x00" * 5_000_000, "at most"),
    ]:
        with pytest.raises(RecordError, match=why):
            decode_report(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("slots", -1), ("release", 0), ("task", ""), ("opened_at", float("nan")), ("extra", 1)],
)
def test_facts_are_checked(field: str, value: object) -> None:
    """A fact out of range, missing sense or unknown is refused; it never becomes a report."""
    batch = _batch()
    facts = json.loads(batch.schema.metadata[b"fedge.window.1"])
    facts[field] = value
    changed = batch.replace_schema_metadata({b"fedge.window.1": json.dumps(facts)})

    with pytest.raises(RecordError):
        decode_report(_stream(changed))


def test_deep_json_is_refused() -> None:
    """Facts nested a hundred thousand deep are refused, not a crash."""
    changed = _batch().replace_schema_metadata({b"fedge.window.1": "[" * 100_000})

    with pytest.raises(RecordError):
        decode_report(_stream(changed))


GOOD = encode_report(categorical(report(), 11))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_or_a_report(data: st.DataObject) -> None:
    """Bytes changed or cut anywhere give a valid report or a RecordError, never another end."""
    changed = bytearray(
        GOOD[: data.draw(st.integers(0, len(GOOD)))] if data.draw(st.booleans()) else GOOD
    )
    for _ in range(data.draw(st.integers(0, 8)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RecordError):
        assert isinstance(decode_report(bytes(changed)), WindowReport)
