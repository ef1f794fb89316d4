"""Causes: each drift of known making is called by its name, and one that nobody can tell is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.tables.causes import Hypotheses, choose
from fedge.drift.tables.encoding import Group, RowStatistic
from fedge.drift.tables.explain import Explanation, explain
from fedge.drift.tables.outcome import Moved
from fedge.drift.tables.table import Column, Roles, Table

Floats = NDArray[np.float64]


def moved(group: Group, *columns: str, strength: float = 2.0) -> Moved:
    statistic = RowStatistic(columns, "location", group)
    return Moved(statistic, z=10 * strength, effect=1.0, length=1, strength=strength)


ERRORS = [moved("error", "y")]
INPUTS = [moved("feature", "x0")]


def inputs(seed: int, rows: int, shift: Floats | None = None) -> Floats:
    """Five channels; x3 and x4 have a common cause with x2."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 5))
    features[:, 3] = 0.9 * features[:, 2] + 0.3 * features[:, 3]
    features[:, 4] = -0.9 * features[:, 2] + 0.3 * features[:, 4]
    return features if shift is None else features + shift


def truth(seed: int, features: Floats, *, turned: bool = False) -> Floats:
    rng = np.random.default_rng(100 + seed)
    weights = np.array([1.5, -1.5 if turned else 1.5, 0.5, 0.0, 0.0])
    return (features @ weights + rng.normal(size=len(features)) > 0).astype(np.float64)


def table(features: Floats, label: Floats | None = None) -> Table:
    columns = [Column(f"x{i}", "number", values) for i, values in enumerate(features.T)]
    if label is None:
        return Table(tuple(columns))
    return Table((*columns, Column("y", "integer", label)), Roles(label="y"))


def labelled(seed: int, rows: int, *, shift: Floats | None = None, turned: bool = False) -> Table:
    features = inputs(seed, rows, shift)
    return table(features, truth(seed, features, turned=turned))


def with_shares(seed: int, rows: int, positive: float) -> Table:
    """Rows drawn anew so that one class has another share."""
    features = inputs(seed, 10 * rows)
    label = truth(seed, features)
    weight = np.where(label == 1, positive / label.mean(), (1 - positive) / (1 - label.mean()))
    chosen = np.random.default_rng(seed).choice(len(label), rows, p=weight / weight.sum())
    return table(features[chosen], label[chosen])


REFERENCE = labelled(0, 700)


class TestWithLabels:
    def test_changed_meaning_is_concept_drift(self) -> None:
        """The inputs are as before. The label's name leads, then what changed its meaning."""
        found = explain(REFERENCE, labelled(1, 150, turned=True), ERRORS)

        assert found.cause == "concept"
        assert found.features[:2] == ("y", "x1")
        assert found.expected is None
        assert found.confidence > 0.8

    def test_moved_inputs_are_covariate_drift_though_errors_and_classes_move(self) -> None:
        """More errors and other class shares follow from the inputs: no concept, no label shift."""
        shift = np.array([1.2, 0.8, 0.0, 0.0, 0.0])
        recent = labelled(1, 200, shift=shift)
        alarm = [moved("feature", "x0"), moved("feature", "x1", strength=1.5), *ERRORS]
        found = explain(REFERENCE, recent, [*alarm, moved("label", "y")])

        assert found.cause == "covariate"
        assert found.features == ("x0", "x1")
        assert found.expected is not None

    def test_changed_class_shares_are_label_shift_though_inputs_move(self) -> None:
        """Rows of each class look as before; that all features moved follows."""
        alarm = [moved("label", "y"), *INPUTS, *ERRORS]
        found = explain(REFERENCE, with_shares(1, 200, 0.85), alarm)

        assert found.cause == "label"
        assert found.features[0] == "y"

    def test_a_label_shift_is_told_from_covariate_drift_where_no_label_is_noisy(self) -> None:
        """P(Y|X) stays as it was under both: the narrower explanation counts."""

        def draw(seed: int, rows: int, positive: float) -> Table:
            rng = np.random.default_rng(seed)
            features = rng.normal(size=(20 * rows, 3))
            label = (features[:, 0] > 0.3).astype(np.float64)
            weight = np.where(
                label == 1, positive / label.mean(), (1 - positive) / (1 - label).mean()
            )
            chosen = rng.choice(len(label), rows, p=weight / weight.sum())
            return table(features[chosen], label[chosen])

        found = explain(draw(0, 500, 0.4), draw(1, 120, 0.75), [*INPUTS, moved("label", "y")])

        assert found.cause == "label"

    def test_inputs_are_named_though_only_predictions_alarmed(self) -> None:
        """Whoever reads of covariate drift wants to know which columns."""
        recent = labelled(1, 200, shift=np.array([1.2, 0.0, 0.0, 0.0, 0.0]))
        found = explain(REFERENCE, recent, [moved("prediction", "y")])

        assert found.cause == "covariate"
        assert found.features == ("x0",)

    def test_few_labels_name_no_concept_drift(self) -> None:
        """Labels that come late cannot speak yet; the inputs can."""
        recent = labelled(1, 100, shift=np.array([1.5, 0, 0, 0, 0]))
        late = recent.column("y").values.copy()
        late[5:] = math.nan
        found = explain(REFERENCE, table(_features(recent), late), INPUTS)

        assert found.cause == "covariate"

    def test_numbers_have_concepts_too(self) -> None:
        def draw(seed: int, rows: int, weight: float) -> Table:
            features = inputs(seed, rows)
            noise = np.random.default_rng(seed + 50).normal(size=rows)
            label = features @ [1.0, weight, 0, 0, 0] + 0.4 * noise
            columns = [Column(f"x{i}", "number", v) for i, v in enumerate(features.T)]
            return Table((*columns, Column("y", "number", label)), Roles(label="y"))

        found = explain(draw(0, 500, 1.0), draw(1, 120, -0.5), ERRORS)

        assert found.cause == "concept"
        assert found.features[:2] == ("y", "x1")


class TestWithoutLabels:
    def test_moved_inputs(self) -> None:
        recent = table(inputs(1, 100, np.array([1.0, 0, 0, 0, 0])))
        found = explain(table(inputs(0, 500)), recent, INPUTS)

        assert (found.cause, found.features) == ("covariate", ("x0",))
        assert found.confidence < 0.8  # changed class shares may be behind it: nobody can see

    def test_class_shares_show_in_predictions(self) -> None:
        """Labels known for the reference alone: predictions say that new shares explain it."""
        recent = with_shares(1, 400, 0.9)
        hidden = table(_features(recent), np.full(400, math.nan))
        found = explain(REFERENCE, hidden, [*INPUTS, moved("prediction", "y")])

        assert found.cause == "label"

    def test_rows_like_nothing_known_are_ood(self) -> None:
        recent = table(inputs(1, 60, np.full(5, 9.0)))

        assert explain(table(inputs(0, 500)), recent, INPUTS).cause == "ood"

    def test_a_common_shift_of_related_channels_is_no_broken_sensor(self) -> None:
        """Their relation holds: the process went elsewhere."""
        recent = table(inputs(1, 100, 2.5 * np.array([0, 0, 1, 0.9, -0.9])))
        alarm = [moved("feature", name) for name in ("x2", "x3", "x4")]

        assert explain(table(inputs(0, 500)), recent, alarm).cause == "covariate"

    def test_nothing_moved_is_unknown(self) -> None:
        found = explain(table(inputs(0, 500)), table(inputs(1, 100)), [])

        assert found.cause == "unknown"
        assert found.confidence <= 0.3


class TestSensors:
    @pytest.mark.parametrize("with_labels", [False, True])
    @pytest.mark.parametrize("fault", ["stuck", "dead", "saturated", "unit", "offset"])
    def test_a_broken_channel_leads(self, fault: str, with_labels: bool) -> None:
        features = inputs(1, 120) + 10
        label = truth(1, features - 10) if with_labels else None
        channel = features[:, 3]
        features[:, 3] = {
            "stuck": np.full(120, channel[0]),
            "dead": np.zeros(120),
            "saturated": np.minimum(channel, 10.3),
            "unit": channel * 1.8,
            "offset": channel + 3,
        }[fault]
        known = inputs(0, 500) + 10
        reference = table(known, truth(0, known - 10) if with_labels else None)
        found = explain(reference, table(features, label), [moved("feature", "x3")])

        assert found.cause == "sensor"
        assert found.features[0] == "x3"
        assert "x3" in found.sentence

    def test_one_channel_without_kin_that_shifts_is_covariate_drift(self) -> None:
        """Nothing says what it should have been."""
        recent = table(inputs(1, 120, np.array([0.8, 0, 0, 0, 0])))

        assert explain(table(inputs(0, 500)), recent, INPUTS).cause == "covariate"


class TestOddTables:
    def test_a_handful_of_rows_has_some_explanation(self) -> None:
        """One row, or a label of one class, is explained with what is there."""
        for recent in (labelled(1, 1), labelled(1, 9), table(inputs(1, 20), np.ones(20))):
            found = explain(REFERENCE, recent, INPUTS)

            assert isinstance(found, Explanation)
            assert 0 <= found.confidence <= 1
            assert found.sentence

    def test_gaps_texts_and_constants_are_taken(self) -> None:
        def draw(seed: int, rows: int, blue: float) -> Table:
            rng = np.random.default_rng(seed)
            number = np.where(rng.random(rows) < 0.2, math.nan, rng.normal(size=rows))
            colour = (rng.random(rows) < blue).astype(np.float64)
            names = ("red", "blue") if seed else ("blue", "red")
            codes = colour if seed else 1 - colour
            return Table(
                (
                    Column("number", "number", number),
                    Column("colour", "category", codes, names),
                    Column("empty", "number", np.full(rows, math.nan)),
                    Column("same", "integer", np.ones(rows)),
                    Column("huge", "number", np.where(rng.random(rows) < 0.5, 1e300, -1e300)),
                    Column("y", "category", codes, names),
                ),
                Roles(label="y"),
            )

        found = explain(draw(0, 300, 0.5), draw(1, 100, 0.9), [moved("feature", "colour")])

        assert found.cause in ("label", "covariate")  # the colour is the label


class TestRules:
    """What strength speaks for which cause, without any rows."""

    @pytest.mark.parametrize(
        ("found", "cause"),
        [
            (Hypotheses(inputs=0.4, relation=9.0, within=7.0, shares=3.0), "concept"),
            (Hypotheses(inputs=0.2, relation=9.7, within=3.7, shares=3.0), "concept"),
            (Hypotheses(inputs=12.0, relation=1.0, within=10.0, shares=5.0), "covariate"),
            (Hypotheses(inputs=10.0, relation=6.0, within=0.8, shares=11.0), "label"),
            (Hypotheses(inputs=30.0, relation=4.0, within=29.0, shares=2.0), "covariate"),
            (Hypotheses(inputs=10.0, relation=14.0, within=12.0, shares=1.0), "concept"),
            (Hypotheses(inputs=9.0, relation=math.nan, within=9.0, shares=0.0), "covariate"),
        ],
    )
    def test_the_narrowest_cause_that_is_not_refuted(self, found: Hypotheses, cause: str) -> None:
        assert choose(found, errors_alarmed=False, inputs_alarmed=False)[0] == cause

    def test_no_evidence_is_unknown(self) -> None:
        nothing = Hypotheses(math.nan, math.nan, math.nan, math.nan)

        assert choose(nothing, errors_alarmed=False, inputs_alarmed=False)[0] == "unknown"

    def test_more_evidence_is_more_confidence(self) -> None:
        sure = [
            choose(Hypotheses(0.5, z, z, 0.0), errors_alarmed=True, inputs_alarmed=False)[1]
            for z in (3.0, 6.0, 12.0)
        ]

        assert 0.5 <= sure[0] < sure[1] < sure[2] < 1.0


def _features(rows: Table) -> Floats:
    return np.column_stack([c.values for c in rows.features if c.name.startswith("x")])
