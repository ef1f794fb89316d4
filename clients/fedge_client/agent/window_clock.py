"""The two clocks of an agent, and the way from one process's moments to the next one's.

Durations are measured by the host's monotonic clock, which nobody sets and which
stands still while the host is suspended (nothing can arrive then). The wall clock
dates things and numbers blocks. A stored moment is kept on both clocks, together
with the boot in which the monotonic reading means anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names this boot of the host; empty where the system does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant: seconds since the epoch, seconds of the monotonic clock, and its boot."""

    wall: float
    steady: float
    boot: str


class WindowClock:
    """Both clocks of one process.

    Args:
        wall: seconds since the epoch; may be set back and forward at any time.
        steady: seconds of the monotonic clock.
        boot: see `boot_id`.
    """

    def __init__(
        self, wall: Callable[[], float], steady: Callable[[], float], boot: str | None = None
    ) -> None:
        self._wall, self.steady = wall, steady
        self.boot = boot_id() if boot is None else boot
        self._latest = 0.0

    def wall(self) -> float:
        """Seconds since the epoch; never less than what was answered before."""
        self._latest = max(self._latest, self._wall())
        return self._latest

    def moment(self, steady: float) -> Moment:
        """An instant of this boot on both clocks, as the wall clock sees it now."""
        return Moment(self.wall() - (self.steady() - steady), steady, self.boot)

    def same_boot(self, moment: Moment) -> bool:
        """Whether a stored moment's monotonic reading still means anything."""
        return bool(self.boot) and moment.boot == self.boot

    def steady_of(self, moment: Moment, *, at_most_s: float) -> float:
        """When a stored moment was, on this boot's monotonic clock.

        After a reboot only the wall clock knows how long ago it was, and it may be wrong: the
        answer is never in the future, and never further back than `at_most_s`.
        """
        now = self.steady()
        ago = now - moment.steady if self.same_boot(moment) else self._wall() - moment.wall
        return now - min(max(ago, 0.0), at_most_s)
