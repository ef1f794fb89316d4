from __future__ import annotations

import pytest
from contracts_world import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One play of canaries that every contract looks at."""
    return make_world(tmp_path_factory.mktemp("world"))
