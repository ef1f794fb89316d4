"""Row scores of a model's answers, of the labels, and of how the two agree.

That the error of a model moved is the plainest sign of concept drift, but a
concept may change and leave the error rate alike, and inputs may move and change
the error though the concept stays. So the residuals of the class probabilities
are watched too, alone and times the features: at a model that fits, each is a
sum of uncorrelated steps around zero wherever the inputs go, and a changed
coefficient moves it. These are the score tests for parameter instability of
Zeileis and Hornik, "Generalized M-fluctuation tests for parameter instability"
(Statistica Neerlandica, 2007), going back to Nyblom (JASA, 1989).

All statistics of a table share one false-alarm budget, so only the few most
telling ones are watched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedge.drift.tables.answers import (
    CLIP,
    Facts,
    Score,
    confidence,
    prediction_reader,
    residual_of,
    share_of,
    standard_residual,
    standardiser,
    surprise,
    times,
    truth_is,
    truth_of,
    wrong,
    wrong_of,
)
from fedge.drift.tables.design import fit_design
from fedge.drift.tables.encoding import Encoder, Fit, RowStatistic
from fedge.drift.tables.model import Floats, Model, Target, fit_model, label_trouble, target_of
from fedge.drift.tables.table import Table

MAX_CELLS = 6
"""Classes whose share is watched, the most frequent ones."""

MAX_PRODUCTS = 8
"""Features whose product with a residual is watched, those closest to the label."""

MIN_CLASS_ROWS = 50
"""A class with fewer reference rows has no error rate of its own."""

MAX_KURTOSIS = 18.0
"""Residuals with more are left out where they are to alarm: normal ones have 3, and a residual that
is 0 but for one row in n has about n."""

LEAST_SHARE_UNIT = 0.1
"""Least standard deviation of an indicator or residual, that of a share of one in a hundred."""

LEAST_UNIT = 0.02
"""Least standard deviation of a standardised residual."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A statistic, how a row scores in it, and the least size of its unit.

    `either_sign`: scores lie around zero, so that no skewness tells that few rows dominate.
    """

    statistic: RowStatistic
    score: Score
    least_unit: float
    either_sign: bool = False


class OutputEncoder:
    """Scores from the facts of one or several cross-fitted models, averaged."""

    def __init__(
        self,
        watched: tuple[Watched, ...],
        reference: list[Facts],
        facts: Callable[[Table], list[Facts]],
        model: Model | None,
    ) -> None:
        """
        Args:
            reference: facts of the reference rows from models that did not see them.
            facts: those of any rows, one for each cross-fitted model.
            model: the fitted model; None where the table brings predictions.
        """
        self.model = model
        self._watched, self._facts = watched, facts
        self._reference = self._of(reference)
        self._unit = np.array(
            [_unit(w, column) for w, column in zip(watched, self._reference.T, strict=True)]
        )

    @property
    def statistics(self) -> tuple[RowStatistic, ...]:
        return tuple(w.statistic for w in self._watched)

    @property
    def unit(self) -> Floats:
        return self._unit

    @property
    def reference_scores(self) -> Floats:
        return self._reference

    def scores(self, rows: Table) -> Floats:
        return self._of(self._facts(rows))

    def _of(self, facts: list[Facts]) -> Floats:
        scored = [np.column_stack([w.score(one) for w in self._watched]) for one in facts]
        mean: Floats = np.mean(scored, axis=0)
        return mean


def _unit(watched: Watched, scores: Floats) -> float:
    known = scores[np.isfinite(scores)]
    return max(watched.least_unit, float(known.std()) if len(known) else 0.0)


def fit_outputs(reference: Table) -> Encoder | None:
    """Watch predictions, labels and errors, as far as the table has them.

    Without a prediction column a model is fitted on the labels (`model.fit_model`).

    Raises:
        TableError: prediction and label columns do not fit together.
    """
    usable = label_trouble(reference) is None
    if reference.roles.prediction is not None:
        return _from_predictions(reference, target_of(reference) if usable else None)
    return fit_labelled(reference, even=True) if usable else None


OUTPUT_FITS: list[Fit] = [fit_outputs]
"""What the outputs of a table are watched by."""


def fit_labelled(
    reference: Table, *, even: bool = False, model: Model | None = None
) -> OutputEncoder:
    """Watch the label by a model of our own, whatever predictions the table brings.

    Args:
        even: leave out residuals that a few rows dominate, as where a model is hardly ever wrong.
            Their means over short windows are too far from normal to alarm by, and the error alone
            then says it all.
        model: one that was fitted on these very rows; None fits one.

    Raises:
        TableError: there are too few labels.
    """
    model = model if model is not None else fit_model(reference)
    target = model.target

    def facts(rows: Table) -> list[Facts]:
        truth, matrix = target.read(rows), model.design.matrix(rows)
        return [_model_facts(target, one, truth, matrix) for one in model.answers(rows)]

    truth, matrix = target.read(reference), model.design.matrix(reference)
    own = [_model_facts(target, model.reference[0], truth, matrix)]
    products = _closest(target, truth, matrix)
    named = [(index, model.design.features[index].column) for index in products]
    watched = (
        *_predictions(target, target.label, own[0]),
        *_labels(target, truth),
        *_errors(target, truth, named, own[0]),
    )
    return OutputEncoder(_even(watched, own[0]) if even else watched, own, facts, model)


def _even(watched: tuple[Watched, ...], own: Facts) -> tuple[Watched, ...]:
    return tuple(w for w in watched if not w.either_sign or _kurtosis(w.score(own)) <= MAX_KURTOSIS)


def _kurtosis(scores: Floats) -> float:
    known = scores[np.isfinite(scores)]
    second = float(((known - known.mean()) ** 2).mean()) if len(known) else 0.0
    return float(((known - known.mean()) ** 4).mean()) / second**2 if second > 1e-12 else np.inf


def _model_facts(target: Target, answers: Floats, truth: Floats, matrix: Floats) -> Facts:
    if target.kind == "number":
        return Facts(truth, answers[:, 0], None, matrix)
    return Facts(truth, answers.argmax(axis=1).astype(np.float64), answers, matrix)


def _from_predictions(reference: Table, target: Target | None) -> OutputEncoder:
    name = str(reference.roles.prediction)
    read, answered = prediction_reader(reference, target)
    design = fit_design(reference)

    def facts(rows: Table) -> list[Facts]:
        predicted, probabilities = read(rows.column(name))
        truth = target.read(rows) if target is not None else None
        return [Facts(truth, predicted, probabilities, design.matrix(rows))]

    own = facts(reference)
    watched = list(_predictions(answered, name, own[0]))
    if target is not None and own[0].truth is not None:
        products = _closest(target, own[0].truth, own[0].matrix)
        named = [(index, design.features[index].column) for index in products]
        watched += _labels(target, own[0].truth)
        watched += _errors(target, own[0].truth, named, own[0])
    return OutputEncoder(tuple(watched), own, facts, None)


def _closest(target: Target, truth: Floats, matrix: Floats) -> list[int]:
    """Indices of the features that go along with the label most, strongest first."""
    rows = np.isfinite(truth)
    if matrix.shape[1] == 0 or rows.sum() < 3:
        return []
    if target.kind == "number":
        sides = truth[rows, None]
    else:
        sides = (truth[rows, None] == np.arange(len(target.names))).astype(np.float64)
    sides = sides - sides.mean(axis=0)
    spread = np.where(sides.std(axis=0) > 0, sides.std(axis=0), 1.0)
    along = np.abs(matrix[rows].T @ (sides / spread)).max(axis=1)
    return [int(index) for index in np.argsort(-along, kind="stable")[:MAX_PRODUCTS]]


def _frequent(target: Target, codes: Floats) -> list[int]:
    """The classes whose shares are watched; of two, one says it all."""
    counts = [(codes == index).sum() for index in range(len(target.names))]
    order = np.argsort([-c for c in counts], kind="stable")
    return [int(i) for i in order[: 1 if len(order) == 2 else MAX_CELLS]]


def _predictions(target: Target, column: str, own: Facts) -> list[Watched]:
    def stat(name: str) -> RowStatistic:
        return RowStatistic((column,), name, "prediction")

    if target.kind == "number":
        return _of_number(stat, own.predicted, lambda facts: facts.predicted)
    watched = []
    if own.probabilities is not None:
        watched.append(Watched(stat("confidence"), confidence, LEAST_UNIT))
    return watched + [
        Watched(stat(f"cell {target.names[i]}"), share_of(i), LEAST_SHARE_UNIT)
        for i in _frequent(target, own.predicted)
    ]


def _labels(target: Target, truth: Floats) -> list[Watched]:
    def stat(name: str) -> RowStatistic:
        return RowStatistic((target.label,), name, "label")

    if target.kind == "number":
        return _of_number(stat, truth, truth_of)
    frequent = _frequent(target, truth)
    watched = [
        Watched(stat(f"cell {target.names[i]}"), truth_is(i), LEAST_SHARE_UNIT) for i in frequent
    ]
    unseen = Watched(stat("unseen"), truth_is(len(target.names)), LEAST_SHARE_UNIT)
    return [*watched, unseen]


def _errors(
    target: Target, truth: Floats, named: list[tuple[int, str]], own: Facts
) -> list[Watched]:
    def stat(name: str, *features: str) -> RowStatistic:
        return RowStatistic((target.label, *features), name, "error")

    if target.kind == "number":
        residual = standard_residual(own)
        plain = [
            Watched(stat("residual"), residual, LEAST_UNIT),
            Watched(stat("error"), lambda facts: np.abs(residual(facts)), LEAST_UNIT),
        ]
    elif own.probabilities is not None:
        residual = surprise if len(target.names) != 2 else residual_of(1)
        plain = [
            Watched(stat("error"), wrong, LEAST_SHARE_UNIT),
            Watched(stat("surprise"), surprise, LEAST_SHARE_UNIT),
            *(
                Watched(stat(f"residual {target.names[i]}"), residual_of(i), LEAST_SHARE_UNIT, True)
                for i in _frequent(target, truth)
            ),
        ]
    else:
        residual = wrong
        plain = [Watched(stat("error"), wrong, LEAST_SHARE_UNIT)]
        for index, name in enumerate(target.names[:MAX_CELLS]):
            if len(target.names) > 1 and (truth == index).sum() >= MIN_CLASS_ROWS:
                score = wrong_of(index)
                plain.append(Watched(stat(f"error of {name}"), score, LEAST_SHARE_UNIT))
    products = [
        Watched(stat(f"residual x {name}", name), times(residual, index), LEAST_SHARE_UNIT, True)
        for index, name in named
    ]
    return [*plain, *products]


def _of_number(stat: Callable[[str], RowStatistic], values: Floats, read: Score) -> list[Watched]:
    """Location and scale of a number, from scores that one wild row cannot move much."""
    standard = standardiser(values)

    def location(facts: Facts) -> Floats:
        return np.clip(standard(read(facts)), -CLIP, CLIP)

    def scale(facts: Facts) -> Floats:
        return np.abs(location(facts))

    return [
        Watched(stat("location"), location, LEAST_UNIT),
        Watched(stat("scale"), scale, LEAST_UNIT),
    ]
