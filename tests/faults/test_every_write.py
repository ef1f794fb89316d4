"""An agent's process is killed at its writes, or a write is refused: nothing that counts changes.

The writes are those of block store, ledger, spool and window state, which all come past the
disk of `fakes.faults_disk`. Here some are tried, evenly and of every sort; every single one
in `every_write.py` beside this file.
"""

from __future__ import annotations

import pytest
from fakes.faults_checks import Undisturbed, check_disturbed, check_erasing, sample
from fakes.faults_disk import How
from fakes.faults_gateway import FaultyGateway, MakeFaulty

KILLS = (How.KILL_BEFORE, How.KILL_WITHIN)


def test_a_kill_at_a_write_changes_nothing(
    make_faulty: MakeFaulty, undisturbed: Undisturbed
) -> None:
    """The same windows, counts, rows, labels and charges; nothing released twice or for nothing."""
    for how in KILLS:
        for number in sample(undisturbed.calls, 4, offset=how):
            check_disturbed(make_faulty, undisturbed, how, number)


def test_a_refused_write_changes_nothing(make_faulty: MakeFaulty, undisturbed: Undisturbed) -> None:
    """A full or broken disk at one write: the agent says so, tries again, and all is as it was."""
    for how in (How.FULL, How.BROKEN):
        for number in sample(undisturbed.calls, 2, offset=how):
            check_disturbed(make_faulty, undisturbed, how, number)


@pytest.mark.soak
def test_kills_at_writes_of_every_sort_change_nothing(
    make_faulty: MakeFaulty, undisturbed: Undisturbed
) -> None:
    """As above, at more of them."""
    for index, number in enumerate(sample(undisturbed.calls, 24, offset=0)):
        check_disturbed(make_faulty, undisturbed, KILLS[index % 2], number)


def test_an_erasure_that_is_killed_is_finished(
    make_faulty: MakeFaulty, ran: FaultyGateway, writes_of_erasing: range
) -> None:
    """Whatever was begun is made good by the next start: no copy, no label, one ledger entry."""
    step = len(writes_of_erasing) // 4
    for index, number in enumerate(writes_of_erasing[step // 2 :: step]):
        check_erasing(make_faulty, ran, KILLS[index % 2], number)
