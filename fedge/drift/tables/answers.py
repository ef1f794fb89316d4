"""What models say about rows and what is true, and how one row scores in that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.model import Floats, Target, label_trouble, target_of
from fedge.drift.tables.table import Column, Roles, Table
from fedge.errors import TableError

CLIP = 3.0
"""Residuals of numbers count up to this many standard deviations: one wild row is no drift."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What one model says about some rows, and what is true.

    Attributes:
        truth: float64[m] as `Target.read`; None without labels.
        predicted: float64[m], class index or number; NaN where there is no prediction.
        probabilities: float64[m, K], where the model gives them.
        matrix: float64[m, D], standardised features.
    """

    truth: Floats | None
    predicted: Floats
    probabilities: Floats | None
    matrix: Floats


Score = Callable[[Facts], Floats]


def prediction_reader(
    reference: Table, target: Target | None
) -> tuple[Callable[[Column], tuple[Floats, Floats | None]], Target]:
    """How a prediction column is read, and what it answers (its classes, or a number).

    Numbers between 0 and 1 beside a label of two classes are the probability of the class that
    comes second in order of value.

    Returns:
        A function from the column to predicted class indices or numbers, float64[m], and class
        probabilities float64[m, K] or None.

    Raises:
        TableError: the column is empty, or does not speak of what the label column holds.
    """
    column = reference.column(str(reference.roles.prediction))
    known = column.values[np.isfinite(column.values)]
    if len(known) == 0:
        raise TableError(f"column {column.name!r} holds no prediction in the reference rows")
    if target is None:
        alone = Table((column,), Roles(label=column.name))
        if label_trouble(alone) is not None:
            raise TableError(f"column {column.name!r} holds only {len(known)} predictions")
        answered = target_of(alone)
        return lambda c: ((answered.codes(c) if answered.values else c.values), None), answered
    if target.kind == "number":
        if column.kind == "category":
            raise TableError(f"column {column.name!r} holds texts, {target.label!r} numbers")
        return lambda c: (np.where(np.isfinite(c.values), c.values, np.nan), None), target
    if (target.codes(column) < len(target.names)).any() and not _fractions(known):
        return lambda c: (target.codes(c), None), target
    if len(target.names) == 2 and column.numeric and known.min() >= 0 and known.max() <= 1:
        return _read_probability, target
    raise TableError(f"column {column.name!r} shares no value with column {target.label!r}")


def _fractions(known: Floats) -> bool:
    return bool(((known > 0) & (known < 1)).any())


def _read_probability(column: Column) -> tuple[Floats, Floats]:
    second = np.clip(np.where(np.isfinite(column.values), column.values, np.nan), 0.0, 1.0)
    predicted = np.where(np.isnan(second), np.nan, (second > 0.5).astype(np.float64))
    return predicted, np.column_stack([1 - second, second])


def standardiser(values: Floats) -> Callable[[Floats], Floats]:
    known = values[np.isfinite(values)]
    centre, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    spread = spread or max(abs(centre), 1.0)
    return lambda numbers: (numbers - centre) / spread


def standard_residual(own: Facts) -> Score:
    standard = standardiser(truth_of(own) - own.predicted)
    return lambda facts: np.clip(standard(truth_of(facts) - facts.predicted), -CLIP, CLIP)


def truth_of(facts: Facts) -> Floats:
    if facts.truth is None:
        raise RuntimeError("a score of labels is watched in a table without labels")
    return facts.truth


def held(condition: NDArray[np.bool_], *needed: Floats) -> Floats:
    """1 where the condition holds, NaN where something needed is missing."""
    missing = np.any([np.isnan(values) for values in needed], axis=0)
    return np.where(missing, np.nan, condition.astype(np.float64))


def wrong(facts: Facts) -> Floats:
    return held(facts.predicted != truth_of(facts), facts.predicted, truth_of(facts))


def wrong_of(index: int) -> Score:
    return lambda facts: np.where(truth_of(facts) == index, wrong(facts), np.nan)


def confidence(facts: Facts) -> Floats:
    best: Floats = np.asarray(facts.probabilities).max(axis=1)
    return best


def surprise(facts: Facts) -> Floats:
    """Whether the answer was wrong, minus how likely the model thought that to be."""
    surprises: Floats = wrong(facts) - (1 - confidence(facts))
    return surprises


def residual_of(index: int) -> Score:
    """Whether the truth is the class with this index, minus the probability that it was given.

    NaN where the truth is missing. A row's score lies between -1 and 1.
    """

    def score(facts: Facts) -> Floats:
        truth = truth_of(facts)
        rest: Floats = held(truth == index, truth) - np.asarray(facts.probabilities)[:, index]
        return rest

    return score


def share_of(index: int) -> Score:
    """The probability of a class where the model gives it: less noisy than its bare answer."""

    def score(facts: Facts) -> Floats:
        if facts.probabilities is not None:
            return facts.probabilities[:, index]
        return held(facts.predicted == index, facts.predicted)

    return score


def truth_is(index: int) -> Score:
    return lambda facts: held(truth_of(facts) == index, truth_of(facts))


def times(residual: Score, feature: int) -> Score:
    return lambda facts: residual(facts) * np.clip(facts.matrix[:, feature], -CLIP / 2, CLIP / 2)
