"""A circuit breaker: stop asking a server that does not answer, and ask again now and then.

One breaker stands before one server. What a call is, and which answers count as
failures, is the caller's to say; waiting and trying again are too. Thread-safe; the
standard library alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from fedge.errors import OutboundError, SettingError

BreakerState = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """Lets calls through while they succeed; after some failures in a row none, for a while.

    Each call is `check()`, then exactly one of `succeeded()` and `failed()`. A call that was
    let through as the one trial and never reported back does not hold the breaker: after
    another `reset_s` the next one is let through.

    Args:
        name: of the server, for the error's text.
        clock: seconds that never go back, such as `time.monotonic`.
        failures: failed calls in a row that open the breaker.
        reset_s: seconds an open breaker refuses before it lets one call through as a trial.

    Raises:
        SettingError: a number that is not positive.

    >>> now = 0.0
    >>> breaker = CircuitBreaker("upstream", lambda: now, failures=2, reset_s=30)
    >>> breaker.failed(); breaker.failed(); breaker.state
    'open'
    >>> now = 30.0
    >>> breaker.check(); breaker.succeeded(); breaker.state
    'closed'
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        *,
        failures: int = 5,
        reset_s: float = 30.0,
    ) -> None:
        if not (failures >= 1 and reset_s > 0):  # catches NaN too
            raise SettingError(f"breaker {name}: need {failures=} >= 1 and {reset_s=} > 0")
        self.name = name
        self._clock, self._limit, self._reset_s = clock, failures, reset_s
        self._lock = threading.Lock()
        self._failed = 0
        self._opened_at: float | None = None
        self._trial_at: float | None = None

    def check(self) -> None:
        """Ask to make one call.

        Raises:
            OutboundError: not now; `wait_s` says for how long. Send nothing.
        """
        with self._lock:
            wait_s = self._wait_s()
            if wait_s > 0:
                raise OutboundError(
                    f"{self.name} failed {self._failed} times in a row; not asked again"
                    f" for {wait_s:.0f} s"
                )
            if self._opened_at is not None:
                self._trial_at = self._clock()

    def succeeded(self) -> None:
        """The call was answered as it should be: closes the breaker."""
        with self._lock:
            self._failed, self._opened_at, self._trial_at = 0, None, None

    def failed(self) -> None:
        """The call was not answered, or not as it should be.

        A failed trial opens the breaker for another `reset_s`. A late failure of a call that
        was let through before the breaker opened does not prolong it.
        """
        with self._lock:
            self._failed += 1
            if self._opened_at is None:
                if self._failed >= self._limit:
                    self._opened_at = self._clock()
            elif self._trial_at is not None:
                self._opened_at, self._trial_at = self._clock(), None

    @property
    def wait_s(self) -> float:
        """Seconds until a call may be let through; 0 if one would be now."""
        with self._lock:
            return self._wait_s()

    @property
    def state(self) -> BreakerState:
        """Open: nothing passes. Half-open: one trial passes or is under way."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            waited = self._clock() - self._opened_at >= self._reset_s
            return "half-open" if waited else "open"

    def _wait_s(self) -> float:
        if self._opened_at is None:
            return 0.0
        since = self._opened_at if self._trial_at is None else self._trial_at
        return max(0.0, since + self._reset_s - self._clock())
