"""What a model's two outputs say: prediction, confidence and OOD score of each row.

Worker and agent derive them with this one function, so that the ring carries
logits alone. numpy only: the agent loads no ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

UNKNOWN_CLASS = -1
"""The prediction of a row whose logits are not finite."""


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
        """Derive prediction, confidence and OOD score from the model's outputs.

        Rows do not depend on each other: whoever scores them again, alone or in another
        batch, gets the same numbers up to the rounding of float32.
        """
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
