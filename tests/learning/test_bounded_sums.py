"""Rows are bounded in few passes over many at once: held against the plain form, and alone."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.digits_base import plan
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedge.learning import session
from fedge.learning.session import CACHED_CELLS, exact_sum, on_grid
from fedge.learning.units import Units
from fedge.records import TrainingPlan

PLANS = [
    plan(steps=3, records=40),
    # The grid does not hold the clip itself: rows at the clip end above the bound.
    plan(steps=3, records=40, clip=0.500007),
    plan(steps=3, records=40, clip=1e-4),
    # The finest grid and the longest clip that go together.
    plan(steps=3, records=40, clip=1.99).model_copy(update={"grid_bits": 26}),
]
WIDTH = 6


@st.composite
def gradient_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows [n, 6]: any floats, ordinary ones at any scale, zeros, and lengths at the clip."""
    any_row = hnp.arrays(np.float64, WIDTH, elements=st.floats(width=64))
    ordinary = hnp.arrays(np.float64, WIDTH, elements=st.floats(-3, 3))
    scaled = st.builds(np.ldexp, ordinary, st.integers(-1060, 1020))
    single = st.builds(lambda at, value: value * np.eye(WIDTH)[at], st.integers(0, 5), lengths())
    even = lengths().map(lambda value: np.full(WIDTH, value) / np.sqrt(WIDTH))
    kinds = st.one_of(any_row, ordinary, scaled, single, even, st.just(np.zeros(WIDTH)))
    return np.array(draw(st.lists(kinds, min_size=1, max_size=6)))


def lengths() -> st.SearchStrategy[float]:
    """A clip, a float's last bit beside it, or a multiple."""
    clips = st.sampled_from([made.clip for made in PLANS])
    factors = st.sampled_from([1.0, 1 - 2.0**-53, 1 + 2.0**-52, 1 + 2.0**-17, 1e9, 2.0**600])
    return st.builds(lambda clip, factor, sign: clip * factor * sign, clips, factors, signs())


def signs() -> st.SearchStrategy[float]:
    return st.sampled_from([1.0, -1.0])


def plain_on_grid(gradients: np.ndarray, made: TrainingPlan) -> np.ndarray:
    """The same bound with each thought in a pass of its own."""
    largest = np.abs(gradients).max(axis=1, keepdims=True)
    finite = np.isfinite(largest)
    rows = np.where(finite, gradients, 0.0)
    scale = np.where(finite & (largest > 1.0), largest, 1.0)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows / scale, axis=1, keepdims=True) * scale
    shrink = np.minimum(1.0, np.divide(made.clip, norms, where=norms > 0, out=np.ones_like(norms)))
    grid = np.trunc(rows * shrink * 2.0**made.grid_bits).astype(np.int64)
    while (over := (grid * grid).sum(axis=1) > made.sensitivity2).any():
        grid[over] = np.trunc(grid[over] * (1 - 2.0**-20)).astype(np.int64)
    return grid


@given(gradient_rows(), st.sampled_from(PLANS))
def test_the_integers_are_those_of_the_plain_form(
    gradients: np.ndarray, made: TrainingPlan
) -> None:
    """The same wherever nothing exceeds one; beyond, a norm's last bit may move a cell a step."""
    grid, plain = on_grid(gradients, made), plain_on_grid(gradients, made)

    small = ~(np.abs(gradients) > 1.0).any(axis=1)
    np.testing.assert_array_equal(grid[small], plain[small])
    # A step, and what one more turn of the last correction takes off.
    assert (np.abs(grid - plain) <= 2 + np.abs(plain) * 2.0**-19).all()


@given(gradient_rows(), st.sampled_from(PLANS))
def test_every_row_is_within_the_charged_bound(gradients: np.ndarray, made: TrainingPlan) -> None:
    """In integers that cannot overflow."""
    grid = on_grid(gradients, made)

    assert grid.dtype == np.int64
    assert all(sum(int(cell) ** 2 for cell in row) <= made.sensitivity2 for row in grid)


def test_a_row_between_the_grid_and_the_clip_is_shortened() -> None:
    """The clip lies between two steps of the grid, and only the lower one is charged: a row that
    is on the grid, longer than that and within the clip, loses nothing by rounding."""
    made = PLANS[1]
    bound = int(made.clip * 2**made.grid_bits)
    cells = np.array([[bound, 100, 0, 0, 0, 0]])
    rows = cells / 2.0**made.grid_bits
    assert np.linalg.norm(rows) < made.clip and (cells * cells).sum() > made.sensitivity2

    (grid,) = on_grid(rows, made)

    assert 0.999 * made.sensitivity2 < int((grid * grid).sum()) <= made.sensitivity2


@given(gradient_rows(), st.sampled_from(PLANS))
def test_a_row_is_the_same_whatever_stands_beside_it(
    gradients: np.ndarray, made: TrainingPlan
) -> None:
    """Alone and among others, wild ones too: else a record would change more than its own part."""
    grid = on_grid(gradients, made)

    for row, cells in zip(gradients, grid, strict=True):
        np.testing.assert_array_equal(on_grid(row[None], made)[0], cells)


@pytest.mark.parametrize("width", [63, 650, 8193, 20_001])
def test_the_norm_of_a_long_row_is_its_own(width: int) -> None:
    """To the last bit, which cells show too rarely: sums of long rows are made in pieces, and
    where the pieces begin must not depend on how many rows there are."""
    gradients = np.random.default_rng(width).standard_normal((50, width))

    together = session._norms(gradients)

    alone = [session._norms(row[None])[0] for row in gradients]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(("count", "width"), [(0, 5), (1, 5), (120, 650), (3, CACHED_CELLS + 1)])
def test_the_sum_is_that_of_all_rows(count: int, width: int) -> None:
    """However many rows are looked at together."""
    gradients = np.random.default_rng(1).standard_normal((count, width))

    total = exact_sum(gradients, PLANS[0])

    assert total.dtype == np.int64
    np.testing.assert_array_equal(total, on_grid(gradients, PLANS[0]).sum(axis=0))


@given(gradient_rows(), st.data())
def test_a_row_that_does_not_count_adds_nothing(gradients: np.ndarray, data: st.DataObject) -> None:
    """Neither one that is not finite; what was given stays as it is."""
    number = len(gradients)
    counts = data.draw(hnp.arrays(np.bool_, number))
    of_row = data.draw(hnp.arrays(np.int64, number, elements=st.integers(0, number - 1)))
    alone = Units(np.arange(number), counts, number)
    shared = Units(of_row, counts, number + 1)
    given_rows = gradients.copy()

    sums, together = alone.sums(gradients), shared.sums(gradients)

    adds = counts & np.isfinite(gradients).all(axis=1)
    np.testing.assert_array_equal(sums, np.where(adds[:, None], gradients, 0.0))
    np.testing.assert_array_equal(together[number], 0.0)
    for unit in range(number):
        rows = gradients[adds & (of_row == unit)]
        if len(rows) == 1:
            np.testing.assert_array_equal(together[unit], rows[0])
        if len(rows) == 0:
            assert not together[unit].any()
    np.testing.assert_array_equal(gradients, given_rows)


def test_a_row_of_huge_values_counts() -> None:
    """Its values overflow when they are added up, and each is finite."""
    gradients = np.full((3, WIDTH), 1e308)
    gradients[1, 2] = np.inf

    sums = Units(np.arange(3), np.ones(3, dtype=np.bool_), 3).sums(gradients)

    np.testing.assert_array_equal(sums, [gradients[0], np.zeros(WIDTH), gradients[2]])
