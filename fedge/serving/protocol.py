"""The Open Inference Protocol v2 of one model: what a request may say, read strictly.

A request is exactly what the protocol and the task say, or it is refused with the path of the
field that is wrong. JSON and the binary tensor extension are both understood. No HTTP and no
model here; answers are written in `fedge.serving.answers`.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple, get_args

import numpy.typing as npt
import orjson

from fedge.data.subjects import MAX_SUBJECT_CHARS
from fedge.errors import RequestError
from fedge.records import TaskSchema
from fedge.records.purposes import INFERENCE, PURPOSES, purpose_bits
from fedge.serving.bodies import Body
from fedge.serving.tensors import TensorFormat

OutputName = Literal["logits", "class", "label", "confidence"]
OUTPUT_NAMES: tuple[OutputName, ...] = get_args(OutputName)
MAX_ID_LENGTH = 256
ALL_PURPOSES = purpose_bits(PURPOSES)

_PURPOSES, _SUBJECT = "fedge_purposes", "fedge_subject"
_INTEGER = {int}
_REFUSED = ("shared_memory_region", "classification")
"""Parameters of extensions that would change an answer and are not spoken here."""


class WantedOutput(NamedTuple):
    """An output that the answer shall hold, as JSON or as binary data."""

    name: OutputName
    binary: bool


class InferRequest(NamedTuple):
    """A valid request.

    Attributes:
        inputs: rows x the task's input shape, of the datatype's dtype; finite; read-only.
        outputs: in the order of the answer.
        id: to be repeated in the answer.
        purposes: bits of what the caller allows at most.
        subject: who the rows are about, as the caller names them.
    """

    inputs: npt.NDArray[Any]
    outputs: tuple[WantedOutput, ...]
    id: str | None = None
    purposes: int = ALL_PURPOSES
    subject: str | None = None


_ALL_AS_JSON = tuple(WantedOutput(name, False) for name in OUTPUT_NAMES)
_ALL_AS_BINARY = tuple(WantedOutput(name, True) for name in OUTPUT_NAMES)


def model_metadata(task: TaskSchema, family: str, release: int) -> dict[str, object]:
    """The answer to a model metadata request."""
    classes, taken = len(task.classes), task.input
    return {
        "name": family,
        "versions": [str(release)],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": taken.name, "datatype": taken.datatype, "shape": [-1, *taken.shape]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "class", "datatype": "INT64", "shape": [-1]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1]},
        ],
        "parameters": {"fedge_release": release},
    }


class RequestParser:
    """Reads the inference requests of one task.

    Args:
        max_batch: rows that a request may hold.
    """

    def __init__(self, task: TaskSchema, *, max_batch: int) -> None:
        self._name, self._max_batch = task.input.name, max_batch
        self._format = TensorFormat(task.input.datatype, "inputs[0]")
        self._row_shape = list(task.input.shape)

    def parse(self, body: Body) -> InferRequest:
        """Read an inference request.

        Raises:
            RequestError: it is not one for this task; names the field.
        """
        request = _object(parse_json(body.json), "body")
        _closed(request, _REQUEST_PARTS, "")
        request_id = request.get("id")
        if request_id is not None and not (
            type(request_id) is str and len(request_id) <= MAX_ID_LENGTH
        ):
            raise RequestError(400, "id", f"must be a string of at most {MAX_ID_LENGTH} characters")
        inputs = request.get("inputs")
        if not (type(inputs) is list and len(inputs) == 1):
            raise RequestError(400, "inputs", f"must be a list of one tensor, {self._name!r}")
        parameters = request.get("parameters")
        binary_output, purposes, subject = False, ALL_PURPOSES, None
        if parameters is not None:
            binary_output, purposes, subject = _request_parameters(parameters)
        wanted = request.get("outputs")
        return InferRequest(
            self._tensor(inputs[0], body),
            _all(binary_output) if wanted is None else _wanted_outputs(wanted, binary_output),
            request_id,
            purposes,
            subject,
        )

    def _tensor(self, value: object, body: Body) -> npt.NDArray[Any]:
        tensor = _object(value, "inputs[0]")
        _closed(tensor, _TENSOR_PARTS, "inputs[0].")
        if tensor.get("name") != self._name:
            raise RequestError(400, "inputs[0].name", f"must be {self._name!r}")
        if tensor.get("datatype") != self._format.datatype:
            raise RequestError(400, "inputs[0].datatype", f"must be {self._format.datatype}")
        shape = self._shape(tensor.get("shape"))
        parameters = tensor.get("parameters")
        if parameters is not None:
            _refuse_extensions(_object(parameters, "inputs[0].parameters"), "inputs[0].parameters")
            if "binary_data_size" in parameters:
                if "data" in tensor:
                    raise RequestError(400, "inputs[0].data", "must not be set with binary data")
                size = self._binary_size(parameters["binary_data_size"], body)
                return self._format.from_bytes(body.buffer, body.offset, size, shape)
        if len(body.buffer) != body.offset:
            where = "inputs[0].parameters.binary_data_size"
            raise RequestError(400, where, "must be set where binary data follows the JSON")
        return self._format.from_json(tensor.get("data"), shape)

    def _shape(self, shape: object) -> list[int]:
        if not (
            type(shape) is list
            and _INTEGER.issuperset(map(type, shape))
            and shape[1:] == self._row_shape
            and shape[0] >= 1
        ):
            wanted = ["rows", *self._row_shape]
            raise RequestError(400, "inputs[0].shape", f"must be {wanted} with at least one row")
        if shape[0] > self._max_batch:
            few = f"has {shape[0]} rows, at most {self._max_batch}"
            raise RequestError(400, "inputs[0].shape", few)
        return shape

    def _binary_size(self, size: object, body: Body) -> int:
        """The size that the tensor claims, once it is all that follows the JSON."""
        where, follows = "inputs[0].parameters.binary_data_size", len(body.buffer) - body.offset
        if not body.binary:
            raise RequestError(400, where, "needs the header Inference-Header-Content-Length")
        if type(size) is not int or size != follows:
            raise RequestError(400, where, f"must be {follows}, the bytes that follow the JSON")
        return size


_REQUEST_PARTS = {"id", "parameters", "inputs", "outputs"}
_TENSOR_PARTS = {"name", "shape", "datatype", "parameters", "data"}
_OUTPUT_PARTS = {"name", "parameters"}


def family_of(target: str) -> str:
    """The model that a path such as `/v2/models/<family>/infer` names; "" for none."""
    parts = target.partition("?")[0].split("/", 4)
    return parts[3] if parts[:3] == ["", "v2", "models"] and len(parts) > 3 else ""


def parse_json(body: bytes | memoryview) -> Any:
    """Read JSON.

    Raises:
        RequestError: it is none (400).
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as strict:
        # NaN and 1e999 are no JSON, yet common: read on, so that the field can be named.
        try:
            value = json.loads(bytes(body).decode())  # given bytes, it would take UTF-16, too
            # Half a surrogate pair is taken, too, but no answer could repeat it.
            json.dumps(value, ensure_ascii=False).encode()
            return value
        except (ValueError, RecursionError):
            raise RequestError(400, "body", f"is no JSON: {strict}") from strict


def _request_parameters(value: object) -> tuple[bool, int, str | None]:
    """Whether outputs shall be binary, what is allowed, and who the rows are about."""
    parameters = _object(value, "parameters")
    _refuse_extensions(parameters, "parameters")
    for name in parameters:
        # A misspelt restriction must not be taken for none.
        if name.startswith("fedge_") and name not in (_PURPOSES, _SUBJECT):
            raise RequestError(400, f"parameters.{name[:64]}", "is unknown")
    subject = parameters.get(_SUBJECT)
    if subject is not None and not (type(subject) is str and 0 < len(subject) <= MAX_SUBJECT_CHARS):
        wanted = f"must be a string of 1 to {MAX_SUBJECT_CHARS} characters"
        raise RequestError(400, f"parameters.{_SUBJECT}", wanted)
    binary = _flag(parameters, "binary_data_output", "parameters", False)
    return binary, _purposes(parameters.get(_PURPOSES)), subject


def _purposes(value: object) -> int:
    if value is None:
        return ALL_PURPOSES
    where = f"parameters.{_PURPOSES}"
    if not isinstance(value, str):
        raise RequestError(400, where, "must be names separated by commas")
    names = [name.strip() for name in value.split(",")]
    if not all(name in PURPOSES for name in names):
        raise RequestError(400, where, f"must be some of {','.join(PURPOSES)}")
    bits = purpose_bits(name for name in PURPOSES if name in names)
    if not bits & INFERENCE:
        raise RequestError(400, where, "must hold inference")
    return bits


def _all(binary: bool) -> tuple[WantedOutput, ...]:
    return _ALL_AS_BINARY if binary else _ALL_AS_JSON


def _wanted_outputs(value: object, binary: bool) -> tuple[WantedOutput, ...]:
    if not isinstance(value, list):
        raise RequestError(400, "outputs", "must be a list")
    wanted: dict[OutputName, WantedOutput] = {}
    for number, entry in enumerate(value):
        where = f"outputs[{number}]"
        _closed(_object(entry, where), _OUTPUT_PARTS, f"{where}.")
        name, parameters = entry.get("name"), entry.get("parameters")
        if type(name) is not str or name not in OUTPUT_NAMES:
            raise RequestError(400, f"{where}.name", f"must be one of {list(OUTPUT_NAMES)}")
        as_binary = binary
        if parameters is not None:
            _refuse_extensions(_object(parameters, f"{where}.parameters"), f"{where}.parameters")
            as_binary = _flag(parameters, "binary_data", f"{where}.parameters", binary)
        wanted.setdefault(name, WantedOutput(name, as_binary))
    return tuple(wanted.values()) or _all(binary)


def _flag(parameters: dict[str, Any], name: str, where: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise RequestError(400, f"{where}.{name}", "must be true or false")
    return value


def _refuse_extensions(parameters: dict[str, Any], where: str) -> None:
    for name in _REFUSED:
        if name in parameters:
            raise RequestError(400, f"{where}.{name}", "is of an extension not spoken here")


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(400, where, "must be a JSON object")
    return value


def _closed(value: dict[str, Any], known: set[str], path: str) -> None:
    if not known.issuperset(value):
        name = next(name for name in value if name not in known)
        raise RequestError(400, f"{path}{name[:64]}", f"is unknown; known: {sorted(known)}")
