"""What an inference request is answered: the outputs asked for, and one record id per row.

Written with as little work as possible: a single row of few classes costs no numpy call that
it can do without.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from math import exp
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from fedge.records import TaskSchema
from fedge.records.task import Datatype
from fedge.serving.protocol import InferRequest, OutputName, WantedOutput
from fedge.serving.record_ids import format_ids
from fedge.serving.tensors import DTYPES, bytes_element, to_bytes

if TYPE_CHECKING:  # it needs ONNX Runtime, and nothing here does
    from fedge.serving.engine import Served

OutputValues = Mapping[str, npt.NDArray[Any] | list[Any]]
"""By name: `logits` n x classes; `class`, `label` (a list of text) and `confidence` n."""

OUTPUT_DATATYPES: Mapping[OutputName, Datatype] = {
    "logits": "FP32",
    "class": "INT64",
    "label": "BYTES",
    "confidence": "FP32",
}
_BINARY = attrgetter("binary")
_LOGITS = (WantedOutput("logits", True),)

FEW_LOGITS = 256
"""Up to so many, Python derives class and confidence faster than numpy does."""


class AnswerWriter:
    """Writes the answers of one release.

    Args:
        gateway: prefix of this gateway's record ids.
    """

    def __init__(self, task: TaskSchema, *, family: str, release: int, gateway: str) -> None:
        self._classes = task.classes
        self._family, self._release, self._gateway = family, release, gateway
        self._version = str(release)
        self._label_elements = [bytes_element(label) for label in task.classes]

    def write(
        self,
        request: InferRequest,
        served: Served,
        *,
        outputs: OutputValues | None = None,
        notes: Mapping[str, object] | None = None,
    ) -> tuple[bytes, int | None]:
        """Answer a request.

        Args:
            outputs: what to answer in place of the local model's outputs.
            notes: further parameters of the answer.

        Returns:
            the body, and the length of its JSON where tensor data follows it.
        """
        data: list[bytes] = []
        described: object
        wanted = request.outputs
        if outputs is None and all(map(_BINARY, wanted)):
            described = orjson.Fragment(self._local_binary(wanted, served, data))
        else:
            values = self.local_outputs(request, served) if outputs is None else outputs
            described = [_output(name, binary, values[name], data) for name, binary in wanted]
        parameters: dict[str, object] = {
            "fedge_record_ids": format_ids(self._gateway, served.blocks, served.first_slot),
            "fedge_release": self._release,
        }
        if notes:
            parameters.update(notes)
        answer: dict[str, object] = {
            "model_name": self._family,
            "model_version": self._version,
            "parameters": parameters,
            "outputs": described,
        }
        if request.id is not None:
            answer["id"] = request.id
        text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        return (b"".join([text, *data]), len(text)) if data else (text, None)

    def _local_binary(
        self, wanted: tuple[WantedOutput, ...], served: Served, data: list[bytes]
    ) -> bytes:
        """The JSON of the local outputs, all of them binary; their bytes are added to `data`.

        The usual answer to a binary request: it must not cost more than the JSON it replaces.
        """
        predictions, confidence = ([], []) if wanted == _LOGITS else self._judged(served)
        heads = []
        for name, _ in wanted:
            if name == "logits":
                data.append(served.logits.tobytes())
            elif name == "label":
                labels = self._label_elements
                data.append(b"".join([labels[index] for index in predictions]))
            elif name == "class":
                data.append(_integers(len(predictions)).pack(*predictions))
            else:
                data.append(_floats(len(predictions)).pack(*confidence))
            shape = served.logits.shape if name == "logits" else (len(predictions),)
            heads.append((name, shape, len(data[-1])))
        return _described(tuple(heads))

    def local_outputs(self, request: InferRequest, served: Served) -> OutputValues:
        """What the local model says, as far as the request wants it."""
        logits = served.logits
        if len(request.outputs) == 1 and request.outputs[0].name == "logits":
            return {"logits": logits}
        predictions, confidence = self._judged(served)
        classes = self._classes
        return {
            "logits": logits,
            "class": predictions,
            "label": [classes[index] for index in predictions],
            "confidence": confidence,
        }

    def _judged(self, served: Served) -> tuple[list[int], list[float]]:
        """Class and confidence of each row."""
        if served.logits.size <= FEW_LOGITS:
            return _judged(served.logits.tolist())
        scores = served.scores
        return scores.predictions.tolist(), scores.confidence.tolist()


@lru_cache(maxsize=256)
def _integers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}q")


@lru_cache(maxsize=256)
def _floats(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}f")


def _shape(values: npt.NDArray[Any] | list[Any]) -> tuple[int, ...]:
    return (len(values),) if type(values) is list else np.shape(values)


@lru_cache(maxsize=256)
def _described(heads: tuple[tuple[OutputName, tuple[int, ...], int], ...]) -> bytes:
    """The JSON of outputs whose data follow: the same for all answers of the same sizes."""
    return orjson.dumps(
        [
            {
                "name": name,
                "datatype": OUTPUT_DATATYPES[name],
                "shape": shape,
                "parameters": {"binary_data_size": size},
            }
            for name, shape, size in heads
        ]
    )


def _output(
    name: OutputName, binary: bool, values: npt.NDArray[Any] | list[Any], data: list[bytes]
) -> dict[str, object]:
    """One output of an answer that is not all binary; its bytes are added to `data`."""
    datatype = OUTPUT_DATATYPES[name]
    entry: dict[str, object] = {"name": name, "datatype": datatype, "shape": _shape(values)}
    if binary:
        data.append(to_bytes(values, datatype))
        entry["parameters"] = {"binary_data_size": len(data[-1])}
    elif type(values) is list:
        entry["data"] = values
    else:
        entry["data"] = np.ascontiguousarray(values, DTYPES[datatype]).reshape(-1)
    return entry


def _judged(rows: list[list[float]]) -> tuple[list[int], list[float]]:
    """Class and confidence of each row of finite logits, as `Scores` defines them."""
    predictions, confidence = [], []
    for row in rows:
        top = max(row)
        predictions.append(row.index(top))
        confidence.append(1.0 / sum([exp(logit - top) for logit in row]))
    return predictions, confidence
