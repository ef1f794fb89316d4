"""Every way in which an inference request can be wrong, and the field that the refusal names."""

from __future__ import annotations

import json

from fakes.gateways import MAX_BATCH, infer_body, toy_inputs

ROW = toy_inputs(1)

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
}
