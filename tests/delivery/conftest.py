from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.releases import FAMILY, ReleaseWorld, served

from fedge.delivery.client import ReleaseClient


@pytest.fixture
def world(tmp_path: Path) -> ReleaseWorld:
    return ReleaseWorld(tmp_path / "centre")


@pytest.fixture
def base_url(world: ReleaseWorld) -> Iterator[str]:
    with served(world.releases_dir) as url:
        yield url


@pytest.fixture
def client(world: ReleaseWorld, base_url: str, tmp_path: Path) -> ReleaseClient:
    return ReleaseClient(
        tmp_path / "gateway" / "tuf", world.repository.trusted_root(), base_url, FAMILY
    )
