"""Runs in NannyML's environment: univariate drift and reconstruction error of each chunk."""

import json
import sys
import warnings
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")


def univariate(reference, current, window):
    """Of each chunk its last row within `current`, and its largest distance over the columns.

    Jensen-Shannon distance to the reference, 0 to 1. Both tables are pandas frames with the same
    numeric columns; `window` is the rows of a chunk.
    """
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference.columns),
        chunk_size=window,
        continuous_methods=["jensen_shannon"],
    ).fit(reference)
    table = calculator.calculate(current).filter(period="analysis").to_df()
    values = table.loc[:, [c for c in table.columns if c[1:] == ("jensen_shannon", "value")]]
    return table[("chunk", "chunk", "end_index")], values.max(axis=1)


def reconstruction(reference, current, window):
    """Of each chunk its last row within `current`, and how odd its reconstruction error is.

    Arguments as `univariate`.
    """
    calculator = nannyml.DataReconstructionDriftCalculator(
        column_names=list(reference.columns), chunk_size=window
    ).fit(reference)
    table = calculator.calculate(current).filter(period="analysis").to_df()
    # It may fall as well as rise: the distance from the middle of its own limits.
    error = table[("reconstruction_error", "value")]
    upper = table[("reconstruction_error", "upper_threshold")]
    lower = table[("reconstruction_error", "lower_threshold")]
    return table[("chunk", "end_index")], (error - (upper + lower) / 2).abs()


answers = {}
for path in sorted(Path(sys.argv[1]).glob("*.npz")):
    stream = np.load(path)
    rows, window = int(stream["reference_rows"]), int(stream["window"])
    frame = pd.DataFrame(
        stream["values"], columns=[f"c{i}" for i in range(stream["values"].shape[1])]
    )
    reference, current = frame[:rows], frame[rows:].reset_index(drop=True)
    found = {}
    for name, judge in (("univariate", univariate), ("reconstruction", reconstruction)):
        ends, scores = judge(reference, current, window)
        found[f"NannyML {name}"] = [
            (int(end) + rows, float(score))
            for end, score in zip(ends, scores, strict=True)
            if np.isfinite(score)
        ]
    answers[path.stem] = found
print(json.dumps(answers))
