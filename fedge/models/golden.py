"""Golden vectors: public inputs and the logits that each variant gave where it was built.

A gateway compares before it lets a new model serve: a kernel that computes wrongly
on its processor shows here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedge.errors import CandidateError, TaskError
from fedge.models.weights import arrays_to_bytes, read_arrays
from fedge.tasks.code import PublicData

Floats = npt.NDArray[np.float32]

_ROWS = 8
"""Of each kind, clean and faulted: enough to excite every layer, and a small file."""


def golden_inputs(public: PublicData, seed: int) -> Floats:
    """Some clean and some faulted public rows, float32 [k, *input shape]."""
    rng = np.random.default_rng([seed, 2])
    chosen = [
        rows[rng.choice(len(rows), size=min(_ROWS, len(rows)), replace=False)]
        for rows in (public.clean, public.faulted)
    ]
    return np.concatenate(chosen)


def write_golden(path: Path, inputs: Floats, logits: dict[str, Floats]) -> None:
    """Write `golden.npz`: `inputs` and `logits_<variant>` for each variant."""
    arrays = {f"logits_{variant}": values for variant, values in logits.items()}
    path.write_bytes(arrays_to_bytes({"inputs": inputs, **arrays}))


def read_golden(path: Path, variant: str) -> tuple[Floats, Floats]:
    """Inputs and one variant's logits.

    Raises:
        CandidateError: the file cannot be read, or holds none for this variant.
    """
    try:
        arrays = read_arrays(path)
        inputs, logits = arrays["inputs"], arrays[f"logits_{variant}"]
    except (TaskError, KeyError) as error:
        raise CandidateError(f"{path.name} holds no golden vectors for {variant}") from error
    if inputs.dtype != np.float32 or logits.dtype != np.float32 or len(inputs) != len(logits):
        raise CandidateError(f"{path.name}: golden vectors are malformed")
    if len(inputs) == 0 or not np.isfinite(logits).all():
        raise CandidateError(f"{path.name}: golden vectors are empty or not finite")
    return inputs.astype(np.float32), logits.astype(np.float32)
