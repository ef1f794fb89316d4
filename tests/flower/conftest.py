"""A fleet on Flower for tests that kill a part of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.flower_fleet import FlowerFleet


@pytest.fixture()
def fleet() -> Iterator[FlowerFleet]:
    with FlowerFleet.temporary() as started:
        yield started
