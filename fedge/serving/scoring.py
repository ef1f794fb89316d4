"""Running a release's ONNX model: inputs in, logits and monitored values out.

The model has one float32 input and two float32 outputs, `logits` and
`features`. Requests, observations and swaps belong to others.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from fedge.errors import InferenceError, TaskError
from fedge.records import TaskSchema

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

UNKNOWN_CLASS = -1
"""The prediction of a row whose logits are not finite."""

OUTPUTS = ["logits", "features"]
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(e for e in vars(ort_errors).values() if isinstance(e, type) and issubclass(e, Exception)),
)
"""ONNX Runtime's exceptions share no base of their own."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about n rows.

    Attributes:
        logits: float32, n x classes.
        features: float32, n x monitored features; NaN for missing.
        predictions: int32, n; index of the largest logit, `UNKNOWN_CLASS` where a row's
            logits are not finite.
        confidence: float32, n; the largest softmax probability, NaN where not finite.
        ood: float32, n; the energy -logsumexp(logits) (Liu et al., "Energy-based
            Out-of-distribution Detection", 2020), larger for stranger rows, NaN where not finite.
    """

    logits: Floats
    features: Floats
    predictions: Ints
    confidence: Floats
    ood: Floats

    @classmethod
    def from_outputs(cls, logits: Floats, features: Floats) -> Scores:
        """Derive prediction, confidence and OOD score from the model's outputs."""
        with np.errstate(invalid="ignore", over="ignore"):
            top = logits.max(axis=1)
            log_sum = np.log(np.exp(logits - top[:, None]).sum(axis=1))
        finite = np.isfinite(logits).all(axis=1)
        return cls(
            logits=logits,
            features=features,
            predictions=np.where(finite, logits.argmax(axis=1), UNKNOWN_CLASS).astype(np.int32),
            confidence=np.where(finite, np.exp(-log_sum), np.nan).astype(np.float32),
            ood=np.where(finite, -(top + log_sum), np.nan).astype(np.float32),
        )

    @property
    def finite(self) -> bool:
        """Whether the model knew an answer for every row."""
        return bool((self.predictions != UNKNOWN_CLASS).all())


class Model:
    """A loaded ONNX model of one task. Not for use by several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession, task: TaskSchema) -> None:
        self._session = session
        self.task = task

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

    def run(self, inputs: Floats) -> Scores:
        """Score n rows.

        Args:
            inputs: float32, n x the task's input shape, finite.

        Raises:
            InferenceError: the model could not be run, or answered another shape.
        """
        feed = {self.task.input.name: np.ascontiguousarray(inputs, dtype=np.float32)}
        try:
            logits, features = self._session.run(OUTPUTS, feed)
        except ORT_ERRORS as error:
            raise InferenceError(f"the model failed on {len(inputs)} rows: {error}") from error
        wanted = (len(inputs), len(self.task.classes)), (len(inputs), len(self.task.features))
        if (logits.shape, features.shape) != wanted:
            raise InferenceError(
                f"the model answered {logits.shape} and {features.shape}, not {wanted}"
            )
        return Scores.from_outputs(logits, features)

    def _check_signature(self) -> None:
        inputs = {(node.name, node.type) for node in self._session.get_inputs()}
        if inputs != {(self.task.input.name, "tensor(float)")}:
            raise TaskError(f"the model takes {sorted(inputs)}, not one float32 per the task")
        outputs = {node.name: node.type for node in self._session.get_outputs()}
        if any(outputs.get(name) != "tensor(float)" for name in OUTPUTS):
            raise TaskError(f"the model gives {outputs}, not float32 `logits` and `features`")
