"""The Open Inference Protocol v2 (REST, JSON tensors) of one model, and feedback.

Parsing is strict: a request is exactly what the protocol and the task say, or
it is refused with the path of the field that is wrong. No HTTP and no model here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import orjson

from fedge.errors import RecordError, RequestError
from fedge.records import TaskSchema
from fedge.serving.record_ids import RecordId
from fedge.serving.scoring import Scores

OUTPUT_NAMES = ("logits", "class", "label", "confidence")
MAX_ID_LENGTH = 256
MAX_LABELS = 4096


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A valid request: `inputs` float32, rows x the task's input shape, all finite."""

    inputs: npt.NDArray[np.float32]
    outputs: tuple[str, ...]
    id: str | None


@dataclass(frozen=True, slots=True)
class Feedback:
    """Labels for records of this gateway: int64 slots, int32 class indices."""

    slots: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]


def model_metadata(task: TaskSchema, family: str, release: int) -> dict[str, object]:
    """The answer to a model metadata request."""
    classes = len(task.classes)
    return {
        "name": family,
        "versions": [str(release)],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": task.input.name, "datatype": "FP32", "shape": [-1, *task.input.shape]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "class", "datatype": "INT64", "shape": [-1]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1]},
        ],
        "parameters": {"fedge_release": release},
    }


def parse_infer(body: bytes, task: TaskSchema, *, max_batch: int) -> InferRequest:
    """Read an inference request.

    Raises:
        RequestError: it is not one for this task; names the field.
    """
    request = _object(_json(body), "body")
    _closed(request, {"id", "parameters", "inputs", "outputs"}, "")
    request_id = request.get("id")
    if request_id is not None and not (
        isinstance(request_id, str) and len(request_id) <= MAX_ID_LENGTH
    ):
        raise RequestError(400, "id", f"must be a string of at most {MAX_ID_LENGTH} characters")
    _object(request.get("parameters", {}), "parameters")
    inputs = request.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1):
        raise RequestError(400, "inputs", f"must be a list of one tensor, {task.input.name!r}")
    return InferRequest(
        inputs=_tensor(inputs[0], task, max_batch),
        outputs=_wanted_outputs(request.get("outputs")),
        id=request_id,
    )


def infer_answer(
    request: InferRequest,
    scores: Scores,
    *,
    task: TaskSchema,
    family: str,
    release: int,
    record_ids: Sequence[str],
) -> bytes:
    """The answer to a request: the outputs asked for, and one record id per row."""
    rows = len(request.inputs)
    outputs: dict[str, dict[str, object]] = {
        "logits": {
            "datatype": "FP32",
            "shape": scores.logits.shape,
            "data": np.ascontiguousarray(scores.logits).reshape(-1),
        },
        "class": {"datatype": "INT64", "shape": [rows], "data": scores.predictions},
        "label": {
            "datatype": "BYTES",
            "shape": [rows],
            "data": [task.classes[index] for index in scores.predictions.tolist()],
        },
        "confidence": {"datatype": "FP32", "shape": [rows], "data": scores.confidence},
    }
    answer: dict[str, object] = {
        "model_name": family,
        "model_version": str(release),
        "parameters": {"fedge_record_ids": record_ids, "fedge_release": release},
        "outputs": [{"name": name, **outputs[name]} for name in request.outputs],
    }
    if request.id is not None:
        answer["id"] = request.id
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def parse_feedback(
    body: bytes, task: TaskSchema, *, gateway: str, next_slot: int, feedback_slots: int
) -> Feedback:
    """Read labels for records that this gateway served lately; one wrong entry refuses all.

    Args:
        gateway: the prefix of this gateway's record ids.
        next_slot: slots from here on were not given out yet.
        feedback_slots: how many slots back a label is still taken.

    Raises:
        RequestError: malformed (400), a record that this gateway does not know (404), or one
            that is too old (410); names the entry.
    """
    request = _object(_json(body), "body")
    _closed(request, {"labels"}, "")
    entries = request.get("labels")
    if not (isinstance(entries, list) and 0 < len(entries) <= MAX_LABELS):
        raise RequestError(400, "labels", f"must be a list of 1 to {MAX_LABELS} entries")
    indices = {name: index for index, name in enumerate(task.classes)}
    slots, labels = [], []
    for number, entry in enumerate(entries):
        where = f"labels[{number}]"
        _closed(_object(entry, where), {"id", "label"}, f"{where}.")
        label = entry.get("label")
        if not (isinstance(label, str) and label in indices):
            raise RequestError(400, f"{where}.label", f"must be one of {list(indices)}")
        record = _record(entry.get("id"), f"{where}.id")
        if record.gateway != gateway or record.slot >= next_slot:
            raise RequestError(404, f"{where}.id", f"no record {record} was served here")
        if record.slot < next_slot - feedback_slots:
            raise RequestError(410, f"{where}.id", f"labels for {record} are no longer taken")
        slots.append(record.slot)
        labels.append(indices[label])
    return Feedback(np.array(slots, np.int64), np.array(labels, np.int32))


def _record(text: object, where: str) -> RecordId:
    try:
        return RecordId.parse(text if isinstance(text, str) else "")
    except RecordError as error:
        raise RequestError(400, where, "must be a record id that an answer carried") from error


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as strict:
        # NaN and 1e999 are no JSON, yet common: read on, so that the field can be named.
        try:
            value = json.loads(body)
            # Half a surrogate pair is taken, too, but no answer could repeat it.
            json.dumps(value, ensure_ascii=False).encode()
            return value
        except (ValueError, RecursionError):
            raise RequestError(400, "body", f"is no JSON: {strict}") from strict


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(400, where, "must be a JSON object")
    return value


def _closed(value: dict[str, Any], known: set[str], path: str) -> None:
    for name in value:
        if name not in known:
            raise RequestError(400, f"{path}{name[:64]}", f"is unknown; known: {sorted(known)}")


def _wanted_outputs(value: object) -> tuple[str, ...]:
    if value is None:
        return OUTPUT_NAMES
    if not isinstance(value, list):
        raise RequestError(400, "outputs", "must be a list")
    names = []
    for number, entry in enumerate(value):
        where = f"outputs[{number}]"
        _closed(_object(entry, where), {"name", "parameters"}, f"{where}.")
        name = entry.get("name")
        if name not in OUTPUT_NAMES:
            raise RequestError(400, f"{where}.name", f"must be one of {list(OUTPUT_NAMES)}")
        names.append(name)
    return tuple(dict.fromkeys(names)) or OUTPUT_NAMES


def _tensor(value: object, task: TaskSchema, max_batch: int) -> npt.NDArray[np.float32]:
    tensor = _object(value, "inputs[0]")
    _closed(tensor, {"name", "shape", "datatype", "parameters", "data"}, "inputs[0].")
    if tensor.get("name") != task.input.name:
        raise RequestError(400, "inputs[0].name", f"must be {task.input.name!r}")
    if tensor.get("datatype") != "FP32":
        raise RequestError(400, "inputs[0].datatype", "must be FP32")
    _object(tensor.get("parameters", {}), "inputs[0].parameters")
    shape = tensor.get("shape")
    wanted = ["rows", *task.input.shape]
    if not (
        isinstance(shape, list)
        and all(type(extent) is int for extent in shape)
        and shape[1:] == wanted[1:]
        and shape[0] >= 1
    ):
        raise RequestError(400, "inputs[0].shape", f"must be {wanted} with at least one row")
    if shape[0] > max_batch:
        raise RequestError(400, "inputs[0].shape", f"has {shape[0]} rows, at most {max_batch}")
    return _values(tensor.get("data"), shape).reshape(shape)


def _values(data: object, shape: list[int]) -> npt.NDArray[np.float32]:
    """The numbers of a tensor, given flat or nested in row-major order."""
    where, count = "inputs[0].data", math.prod(shape)
    flat = data
    if _is_nested(flat):
        flat = _flattened(flat, shape, where)
    if not isinstance(flat, list) or len(flat) != count:
        raise RequestError(400, where, f"must hold {count} values for shape {shape}")
    if not set(map(type, flat)) <= {float, int}:
        raise RequestError(400, where, "must hold numbers only")
    try:
        with np.errstate(over="ignore"):
            values = np.array(flat, dtype=np.float64).astype(np.float32)
    except OverflowError as error:
        raise RequestError(400, where, "holds a number beyond float32") from error
    if not np.isfinite(values).all():
        raise RequestError(400, where, "must be finite in float32")
    return values


def _is_nested(data: object) -> TypeGuard[list[Any]]:
    return isinstance(data, list) and bool(data) and isinstance(data[0], list)


def _flattened(data: list[Any], shape: list[int], where: str) -> list[Any]:
    """Take nested lists apart level by level; each must have its extent everywhere."""
    level = [data]
    for extent in shape:
        if not all(type(inner) is list and len(inner) == extent for inner in level):
            raise RequestError(400, where, f"is not nested as {shape}")
        level = list(chain.from_iterable(level))
    return level
