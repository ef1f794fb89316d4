"""Every datatype of the protocol, both ways it can travel, through a real model."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from fakes.asgi_apps import (
    AsgiApp,
    tensor_bytes,
    typed_logits,
    typed_model,
    typed_task,
    typed_values,
)
from fakes.gateways import FAMILY, npz
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from fedge.errors import RequestError, TrialFailedError
from fedge.records.task import Datatype
from fedge.serving.release import read_golden
from fedge.serving.ring_reader import RingReader
from fedge.serving.tensors import DTYPES, TensorFormat, to_bytes

DATATYPES: tuple[Datatype, ...] = get_args(Datatype)
INTEGERS = [name for name in DATATYPES if "INT" in name]
FLOATS = [name for name in DATATYPES if name.startswith("FP")]


@pytest.fixture(params=DATATYPES)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[AsgiApp, Datatype]]:
    datatype: Datatype = request.param
    app = AsgiApp(tmp_path, datatype=datatype)
    with closing(app):
        yield app, datatype


def json_body(values: npt.NDArray[Any], datatype: Datatype, *, nested: bool = False) -> bytes:
    data = values.tolist() if nested else values.ravel().tolist()
    tensor = {"name": "x", "shape": values.shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def test_every_datatype_travels_both_ways(served: tuple[AsgiApp, Datatype]) -> None:
    """The same values, flat, nested or binary, give the model's answer and one observation."""
    app, datatype = served
    values = typed_values(datatype)
    wanted = typed_logits(values)
    answers = [
        app.infer(json_body(values, datatype)),
        app.infer(json_body(values, datatype, nested=True)),
        app.infer_binary(values, datatype),
    ]
    for answer in answers:
        assert answer.status == 200, answer.body
        assert np.allclose(answer.output("logits"), wanted.ravel(), rtol=1e-5, atol=1e-5)
    rows, _ = RingReader(app.ring_path).read(0, 100)
    assert len(rows) == 6
    if datatype == "BYTES":
        assert rows["inputs"].shape[1] == 0
    else:
        assert rows["inputs"].dtype == values.dtype
        for begin in (0, 2, 4):
            assert np.array_equal(rows["inputs"][begin : begin + 2], values.reshape(2, 6))


def test_metadata_names_the_datatype(served: tuple[AsgiApp, Datatype]) -> None:
    """Clients make their tensors from what the metadata says."""
    app, datatype = served
    (taken,) = app.ask("GET", f"/v2/models/{FAMILY}").json["inputs"]
    assert taken == {"name": "x", "datatype": datatype, "shape": [-1, 2, 3]}


def test_an_index_beyond_a_table_is_the_inputs_fault(tmp_path: Path) -> None:
    """Where a model fails on what a valid request holds, that is a 422; no slot is used up."""
    table = np.arange(5, dtype=np.float32)
    model = typed_model("INT64", table=table.tolist())
    with closing(AsgiApp(tmp_path, datatype="INT64", model=model)) as app:
        for rows in (1, 2, 1):
            values = np.full((rows, 2, 3), 4, np.int64)
            answer = app.infer_binary(values, "INT64")
            assert np.allclose(answer.output("logits"), typed_logits(table[values]).ravel())
            values[-1, 0, 0] = 5
            answer = app.infer_binary(values, "INT64")
            assert answer.status == 422 and answer.error.startswith("inputs[0].data: ")
            assert "5" not in answer.error
        rows_seen, _ = RingReader(app.ring_path).read(0, 10)
        assert rows_seen["slot"].tolist() == [0, 1, 2, 3]


@given(st.data())
def test_binary_values_come_through_exactly(data: st.DataObject) -> None:
    """What was sent is what the model gets, bit for bit, at both ends of each range too."""
    datatype = data.draw(st.sampled_from([name for name in DATATYPES if name != "BYTES"]))
    options = {"allow_nan": False, "allow_infinity": False} if datatype in FLOATS else {}
    elements = numpy_st.from_dtype(DTYPES[datatype], **options)
    values = data.draw(numpy_st.arrays(DTYPES[datatype], (3, 2), elements=elements))
    buffer = b"12345678" + values.tobytes()
    taken = TensorFormat(datatype, "t").from_bytes(buffer, 8, values.nbytes, [3, 2])
    assert taken.dtype == values.dtype and taken.tobytes() == values.tobytes()
    assert to_bytes(taken, datatype) == values.tobytes()
    read = TensorFormat(datatype, "t").from_json(json.loads(json.dumps(values.tolist())), [3, 2])
    assert read.dtype == values.dtype and read.tobytes() == values.tobytes()


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_texts_come_through_exactly(texts: list[str]) -> None:
    """Of any length, empty or with zeros in them."""
    values = np.array([*texts, None], object)[:-1]
    form = TensorFormat("BYTES", "t")
    data = to_bytes(values, "BYTES")
    assert data == tensor_bytes(values)
    assert form.from_bytes(b"ab" + data, 2, len(data), [len(texts)]).tolist() == texts
    assert form.from_json(texts, [len(texts)]).tolist() == texts


def refused(datatype: Datatype, data: object, count: int = 1) -> str:
    """How a tensor of JSON or binary data is refused."""
    form = TensorFormat(datatype, "t")
    with pytest.raises(RequestError) as refusal:
        if isinstance(data, bytes):
            form.from_bytes(data, 0, len(data), [count])
        else:
            form.from_json(data, [count])
    assert (refusal.value.status, refusal.value.field) == (400, "t.data")
    return refusal.value.message


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_stay_in_their_range(datatype: Datatype) -> None:
    """One beyond either end is refused, and so is whatever is no integer."""
    limits = np.iinfo(DTYPES[datatype])
    form = TensorFormat(datatype, "t")
    assert form.from_json([int(limits.min), int(limits.max)], [2]).tolist() == [
        limits.min,
        limits.max,
    ]
    for beyond in (int(limits.min) - 1, int(limits.max) + 1, 10**30):
        assert refused(datatype, [beyond]) == f"holds a value beyond {datatype}"
    for other in (1.0, True, "1", None, [1]):
        refused(datatype, [other])


@pytest.mark.parametrize("datatype", FLOATS)
def test_floats_are_finite_in_their_width(datatype: Datatype) -> None:
    """A number that would become infinite is refused as much as one that is."""
    form = TensorFormat(datatype, "t")
    largest = float(np.finfo(DTYPES[datatype]).max)
    assert form.from_json([largest, -largest, 3], [3]).tolist() == [largest, -largest, 3.0]
    for beyond in (1e400, -1e400, float("nan"), 10**400, *([largest * 1.01] * (largest < 1e300))):
        refused(datatype, [beyond])
    for other in (True, "1", None, [1.0]):
        refused(datatype, [other])
    for value in (np.nan, np.inf, -np.inf):
        assert "finite" in refused(datatype, np.array([value], DTYPES[datatype]).tobytes())


def test_bool_is_true_or_false() -> None:
    """Neither numbers in JSON nor other bytes than 0 and 1 pass for one."""
    for other in (1, 0, "true", None):
        refused("BOOL", [other])
    assert "byte" in refused("BOOL", b"\x02")
    assert TensorFormat("BOOL", "t").from_bytes(b"\x01\x00", 0, 2, [2]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (b"\x01\x00\x00", 1),
        (b"\x05\x00\x00\x00abc", 1),
        (b"\xff\xff\xff\xffabc", 1),
        (struct.pack("<I", 3) + b"abc", 2),
        (2 * (struct.pack("<I", 3) + b"abc"), 1),
        (struct.pack("<I", 3) + b"abc" + b"\x00", 1),
        (struct.pack("<I", 2) + b"\xff\xfe", 1),
        ([1], 1),
        ([b"".decode(), None], 2),
    ],
)
def test_damaged_texts_are_refused(data: object, count: int) -> None:
    """Lengths that do not fit, elements too many or too few, bytes that are no text."""
    refused("BYTES", data, count)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_golden_vectors_have_the_datatype(datatype: Datatype) -> None:
    """A release of another datatype than its task's does not serve."""
    task, values = typed_task(datatype), typed_values(datatype)
    stored = values.astype(str) if datatype == "BYTES" else values
    logits = typed_logits(values)
    golden = read_golden(npz(inputs=stored, logits_float=logits), "float", task)
    assert golden.inputs.dtype == DTYPES[datatype] and np.array_equal(golden.inputs, values)
    other = np.zeros(values.shape, np.float32 if datatype != "FP32" else np.float64)
    with pytest.raises(TrialFailedError, match=datatype):
        read_golden(npz(inputs=other, logits_float=logits), "float", task)
