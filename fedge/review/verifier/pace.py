"""Whether blocks of so many seconds come no faster than the gateway's clock goes.

Rows lie in the block of their arrival, so that between the beginning of the first block and the
opening of the n-th at least n - 2 blocks have passed. Windows may be closed late, all at once, when
an agent was down: that is no faster over the ledger's life.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedge.review.verifier.clocks import DAY

LEAP_S = 30 * DAY
"""A clock that leaps ahead gives no more than that, or `LEAP_BLOCKS` where these are longer."""
LEAP_BLOCKS = 4


@dataclass(slots=True)
class Pace:
    """Compares the time that opened blocks need with the time that passed.

    Attributes:
        hasty: blocks that were opened before there was time for them.
        needed: seconds that the blocks before the present one take at least.
    """

    hasty: list[int] = field(default_factory=list)
    needed: float = 0.0
    _seconds: int | None = None
    _opened: int = 0
    _passed: float = DAY  # by which clocks are corrected, without a word about it
    _latest: float | None = None

    def open(self, block: int, seconds: int | None, at: float, began: float) -> None:
        """A block is opened.

        Args:
            seconds: how long it is; None where its length is no time.
            at: by the gateway's clock. began: when its ledger did, by the same.
        """
        if seconds != self._seconds:  # a changed length: the first of these, too, may be a part
            self._seconds, self._opened = seconds, 0
        latest = began if self._latest is None else self._latest
        self._latest = max(latest, at)
        if seconds is None:
            return
        self._passed += min(self._latest - latest, max(LEAP_S, LEAP_BLOCKS * seconds))
        self._opened += 1
        if self._opened > 2:
            self.needed += seconds
        if self.needed > self._passed:
            self.hasty.append(block)
