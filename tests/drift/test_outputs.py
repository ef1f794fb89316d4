"""Scores of a model's answers: fair to reference rows, open to late labels, wary of odd columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.tables.encoding import Encoder
from fedge.drift.tables.model import fit_model, label_trouble, target_of
from fedge.drift.tables.outputs import OUTPUT_FITS, fit_outputs
from fedge.drift.tables.table import Column, Roles, Table
from fedge.errors import TableError

Floats = NDArray[np.float64]


def table(
    features: Floats, label: Floats | None = None, *more: Column, prediction: str | None = None
) -> Table:
    """Columns x0, x1, ..., then a label `y` if given, then `more`."""
    columns = [Column(f"x{i}", "number", values) for i, values in enumerate(features.T)]
    if label is not None:
        kind = "integer" if (label == np.floor(label))[np.isfinite(label)].all() else "number"
        columns.append(Column("y", kind, label))
    roles = Roles(label="y" if label is not None else None, prediction=prediction)
    return Table((*columns, *more), roles)


def encoder_of(found: Encoder | None) -> Encoder:
    assert found is not None
    return found


def scores_by_name(encoder: Encoder, rows: Table) -> dict[str, Floats]:
    names = [f"{s.group} {s.name}" for s in encoder.statistics]
    return dict(zip(names, encoder.scores(rows).T, strict=True))


def half_planes(seed: int, rows: int, weights: tuple[float, ...] = (1.0, 1.0, 0.0)) -> Table:
    """Two classes on the sides of a noisy plane."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, len(weights)))
    side = features @ np.array(weights) + 0.5 * rng.normal(size=rows)
    return table(features, (side > 0).astype(np.float64))


def moves(encoder: Encoder, rows: Table) -> dict[str, float]:
    """How many standard errors each score's mean moved."""
    before, after = encoder.reference_scores, encoder.scores(rows)
    spread = np.maximum(np.nanvar(before, axis=0), 1e-12)
    known = (np.isfinite(part).sum(axis=0) for part in (before, after))
    error = np.sqrt(spread * sum(1 / count for count in known))
    change = (np.nanmean(after, axis=0) - np.nanmean(before, axis=0)) / error
    return dict(zip((s.name for s in encoder.statistics), change.tolist(), strict=True))


def test_reference_rows_are_judged_like_new_ones() -> None:
    """A label that nothing explains is learnt by heart by any forest. Not even then do reference
    rows score better than new rows, over many tables."""
    gaps = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        draws = [table(rng.normal(size=(150, 12)), rng.integers(0, 2, 150) * 1.0) for _ in range(2)]
        encoder = encoder_of(fit_outputs(draws[0]))
        place = [s.name for s in encoder.statistics].index("error")
        new = encoder.scores(draws[1])[:, place].mean()
        gaps.append(encoder.reference_scores[:, place].mean() - new)

    assert np.mean(gaps) == pytest.approx(0.0, abs=3 * np.std(gaps) / math.sqrt(len(gaps)) + 0.01)
    assert abs(np.mean(gaps)) < 0.06


def test_errors_move_with_the_concept() -> None:
    """A feature whose meaning turns around: the error rises, and the product with it says which."""
    encoder = encoder_of(fit_outputs(half_planes(0, 600)))
    turned = moves(encoder, half_planes(1, 300, (1.0, -1.0, 0.0)))
    same = moves(encoder, half_planes(2, 300))

    assert turned["error"] > 6
    assert abs(turned["residual x x1"]) > 6
    assert max(abs(z) for z in same.values()) < 4


def test_a_concept_that_leaves_the_error_rate_alike_is_seen() -> None:
    """x1 comes to matter where it did not, and as many answers are wrong as before."""

    def draw(seed: int, rows: int, sway: float) -> Table:
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(rows, 2))
        sure = np.where(features[:, 0] > 0, 0.75, 0.25) + sway * np.sign(features[:, 1])
        return table(features, (rng.random(rows) < sure).astype(np.float64))

    encoder = encoder_of(fit_outputs(draw(0, 1500, 0.0)))
    changed = moves(encoder, draw(1, 500, 0.2))

    assert abs(changed["error"]) < 3
    assert abs(changed["residual x x1"]) > 5


def test_inputs_that_move_leave_residuals_alone() -> None:
    """More rows near the border of the classes raise the error, but not what is unexpected."""
    encoder = encoder_of(fit_outputs(half_planes(0, 2000)))
    rows = half_planes(1, 4000)
    near = np.abs(rows.columns[0].values + rows.columns[1].values) < 0.7
    border = Table(tuple(Column(c.name, c.kind, c.values[near]) for c in rows.columns), rows.roles)
    moved = moves(encoder, border)

    assert moved["error"] > 8
    assert abs(moved["surprise"]) < 4


def test_residuals_that_few_rows_dominate_are_not_watched() -> None:
    """Where the model is hardly ever wrong, the mean of twenty residuals is no normal number, and
    would alarm by chance. The error says all that they could."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(800, 3))
    encoder = encoder_of(fit_outputs(table(features, (features[:, 0] > 0.2).astype(np.float64))))
    scores = encoder.reference_scores
    centred = scores - scores.mean(axis=0)
    kurtosis = (centred**4).mean(axis=0) / np.maximum((centred**2).mean(axis=0) ** 2, 1e-12)
    residuals = [s.name.startswith("residual") for s in encoder.statistics]

    assert "error" in {s.name for s in encoder.statistics}
    assert (kurtosis[residuals] < 20).all()


def test_rows_whose_label_comes_late_have_no_error_yet() -> None:
    """NaN, not 0: nobody knows whether the answer was right. What the model said is known."""
    rows = half_planes(1, 100)
    label = rows.column("y").values.copy()
    label[50:] = math.nan
    scores = scores_by_name(
        encoder_of(fit_outputs(half_planes(0, 300))), table(_features(rows), label)
    )

    for name, values in scores.items():
        late = np.isnan(values[50:])
        assert late.all() if name.startswith(("error", "label")) else not late.any(), name
        assert np.isfinite(values[:50]).all(), name


def test_a_class_never_seen_is_an_error() -> None:
    """And has its own share."""
    rows = half_planes(1, 60)
    scores = scores_by_name(
        encoder_of(fit_outputs(half_planes(0, 300))), table(_features(rows), np.full(60, 7.0))
    )

    assert (scores["error error"] == 1).all()
    assert (scores["label unseen"] == 1).all()


def test_numbers_are_judged_by_their_residual() -> None:
    """A changed coefficient moves the size of the residual and its product with the feature."""

    def draw(seed: int, rows: int, weight: float) -> Table:
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(rows, 3))
        return table(features, features @ [weight, -1.0, 0.0] + 0.5 * rng.normal(size=rows))

    encoder = encoder_of(fit_outputs(draw(0, 500, 2.0)))
    changed = moves(encoder, draw(1, 200, 1.0))

    assert {s.name for s in encoder.statistics if s.group == "label"} == {"location", "scale"}
    assert changed["error"] > 5
    assert abs(changed["residual x x0"]) > 5
    assert max(abs(z) for z in moves(encoder, draw(2, 200, 2.0)).values()) < 4


def _features(rows: Table) -> Floats:
    return np.column_stack([c.values for c in rows.features if c.name.startswith("x")])


class TestPredictions:
    """A column of predictions stands in for our own model."""

    def rows(self, seed: int, wrong: float, *, label: bool = True) -> Table:
        rows = half_planes(seed, 300)
        truth = rows.column("y").values
        flip = np.random.default_rng(seed).random(300) < wrong
        answer = Column("p", "integer", np.where(flip, 1 - truth, truth))
        return table(_features(rows), truth if label else None, answer, prediction="p")

    def test_error_is_prediction_unlike_label(self) -> None:
        encoder = encoder_of(fit_outputs(self.rows(0, 0.1)))
        rows = self.rows(1, 0.4)
        expected = rows.column("y").values != rows.column("p").values

        assert (scores_by_name(encoder, rows)["error error"] == expected).all()
        assert {"error of 0", "error of 1"} <= {s.name for s in encoder.statistics}

    def test_without_labels_only_predictions_are_watched(self) -> None:
        encoder = encoder_of(fit_outputs(self.rows(0, 0.1, label=False)))

        assert {s.group for s in encoder.statistics} == {"prediction"}
        assert {s.columns for s in encoder.statistics} == {("p",)}

    def test_probabilities_are_read_as_such(self) -> None:
        """Numbers between 0 and 1 beside two classes: right where they lean to the true one."""
        rows = half_planes(0, 300)
        sure = 0.5 + 0.4 * (rows.column("y").values - 0.5)
        rows = table(_features(rows), rows.column("y").values, _p("number", sure), prediction="p")
        scores = scores_by_name(encoder_of(fit_outputs(rows)), rows)

        assert (scores["error error"] == 0).all()
        assert scores["error surprise"] == pytest.approx(-0.3)

    def test_texts_are_matched_by_what_they_say(self) -> None:
        """Two columns may number the same texts differently."""
        truth = np.arange(200) % 2.0
        label = Column("y", "category", truth, ("good", "bad"))
        answer = Column("p", "category", 1 - truth, ("bad", "good"))
        rows = Table((label, answer), Roles(label="y", prediction="p"))

        assert (scores_by_name(encoder_of(fit_outputs(rows)), rows)["error error"] == 0).all()

    def test_columns_that_do_not_fit_are_named(self) -> None:
        rows = half_planes(0, 100)
        odd = Column("p", "category", np.zeros(100), ("blue",))
        with pytest.raises(TableError, match=r"'p'.*'y'"):
            fit_outputs(table(_features(rows), rows.column("y").values, odd, prediction="p"))

        empty = _p("number", np.full(100, math.nan))
        with pytest.raises(TableError, match="'p'"):
            fit_outputs(table(_features(rows), rows.column("y").values, empty, prediction="p"))


def _p(kind: str, values: Floats) -> Column:
    assert kind == "number"
    return Column("p", "number", values)


class TestOddTables:
    def test_nothing_to_watch_is_none(self) -> None:
        """No label and no prediction; or labels that are all late, and the reason is told."""
        rows = half_planes(0, 100)
        late = table(_features(rows), np.full(100, math.nan))

        assert [fit(table(_features(rows))) for fit in OUTPUT_FITS] == [None]
        assert fit_outputs(late) is None
        assert "'y' holds 0 labels" in (label_trouble(late) or "")
        with pytest.raises(TableError, match="'y'"):
            fit_model(late)

    @pytest.mark.parametrize(
        "features",
        [
            np.full((60, 2), math.nan),
            np.ones((60, 2)),
            np.column_stack([np.full(60, math.inf), np.arange(60.0)]),
            np.array([[1e308, -1e308], [-1e308, 1e308]] * 30),
            np.empty((60, 0)),
        ],
        ids=["missing", "constant", "infinite", "huge", "none"],
    )
    def test_useless_features_leave_a_model_all_the_same(self, features: Floats) -> None:
        rows = table(features, np.arange(60) % 2.0)
        encoder = encoder_of(fit_outputs(rows))

        assert np.isfinite(encoder.scores(rows)).all()
        assert (encoder.unit > 0).all()

    def test_one_class_only(self) -> None:
        """The model can only say that class; another one would be an error."""
        rows = table(np.random.default_rng(0).normal(size=(80, 2)), np.ones(80))
        encoder = encoder_of(fit_outputs(rows))

        assert (scores_by_name(encoder, rows)["error error"] == 0).all()
        other = table(np.zeros((10, 2)), np.zeros(10))
        assert (scores_by_name(encoder, other)["error error"] == 1).all()

    def test_classes_in_time_order_are_no_trouble(self) -> None:
        """A class that one block of rows holds alone is unknown to that block's model."""
        rng = np.random.default_rng(0)
        truth = np.repeat([0.0, 1.0, 2.0, 3.0], 30)
        rows = table(rng.normal(size=(120, 2)) + truth[:, None], truth)

        assert np.isfinite(encoder_of(fit_outputs(rows)).reference_scores).all()

    def test_the_same_rows_give_the_same_scores(self) -> None:
        rows, new = half_planes(0, 200), half_planes(1, 50)
        one, other = (encoder_of(fit_outputs(rows)) for _ in range(2))

        assert np.array_equal(one.reference_scores, other.reference_scores)
        assert np.array_equal(one.scores(new), other.scores(new))

    def test_no_rows_have_no_scores(self) -> None:
        encoder = encoder_of(fit_outputs(half_planes(0, 100)))

        assert encoder.scores(half_planes(0, 100)[0:0]).shape == (0, len(encoder.statistics))

    @pytest.mark.parametrize(
        ("label", "kind"),
        [
            (np.arange(200) % 3.0, "classes"),
            (np.linspace(0, 1, 200), "number"),
            (np.arange(200.0) // 4, "number"),
            (np.where(np.arange(200) % 2, 0.5, 1.5), "classes"),
        ],
    )
    def test_few_values_are_classes_many_a_number(self, label: Floats, kind: str) -> None:
        assert target_of(table(np.zeros((200, 1)), label)).kind == kind

    def test_a_rare_class_is_not_learnt(self) -> None:
        """Two rows teach nothing; they count as unseen."""
        label = np.where(np.arange(300) < 2, 9.0, np.arange(300) % 2.0)
        target = target_of(table(np.zeros((300, 1)), label))

        assert target.names == ("0", "1")
