"""What a demo plays is fixed by its seed, and every row can be made again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge.demo.plan import make_plan
from fedge.demo.streams import EVALUATION_CAPTURES, evaluation_set, stream_of
from fedge.demo.summary import share
from fedge.errors import SettingError
from fedge.tasks.camera import HEALTHY, LENS
from fedge.tasks.digits import gateway_share, glyphs


@given(first=st.integers(0, 2000), count=st.integers(1, 700))
def test_any_piece_of_a_stream_is_the_same_piece(first: int, count: int) -> None:
    """Rows do not depend on how they are asked for."""
    plan = make_plan(seed=3, gateways=2)
    whole = stream_of(plan, 1).rows(0, 2700)

    piece = stream_of(plan, 1).rows(first, count)

    assert np.array_equal(piece.inputs, whole.inputs[first : first + count])
    assert np.array_equal(piece.labels, whole.labels[first : first + count])


def test_gateways_share_no_glyph() -> None:
    """Each gateway streams its own private glyphs, none of them public or tested on."""
    shares = [set(gateway_share(number, 5).ids.tolist()) for number in range(5)]

    assert sum(map(len, shares)) == len(set().union(*shares)) == 800
    assert not set().union(*shares) & set(glyphs("test").ids.tolist())


def test_the_fault_begins_at_its_row() -> None:
    """The row before the onset is healthy, the onset row is not: contrast is lost there."""
    plan = make_plan(seed=1, gateways=3)
    onset = plan.onset_rows[0]
    assert onset is not None

    rows = stream_of(plan, 0).rows(onset - 200, 400).inputs

    before, after = rows[:200].max(axis=(1, 2, 3)), rows[200:].max(axis=(1, 2, 3))
    assert before.mean() > 0.9 and after.mean() < before.mean() - 0.05


def test_onsets_are_staggered_and_after_the_baseline() -> None:
    """No two gateways are hit in one window, and none before its baseline is full."""
    plan = make_plan(seed=7)
    windows = [plan.onset_window(number) for number in range(plan.gateways)]

    assert len(set(windows)) == 5
    assert min(w for w in windows if w is not None) >= plan.baseline_windows


def test_only_the_faulty_ones_are_hit() -> None:
    """`--faulty 2` leaves the others alone."""
    plan = make_plan(gateways=5, faulty=2)

    assert sum(row is not None for row in plan.onset_rows) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"gateways": 0},
        {"gateways": 21},
        {"faulty": 6},
        {"faulty": 0},
        {"fault": "fog"},
        {"seed": -1},
    ],
)
def test_a_wrong_option_is_named(options: dict[str, int]) -> None:
    """An option out of range is refused by name before anything starts."""
    with pytest.raises(SettingError, match=next(iter(options))):
        make_plan(**options)  # type: ignore[arg-type]


def test_the_evaluation_set_is_fixed_and_paired() -> None:
    """Every test glyph five times, the same on every call, other on other gateways and seeds."""
    plan = make_plan(seed=5)
    clean, test = evaluation_set(plan, 0, HEALTHY)
    faulty, _ = evaluation_set(plan, 0, LENS)

    assert len(clean) == len(faulty) == EVALUATION_CAPTURES * len(test)
    assert np.array_equal(clean, evaluation_set(plan, 0, HEALTHY)[0])
    assert not np.array_equal(clean, evaluation_set(plan, 1, HEALTHY)[0])
    assert not np.array_equal(clean, evaluation_set(make_plan(seed=6), 0, HEALTHY)[0])


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"after": 0.8, "stale": 0.5, "nonprivate": 0.9}, 0.75),
        ({"after": 0.8, "stale": 0.5, "nonprivate": 0.5}, None),
        ({"after": 0.8, "stale": 0.5, "nonprivate": 0.4}, None),
        ({"after": None, "stale": 0.5, "nonprivate": 0.9}, None),
    ],
)
def test_a_share_of_nothing_is_unknown(
    figures: dict[str, float | None], expected: float | None
) -> None:
    """Where nothing was to be won, or a figure is unknown, the share is null, not a number."""
    assert share(figures, "nonprivate") == (None if expected is None else pytest.approx(expected))
