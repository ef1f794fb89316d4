"""A small model of the label, fitted on reference rows so that concept drift can be judged.

Which kind is chosen by its error on rows that it did not see: a constant, a
linear model, a forest, or boosted trees. Every kind is fitted once for each of
a few contiguous blocks of rows, on all the other blocks. A reference row is
judged by the one model that did not see it; a new row by all of them, and what
is computed from their answers is averaged. So both have the same expectation
while nothing changes: a model fitted once on all rows would have a slightly
smaller error on new rows than cross-fitting promised, and its errors on its own
rows would be too small by far.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.design import Design, cells, fit_design
from fedge.drift.tables.learners import LEAST_PROBABILITY, Predict, fit_one
from fedge.drift.tables.table import Column, Table
from fedge.errors import TableError

Floats = NDArray[np.float64]
Kind = Literal["classes", "number"]

MIN_LABELLED = 20
"""With fewer labelled rows there is nothing that could be learnt and judged."""

BLOCKS = 5
TRIED = (1, 3)
"""Blocks on which the kinds of model compete."""

MAX_CLASSES = 20
"""More distinct whole numbers than this are a quantity. The rarest classes beyond it are not told
apart."""

ROWS_PER_CLASS = 10
"""Numbers are classes only if each has as many rows on average."""

MIN_CLASS_ROWS = 5
"""A rarer class is not learnt; a row that has it is an error of the model."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the labels of a table are.

    Attributes:
        kind: `classes`, or a `number`.
        values: float64[K], the codes of the classes in the reference's label column; empty for a
            number.
        names: their K texts.
    """

    label: str
    kind: Kind
    values: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    def read(self, rows: Table) -> Floats:
        """float64[m]: index of the class, or the number. NaN where the label is missing, K for a
        class that the reference hardly has or never had."""
        column = rows.column(self.label)
        if self.kind == "number":
            return np.where(np.isfinite(column.values), column.values, np.nan)
        return self.codes(column)

    def codes(self, column: Column) -> Floats:
        """float64[m], the classes that a column of labels or predictions holds, as `read`."""
        coded = np.full(len(column.values), float(len(self.names)))
        for index, (value, name) in enumerate(zip(self.values, self.names, strict=True)):
            held = cells(column, name) if column.kind == "category" else column.values == value
            coded[held] = index
        coded[np.isnan(column.values)] = np.nan
        return coded


@dataclass(frozen=True, slots=True)
class Model:
    """Cross-fitted models of one label.

    Attributes:
        kind: `constant`, `linear`, `forest` or `boosting`.
        reference: float64[1, n, K], answers about the reference rows by the models that did not
            see them: class probabilities, or one number (K = 1).
        loss: mean of their log-loss, or of their squared error.
        constant_loss: the same of always answering alike.
    """

    target: Target
    design: Design
    kind: str
    reference: Floats
    loss: float
    constant_loss: float
    _fitted: tuple[Predict, ...]

    def answers(self, rows: Table) -> Floats:
        """float64[F, m, K], what each of the F models answers."""
        matrix = self.design.matrix(rows)
        with _one_thread():
            return np.stack([predict(matrix) for predict in self._fitted])


def label_trouble(reference: Table) -> str | None:
    """Why no model of the label can be fitted on these rows; None where one can."""
    name = reference.roles.label
    if name is None:
        return "no label column is named"
    labelled = int(np.isfinite(reference.column(name).values).sum())
    if labelled < MIN_LABELLED:
        return f"column {name!r} holds {labelled} labels, at least {MIN_LABELLED} are needed"
    return None


def target_of(reference: Table) -> Target:
    """Whether the label is a class or a number, and which classes there are.

    Raises:
        TableError: there are too few labels.
    """
    if (trouble := label_trouble(reference)) is not None:
        raise TableError(trouble)
    column = reference.column(str(reference.roles.label))
    known = column.values[np.isfinite(column.values)]
    values, counts = np.unique(known, return_counts=True)
    if column.kind not in ("category", "boolean"):
        whole = bool((values == np.floor(values)).all())
        most = MAX_CLASSES if whole else MAX_CLASSES // 2
        if len(values) > most or len(known) < ROWS_PER_CLASS * len(values):
            return Target(column.name, "number")
    order = np.argsort(-counts, kind="stable")
    kept = [i for i in order[:MAX_CLASSES] if counts[i] >= MIN_CLASS_ROWS] or [order[0]]
    chosen = values[np.sort(kept)]
    names = tuple(
        column.categories[int(v)] if column.kind == "category" else f"{v:g}" for v in chosen
    )
    return Target(column.name, "classes", tuple(chosen.tolist()), names)


def fit_model(reference: Table) -> Model:
    """Fit and choose a model of the label on the reference rows, which are in time order.

    Deterministic. Takes a few seconds for 5,000 rows of 60 columns.

    Raises:
        TableError: there are too few labels.
    """
    target, design = target_of(reference), fit_design(reference)
    truth, matrix = target.read(reference), design.matrix(reference)
    learn = np.isfinite(truth) & (truth < _width(target) if target.kind == "classes" else True)
    block = np.arange(reference.rows) * BLOCKS // reference.rows
    rows = _Rows(target, matrix, truth, learn, block)
    with _one_thread():
        kind, found = _chosen(rows)
        for left_out in range(BLOCKS):
            if left_out not in found:
                found[left_out] = rows.fit(kind, left_out)
        answers = np.empty((reference.rows, _width(target)))
        for left_out, predict in found.items():
            answers[block == left_out] = predict(matrix[block == left_out])
    constant = fit_one("constant", len(target.names), matrix[learn], truth[learn])(matrix[learn])
    return Model(
        target=target,
        design=design,
        kind=kind,
        reference=answers[None],
        loss=_loss(target, answers[learn], truth[learn]),
        constant_loss=_loss(target, constant, truth[learn]),
        _fitted=tuple(found[left_out] for left_out in range(BLOCKS)),
    )


def _one_thread() -> AbstractContextManager[object]:
    """Threads that wait for each other on a busy machine cost far more than they bring here."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


@dataclass(frozen=True, slots=True)
class _Rows:
    """Reference rows to be learnt from.

    Attributes:
        learn: bool[n], rows whose label is known.
        block: int64[n].
    """

    target: Target
    matrix: Floats
    truth: Floats
    learn: NDArray[np.bool_]
    block: NDArray[np.int64]

    def fit(self, kind: str, left_out: int) -> Predict:
        """The model that did not see one block."""
        seen = self.learn & (self.block != left_out)
        if not seen.any():  # all labels lie in that block
            seen = self.learn
        return fit_one(kind, len(self.target.names), self.matrix[seen], self.truth[seen])

    def loss(self, predict: Predict, left_out: int) -> float:
        """Of the rows in that block; NaN where none has a label."""
        unseen = self.learn & (self.block == left_out)
        if not unseen.any():
            return np.nan
        return _loss(self.target, predict(self.matrix[unseen]), self.truth[unseen])


def _chosen(rows: _Rows) -> tuple[str, dict[int, Predict]]:
    """The kind with the least error on some blocks, and its models that left these out."""
    best, least = {left_out: rows.fit("constant", left_out) for left_out in TRIED}, np.inf
    chosen = "constant"
    for kind in _kinds(rows.target, rows.matrix):
        fitted = {left_out: rows.fit(kind, left_out) for left_out in TRIED}
        losses = [rows.loss(predict, left_out) for left_out, predict in fitted.items()]
        if np.isfinite(losses).any() and np.nanmean(losses) < least:
            chosen, best, least = kind, fitted, float(np.nanmean(losses))
    return chosen, best


def _width(target: Target) -> int:
    return len(target.names) if target.kind == "classes" else 1


def _kinds(target: Target, matrix: Floats) -> list[str]:
    if matrix.shape[1] == 0 or (_width(target) == 1 and target.kind == "classes"):
        return ["constant"]
    # Boosting grows one tree a class and round: with many classes it is slow, and no better.
    boosting = ["boosting"] if _width(target) <= 4 else []
    return ["constant", "linear", "forest", *boosting]


def _loss(target: Target, answers: Floats, truth: Floats) -> float:
    if target.kind == "number":
        return float(((answers[:, 0] - truth) ** 2).mean())
    picked = answers[np.arange(len(truth)), truth.astype(np.int64)]
    return float(-np.log(np.maximum(picked, LEAST_PROBABILITY)).mean())
