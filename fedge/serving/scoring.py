"""Running a release's ONNX model: inputs in, logits and monitored values out.

The model has one input of the task's datatype and two float32 outputs, `logits`
and `features`. Requests, observations and swaps belong to others.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from fedge.errors import InferenceError, TaskError
from fedge.records import TaskSchema
from fedge.records.task import Datatype
from fedge.serving.scores import UNKNOWN_CLASS as UNKNOWN_CLASS
from fedge.serving.scores import Floats
from fedge.serving.scores import Scores as Scores
from fedge.serving.tensors import DTYPES

OUTPUTS = ["logits", "features"]
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(e for e in vars(ort_errors).values() if isinstance(e, type) and issubclass(e, Exception)),
)
"""ONNX Runtime's exceptions share no base of their own."""

BOUND_BYTES = 65536
"""Larger rows are not copied into bound memory: the copy would cost more than it saves."""

ELEMENT_TYPES: dict[Datatype, str] = {
    "BOOL": "tensor(bool)",
    "UINT8": "tensor(uint8)",
    "UINT16": "tensor(uint16)",
    "UINT32": "tensor(uint32)",
    "UINT64": "tensor(uint64)",
    "INT8": "tensor(int8)",
    "INT16": "tensor(int16)",
    "INT32": "tensor(int32)",
    "INT64": "tensor(int64)",
    "FP16": "tensor(float16)",
    "FP32": "tensor(float)",
    "FP64": "tensor(double)",
    "BYTES": "tensor(string)",
}
"""ONNX Runtime's names of the protocol's datatypes."""


class BoundRow:
    """Runs a session on one row at a time, in memory that was bound to it once.

    Half the price of `session.run` on a small model: no dictionary, no look at types and
    shapes, no new tensors. Made from a run that succeeded, so that the shapes are known.

    Args:
        inputs, logits, features: what that run took and gave.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        name: str,
        inputs: npt.NDArray[Any],
        logits: Floats,
        features: Floats,
    ) -> None:
        # ONNX Runtime keeps addresses only: these arrays must live as long as the binding.
        self._inputs, self._outputs = inputs.copy(), (logits.copy(), features.copy())
        self._binding = session.io_binding()
        self._binding.bind_input(
            name, "cpu", 0, inputs.dtype.type, inputs.shape, self._inputs.ctypes.data
        )
        for output, array in zip(OUTPUTS, self._outputs, strict=True):
            address = array.ctypes.data
            self._binding.bind_output(output, "cpu", 0, np.float32, array.shape, address)
        self._run = session.run_with_iobinding

    def run(self, inputs: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Logits and features of one row.

        Raises:
            InferenceError: the model could not be run.
        """
        self._inputs[...] = inputs
        try:
            self._run(self._binding)
        except ORT_ERRORS as error:
            raise InferenceError(f"the model failed on one row: {error}") from error
        logits, features = self._outputs
        return logits.copy(), features.copy()


class Model:
    """A loaded ONNX model of one task. Not for use by several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession, task: TaskSchema) -> None:
        self._session = session
        self.task = task
        self._input = task.input.name
        self._dtype = DTYPES[task.input.datatype]
        self._classes, self._features = len(task.classes), len(task.features)
        self._row: BoundRow | None = None
        self._row_shape: tuple[int, ...] = ()

    @classmethod
    def load(cls, path: Path, task: TaskSchema, *, threads: int = 1) -> Model:
        """Read a model file and check that it speaks the task's shapes.

        Raises:
            TaskError: it is unreadable, or its inputs or outputs do not fit the task.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TaskError(f"cannot read the model {path}: {error}") from error
        return cls.from_bytes(data, task, threads=threads)

    @classmethod
    def from_bytes(cls, data: bytes, task: TaskSchema, *, threads: int = 1) -> Model:
        """Like `load`, from bytes that were verified already."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A gateway shares its cores: waiting threads must sleep.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if platform.machine().lower() in ("x86_64", "amd64"):
            # Without VNNI the fast INT8 kernels saturate silently; a no-op with VNNI.
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except ORT_ERRORS as error:
            raise TaskError(f"ONNX Runtime cannot load the model: {error}") from error
        model = cls(session, task)
        model._check_signature()
        return model

    def outputs(self, inputs: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """What the model answers to n rows, before anything is derived from it.

        Args:
            inputs: n x the task's input shape, of the task's datatype (strings as objects).

        Returns:
            logits, float32, n x classes, and features, float32, n x monitored features.

        Raises:
            InferenceError: the model could not be run, or answered another shape.
        """
        if self._row is not None and inputs.shape == self._row_shape:
            return self._row.run(inputs)
        feed = {self._input: np.ascontiguousarray(inputs, dtype=self._dtype)}
        try:
            logits, features = self._session.run(OUTPUTS, feed)
        except ORT_ERRORS as error:
            raise InferenceError(f"the model failed on {len(inputs)} rows: {error}") from error
        rows = len(inputs)
        if logits.shape != (rows, self._classes) or features.shape != (rows, self._features):
            raise InferenceError(
                f"the model answered {logits.shape} and {features.shape}, "
                f"not {(rows, self._classes)} and {(rows, self._features)}"
            )
        taken = feed[self._input]
        if rows == 1 and taken.nbytes <= BOUND_BYTES and not taken.dtype.hasobject:
            self._row = BoundRow(self._session, self._input, taken, logits, features)
            self._row_shape = inputs.shape
        return logits, features

    def run(self, inputs: npt.NDArray[Any]) -> Scores:
        """Score n rows; like `outputs`, with prediction, confidence and OOD score."""
        return Scores.from_outputs(*self.outputs(inputs))

    def _check_signature(self) -> None:
        inputs = {(node.name, node.type) for node in self._session.get_inputs()}
        wanted = self.task.input.name, ELEMENT_TYPES[self.task.input.datatype]
        if inputs != {wanted}:
            raise TaskError(f"the model takes {sorted(inputs)}, the task's requests hold {wanted}")
        outputs = {node.name: node.type for node in self._session.get_outputs()}
        if any(outputs.get(name) != "tensor(float)" for name in OUTPUTS):
            raise TaskError(f"the model gives {outputs}, not float32 `logits` and `features`")
