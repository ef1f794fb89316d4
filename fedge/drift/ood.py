"""Out-of-distribution scores of a classifier's logits, in numpy.

Larger always means less like the training data. A task's reference is
calibrated with the same functions on public captures; what a fleet's scores
say about drift is counted like any other stream.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedge.errors import NonFiniteValueError


def energy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """-logsumexp of each row (Liu et al., "Energy-based Out-of-distribution Detection", 2020).

    Args:
        logits: float32[n, classes].

    Raises:
        NonFiniteValueError: a logit is NaN or infinite.
    """
    top, shifted = _shifted(logits)
    scores: NDArray[np.float32] = -(top + np.log(np.exp(shifted).sum(axis=1))).astype(np.float32)
    return scores


def improbability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """One minus the largest softmax probability of each row (Hendrycks and Gimpel, 2017).

    Raises:
        NonFiniteValueError: a logit is NaN or infinite.
    """
    _, shifted = _shifted(logits)
    scores: NDArray[np.float32] = (1 - 1 / np.exp(shifted).sum(axis=1)).astype(np.float32)
    return scores


def _shifted(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not np.isfinite(logits).all():
        raise NonFiniteValueError("a logit is NaN or infinite")
    exact = logits.astype(np.float64)
    top = exact.max(axis=1)
    return top, exact - top[:, None]
