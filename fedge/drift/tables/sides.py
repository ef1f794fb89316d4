"""Reference and recent rows side by side, as numbers of equal meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.design import Design, fit_design
from fedge.drift.tables.model import Target
from fedge.drift.tables.outputs import OutputEncoder
from fedge.drift.tables.table import Table

Floats = NDArray[np.float64]

NUMBER_CLASSES = 8
"""A label that is a number is cut at the reference's octiles where classes are needed."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same of reference rows and of recent rows, both in time order."""

    reference: Floats
    recent: Floats


@dataclass(frozen=True, slots=True)
class Labelled:
    """What labels add.

    Attributes:
        classes: of each row, NaN where unknown.
        count: number of classes; rows of a class that the reference lacks have this number.
        answers: the model's probabilities or standardised number, unseen rows' all.
        errors: scores of errors, see `outputs`, and the columns that each speaks about.
    """

    target: Target
    classes: Pair
    count: int
    answers: Pair
    errors: Pair
    error_columns: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Sides:
    """All that causes are judged from.

    Attributes:
        matrix: standardised features.
        columns: the table's column behind each of the matrix's.
        labelled: None where too few rows have a label.
    """

    matrix: Pair
    columns: tuple[str, ...]
    labelled: Labelled | None


def sides_of(reference: Table, recent: Table, outputs: OutputEncoder | None) -> Sides:
    """Read both tables alike.

    Args:
        outputs: the encoder of a model of the label; None without labels.
    """
    model = outputs.model if outputs is not None else None
    design: Design = model.design if model is not None else fit_design(reference)
    return Sides(
        matrix=Pair(design.matrix(reference), design.matrix(recent)),
        columns=tuple(feature.column for feature in design.features),
        labelled=_labelled(reference, recent, outputs) if outputs is not None else None,
    )


def _labelled(reference: Table, recent: Table, outputs: OutputEncoder) -> Labelled | None:
    model = outputs.model
    if model is None:
        return None
    target = model.target
    answers = Pair(model.reference[0], model.answers(recent).mean(axis=0))
    classes = Pair(target.read(reference), target.read(recent))
    if target.kind == "number":
        spread = float(np.nanstd(classes.reference)) or 1.0
        answers = Pair(answers.reference / spread, answers.recent / spread)
        classes = _cut(classes)
    watched = [i for i, s in enumerate(outputs.statistics) if s.group == "error"]
    return Labelled(
        target=target,
        classes=classes,
        count=len(target.names) if target.kind == "classes" else NUMBER_CLASSES,
        answers=answers,
        errors=Pair(outputs.reference_scores[:, watched], outputs.scores(recent)[:, watched]),
        error_columns=tuple(outputs.statistics[i].columns for i in watched),
    )


def _cut(numbers: Pair) -> Pair:
    levels = np.nanquantile(numbers.reference, np.arange(1, NUMBER_CLASSES) / NUMBER_CLASSES)

    def classes(values: Floats) -> Floats:
        return np.where(np.isnan(values), np.nan, np.searchsorted(levels, values, side="right"))

    return Pair(classes(numbers.reference), classes(numbers.recent))
