"""Every way in which an inference request can be wrong, and the field that the refusal names.

Bodies of JSON alone, and bodies of JSON and tensor data with the length that a caller tells.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from fakes.gateways import MAX_BATCH, infer_body, toy_inputs

ROW = toy_inputs(1)


def request(**parts: object) -> bytes:
    """A good request with parts added or replaced."""
    return json.dumps({**json.loads(infer_body(ROW)), **parts}).encode()


BAD_REQUESTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "body"),
    "not UTF-8": (b"\xff\xfe", "body"),
    "a list": (b"[]", "body"),
    "too deep": (b"[" * 5000, "body"),
    "unknown key": (b'{"inputs": [], "input": []}', "input"),
    "id of another type": (b'{"inputs": [], "id": 7}', "id"),
    "half a surrogate pair": (b'{"inputs": [], "id": "\\ud800"}', "body"),
    "no inputs": (b"{}", "inputs"),
    "two tensors": (json.dumps({"inputs": [{}, {}]}).encode(), "inputs"),
    "no tensor": (b'{"inputs": [7]}', "inputs[0]"),
    "wrong name": (infer_body(ROW, name="y"), "inputs[0].name"),
    "wrong type": (infer_body(ROW, datatype="FP64"), "inputs[0].datatype"),
    "number as type": (infer_body(ROW, datatype=1), "inputs[0].datatype"),
    "binary tensor": (
        infer_body(ROW, parameters={"binary_data_size": 24}, data=[]),
        "inputs[0].data",
    ),
    "unknown part": (infer_body(ROW, dtype="FP32"), "inputs[0].dtype"),
    "wrong rank": (infer_body(ROW, shape=[1, 6]), "inputs[0].shape"),
    "wrong extent": (infer_body(ROW, shape=[1, 3, 2]), "inputs[0].shape"),
    "no rows": (infer_body(ROW, shape=[0, 2, 3], data=[]), "inputs[0].shape"),
    "negative rows": (infer_body(ROW, shape=[-1, 2, 3]), "inputs[0].shape"),
    "bool as extent": (infer_body(ROW, shape=[True, 2, 3]), "inputs[0].shape"),
    "text as extent": (infer_body(ROW, shape=["1", 2, 3]), "inputs[0].shape"),
    "too many rows": (infer_body(ROW, shape=[MAX_BATCH + 1, 2, 3]), "inputs[0].shape"),
    "too few values": (infer_body(ROW, data=[0.0] * 5), "inputs[0].data"),
    "too many values": (infer_body(ROW, data=[0.0] * 7), "inputs[0].data"),
    "no values": (infer_body(ROW, data=None), "inputs[0].data"),
    "text": (infer_body(ROW, data=["1.0"] * 6), "inputs[0].data"),
    "null": (infer_body(ROW, data=[None] * 6), "inputs[0].data"),
    "bool": (infer_body(ROW, data=[True] * 6), "inputs[0].data"),
    "NaN": (infer_body(ROW, data=[float("nan")] * 6), "inputs[0].data"),
    "infinity": (infer_body(ROW, data=[float("inf")] * 6), "inputs[0].data"),
    "beyond float64": (
        infer_body(ROW).replace(b'"data": [', b'"data": [1e999, '),
        "inputs[0].data",
    ),
    "overflow to infinity": (
        infer_body(ROW, data=[1] * 5).replace(b'"data": [', b'"data": [1e999, '),
        "inputs[0].data",
    ),
    "beyond float32": (infer_body(ROW, data=[1e39] * 6), "inputs[0].data"),
    "beyond any float": (infer_body(ROW, data=[10**400] * 6), "inputs[0].data"),
    "ragged": (infer_body(ROW, data=[[[1.0, 2.0, 3.0], [1.0, 2.0]]]), "inputs[0].data"),
    "half nested": (infer_body(ROW, data=[[1.0] * 6]), "inputs[0].data"),
    "mixed depth": (infer_body(ROW, data=[[[1.0, 2.0, 3.0], 4.0]]), "inputs[0].data"),
    "unknown output": (
        json.dumps({**json.loads(infer_body(ROW)), "outputs": [{"name": "x"}]}).encode(),
        "outputs[0].name",
    ),
    "outputs of another type": (
        json.dumps({**json.loads(infer_body(ROW)), "outputs": {}}).encode(),
        "outputs",
    ),
    "output without a name": (request(outputs=[{}]), "outputs[0].name"),
    "output with an unknown part": (
        request(outputs=[{"name": "class", "data": []}]),
        "outputs[0].data",
    ),
    "binary flag of another type": (
        request(outputs=[{"name": "class"}, {"name": "label", "parameters": {"binary_data": 1}}]),
        "outputs[1].parameters.binary_data",
    ),
    "classification": (
        request(outputs=[{"name": "logits", "parameters": {"classification": 2}}]),
        "outputs[0].parameters.classification",
    ),
    "shared memory": (
        infer_body(ROW, parameters={"shared_memory_region": "a"}),
        "inputs[0].parameters.shared_memory_region",
    ),
    "parameters of another type": (request(parameters=[]), "parameters"),
    "tensor parameters of another type": (
        infer_body(ROW, parameters=7),
        "inputs[0].parameters",
    ),
    "output parameters of another type": (
        request(outputs=[{"name": "class", "parameters": "x"}]),
        "outputs[0].parameters",
    ),
    "request flag of another type": (
        request(parameters={"binary_data_output": "yes"}),
        "parameters.binary_data_output",
    ),
    "misspelt restriction": (
        request(parameters={"fedge_purpose": "inference"}),
        "parameters.fedge_purpose",
    ),
    "unknown purpose": (
        request(parameters={"fedge_purposes": "inference,marketing"}),
        "parameters.fedge_purposes",
    ),
    "purposes without inference": (
        request(parameters={"fedge_purposes": "monitoring"}),
        "parameters.fedge_purposes",
    ),
    "no purpose": (request(parameters={"fedge_purposes": ""}), "parameters.fedge_purposes"),
    "purposes of another type": (
        request(parameters={"fedge_purposes": ["inference"]}),
        "parameters.fedge_purposes",
    ),
    "empty subject": (request(parameters={"fedge_subject": ""}), "parameters.fedge_subject"),
    "long subject": (
        request(parameters={"fedge_subject": "s" * 257}),
        "parameters.fedge_subject",
    ),
    "subject of another type": (
        request(parameters={"fedge_subject": 7}),
        "parameters.fedge_subject",
    ),
}

_SIZE = "inputs[0].parameters.binary_data_size"
_LENGTH = "inference-header-content-length"


def binary(
    payload: bytes = ROW.tobytes(), *, told: int | None = None, **changes: object
) -> tuple[bytes, str]:
    """A body with one binary tensor, and what its header tells of the JSON's length.

    Args:
        told: another length than the JSON's.
        changes: parts of the tensor's description; None leaves one out.
    """
    tensor: dict[str, Any] = {
        "name": "x",
        "shape": [1, 2, 3],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(payload)},
        **changes,
    }
    kept = {name: value for name, value in tensor.items() if value is not None}
    text = json.dumps({"inputs": [kept]}).encode()
    return text + payload, str(len(text) if told is None else told)


def both_ways() -> tuple[bytes, str]:
    """A tensor given as JSON and as binary data."""
    data = ROW.tobytes()
    text = infer_body(ROW, parameters={"binary_data_size": len(data)})
    return text + data, str(len(text))


def _values(value: float) -> bytes:
    return np.full(6, value, np.float32).tobytes()


BAD_BINARY_REQUESTS: dict[str, tuple[tuple[bytes, str], str]] = {
    "length of nothing": (binary(told=0), _LENGTH),
    "length beyond the body": (binary(told=10**6), _LENGTH),
    "length beyond any body": (binary(told=10**30), _LENGTH),
    "negative length": (binary(told=-1), _LENGTH),
    "length of another kind": ((binary()[0], "a"), _LENGTH),
    "length of a part": (binary(told=20), "body"),
    "length of too much": (binary(told=len(binary()[0])), "body"),
    "size of another type": (binary(parameters={"binary_data_size": "24"}), _SIZE),
    "true as size": (binary(parameters={"binary_data_size": True}), _SIZE),
    "size with a point": (binary(parameters={"binary_data_size": 24.0}), _SIZE),
    "null as size": (binary(parameters={"binary_data_size": None}), _SIZE),
    "negative size": (binary(parameters={"binary_data_size": -24}), _SIZE),
    "size beyond the body": (binary(parameters={"binary_data_size": 10**9}), _SIZE),
    "size short of the body": (binary(parameters={"binary_data_size": 20}), _SIZE),
    "data that nobody claims": (binary(parameters=None, data=ROW.ravel().tolist()), _SIZE),
    "no bytes": (binary(b""), "inputs[0].data"),
    "data twice": (both_ways(), "inputs[0].data"),
    "too few bytes": (binary(_values(1)[:-4]), "inputs[0].data"),
    "too many bytes": (binary(_values(1) + b"1234"), "inputs[0].data"),
    "half a value": (binary(_values(1)[:-1]), "inputs[0].data"),
    "binary NaN": (binary(_values(float("nan"))), "inputs[0].data"),
    "binary infinity": (binary(_values(float("-inf"))), "inputs[0].data"),
    "rows that the data has not": (binary(shape=[2, 2, 3]), "inputs[0].data"),
    "another binary type": (binary(datatype="FP64"), "inputs[0].datatype"),
}
