"""Adding up updates: checks first, then a plain mean."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.digits_base import base_weights, camera_records, grant, plan
from hypothesis import given
from hypothesis import strategies as st

from fedge.errors import UpdateInvalidError
from fedge.learning.aggregation import mean_update, norm_bound
from fedge.learning.session import TrainingSession
from fedge.privacy.noise import SeededNoise
from fedge.tasks.camera import LENS
from fedge.tasks.digits import CODE

PLAN = plan(records=50)


def update(value: float = 0.01) -> np.ndarray:
    return np.full(26, value, dtype=np.float32)


@given(st.lists(st.floats(-0.125, 0.125, width=32), min_size=1, max_size=8))
def test_weights_are_equal(values: list[float]) -> None:
    """The aggregate is the plain mean, whoever sent more records."""
    mean = mean_update([update(value) for value in values], PLAN)

    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.mean(values), atol=1e-7)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (np.zeros(25, dtype=np.float32), "planned"),
        (np.zeros(26), "planned"),
        (update(np.nan), "NaN"),
        (update(np.inf), "NaN"),
        (update(1e3), "norm"),
    ],
)
def test_one_bad_update_spoils_no_sum(bad: np.ndarray, word: str) -> None:
    """A wrong shape, a NaN or too long an update is refused before anything is summed."""
    with pytest.raises(UpdateInvalidError, match=word):
        mean_update([update(), bad], PLAN)


def test_no_update_is_no_mean() -> None:
    """There is no mean of nothing."""
    with pytest.raises(UpdateInvalidError):
        mean_update([], PLAN)


def test_honest_updates_pass() -> None:
    """What a gateway really sends, noise included, is within the norm bound."""
    trainer = TrainingSession(
        CODE, base_weights(), PLAN, camera_records(LENS, 1, count=50), SeededNoise(1)
    )
    sent = trainer.round(np.zeros(26, dtype=np.float32), grant(PLAN.events[0], PLAN.steps))

    assert 0.05 * norm_bound(PLAN) < np.linalg.norm(sent) < norm_bound(PLAN)
    mean_update([sent], PLAN)
