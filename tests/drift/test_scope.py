"""The fleet's movement is partitioned exactly, and the scope follows from the parts."""

from __future__ import annotations

import numpy as np
import pytest

from fedge.drift.fleet.scope import Moves, find_scope, partition


def moves(*sizes: float, error: float = 0.1, statistics: int = 3) -> dict[str, Moves]:
    """One gateway for each size, moved by it in every statistic, with noise of that error."""
    rng = np.random.default_rng(len(sizes))
    return {
        f"g{number:02d}": Moves(size + rng.normal(0, error, statistics), np.full(statistics, error))
        for number, size in enumerate(sizes)
    }


def test_the_parts_add_up_exactly() -> None:
    """total = pooled + heterogeneity, whatever the movements and their precisions."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        change, weight = rng.normal(size=(7, 4)), rng.uniform(0.1, 50, (7, 4))
        found = partition(change, weight)

        assert found.total == pytest.approx(found.pooled + found.heterogeneity, rel=1e-12)


def test_noise_alone_has_no_share_on_average() -> None:
    """Each part is a chi-square with its own degrees of freedom where nothing moved."""
    rng = np.random.default_rng(0)
    parts = [partition(rng.normal(size=(10, 5)), np.ones((10, 5))) for _ in range(2000)]

    assert np.mean([p.pooled for p in parts]) == pytest.approx(5, abs=0.3)
    assert np.mean([p.heterogeneity for p in parts]) == pytest.approx(45, abs=0.8)


@pytest.mark.parametrize(
    ("moved", "of", "scope"),
    [(1, 20, "gateway"), (3, 20, "gateway"), (14, 20, "fleet"), (20, 20, "fleet"), (1, 2, None)],
)
def test_how_many_moved_decides(moved: int, of: int, scope: str | None) -> None:
    """One of twenty is that gateway's, most of the fleet is the fleet's."""
    found = find_scope("g00", moves(*[2.0] * moved, *[0.0] * (of - moved)), 0.5)

    assert found.partition is not None and found.partition.gateways == of
    assert found.partition.share == pytest.approx(moved / of, abs=0.05)
    assert scope is None or found.scope == scope


def test_who_moves_against_the_fleet_is_alone() -> None:
    """Where all others move up, the one that falls is no part of it."""
    fleet = moves(-2.0, *[2.0] * 19)

    assert find_scope("g00", fleet, 0.5).scope == "gateway"
    assert find_scope("g05", fleet, 0.5).scope == "fleet"


def test_a_fleet_of_one_has_no_scope() -> None:
    """Nobody to compare with: unknown, and it says why."""
    found = find_scope("g00", moves(3.0), 0.5)

    assert (found.scope, found.partition) == ("unknown", None)
    assert "no other gateway" in found.reason


def test_who_stayed_is_named_only_where_it_shows() -> None:
    """A gateway that surely stayed is told from one that is too noisy to say."""
    fleet = moves(*[2.0] * 8, 0.0, 0.0)
    noisy = {**fleet, "g09": Moves(np.zeros(3), np.full(3, 5.0))}

    assert find_scope("g00", fleet, 0.5).still == ("g08", "g09")
    assert find_scope("g00", noisy, 0.5).still == ("g08",)
