"""What an inference request is answered: the outputs asked for, and one record id per row.

Written with as little work as possible: a single row of few classes costs no numpy call that
it can do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from fedge.records import TaskSchema
from fedge.records.task import Datatype
from fedge.serving.protocol import InferRequest, OutputName
from fedge.serving.record_ids import format_ids
from fedge.serving.tensors import DTYPES, to_bytes

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
        values = self.local_outputs(request, served) if outputs is None else outputs
        described, data = [], []
        for name, binary in request.outputs:
            datatype, output = OUTPUT_DATATYPES[name], values[name]
            entry: dict[str, object] = {"name": name, "datatype": datatype}
            if type(output) is list:
                entry["shape"] = (len(output),)
                plain: object = output
            else:
                array = np.ascontiguousarray(output, DTYPES[datatype])
                entry["shape"], plain = array.shape, array.reshape(-1)
            if binary:
                part = to_bytes(output, datatype)
                entry["parameters"] = {"binary_data_size": len(part)}
                data.append(part)
            else:
                entry["data"] = plain
            described.append(entry)
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

    def local_outputs(self, request: InferRequest, served: Served) -> OutputValues:
        """What the local model says, as far as the request wants it."""
        logits = served.logits
        if len(request.outputs) == 1 and request.outputs[0].name == "logits":
            return {"logits": logits}
        if logits.size <= FEW_LOGITS:
            predictions, sure = _judged(logits.tolist())
            confidence: list[float] | npt.NDArray[np.float32] = sure
        else:
            scores = served.scores
            predictions, confidence = scores.predictions.tolist(), scores.confidence
        classes = self._classes
        return {
            "logits": logits,
            "class": predictions,
            "label": [classes[index] for index in predictions],
            "confidence": confidence,
        }


def _judged(rows: list[list[float]]) -> tuple[list[int], list[float]]:
    """Class and confidence of each row of finite logits, as `Scores` defines them."""
    predictions, confidence = [], []
    for row in rows:
        top = max(row)
        predictions.append(row.index(top))
        confidence.append(1.0 / sum([exp(logit - top) for logit in row]))
    return predictions, confidence
