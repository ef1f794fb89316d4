"""The inference app in this process, with a tiny real model, and a caller that speaks ASGI.

Besides the toy model of `fakes.gateways` there is a typed one for each datatype of the protocol:
`logits = rows W`, `features = (mean, max)` of the values as float32; texts have `TEXT_VALUES`.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from fakes.gateways import FAMILY, MAX_BATCH, TASK, fill_slot, npz, toy_weights
from onnx import TensorProto, helper, numpy_helper

from fedge.config import GatewaySettings
from fedge.records import TaskSchema
from fedge.records.task import Datatype
from fedge.serving.app import InferenceApp, Limits
from fedge.serving.engine import DirectEngine
from fedge.serving.probes import ProbeResult
from fedge.serving.release import load_release
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.serving.tensors import DTYPES

INFER = f"/v2/models/{FAMILY}/infer"
GATEWAY = "abcdef01"
SLOTS_PER_BLOCK = 50
MAX_BODY_BYTES = 65_536
TEXT_VALUES = {"one": 1.0, "two": 2.0, "straße": 3.0}

ONNX_TYPES: dict[Datatype, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def typed_task(datatype: Datatype) -> TaskSchema:
    """The toy task with an input of another datatype."""
    return TASK.model_copy(update={"input": TASK.input.model_copy(update={"datatype": datatype})})


def typed_model(datatype: Datatype, table: Sequence[float] | None = None) -> bytes:
    """The ONNX file of a model for `typed_task(datatype)`.

    Args:
        table: take the values from it, by the inputs as indices; others make the model fail.
    """
    if table is not None:
        first = helper.make_node("Gather", ["table", "x"], ["values"])
    elif datatype == "BYTES":
        first = helper.make_node(
            "LabelEncoder",
            ["x"],
            ["values"],
            domain="ai.onnx.ml",
            keys_strings=list(TEXT_VALUES),
            values_floats=list(TEXT_VALUES.values()),
            default_float=0.0,
        )
    else:
        first = helper.make_node("Cast", ["x"], ["values"], to=TensorProto.FLOAT)
    nodes = [
        first,
        helper.make_node("Reshape", ["values", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["logits"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("ReduceMax", ["rows"], ["top"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["mean", "top"], ["features"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info("x", ONNX_TYPES[datatype], ["n", 2, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2]),
        ],
        [
            numpy_helper.from_array(np.array([-1, 6], np.int64), "flat"),
            numpy_helper.from_array(toy_weights(1), "w"),
            numpy_helper.from_array(np.array(table or [], np.float32), "table"),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def typed_logits(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What `typed_model` answers."""
    if values.dtype == object:
        flat = [TEXT_VALUES.get(text, 0.0) for text in values.ravel()]
        values = np.array(flat).reshape(values.shape)
    rows = values.reshape(len(values), 6).astype(np.float32)
    return rows @ toy_weights(1)


def typed_values(datatype: Datatype, rows: int = 2) -> npt.NDArray[Any]:
    """Values that the typed model tells apart."""
    random, shape = np.random.default_rng(5), (rows, 2, 3)
    if datatype == "BYTES":
        return random.choice(np.array([*TEXT_VALUES, "", "unknown"], object), shape)
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if datatype.startswith("FP"):
        return random.normal(size=shape).astype(DTYPES[datatype])
    return random.integers(0, 100, shape).astype(DTYPES[datatype])


def typed_release(
    state_dir: Path, datatype: Datatype, slot: str = "A", model: bytes | None = None
) -> Path:
    """Put release 1 of the typed model, or of another one for its task, into a slot."""

    def change(files: dict[str, bytes]) -> None:
        values = typed_values(datatype)
        # A file without pickles holds text in a fixed width.
        stored = values.astype(str) if datatype == "BYTES" else values
        files["golden.npz"] = npz(inputs=stored, logits_float=typed_logits(values))
        files["model.float.onnx"] = model or typed_model(datatype)

    return fill_slot(state_dir, slot, 1, task=typed_task(datatype), change=change)


@dataclass(frozen=True)
class Response:
    """An answer of the app."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON part of the body."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body if length is None else self.body[: int(length)])

    @property
    def error(self) -> str:
        answer = self.json
        assert set(answer) == {"error"}, answer
        return str(answer["error"])

    def output(self, name: str) -> Any:
        """The values of an output: a list from JSON, or bytes where it came as binary data."""
        at = int(self.headers.get("inference-header-content-length", len(self.body)))
        for output in self.json["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if output["name"] == name:
                return output["data"] if size is None else self.body[at : at + size]
            at += size or 0
        raise AssertionError(f"no output {name}")


class AsgiApp:
    """The app with its ring, and a caller of it.

    Args:
        folder: for release and ring.
        datatype: serves the typed model of it, or `model`; None serves the toy model.
        task: schema of the toy model.
        monitored: without there is no ring.
        options: further arguments of the app.
    """

    def __init__(
        self,
        folder: Path,
        *,
        datatype: Datatype | None = None,
        model: bytes | None = None,
        task: TaskSchema = TASK,
        monitored: bool = True,
        **options: Any,
    ) -> None:
        if datatype is None:
            slot = fill_slot(folder, "A", 1, task=task)
        else:
            slot = typed_release(folder, datatype, model=model)
        settings = GatewaySettings(
            state_dir=folder, runtime_dir=folder, task=task.name, family=FAMILY
        )
        release = load_release(slot, settings)
        self.ring_path = folder / "ring.bin"
        self.ring = None
        if monitored:
            self.ring = RingWriter(self.ring_path, RowLayout.of(release.task), 4096)
        engine = DirectEngine(
            release, self.ring, lambda slot, now: slot // SLOTS_PER_BLOCK, lambda: 1.7e9
        )
        options.setdefault("subject_of", lambda text: text.encode()[:16].ljust(16, b"\1"))
        options.setdefault("block_of", lambda slot: slot // SLOTS_PER_BLOCK)
        self.app = InferenceApp(
            release,
            ProbeResult(latency_us=1.0, golden_max_abs=0.0),
            engine,
            self.ring,
            Limits(MAX_BODY_BYTES, MAX_BATCH, 1000),
            gateway=GATEWAY,
            **options,
        )
        self._runner = asyncio.Runner()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        headers: dict[str, str] | None = None,
        **scope: Any,
    ) -> Response:
        """One request; a body in parts comes in as many messages."""
        return self._runner.run(self._answered(method, path, body, headers or {}, **scope))

    def infer(self, body: bytes | list[bytes], **headers: str) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", INFER, body, named)

    def infer_binary(
        self, values: npt.NDArray[Any], datatype: Datatype = "FP32", **request: Any
    ) -> Response:
        body, length = binary_body(values, datatype, **request)
        return self.infer(body, inference_header_content_length=str(length))

    def close(self) -> None:
        self._runner.close()
        if self.ring is not None:
            self.ring.close()

    async def _answered(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes],
        headers: dict[str, str],
        **scope: Any,
    ) -> Response:
        parts = [body] if isinstance(body, bytes) else body
        incoming = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        request = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
            **scope,
        }
        await self.app(request, receive, send)
        start, end = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(found["content-length"]) == len(end["body"])
        return Response(start["status"], found, end["body"])


def tensor_bytes(values: npt.NDArray[Any]) -> bytes:
    """The binary data of a tensor, made without the code under test."""
    if values.dtype != object:
        return values.tobytes()
    texts = [text.encode() for text in values.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def binary_body(
    values: npt.NDArray[Any],
    datatype: Datatype = "FP32",
    change: Callable[[dict[str, Any]], None] = lambda tensor: None,
    **request: Any,
) -> tuple[bytes, int]:
    """A body with one binary tensor, and the length of its JSON.

    Args:
        change: alters the tensor's description.
        request: further parts of the request.
    """
    data = tensor_bytes(values)
    tensor: dict[str, Any] = {
        "name": "x",
        "shape": list(values.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(data)},
    }
    change(tensor)
    text = json.dumps({"inputs": [tensor], **request}).encode()
    return text + data, len(text)
