"""Profiling a table: right bins and quantiles, for whatever somebody has at hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedge.errors import RecordError, SettingError
from fedge.profiles import table as table_module
from fedge.profiles.table import profile_table
from fedge.records import Reference

EDGES = np.array([np.linspace(-3, 3, 15), np.linspace(-1e9, 1e9, 15)])


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 60).flatmap(
        lambda n: arrays(
            st.sampled_from([np.float32, np.float64]),
            (n, 2),
            elements=st.one_of(
                st.sampled_from([-3.0, 3.0, 0.0, float("nan"), float("inf"), float("-inf")]),
                st.floats(-5, 5, width=16),
            ),
        )
    ),
    chunk=st.integers(1, 70),
)
def test_bins_hold_what_numpy_says(rows: np.ndarray, chunk: int) -> None:
    """Every finite value is in its bin, every other one is missing, in pieces of any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "CHUNK_ROWS", chunk)
        profile = profile_table(rows, bins=EDGES)
    for column in range(2):
        finite = rows[np.isfinite(rows[:, column]), column].astype(np.float64)
        wanted = np.bincount(np.searchsorted(EDGES[column], finite, side="right"), minlength=16)
        assert profile.histogram[column].tolist() == wanted.tolist()
        assert profile.missing[column] == len(rows) - len(finite)
        assert profile.sketch.count(f"c{column}") == len(finite)


def test_bins_are_frozen_at_the_first_rows(values: np.ndarray) -> None:
    """Without bins given, a column of continuous numbers has equal shares in all sixteen."""
    profile = profile_table(values[:, [0, 5]], names=("pressure", "ood"))
    assert np.ptp(profile.histogram) <= 1 and profile.rows == len(values)
    middle = profile.quantiles("ood", (0.5,))
    assert middle is not None and abs(middle[0] - np.median(values[:, 5])) < 0.1
    shifted = profile_table(values[:, [0, 5]] + 1, names=("pressure", "ood"), bins=profile)
    assert shifted.histogram[0, -1] > 3 * profile.histogram[0, -1]


def test_a_reference_gives_its_bins_by_name(reference: Reference, values: np.ndarray) -> None:
    """A data scientist's table is counted where the gateways count."""
    profile = profile_table(values[:, [5, 0]], names=("ood", "pressure"), bins=reference)
    shares = profile.histogram / len(values)
    assert np.allclose(shares, [reference.streams[5].histogram, reference.streams[0].histogram])
    with pytest.raises(RecordError, match="site"):
        profile_table(values[:, [2]], names=("site",), bins=reference)


def test_frames_and_integers_are_tables() -> None:
    """Anything with columns and `to_numpy` will do, and integers and booleans are numbers."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": range(100), "b": [True, False] * 50})
    profile = profile_table(frame.astype(int))
    assert profile.names == ("a", "b") and profile.histogram.sum() == 200
    assert profile_table(np.ones((5, 1), bool)).histogram[0].sum() == 5


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (np.zeros(3), {}),
        (np.zeros((3, 0)), {}),
        (np.array([["a"]]), {}),
        (np.zeros((3, 2)), {"names": ("a",)}),
        (np.zeros((3, 2)), {"names": ("a", "a")}),
        (np.zeros((3, 2)), {"bins": np.zeros((2, 14))}),
        (np.zeros((3, 2)), {"bins": -EDGES}),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(table: np.ndarray, options: dict) -> None:
    """One dimension, texts, doubled names, foreign bins: each is an error, not a guess."""
    with pytest.raises(SettingError):
        profile_table(table, **options)


def test_bins_of_another_table_are_refused() -> None:
    """Another profile's bins fit its own columns only."""
    other = profile_table(np.zeros((3, 2)))
    with pytest.raises(SettingError, match="c0"):
        profile_table(np.zeros((3, 1)), bins=other)
