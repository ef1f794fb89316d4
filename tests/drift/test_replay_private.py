"""Replay under privacy: windows judged by noised counts."""

from __future__ import annotations

import numpy as np
import pytest

from fedge.drift.tables.released import DELTA, fit_release, gaussian_sigma
from fedge.drift.tables.replay import replay
from fedge.drift.tables.table import Column, Roles, Table
from fedge.errors import TableError


def stream(rows: int, shift: float, seed: int = 0) -> Table:
    """Five numbers, one constant and one category; the first number moves half way."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 5))
    values[rows // 2 :, 0] += shift
    columns = [Column(f"x{i}", "number", values[:, i]) for i in range(5)]
    kind = Column("kind", "category", rng.integers(0, 3, rows).astype(float), ("a", "b", "c"))
    return Table((*columns, Column("still", "number", np.ones(rows)), kind))


def test_noise_alone_raises_no_alarm() -> None:
    """Its variance is known and enters every test."""
    raised = [
        len(replay(stream(6_000, 0.0, s), reference_rows=2_000, window=200, epsilon=0.5).alarms)
        for s in range(8)
    ]

    assert sum(raised) <= 1


def test_a_shift_is_found_under_noise() -> None:
    found = replay(stream(8_000, 0.5), reference_rows=2_000, window=1_000, epsilon=1.0)

    assert 4_000 <= found.alarms[0].row < 7_000
    assert found.alarms[0].features[0] == "x0"


def test_less_privacy_budget_is_more_noise() -> None:
    """And a seed fixes it."""
    strict, loose = (fit_release(stream(1_000, 0.0), e, ()) for e in (0.1, 10.0))
    assert strict is not None
    assert loose is not None

    assert (strict.noise > 100 * loose.noise).all()
    assert np.array_equal(strict.noised(1, 5), strict.noised(1, 5))
    assert not np.array_equal(strict.noised(1, 5), strict.noised(2, 5))


def test_one_row_moves_the_vector_by_no_more_than_was_charged() -> None:
    """Any row, missing values included, against the row that adds nothing."""
    table = stream(1_000, 0.0)
    release = fit_release(table, 1.0, ())
    assert release is not None
    values = [
        np.where(np.arange(1_000) % 3 == i % 3, np.nan, c.values)
        for i, c in enumerate(table.columns)
    ]
    holed = Table(
        tuple(
            Column(c.name, c.kind, v, c.categories)
            for c, v in zip(table.columns, values, strict=True)
        )
    )

    for rows in (table, holed):
        added = np.concatenate([part.rows(rows) for part in release.parts], axis=1)
        assert ((added**2).sum(axis=1) <= release.event.sensitivity2).all()


def test_the_analytic_gaussian_needs_less_noise_than_the_classical_one() -> None:
    """At (1, 1e-6), where zCDP is 0.028."""
    sigma = gaussian_sigma(1.0, DELTA)

    assert 1 / (2 * sigma**2) == pytest.approx(0.0280, abs=1e-4)
    assert sigma < np.sqrt(2 * np.log(1.25 / DELTA))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(TableError, match="epsilon"):
        replay(stream(1_000, 0.0), reference_rows=500, window=100, epsilon=epsilon)


def test_labels_that_stop_are_no_concept_drift_under_noise() -> None:
    """A row without a label is none in which the model was right; before, all was as ever."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4_000, 3))
    label = (values[:, 0] + 0.7 * rng.normal(size=4_000) > 0).astype(np.float64)
    label[2_500:] = np.nan
    columns = [Column(f"x{i}", "number", values[:, i]) for i in range(3)]
    rows = Table((*columns, Column("y", "boolean", label)), Roles(label="y"))

    found = replay(rows, reference_rows=1_500, window=200, epsilon=5.0)

    assert found.drifted is False
    assert [w.concept_tested for w in found.windows] == [True] * 5 + [False] * 8


def test_concept_drift_is_found_under_noise_though_half_of_the_labels_are_missing() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4_000, 3))
    turned = np.where(np.arange(4_000) < 2_500, 1.0, -1.0)
    label = (turned * values[:, 0] + 0.7 * rng.normal(size=4_000) > 0).astype(np.float64)
    label[rng.random(4_000) < 0.5] = np.nan
    columns = [Column(f"x{i}", "number", values[:, i]) for i in range(3)]
    rows = Table((*columns, Column("y", "boolean", label)), Roles(label="y"))

    found = replay(rows, reference_rows=1_500, window=200, epsilon=5.0)

    assert 2_500 <= found.alarms[0].row < 2_900
    assert found.alarms[0].cause == "concept"
