"""What a release must show on this machine before it may answer a request.

Golden vectors catch kernels that compute wrongly here, the latency probe a model
that is too slow here. Both use public inputs only, so that their results are
public facts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from fedge.errors import InferenceError, TrialFailedError
from fedge.serving.release import ServedRelease, Variant

GOLDEN_TOLERANCE: dict[Variant, float] = {"float": 1e-3, "int8": 0.05}
"""Largest deviation of a logit, as a share of the largest golden logit (at least 1).

Correct kernels differ by rounding: up to 1e-5 in float, and in INT8 by one or two steps of
an activation's 8-bit scale. A saturating kernel is off by a quarter and more.
"""
MAX_LATENCY_US = 250_000.0
"""A single row may take this long at the median; slower models would time callers out."""
WARM_UP_RUNS, TIMED_RUNS, MAX_PROBE_S = 5, 51, 2.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was measured.

    Attributes:
        latency_us: median time of one single-row inference, in microseconds.
        golden_max_abs: largest absolute difference to a golden logit.
    """

    latency_us: float
    golden_max_abs: float


def probe(release: ServedRelease) -> ProbeResult:
    """Run all probes.

    Raises:
        TrialFailedError: one of them failed; says which and by how much.
    """
    try:
        return ProbeResult(
            golden_max_abs=_golden_difference(release), latency_us=_latency_us(release)
        )
    except InferenceError as error:
        raise TrialFailedError(f"golden inputs: {error}") from error


def _golden_difference(release: ServedRelease) -> float:
    golden = release.golden
    difference = float(np.abs(release.model.run(golden.inputs).logits - golden.logits).max())
    scale = max(1.0, float(np.abs(golden.logits).max()))
    limit = GOLDEN_TOLERANCE[release.variant] * scale
    if not difference <= limit:  # catches NaN too
        raise TrialFailedError(
            f"golden vectors: a logit of the {release.variant} model is off by "
            f"{difference:.3g}, at most {limit:.3g} is right on this hardware"
        )
    return difference


def _latency_us(release: ServedRelease) -> float:
    row = release.golden.inputs[:1]
    started = time.perf_counter()
    times: list[float] = []
    for run in range(WARM_UP_RUNS + TIMED_RUNS):
        begin = time.perf_counter()
        release.model.run(row)
        end = time.perf_counter()
        if run >= WARM_UP_RUNS:
            times.append(end - begin)
        # A slow model is judged on fewer runs: a gateway must be ready soon.
        if end - started > MAX_PROBE_S and times:
            break
    latency_us = 1e6 * float(np.median(times))
    if not latency_us <= MAX_LATENCY_US:
        raise TrialFailedError(
            f"latency: {latency_us:.0f} us for one row, at most {MAX_LATENCY_US:.0f}"
        )
    return latency_us
