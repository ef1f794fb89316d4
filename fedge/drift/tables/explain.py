"""Why a table's rows moved: from the rows before and after to a cause in plain words.

The order of the questions is the order of their certainty. A broken sensor leaves a mark that
nothing else leaves. With labels, each of covariate drift, label shift and concept drift is a
hypothesis that the rows can refute (`stability`). Without labels, predictions may show that
changed class shares explain the inputs' movement; concept drift cannot be seen then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.expected_accuracy import (
    BLIND_SPOT,
    Calibration,
    ExpectedAccuracy,
    calibrate,
    expected_accuracy,
)
from fedge.drift.label_shift import ClassShares, bbse
from fedge.drift.sensor_faults import Fault
from fedge.drift.tables.causes import CLEAR, SMALL_PART, Hypotheses, choose, confidence
from fedge.drift.tables.marks import (
    FAR_ROWS,
    columns_with_faults,
    indicators_of,
    moved_columns,
    unfamiliar,
)
from fedge.drift.tables.model import label_trouble
from fedge.drift.tables.outcome import Moved
from fedge.drift.tables.outputs import OutputEncoder, fit_labelled
from fedge.drift.tables.sides import Labelled, Pair, Sides, sides_of
from fedge.drift.tables.stability import (
    MIN_OVERLAP,
    Evidence,
    compare,
    inflation,
    moments,
    overlap,
    weighted,
    within_classes,
)
from fedge.drift.tables.table import Table
from fedge.drift.words import Cause, Scope, SensorFault

Floats = NDArray[np.float64]

MIN_LABELLED = 12
"""With fewer labelled recent rows the labels say nothing."""

MAX_NAMED = 12
"""Most columns named in an explanation."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is behind an alarm.

    Attributes:
        features: names of columns, strongest first; the label's leads where the label or its
            relation to the inputs changed.
        confidence: 0 to 1, in the cause.
        sentence: for a person.
        expected: accuracy expected from the model's confidence; None where there is no model, or
            concept drift makes it meaningless.
    """

    cause: Cause
    scope: Scope
    features: tuple[str, ...]
    confidence: float
    sentence: str
    expected: ExpectedAccuracy | None


def explain(
    reference: Table,
    recent: Table,
    moved: Sequence[Moved],
    *,
    outputs: OutputEncoder | None = None,
) -> Explanation:
    """Name the cause of an alarm.

    Args:
        reference: the rows of the baseline.
        recent: the rows since the estimated onset, up to the alarm.
        moved: the statistics that alarmed, strongest first.
        outputs: the encoder of these reference rows' outputs, whose model of the label is taken;
            without it one is fitted where the table has labels.
    """
    sides = sides_of(reference, recent, _with_model(reference, outputs))
    named = _named(moved)
    faults = columns_with_faults(reference, recent, sides, set(named) or set(sides.columns))
    if faults:
        return _sensor(faults, named)
    if (share := unfamiliar(reference, recent)) >= FAR_ROWS:
        return _explanation("ood", named, min(0.99, share), sides, _expected(sides))
    cause, sure = _judge(sides, moved)
    features = named or _found(sides, moved)
    if cause in ("concept", "label") and sides.labelled is not None:
        features = _with_label(sides, sides.labelled, cause, named)
    expected = _expected(sides) if cause != "concept" else None
    return _explanation(cause, features, sure, sides, expected)


def _with_model(reference: Table, outputs: OutputEncoder | None) -> OutputEncoder | None:
    """Every score of errors, whether or not it may alarm, of the model that there is."""
    if outputs is not None and outputs.model is not None:
        return fit_labelled(reference, model=outputs.model)
    return fit_labelled(reference) if label_trouble(reference) is None else None


def _named(moved: Sequence[Moved]) -> tuple[str, ...]:
    """The feature columns that moved, strongest first; what several columns share comes last."""
    strength: dict[str, float] = {}
    for one in moved:
        if one.statistic.group in ("feature", "missing", "structure"):
            shared = 0.5 if one.statistic.group == "structure" else 1.0
            for place, column in enumerate(one.statistic.columns):
                value = shared * one.strength / (1 + place)
                strength[column] = max(strength.get(column, 0.0), value)
    ordered = sorted(strength, key=lambda column: -strength[column])
    return tuple(ordered[:MAX_NAMED])


def _found(sides: Sides, moved: Sequence[Moved]) -> tuple[str, ...]:
    """Columns to name where no input alarmed by itself: inputs that moved all the same, or else
    what the alarm was about."""
    clear = moved_columns(sides)
    found = sorted(clear, key=lambda column: -clear[column])
    about = dict.fromkeys(one.statistic.columns[0] for one in moved if one.statistic.columns)
    return tuple(found or about)[:MAX_NAMED]


def _judge(sides: Sides, moved: Sequence[Moved]) -> tuple[Cause, float]:
    groups = {one.statistic.group for one in moved}
    inputs = bool(groups & {"feature", "missing", "structure", "prediction"})
    labelled = sides.labelled
    if labelled is not None and int(np.isfinite(labelled.classes.recent).sum()) >= MIN_LABELLED:
        found = hypotheses(sides, labelled)
        cause, sure = choose(found, errors_alarmed="error" in groups, inputs_alarmed=inputs)
        if cause != "unknown":
            return cause, sure
    if labelled is not None:
        shift = _hidden_label_shift(sides, labelled)
        if shift is not None:
            return "label", shift
    if "error" in groups:
        return "concept", 0.5
    if inputs:
        return "covariate", 0.6
    return ("label", 0.4) if "label" in groups else ("unknown", 0.2)


def hypotheses(sides: Sides, labelled: Labelled) -> Hypotheses:
    """Test on labelled rows what stayed as it was."""
    scores = _input_scores(sides, labelled)
    known = np.isfinite(labelled.classes.reference), np.isfinite(labelled.classes.recent)
    reference, recent = scores.reference[known[0]], scores.recent[known[1]]
    classes = labelled.classes.reference[known[0]], labelled.classes.recent[known[1]]
    answers = slice(scores.reference.shape[1] - labelled.answers.reference.shape[1], None)
    weight, weight_recent, worth = overlap(sides.matrix.reference, sides.matrix.recent)
    errors = labelled.errors
    relation = weighted(
        errors.reference,
        errors.recent,
        weight,
        weight_recent,
        inflation(errors.reference, len(errors.recent)),
    )
    within = within_classes(reference, recent, *classes, labelled.count)
    focus = within_classes(reference[:, answers], recent[:, answers], *classes, labelled.count)
    every = compare(scores.reference, scores.recent)
    return Hypotheses(
        inputs=_either(every, compare(scores.reference[:, answers], scores.recent[:, answers])),
        relation=relation.strength() if worth >= MIN_OVERLAP else float("nan"),
        within=_either(within, focus),
        shares=compare(
            indicators_of(classes[0], labelled.count), indicators_of(classes[1], labelled.count)
        ).strength(),
    )


def _either(all_scores: Evidence, focus: Evidence) -> float:
    """Strength of all comparisons or of the most telling few, each with half the chance to err."""
    strengths = [one.strength(part=0.5) for one in (all_scores, focus) if one.known]
    return max(strengths, default=float("nan"))


def _input_scores(sides: Sides, labelled: Labelled) -> Pair:
    """Moments of the features, and what the model makes of them."""
    return Pair(
        np.hstack([moments(sides.matrix.reference), labelled.answers.reference]),
        np.hstack([moments(sides.matrix.recent), labelled.answers.recent]),
    )


def _hidden_label_shift(sides: Sides, labelled: Labelled) -> float | None:
    """Confidence that new class shares, seen through predictions alone, explain the inputs."""
    if labelled.target.kind != "classes":
        return None
    held = np.nan_to_num(indicators_of(labelled.classes.reference, labelled.count))
    found = bbse(labelled.answers.reference.T @ held, labelled.answers.recent.sum(axis=0))
    if not isinstance(found, ClassShares):
        return None
    weight = np.append(found.weights, 0.0)[
        np.nan_to_num(labelled.classes.reference, nan=labelled.count).astype(np.int64)
    ]
    sides_now = moments(sides.matrix.reference), moments(sides.matrix.recent)
    inflated = inflation(sides_now[0], len(sides_now[1]))
    before = compare(*sides_now).strength()
    after = weighted(*sides_now, weight, np.ones(len(sides_now[1])), inflated).strength()
    changed = bool(((found.low > found.reference) | (found.high < found.reference)).any())
    if changed and before > CLEAR and after < max(CLEAR, SMALL_PART * before):
        return confidence(before - after)
    return None


def _with_label(
    sides: Sides, labelled: Labelled, cause: Cause, named: tuple[str, ...]
) -> tuple[str, ...]:
    """The label first; for concept drift then the features whose meaning changed most."""
    label = labelled.target.label
    if cause == "label":
        return (label, *(c for c in named if c != label))
    found = compare(labelled.errors.reference, labelled.errors.recent)
    strength: dict[str, float] = {}
    for z, columns in zip(np.nan_to_num(np.abs(found.z)), labelled.error_columns, strict=True):
        for column in columns[1:]:
            strength[column] = max(strength.get(column, 0.0), float(z))
    top = max(strength.values(), default=0.0)
    changed = [c for c, z in strength.items() if z > max(CLEAR, top / 2)]
    return (label, *sorted(changed, key=lambda c: -strength[c]))


def _expected(sides: Sides) -> ExpectedAccuracy | None:
    labelled = sides.labelled
    if labelled is None or labelled.target.kind != "classes":
        return None
    answers = labelled.answers
    right = np.where(
        np.isnan(labelled.classes.reference),
        np.nan,
        answers.reference.argmax(axis=1) == labelled.classes.reference,
    )
    calibration = calibrate(answers.reference.max(axis=1), right)
    if not isinstance(calibration, Calibration):
        return None
    found = expected_accuracy(calibration, calibration.count(answers.recent.max(axis=1)))
    return found if isinstance(found, ExpectedAccuracy) else None


_MEANING = "what they mean for the label did not, as far as can be seen."
_WORDS: dict[Cause, str] = {
    "covariate": "The inputs moved.",
    "label": "The class shares changed; rows of each class look as before.",
    "concept": "What the inputs mean for the label changed.",
    "ood": "Most rows lie outside of all that the reference holds.",
    "unknown": "Something moved, but the rows fit no cause.",
    "sensor": "A sensor seems broken.",
}


def _explanation(
    cause: Cause,
    features: tuple[str, ...],
    sure: float,
    sides: Sides,
    expected: ExpectedAccuracy | None,
) -> Explanation:
    sentence = _WORDS[cause]
    if cause == "covariate" and sides.labelled is not None:
        sentence = f"{sentence[:-1]}; {_MEANING}"
    if features:
        sentence += f" Columns: {', '.join(features[:4])}."
    if expected is not None:
        sentence += f" Accuracy {expected.value:.0%} ({BLIND_SPOT})."
    return Explanation(cause, "gateway", features, round(sure, 3), sentence, expected)


def _sensor(faults: dict[str, Fault], named: tuple[str, ...]) -> Explanation:
    ordered = sorted(faults, key=lambda name: (-faults[name].certainty, name))
    told = "; ".join(f"{name}: {_fault_words(faults[name])}" for name in ordered[:4])
    sure = max(0.5, min(0.99, max(fault.certainty for fault in faults.values())))
    features = (*ordered, *(c for c in named if c not in faults))
    return Explanation("sensor", "gateway", features[:MAX_NAMED], round(sure, 3), told + ".", None)


def _fault_words(fault: Fault) -> str:
    return "infinite values" if math.isinf(fault.value) else _FAULT_WORDS[fault.kind]


_FAULT_WORDS: dict[SensorFault, str] = {
    "stuck": "the same value again and again",
    "dead": "no signal",
    "saturated": "piled up at one extreme value",
    "offset": "shifted against all that it is related to",
    "unit-change": "all values multiplied by one factor",
}
