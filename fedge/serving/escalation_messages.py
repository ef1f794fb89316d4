"""What is said to an upstream server, and what is believed of its answer.

The rows travel as one binary tensor of the Open Inference Protocol; the answer is read
strictly: the outputs that were asked for, each once, of the shape and datatype that the
local model would give, finite, within the task's classes. Nothing else of it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from fedge.errors import OutboundError, RequestError
from fedge.records import TaskSchema
from fedge.records.task import Datatype
from fedge.serving.bodies import HEADER_LENGTH
from fedge.serving.tensors import TensorFormat, to_bytes
from fedge.serving.upstream import Headers, Response

Outputs = dict[str, npt.NDArray[Any] | list[str]]
"""By name: `logits` float32 n x classes, `class` int64 n, `label` list of n strings,
`confidence` float32 n."""


@dataclass(frozen=True, slots=True)
class _Expected:
    datatype: Datatype
    shape: list[int]


def _expected(task: TaskSchema, rows: int) -> dict[str, _Expected]:
    return {
        "logits": _Expected("FP32", [rows, len(task.classes)]),
        "class": _Expected("INT64", [rows]),
        "label": _Expected("BYTES", [rows]),
        "confidence": _Expected("FP32", [rows]),
    }


def can_ask(task: TaskSchema, wanted: tuple[str, ...]) -> bool:
    """Whether another server can be asked for these outputs."""
    return bool(wanted) and set(wanted) <= set(_expected(task, 1))


def request_of(
    inputs: npt.NDArray[Any], task: TaskSchema, wanted: tuple[str, ...]
) -> tuple[Headers, bytes]:
    """Headers and body that ask about these rows. They hold the rows and nothing else of ours.

    Args:
        inputs: n x the task's input shape, of its datatype.
        wanted: names of outputs, each once.
    """
    data = to_bytes(inputs, task.input.datatype)
    tensor = {
        "name": task.input.name,
        "shape": list(inputs.shape),
        "datatype": task.input.datatype,
        "parameters": {"binary_data_size": len(data)},
    }
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in wanted]
    head = orjson.dumps({"inputs": [tensor], "outputs": outputs})
    headers = [
        (b"content-type", b"application/octet-stream"),
        (HEADER_LENGTH, b"%d" % len(head)),
    ]
    return headers, head + data


def outputs_of(response: Response, task: TaskSchema, rows: int, wanted: tuple[str, ...]) -> Outputs:
    """The wanted outputs out of an answer.

    Raises:
        OutboundError: it is not exactly an answer to what was asked; says why, without a value.
    """
    if response.status != 200:
        raise OutboundError(f"the upstream server answered {response.status}")
    if response.header(b"content-encoding") not in (None, b"identity"):
        raise OutboundError("the upstream server compressed its answer, which nobody asked for")
    tensors, at = _tensors(response)
    if sorted(tensors) != sorted(wanted):
        raise OutboundError(f"the upstream server answered other outputs than {list(wanted)}")
    outputs: Outputs = {}
    # In the order of the answer: in that the binary data follow.
    for name, tensor in tensors.items():
        values, at = _values(tensor, response.body, at, _expected(task, rows)[name], name)
        outputs[name] = values.tolist() if name == "label" else values
    if at != len(response.body):
        raise OutboundError("the upstream server's answer holds more than its outputs")
    _check_meaning(outputs, task)
    return {name: outputs[name] for name in wanted}


def _tensors(response: Response) -> tuple[dict[str, dict[str, Any]], int]:
    """Descriptions of the outputs by name, and where the binary data begin."""
    length, body = response.header(HEADER_LENGTH), response.body
    if length is None:
        end = len(body)
    elif length.isdigit() and len(length) < 16 and int(length) <= len(body):
        end = int(length)
    else:
        raise OutboundError("the upstream server's answer has no right header length")
    try:
        value = orjson.loads(body[:end])
    except orjson.JSONDecodeError as error:
        raise OutboundError("the upstream server's answer is no JSON") from error
    listed = value.get("outputs") if isinstance(value, dict) else None
    if not (isinstance(listed, list) and all(isinstance(entry, dict) for entry in listed)):
        raise OutboundError("the upstream server's answer has no outputs")
    tensors = {str(entry.get("name")): entry for entry in listed}
    if len(tensors) != len(listed):
        raise OutboundError("the upstream server answered an output twice")
    return tensors, end


def _values(
    tensor: dict[str, Any], body: bytes, at: int, expected: _Expected, name: str
) -> tuple[npt.NDArray[Any], int]:
    """The elements of an output, and where the binary data go on behind them."""
    if (tensor.get("datatype"), tensor.get("shape")) != (expected.datatype, expected.shape):
        raise OutboundError(f"the upstream {name} is not {expected.datatype} {expected.shape}")
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    format_ = TensorFormat(expected.datatype, name)
    try:
        if size is None:
            return format_.from_json(tensor.get("data"), expected.shape), at
        if type(size) is not int or not 0 <= size <= len(body) - at or "data" in tensor:
            raise OutboundError(f"the upstream {name} has no right size")
        # Its own copy: the place within the body need not be aligned.
        return format_.from_bytes(body, at, size, expected.shape).copy(), at + size
    except RequestError as error:
        raise OutboundError(f"the upstream {error}") from error


def _check_meaning(outputs: Outputs, task: TaskSchema) -> None:
    """Raise where well-formed values are no answer of a classifier of this task."""
    classes, zeros = task.classes, np.zeros(0)
    indices = np.asarray(outputs.get("class", zeros))
    if not ((indices >= 0) & (indices < len(classes))).all():
        raise OutboundError("the upstream class is none of the task")
    if not set(outputs.get("label", ())) <= set(classes):
        raise OutboundError("the upstream label is none of the task")
    named = [classes[index] for index in indices.tolist()]
    if "class" in outputs and outputs.get("label", named) != named:
        raise OutboundError("the upstream class and label contradict each other")
    confidence = np.asarray(outputs.get("confidence", zeros))
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise OutboundError("the upstream confidence is not between 0 and 1")
