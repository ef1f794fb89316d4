"""Did each record enter each sample by itself? Counts of who took part, against Bernoulli(q).

The charge of a sampled step rests on it. Samplers that are handy and wrong - shuffled epochs,
batches of a fixed size, batches with a cap - each have a statistic here that gives them away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, chi2, norm

Booleans = npt.NDArray[np.bool_]


def participation_p(took_part: Booleans, rate: float) -> dict[str, float]:
    """Two-sided p-values, each uniform where all entries are independent Bernoulli(`rate`).

    Args:
        took_part: bool [steps, records].
    """
    steps, records = took_part.shape
    variance = rate * (1 - rate)
    centred = took_part - rate
    by_record = (centred.sum(axis=0) ** 2 / (steps * variance)).sum()
    by_step = (centred.sum(axis=1) ** 2 / (records * variance)).sum()
    lag = (centred[1:] * centred[:-1]).sum() / (variance * np.sqrt((steps - 1) * records))
    total = centred.sum() / np.sqrt(steps * records * variance)
    largest = binom.sf(took_part.sum(axis=1).max(), records, rate)
    return {
        "how often each record took part": _two_sided(by_record, records),
        "how large samples are": _two_sided(by_step, steps),
        "what one sample says of the next": 2 * float(norm.sf(abs(lag))),
        "how many took part in all": 2 * float(norm.sf(abs(total))),
        # Were samples never larger than the largest one seen, how long a run of luck was that?
        "no cap": float(np.exp(steps * np.log1p(-largest))),
    }


def shuffled(steps: int, records: int, rate: float, rng: np.random.Generator) -> Booleans:
    """Bad: epochs in shuffled order, each record once in each."""
    size = round(records * rate)
    order = np.concatenate([rng.permutation(records) for _ in range(-(-steps * size // records))])
    took_part = np.zeros((steps, records), dtype=np.bool_)
    for step in range(steps):
        took_part[step, order[step * size : (step + 1) * size]] = True
    return took_part


def fixed_size(steps: int, records: int, rate: float, rng: np.random.Generator) -> Booleans:
    """Bad: every batch holds the same number of records."""
    size = round(records * rate)
    took_part = np.zeros((steps, records), dtype=np.bool_)
    for step in range(steps):
        took_part[step, rng.choice(records, size, replace=False)] = True
    return took_part


def capped(steps: int, records: int, rate: float, rng: np.random.Generator) -> Booleans:
    """Bad: Poisson, but what exceeds the expected size by a deviation is cut off."""
    cap = round(records * rate + np.sqrt(records * rate * (1 - rate)))
    took_part = rng.random((steps, records)) < rate
    for row in took_part:
        row[np.flatnonzero(row)[cap:]] = False
    return took_part


def _two_sided(statistic: float, degrees: int) -> float:
    return 2 * float(min(chi2.cdf(statistic, degrees), chi2.sf(statistic, degrees), 0.5))
