"""Settings shared by the drift tests."""

from __future__ import annotations

import pytest

from fedge.config import DriftSettings


@pytest.fixture
def demo() -> DriftSettings:
    """The demo's setting: short baselines."""
    return DriftSettings(baseline_windows=12, gather_windows=10)
