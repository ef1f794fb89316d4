"""KLL profiles: right quantiles, mergeable, and missing values counted apart."""

from __future__ import annotations

import numpy as np
import pytest

from fedge.errors import RecordError
from fedge.profiles.sketches import KllProfile, numeric_columns
from fedge.records import Reference


def test_quantiles_and_missing() -> None:
    """Quantiles lie within the sketch's rank error; NaN and infinity are counted, not sketched."""
    profile = KllProfile(("a", "b"))
    rows = np.column_stack([np.arange(10_000.0), np.full(10_000, np.nan)])
    rows[:3, 0] = [np.nan, np.inf, -np.inf]
    profile.update(rows)
    quantiles = profile.quantiles("a", (0.1, 0.5, 0.9))

    assert quantiles is not None
    assert np.allclose(quantiles, [1000, 5000, 9000], atol=300)
    assert (profile.missing, profile.count("a")) == ({"a": 3, "b": 10_000}, 9_997)
    assert profile.quantiles("b", (0.5,)) is None


def test_merge_and_bytes() -> None:
    """Merging adds rows, bytes give the same profile back, damaged bytes are refused."""
    one, two = KllProfile(("a",)), KllProfile(("a",))
    one.update(np.arange(100.0)[:, None])
    two.update(np.arange(100.0, 200.0)[:, None])
    one.merge(two)
    again = KllProfile.from_bytes(one.to_bytes())

    assert one.count("a") == again.count("a") == 200
    assert again.quantiles("a", (0.5,)) == one.quantiles("a", (0.5,))
    with pytest.raises(RecordError):
        one.merge(KllProfile(("b",)))
    for data in (b"", b"fkll1", one.to_bytes()[:-1], one.to_bytes() + b"x", b"x" * 50):
        with pytest.raises(RecordError):
            KllProfile.from_bytes(data)


def test_of_a_reference(reference: Reference, values: np.ndarray) -> None:
    """A reference's profile takes its numeric columns."""
    profile = KllProfile.of(reference)
    profile.update(numeric_columns(reference.streams, values))

    assert profile.names == ("pressure", "valve", "confidence", "ood")
    assert profile.count("ood") == len(values)


def test_order_does_not_matter_and_sorting_is_kept_inside() -> None:
    """Rows come in any order and layout; the caller's array is left as it was."""
    rng = np.random.default_rng(5)
    rows = rng.permuted(np.column_stack([np.arange(20_000.0)] * 2), axis=0)
    before = rows.copy()
    ranks = tuple(np.linspace(0.05, 0.95, 19))
    for given in (rows, np.asfortranarray(rows), rows.astype(np.float32)):
        profile = KllProfile(("a", "b"))
        for start in range(0, len(given), 3000):
            profile.update(given[start : start + 3000])
        found = profile.quantiles("b", ranks)
        assert found is not None
        assert np.abs(np.array(found) / 20_000 - ranks).max() < 0.0265  # twice the rank error
    assert np.array_equal(rows, before)
