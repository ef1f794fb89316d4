"""Running served model files and comparing two of them: accuracy, agreement, speed.

Files run as a gateway runs them: ONNX Runtime, one thread, exact INT8 products.
Whether a figure is good enough is decided by the gates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fedge.errors import CandidateError, NonFiniteValueError
from fedge.models.export import FEATURES, LOGITS

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_BATCH = 256
SPEED_ROUNDS, SPEED_CALLS = 15, 60
_WARM_UP_CALLS = 20


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model answers.

    Attributes:
        logits: float32 [n, classes], finite.
        features: float32 [n, features]; NaN is missing.
    """

    logits: Floats
    features: Floats

    @property
    def predictions(self) -> npt.NDArray[np.int32]:
        """Class indices, int32 [n]."""
        classes: npt.NDArray[np.int32] = self.logits.argmax(axis=1).astype(np.int32)
        return classes

    @property
    def confidence(self) -> Floats:
        """Largest softmax probability, float32 [n]."""
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        largest: Floats = (1.0 / np.exp(shifted).sum(axis=1)).astype(np.float32)
        return largest

    @property
    def ood(self) -> Floats:
        """Energy, -logsumexp of the logits, float32 [n]; higher is stranger."""
        top = self.logits.max(axis=1)
        total = np.exp(self.logits - top[:, None]).sum(axis=1)
        energy: Floats = (-(top + np.log(total))).astype(np.float32)
        return energy


class ServedModel:
    """One model file, loaded.

    Args:
        model: path of an ONNX file with one input and the outputs `logits` and `features`.

    Raises:
        CandidateError: it does not load, or its interface is another.
    """

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise CandidateError(f"{model.name} does not load: {error}") from error
        outputs = [value.name for value in session.get_outputs()]
        if len(session.get_inputs()) != 1 or outputs != [LOGITS, FEATURES]:
            raise CandidateError(f"{model.name} has outputs {outputs}")
        self._session, self._input = session, session.get_inputs()[0].name
        self._name = model.name

    def run(self, inputs: Floats) -> Outputs:
        """Answer rows, float32 [n, *input shape], in batches.

        Raises:
            CandidateError: the rows do not fit the model.
            NonFiniteValueError: a logit is NaN or infinite.
        """
        parts = [self.answer(inputs[at : at + _BATCH]) for at in range(0, len(inputs), _BATCH)]
        if not parts:
            raise CandidateError(f"{self._name}: there are no rows to answer")
        logits = np.concatenate([part[0] for part in parts])
        if not np.isfinite(logits).all():
            raise NonFiniteValueError(f"{self._name} answers logits that are not finite")
        return Outputs(logits, np.concatenate([part[1] for part in parts]))

    def answer(self, batch: Floats) -> tuple[Floats, Floats]:
        """Logits and features of one batch, unchecked."""
        try:
            logits, features = self._session.run([LOGITS, FEATURES], {self._input: batch})
        except Exception as error:  # as above
            raise CandidateError(f"{self._name} does not answer: {error}") from error
        return logits, features


def accuracy(outputs: Outputs, labels: Integers) -> float:
    """Share of rows that are right."""
    return float(np.mean(outputs.predictions == labels))


def agreement(one: Outputs, other: Outputs) -> float:
    """Share of rows on which both predict the same class."""
    return float(np.mean(one.predictions == other.predictions))


def interleaved_us(
    models: Sequence[ServedModel],
    row: Floats,
    *,
    rounds: int = SPEED_ROUNDS,
    calls: int = SPEED_CALLS,
) -> tuple[float, ...]:
    """Microseconds of one call for each model, taking turns: the median over rounds.

    Args:
        row: float32 [1, *input shape].

    Processor time, not the clock's: other processes' load then falls on no model.
    """
    for model in models:
        for _ in range(_WARM_UP_CALLS):
            model.answer(row)
    times = np.empty((rounds, len(models)))
    for turn in range(rounds):
        for column, model in enumerate(models):
            started = time.thread_time()
            for _ in range(calls):
                model.answer(row)
            times[turn, column] = (time.thread_time() - started) / calls * 1e6
    return tuple(float(value) for value in np.median(times, axis=0))
