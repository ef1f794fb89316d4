"""Runs in Frouros' environment: KS test of each window, and streaming detectors."""

import json
import sys
from pathlib import Path

import numpy as np
from frouros.detectors.concept_drift import CUSUM, DDM, HDDMW, CUSUMConfig, DDMConfig, HDDMWConfig
from frouros.detectors.data_drift import KSTest


def ks(values, rows, window):
    """(last row, score) of each window: minus the smallest p-value of any column's KS test.

    Args:
        values: float[n, d], of which the first `rows` are the reference.
        window: rows of each window; an incomplete last one is left out.
    """
    tests = []
    for column in values[:rows].T:
        test = KSTest()
        test.fit(X=column)
        tests.append(test)
    for start in range(rows, len(values) - window + 1, window):
        part = values[start : start + window].T
        least = min(
            test.compare(X=column)[0].p_value for test, column in zip(tests, part, strict=True)
        )
        yield start + window - 1, -float(least)


def streaming(series, rows, makers):
    """(row, rank of the strictest setting that fires there); strictest last."""
    for rank, make in enumerate(makers):
        detector = make()
        for row, value in enumerate(series):
            detector.update(value=float(value))
            if detector.drift:
                if row >= rows:
                    yield row, rank
                detector.reset()


CUSUMS = [lambda limit=limit: CUSUM(CUSUMConfig(lambda_=limit)) for limit in (10, 20, 50, 100, 200)]
DDMS = [
    lambda level=level: DDM(DDMConfig(warning_level=level - 0.5, drift_level=level))
    for level in (2.0, 3.0, 4.0, 5.0, 6.0)
]
HDDMS = [
    lambda alpha=alpha: HDDMW(HDDMWConfig(alpha_d=alpha, alpha_w=2 * alpha))
    for alpha in (1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
]

answers = {}
for path in sorted(Path(sys.argv[1]).glob("*.npz")):
    stream = np.load(path)
    values, rows = stream["values"], int(stream["reference_rows"])
    found = {"Frouros KS": list(ks(values, rows, int(stream["window"])))}
    if bool(stream["labelled"]):
        errors = values[:, -1]
        found["Frouros CUSUM"] = sorted(streaming(errors, rows, CUSUMS))
        found["Frouros DDM"] = sorted(streaming(errors, rows, DDMS))
        found["Frouros HDDM-W"] = sorted(streaming(errors, rows, HDDMS))
    answers[path.stem] = found
print(json.dumps(answers))
