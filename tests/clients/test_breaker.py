"""What a circuit breaker promises to whoever calls out through it."""

from __future__ import annotations

import doctest
import math
import threading

import pytest

from fedge import breaker as module
from fedge.breaker import CircuitBreaker
from fedge.errors import OutboundError, SettingError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("the centre", clock, failures=3, reset_s=30)


def call(breaker: CircuitBreaker, *, answered: bool) -> bool:
    """Make a call that is or is not answered; says whether it was let through."""
    try:
        breaker.check()
    except OutboundError:
        return False
    if answered:
        breaker.succeeded()
    else:
        breaker.failed()
    return True


def test_lets_everything_through_while_calls_succeed(breaker: CircuitBreaker) -> None:
    """A healthy server never notices it."""
    assert all(call(breaker, answered=True) for _ in range(50))
    assert (breaker.state, breaker.wait_s) == ("closed", 0.0)


def test_opens_after_failures_in_a_row_only(breaker: CircuitBreaker) -> None:
    """One success in between starts the count again."""
    for answered in (False, False, True, False, False):
        assert call(breaker, answered=answered)
    assert breaker.state == "closed"

    assert call(breaker, answered=False)
    assert breaker.state == "open"


def test_open_it_refuses_at_once_and_says_how_long(breaker: CircuitBreaker, clock: Clock) -> None:
    """Who is refused learns which server it is about and when to come back."""
    for _ in range(3):
        call(breaker, answered=False)
    clock.now += 10

    with pytest.raises(OutboundError, match=r"the centre failed 3 times.* 20 s"):
        breaker.check()
    assert breaker.wait_s == 20


def test_half_open_lets_one_through(breaker: CircuitBreaker, clock: Clock) -> None:
    """A server that comes back is not met by everybody at once."""
    for _ in range(3):
        call(breaker, answered=False)
    clock.now += 30
    assert breaker.state == "half-open"

    breaker.check()
    assert not call(breaker, answered=True)
    breaker.succeeded()

    assert breaker.state == "closed"
    assert call(breaker, answered=True)


def test_a_failed_trial_waits_once_more(breaker: CircuitBreaker, clock: Clock) -> None:
    """One call each `reset_s`, for as long as the outage lasts."""
    for _ in range(3):
        call(breaker, answered=False)
    passed = 0
    for _ in range(300):
        clock.now += 1
        passed += call(breaker, answered=False)
    assert passed == 10


def test_a_trial_that_never_reports_back_holds_nobody(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """A caller that died in its call is replaced after the same wait."""
    for _ in range(3):
        call(breaker, answered=False)
    clock.now += 30
    breaker.check()
    clock.now += 29
    assert not call(breaker, answered=True)
    clock.now += 1
    assert call(breaker, answered=True)


def test_a_late_failure_does_not_prolong_the_wait(breaker: CircuitBreaker, clock: Clock) -> None:
    """Calls that were under way when it opened say nothing new."""
    for _ in range(3):
        call(breaker, answered=False)
    clock.now += 29
    breaker.failed()
    clock.now += 1
    assert call(breaker, answered=True)


def test_many_threads_get_one_trial(breaker: CircuitBreaker, clock: Clock) -> None:
    """Thread-safe: of callers at the same moment, one passes."""
    for _ in range(3):
        call(breaker, answered=False)
    clock.now += 30
    passed: list[bool] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        try:
            breaker.check()
        except OutboundError:
            return
        passed.append(True)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == [True]


@pytest.mark.parametrize(("failures", "reset_s"), [(0, 30), (1, 0), (1, math.nan)])
def test_refuses_numbers_that_mean_nothing(failures: int, reset_s: float) -> None:
    """A breaker that never opens, or never closes, is a wrong setting."""
    with pytest.raises(SettingError, match="breaker x"):
        CircuitBreaker("x", Clock(), failures=failures, reset_s=reset_s)


def test_the_example_in_its_docstring_holds() -> None:
    """Examples are run."""
    assert doctest.testmod(module).failed == 0
