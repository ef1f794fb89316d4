"""What is written down about a diagnosis, and what accuracy is to be expected."""

from __future__ import annotations

import math

import numpy as np

from fedge.drift.expected_accuracy import Calibration, expected_accuracy
from fedge.drift.fleet.cause import CauseFound
from fedge.drift.fleet.labelled import ErrorRise
from fedge.drift.fleet.movement import Piled
from fedge.drift.fleet.scope import Partition, ScopeFound
from fedge.drift.fleet.verdict import Evidence, ScopeEvidence
from fedge.drift.label_shift import NotEstimable
from fedge.records import CONFIDENCE_STREAM, NumericStream, Reference


def accuracy_of(reference: Reference, piled: Piled | None) -> float | None:
    """Expected accuracy of some windows, from their confidences and the reference's calibration."""
    names = [stream.name for stream in reference.streams]
    if piled is None or reference.confidence is None or CONFIDENCE_STREAM not in names:
        return None
    column = names.index(CONFIDENCE_STREAM)
    stream = reference.streams[column]
    right = [one.right for one in reference.confidence]
    if not isinstance(stream, NumericStream) or any(one is None for one in right):
        return None
    calibration = Calibration(
        edges=np.asarray(stream.edges),
        right=np.array(right, dtype=np.float64),
        rows=np.array([one.rows for one in reference.confidence], dtype=np.float64),
    )
    counts = piled.shares(column, numeric=True)[:-1] * piled.rows
    noise = (piled.share_error(column, numeric=True) * piled.rows) ** 2
    found = expected_accuracy(calibration, counts, noise=noise)
    return None if isinstance(found, NotEstimable) else found.value


def evidence_of(
    cause: CauseFound,
    scope: ScopeFound,
    accuracy: tuple[float, float] | None,
    rise: ErrorRise | None,
    effect: float,
    windows: int,
) -> Evidence:
    """What a verdict keeps of a diagnosis; figures to six digits, NaN and infinity as None.

    Args:
        accuracy: expected before and after the onset, 0 to 1; None where not both are known.
        rise: rates of labelled errors; None without labels.
        effect: see `Evidence.effect`.
        windows: how many since the onset were looked at.
    """
    return Evidence(
        windows=windows,
        features=cause.features,
        effect=_shown(effect),
        faults=cause.faults,
        mix_explained=None if cause.mix is None else _shown(cause.mix.explained),
        mix_change=None if cause.mix is None else _shown(cause.mix.change),
        ood_before=_maybe(cause.ood_before),
        ood_after=_maybe(cause.ood_after),
        accuracy_before=None if accuracy is None else _shown(accuracy[0]),
        accuracy_after=None if accuracy is None else _shown(accuracy[1]),
        errors_before=None if rise is None else _maybe(rise.before),
        errors_after=None if rise is None else _maybe(rise.after),
        scope=None if scope.partition is None else _partition(scope.partition),
        cause_reason=cause.reason,
        scope_reason=scope.reason,
    )


def _partition(found: Partition) -> ScopeEvidence:
    return ScopeEvidence(
        total=_shown(found.total),
        pooled=_shown(found.pooled),
        heterogeneity=_shown(found.heterogeneity),
        degrees=found.degrees,
        gateways=found.gateways,
        share=_shown(found.share),
    )


def _maybe(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else _shown(value)


def _shown(value: float) -> float:
    """Six digits: what another processor's arithmetic may add lies beyond."""
    return float(f"{value:.6g}")
