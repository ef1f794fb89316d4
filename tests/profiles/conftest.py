"""A small task with every kind of stream."""

from __future__ import annotations

import numpy as np
import pytest

from fedge.profiles.build import build_reference
from fedge.records import (
    CategoricalFeature,
    ModelInput,
    NumericFeature,
    Reference,
    TaskSchema,
)


@pytest.fixture
def task() -> TaskSchema:
    return TaskSchema(
        name="pump",
        version=1,
        input=ModelInput(name="x", shape=(3,), low=-10.0, high=10.0),
        classes=("ok", "worn", "broken"),
        features=(
            NumericFeature(name="pressure", type="float32", low=-10.0, high=10.0),
            NumericFeature(name="valve", type="bool", low=0.0, high=1.0),
            CategoricalFeature(name="site", categories=("north", "south")),
        ),
        code="pump.task:code",
    )


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(7)
    n = 4000
    return np.column_stack(
        [
            rng.normal(size=n),
            rng.integers(0, 2, size=n),
            rng.integers(0, 2, size=n),
            rng.integers(0, 3, size=n),
            rng.uniform(0.3, 1.0, size=n),
            rng.normal(-5.0, 1.0, size=n),
        ]
    ).astype(np.float64)


@pytest.fixture
def reference(task: TaskSchema, values: np.ndarray) -> Reference:
    return build_reference(
        task, values, ood=values[:, -1], model_sha256="a" * 64, source="public test rows"
    )
