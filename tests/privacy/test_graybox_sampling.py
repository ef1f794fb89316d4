"""Sampled steps read whom they say: each record by itself, with the planned probability.

Amplification is charged for Poisson sampling and for nothing else. The noise port draws the
samples; who really entered a step is read off the sums that the training code made of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fakes.participation import Booleans, capped, fixed_size, participation_p, shuffled
from fakes.recording_noise import RecordingNoise

from fedge.audit import toy
from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.learning.planning import plan_training
from fedge.learning.session import TrainingSession
from fedge.models.weights import adapter_dimension
from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise, OsNoise, SeededNoise
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, TrainingPlan

LEAST_P = 1e-6
STEPS, RECORDS, RATE_PPM = 2000, 60, 250_000
RATE = RATE_PPM / 10**6
BAD = [shuffled, fixed_size, capped]
BadSampler = Callable[[int, int, float, np.random.Generator], Booleans]

IN_TRAINING, ROWS = 1500, toy.WIDTH
"""A record for each column of the toy: the gradient of one never hides another's."""


@pytest.mark.parametrize("make", [OsNoise, lambda: SeededNoise(3)], ids=["os", "seeded"])
@pytest.mark.parametrize("rate_ppm", [20_000, RATE_PPM, 900_000])
def test_every_unit_enters_by_itself(make: Callable[[], Noise], rate_ppm: int) -> None:
    """Counts look like independent coins, for both adapters of the port."""
    noise = make()
    samples = np.array([noise.poisson_sample(RECORDS, rate_ppm) for _ in range(STEPS)])

    found = participation_p(samples, rate_ppm / 10**6)
    assert min(found.values()) > LEAST_P, found


@pytest.mark.parametrize("bad", BAD)
def test_a_handy_sampler_is_caught(bad: BadSampler) -> None:
    """Shuffled, fixed and capped batches each fail the test that Poisson passes."""
    samples = bad(STEPS, RECORDS, RATE, np.random.default_rng(5))

    assert min(participation_p(samples, RATE).values()) < LEAST_P


def test_another_rate_is_caught() -> None:
    """A sampler at 26 % instead of 25 %."""
    samples = np.random.default_rng(5).random((STEPS, RECORDS)) < RATE + 0.01

    assert participation_p(samples, RATE)["how many took part in all"] < LEAST_P


class Sampling(RecordingNoise):
    """Hands out given samples instead of drawing them."""

    def __init__(self, samples: Booleans) -> None:
        super().__init__(SeededNoise(6))
        self._given = iter(samples)

    def _answer_sample(self, units: int, rate_ppm: int) -> Booleans:
        return next(self._given)


def executed(noise: RecordingNoise) -> Booleans:
    """Who took part in each step of a round, bool [steps, records], by what was summed."""
    plan = _plan()
    slots = np.arange(ROWS, dtype=np.int64)
    records = LabelledRecords(
        slots=slots,
        blocks=np.zeros_like(slots),
        inputs=np.eye(ROWS, toy.WIDTH, dtype=np.float32) * toy.REACH,
        labels=slots % 2,
        predictions=np.zeros_like(slots),
    )
    session = TrainingSession(toy.CODE, toy.CODE.base_weights(0), plan, records, noise)
    session.round(
        np.zeros(plan.dimension, dtype=np.float32),
        Grant(1, "round", plan.round_event, simulated=True),
    )
    sums = np.array([draw.exact for draw in noise.transcript.draws])
    # The head's vector is its bias, then a weight for each class and column.
    weights = sums[:, toy.CLASSES :].reshape(len(sums), toy.CLASSES, toy.WIDTH)
    moved: Booleans = np.abs(weights).max(axis=1) > 0
    return moved


def _plan() -> TrainingPlan:
    policy = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=1))
    settings = TrainingSettings(
        adapter="head", rounds=1, steps=IN_TRAINING, records=ROWS, learning_rate=1e-4
    )
    plan = plan_training(policy, settings, adapter_dimension(toy.CODE.base_weights(0), "head"))
    return plan.model_copy(update={"sampling": "poisson", "rate_ppm": RATE_PPM})


def test_steps_read_the_sample_and_nobody_else() -> None:
    """Who is in a sum is who was drawn, step by step; and that looks like coins."""
    noise = RecordingNoise(SeededNoise(8))
    took_part = executed(noise)

    np.testing.assert_array_equal(took_part, np.array(noise.transcript.samples))
    found = participation_p(took_part, RATE)
    assert min(found.values()) > LEAST_P, found


@pytest.mark.parametrize("bad", [fixed_size, shuffled])
def test_a_handy_sampler_is_caught_in_training(bad: BadSampler) -> None:
    """The same, read off sums that the training code made with wrong samples."""
    rate = 1 / 3  # of six records: two
    samples = bad(IN_TRAINING, ROWS, rate, np.random.default_rng(9))

    assert min(participation_p(executed(Sampling(samples)), rate).values()) < LEAST_P
