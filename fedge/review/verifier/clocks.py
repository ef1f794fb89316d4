"""Times as the clocks of others showed them: they prove nothing, and odd ones are noted once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from fedge.review.verifier.form import moment
from fedge.review.verifier.verdict import Finding

DAY = 86_400.0
SET_BACK_S = 60.0
"""A clock that is corrected by less is no news."""


def odd_clock(
    gateway: str, what: str, entry: int | None = None, *, unproven: bool = False
) -> Finding:
    """A gateway's clock was wrong; its bound rests on it only where that cuts blocks."""
    return Finding(kind="odd-clock", what=what, gateway=gateway, entry=entry, unproven=unproven)


def date(at: float) -> str:
    """A time for people, in UTC."""
    if not moment(at):
        return "no time between 1970 and 2200"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(slots=True)
class EntryTimes:
    """Watches the times of a ledger's entries; they may go back, as clocks do.

    Args:
        findings: takes the first odd one of each sort.

    Attributes:
        earliest: of all entries so far.
    """

    gateway: str
    findings: list[Finding]
    earliest: float = math.inf
    _latest: float = 0.0
    _outside: bool = False
    _back: bool = False

    def add(self, seq: int, at: float) -> None:
        """Take in an entry's time."""
        self.earliest = min(self.earliest, at)
        if not moment(at):
            self._outside = self._outside or self._note(
                seq, "its clock was not between 1970 and 2200"
            )
            return
        if at < self._latest - SET_BACK_S:
            self._back = self._back or self._note(seq, "its clock was set back between entries")
        self._latest = max(self._latest, at)

    def _note(self, seq: int, what: str) -> bool:
        self.findings.append(odd_clock(self.gateway, what, seq))
        return True
