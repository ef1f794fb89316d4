"""Runs in Evidently's environment: the score of each window by its default test per column."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from evidently.legacy.calculations.stattests import get_stattest


def scores(values, reference_rows, window):
    """(last row, score) of each window: the largest over the columns, higher meaning drift.

    Columns of at most five values are categories; Evidently chooses the test of each by itself.

    Args:
        values: float[n, d], reference rows first.
        window: rows of each window; an incomplete last one is left out.
    """
    reference = [pd.Series(column) for column in values[:reference_rows].T]
    kinds = ["cat" if series.nunique() <= 5 else "num" for series in reference]
    for start in range(reference_rows, len(values) - window + 1, window):
        found = []
        for series, kind, column in zip(
            reference, kinds, values[start : start + window].T, strict=True
        ):
            current = pd.Series(column)
            test = get_stattest(series, current, kind, None)
            score = float(test(series, current, kind, None).drift_score)
            # A p-value falls with drift, a distance rises.
            found.append(-score if "p_value" in test.name else score)
        yield start + window - 1, max(found)


answers = {}
for path in sorted(Path(sys.argv[1]).glob("*.npz")):
    stream = np.load(path)
    rows, window = int(stream["reference_rows"]), int(stream["window"])
    answers[path.stem] = {"Evidently": list(scores(stream["values"], rows, window))}
print(json.dumps(answers))
