"""What the block store knows of the labelled rows of one window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fedge.data.blocks import BlockStore
from fedge.statefile import StateFile

SLOTS = np.arange(10, 20, dtype=np.int64)
NOTED = (np.arange(10) % 4).astype(np.uint8)
WHO = np.repeat(np.arange(10, dtype=np.uint8)[:, None], 16, axis=1)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    file = StateFile(tmp_path / "state.sqlite")
    yield file
    file.close()


@pytest.fixture
def store(tmp_path: Path, state: StateFile) -> BlockStore:
    """One window of ten rows, all answered with class 1."""
    store = BlockStore(tmp_path / "blocks", state)
    rows = np.zeros((10, 2), np.float32)
    store.write_window(0, 4, SLOTS, rows, rows, np.ones(10, np.int64), WHO, NOTED)
    return store


def test_answers_come_with_what_each_row_may_serve(store: BlockStore) -> None:
    """In slot order: whether the label agrees, purposes and subject as they were kept."""
    store.add_labels(np.array([17, 12, 14]), np.array([1, 0, 1]))

    found = store.answers(4)

    assert found.slots.tolist() == [12, 14, 17]
    assert found.right.tolist() == [False, True, True]
    assert found.purposes.tolist() == NOTED[[2, 4, 7]].tolist()
    assert np.array_equal(found.subjects, WHO[[2, 4, 7]])


def test_an_erasure_takes_answers_and_leaves_the_others(store: BlockStore) -> None:
    """The part is written anew; who may serve what is still known of the rest."""
    store.add_labels(np.array([12, 14]), np.array([0, 1]))
    store.erase(slots=np.array([12]))

    found = store.answers(4)

    assert (found.slots.tolist(), found.purposes.tolist()) == ([14], [0])
    store.add_labels(np.array([15]), np.array([1]))
    assert store.answers(4).purposes.tolist() == [0, 1]


def test_nothing_is_known_of_a_window_that_is_gone(store: BlockStore) -> None:
    """Never kept, or past its age: no rows, of the right shapes."""
    store.add_labels(np.array([12]), np.array([0]))
    never = store.answers(99)
    store.expire(before=1e12)
    for found in (never, store.answers(4)):
        assert len(found.slots) == len(found.right) == len(found.purposes) == 0
        assert found.subjects.shape == (0, 16)


def test_rows_of_an_earlier_version_may_serve_nothing(store: BlockStore, tmp_path: Path) -> None:
    """Their purposes were not noted: unknown is never taken for allowed."""
    store.add_labels(np.array([12]), np.array([1]))
    (part,) = (tmp_path / "blocks").glob("0/*.parquet")
    pq.write_table(pq.read_table(part).drop_columns(["purposes"]), part)

    found = store.answers(4)

    assert (found.right.tolist(), found.purposes.tolist()) == ([True], [0])
