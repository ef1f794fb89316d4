"""Where the unit of privacy is a subject, a block holds at most m records of each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.statefile import StateFile
from fedge_client.agent.contributions import Contributions

subjects_of_windows = st.lists(
    st.lists(st.integers(min_value=0, max_value=3), max_size=12), min_size=1, max_size=5
)
"""Subjects of each window's rows; 0 is nobody."""


def pseudonyms(subjects: list[int]) -> np.ndarray:
    rows = np.zeros((len(subjects), 16), dtype=np.uint8)
    rows[:, 3] = subjects
    return rows


def first_ones(windows: list[list[int]], limit: int) -> list[list[bool]]:
    """The rule, row by row."""
    seen: Counter[int] = Counter()
    counted = []
    for rows in windows:
        counted.append([])
        for subject in rows:
            seen[subject] += 1
            counted[-1].append(subject == 0 or seen[subject] <= limit)
    return counted


@settings(max_examples=60, deadline=None)
@given(windows=subjects_of_windows, limit=st.integers(1, 4), again=st.booleans())
def test_the_first_records_of_a_subject_count_and_no_others(
    tmp_path_factory, windows: list[list[int]], limit: int, again: bool
) -> None:
    """Over all windows of a block, also where each is asked for twice, as after a crash."""
    with_state = StateFile(tmp_path_factory.mktemp("state") / "state.sqlite")
    contributions = Contributions(with_state)
    found = []
    for window, rows in enumerate(windows):
        for _ in range(1 + again):
            counted = contributions.within(7, window, pseudonyms(rows), limit)
        found.append(counted.tolist())
    with_state.close()

    assert found == first_ones(windows, limit)


def test_a_new_block_begins_anew_and_the_old_one_is_forgotten(tmp_path: Path) -> None:
    """Budgets are per block; pseudonyms of a block that is full are no longer needed."""
    state = StateFile(tmp_path / "state.sqlite")
    contributions = Contributions(state)
    rows = pseudonyms([1, 1, 1])

    assert contributions.within(0, 0, rows, 2).tolist() == [True, True, False]
    assert contributions.within(0, 1, rows, 2).tolist() == [False, False, False]
    assert contributions.within(1, 2, rows, 2).tolist() == [True, True, False]
    assert {int(block) for (block,) in state.rows("SELECT block FROM contributions")} == {1}
    state.close()
