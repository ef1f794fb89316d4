"""The point of it all: a private adapter brings a drifted fleet back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.digits_base import base_weights, camera_records, grant, plan

from fedge.learning.adapters import TrainableAdapter
from fedge.learning.aggregation import mean_update
from fedge.learning.session import TrainingSession
from fedge.privacy.noise import SeededNoise
from fedge.tasks.camera import HEALTHY, LENS, Fault, capture
from fedge.tasks.digits import CODE, glyphs

GATEWAYS = 5


def accuracy(change: np.ndarray, fault: Fault, seed: int) -> float:
    """Share of test glyphs, captured twice under `fault`, that the float model gets right."""
    test = glyphs("test")
    captures = capture(np.repeat(test.images, 2, axis=0), np.random.default_rng(seed), fault)
    adapter = TrainableAdapter(CODE, base_weights(), "input")
    adapter.set_change(change)
    with torch.no_grad():
        predicted = adapter.model(torch.from_numpy(captures[:, None])).argmax(dim=1).numpy()
    return float((predicted == np.repeat(test.labels, 2)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_epsilon_three_restores_most_of_what_the_fault_took(seed: int) -> None:
    """Five gateways, 300 labelled captures each, epsilon 3: 0.65 of the loss and more is back."""
    made = plan()
    trainers = [
        TrainingSession(
            CODE,
            base_weights(),
            made,
            camera_records(LENS, seed, gateway),
            SeededNoise(100 * seed + gateway),
        )
        for gateway in range(GATEWAYS)
    ]
    vector = np.zeros(made.dimension, dtype=np.float32)
    for _ in range(made.rounds):
        changes = [t.round(vector, grant(made.events[0], made.steps)) for t in trainers]
        vector = vector + mean_update(changes, made)
    differences = [t.evaluate(vector, grant(made.events[1])) for t in trainers]

    before = accuracy(np.zeros_like(vector), HEALTHY, seed)
    stale = accuracy(np.zeros_like(vector), LENS, seed)
    after = accuracy(vector, LENS, seed)
    assert before - stale >= 0.15
    assert (after - stale) / (before - stale) >= 0.65
    gain = sum(differences)
    assert gain > 3 * np.sqrt(made.evaluation_sigma2 * GATEWAYS)
    assert gain > made.smallest_detectable(GATEWAYS)
