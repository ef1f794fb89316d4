"""Clocks of one host that a test moves: wall, monotonic and boot, as a kernel would show them."""

from __future__ import annotations


class HostClocks:
    """What a host's processes read. Only the wall clock can be set; only a reboot resets the other.

    Args:
        wall: seconds since the epoch at the start. steady: seconds since the boot.
    """

    def __init__(self, wall: float = 1_000_000.0, steady: float = 5_000.0) -> None:
        self._wall, self._steady, self._boots = wall, steady, 1

    def wall(self) -> float:
        return self._wall

    def steady(self) -> float:
        return self._steady

    @property
    def boot(self) -> str:
        return f"boot-{self._boots}"

    def passes(self, seconds: float) -> None:
        """Time goes by on both clocks."""
        self._wall += seconds
        self._steady += seconds

    def jumps(self, seconds: float) -> None:
        """Somebody, or NTP, sets the wall clock."""
        self._wall += seconds

    def reboots(self, off_s: float) -> None:
        """The host is off for a while; its monotonic clock begins again."""
        self._wall += off_s
        self._steady = 3.0
        self._boots += 1
