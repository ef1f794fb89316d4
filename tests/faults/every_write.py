"""As `test_every_write.py`, at every single write: some twenty minutes on two cores.

    pytest tests/faults/every_write.py -n 2

No run of all tests collects this file.
"""

from __future__ import annotations

import pytest
from fakes.faults_checks import Undisturbed, check_disturbed, check_erasing
from fakes.faults_disk import How
from fakes.faults_gateway import FaultyGateway, MakeFaulty

PARTS = 4

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(
    "how",
    [How.KILL_BEFORE, How.KILL_WITHIN, How.FULL, How.BROKEN, How.SHORT],
    ids=lambda how: how.name,
)
def test_a_fault_at_every_write_changes_nothing(
    make_faulty: MakeFaulty, undisturbed: Undisturbed, how: How, part: int
) -> None:
    """The same windows, counts, rows, labels and charges; nothing released twice or for nothing."""
    for number in range(part, len(undisturbed.calls), PARTS):
        check_disturbed(make_faulty, undisturbed, how, number)


@pytest.mark.parametrize("how", [How.KILL_BEFORE, How.KILL_WITHIN], ids=lambda how: how.name)
def test_an_erasure_killed_at_every_write_is_finished(
    make_faulty: MakeFaulty, ran: FaultyGateway, writes_of_erasing: range, how: How
) -> None:
    """Whatever was begun is made good by the next start: no copy, no label, one ledger entry."""
    for number in writes_of_erasing:
        check_erasing(make_faulty, ran, how, number)
