"""river's detectors, one on every column: ADWIN, Page-Hinkley, and those for errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import drift

Events = list[tuple[int, float]]

ADWIN = [lambda d=d: drift.ADWIN(delta=d) for d in (0.1, 0.002, 1e-4, 1e-6, 1e-9)]
PAGE_HINKLEY = [
    lambda t=t: drift.PageHinkley(threshold=t) for t in (25.0, 50.0, 100.0, 200.0, 400.0)
]
DDM = [lambda t=t: drift.binary.DDM(drift_threshold=t) for t in (2.0, 3.0, 4.0, 5.0, 6.0)]
HDDM_W = [
    lambda c=c: drift.binary.HDDMW(drift_confidence=c, warning_confidence=2 * c)
    for c in (1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
]


def scores(values: NDArray[np.float64], rows: int, labelled: bool) -> dict[str, Events]:
    """Detector -> (row, rank of the strictest setting that fires there); strictest last."""
    spread = np.where(values[:rows].std(axis=0) > 0, values[:rows].std(axis=0), 1.0)
    scaled = (values - values[:rows].mean(axis=0)) / spread
    found = {
        "river ADWIN": sorted(_fired(scaled.T, rows, ADWIN)),
        "river Page-Hinkley": sorted(_fired(scaled.T, rows, PAGE_HINKLEY)),
    }
    if labelled:
        found["river DDM"] = sorted(_fired([values[:, -1]], rows, DDM))
        found["river HDDM-W"] = sorted(_fired([values[:, -1]], rows, HDDM_W))
    return found


def _fired(
    columns: Iterable[NDArray[np.float64]], rows: int, makers: list[Callable[[], Any]]
) -> Iterator[tuple[int, float]]:
    for column in columns:
        series = column.tolist()
        for rank, make in enumerate(makers):
            detector = make()
            for row, value in enumerate(series):
                detector.update(value)
                if detector.drift_detected and row >= rows:
                    yield row, float(rank)
