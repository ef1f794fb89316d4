"""References of every schema stay readable, and say what the model's answers are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedge.errors import NonFiniteValueError, RecordError, TaskError
from fedge.profiles.build import build_reference
from fedge.profiles.labelled import row_inflation
from fedge.records import (
    OOD_LEVELS,
    CategoricalFeature,
    ModelInput,
    NumericFeature,
    Reference,
    TaskSchema,
    canonical,
)

GOLDEN = Path(__file__).parent.parent / "golden"
ADDED = ("season", "confusion", "class_histograms", "confidence", "ood", "row_inflation")
TASK = TaskSchema(
    name="pump",
    version=1,
    input=ModelInput(name="x", shape=(2,), low=-10, high=10),
    classes=("ok", "worn"),
    features=(
        NumericFeature(name="pressure", type="float32", low=-10, high=10),
        CategoricalFeature(name="mode", categories=("idle", "run")),
    ),
    code="pump.task:TASK",
)
ROWS = 600


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels: pressure follows the label, a tenth of the predictions is wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, ROWS)
    predicted = np.where(np.arange(ROWS) % 10 == 0, 1 - labels, labels)
    pressure = rng.normal(size=ROWS) + 2 * labels
    pressure[::20] = np.nan
    confidence = np.where(predicted == labels, 0.95, 0.6)
    values = [pressure, rng.integers(0, 3, ROWS), predicted, confidence, rng.normal(size=ROWS)]
    return np.column_stack(values), labels


def build(**more: Any) -> Reference:
    values, labels = rows()
    known = {"labels": labels} | more
    return build_reference(
        TASK, values, ood=values[:, -1], model_sha256="a" * 64, source="made up", **known
    )


@pytest.mark.parametrize("schema", [1, 2])
def test_golden_files_stay_readable(schema: int) -> None:
    """A reference of each schema is read, and written again byte for byte."""
    data = (GOLDEN / f"reference-{schema}.json").read_bytes()
    reference = Reference.from_bytes(data)

    assert reference.schema_version == schema
    assert reference.to_bytes() == data
    assert [getattr(reference, name) is None for name in ADDED] == [schema == 1] * len(ADDED)


def test_schema_1_says_nothing_that_it_did_not_know() -> None:
    """A file that claims schema 1 and carries later fields is refused."""
    fields = json.loads((GOLDEN / "reference-2.json").read_bytes())

    with pytest.raises(RecordError, match="schema 1"):
        Reference.from_bytes(canonical({**fields, "schema_version": 1}))
    with pytest.raises(RecordError):
        Reference.from_bytes(canonical({**fields, "schema_version": 3}))


def test_answers_are_counted_from_labels() -> None:
    """Confusion, histograms by class and confidence agree with the rows and with each other."""
    values, labels = rows()
    reference = build()
    assert reference.confusion and reference.class_histograms and reference.confidence

    expected = [[int(((labels == a) & (values[:, 2] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert [list(row) for row in reference.confusion] == expected
    pressure, mode, klass, *_ = reference.class_histograms
    assert [sum(own) for own in pressure] == [
        int(((labels == c) & np.isfinite(values[:, 0])).sum()) for c in (0, 1)
    ]
    assert [sum(own) for own in mode] == [int((labels == c).sum()) for c in (0, 1)]
    assert [own[:2] for own in klass] == [tuple(row) for row in expected]
    assert sum(one.rows for one in reference.confidence) == ROWS
    assert sum(one.right or 0 for one in reference.confidence) == expected[0][0] + expected[1][1]
    sure = max(reference.confidence, key=lambda one: one.rows)
    assert sure.right == sure.rows and sure.mean == pytest.approx(0.95)


def test_without_labels_nothing_is_said_about_them() -> None:
    """None, not zero: how right the model is was never measured."""
    reference = build(labels=None)

    assert reference.confusion is None and reference.class_histograms is None
    assert reference.confidence is not None
    assert {one.right for one in reference.confidence} == {None}


def test_scores_are_calibrated_by_kind() -> None:
    """A share of the public rows as large as its level lies below each quantile."""
    strange = np.random.default_rng(3).normal(size=ROWS)
    reference = build(scores={"knn": strange, "energy": 2 * strange})
    assert reference.ood is not None

    assert [one.score for one in reference.ood] == ["energy", "knn"]
    for level, limit in zip(OOD_LEVELS, reference.ood[1].quantiles, strict=True):
        assert np.mean(strange <= limit) == pytest.approx(level, abs=2 / ROWS)


def test_dependence_of_ordered_rows_is_measured() -> None:
    """Slow rows inflate their stream's number alone; shuffled or too few rows do not."""
    rng = np.random.default_rng(4)
    values, _ = rows()
    slow = np.convolve(rng.normal(size=ROWS + 49), np.ones(50), "valid")
    values[:, 0] = slow / slow.std()
    streams = build().streams

    inflation = row_inflation(streams, values)
    shuffled = row_inflation(streams, rng.permutation(values))
    assert inflation is not None and shuffled is not None
    assert inflation[0] > 10 and max(inflation[1], *shuffled) < 3
    assert row_inflation(streams, values[:30]) is None


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"labels": np.zeros(3, dtype=int)}, TaskError),
        ({"labels": np.full(ROWS, 2)}, TaskError),
        ({"labels": np.zeros(ROWS)}, TaskError),
        ({"scores": {"knn": np.full(ROWS, np.nan)}}, NonFiniteValueError),
    ],
)
def test_wrong_answers_are_refused(more: dict[str, Any], error: type[Exception]) -> None:
    """Labels that are no classes and scores that are no numbers are errors, not counts."""
    with pytest.raises(error):
        build(**more)


def test_what_is_too_large_does_not_travel() -> None:
    """With very many classes the reference stays small and says so by leaving parts out."""
    many = TASK.model_copy(update={"classes": tuple(f"c{k}" for k in range(1024))})
    values, labels = rows()
    reference = build_reference(
        many, values, ood=values[:, -1], model_sha256="a" * 64, source="made up", labels=labels
    )

    assert reference.confusion is None and reference.class_histograms is None
    assert len(reference.to_bytes()) < 2**17
    assert Reference.from_bytes(reference.to_bytes()) == reference
