"""The arithmetic of the budget, a second time: fractions and intervals instead of decimals.

Every logarithm is enclosed in an interval (mpmath). An integer is answered only when both ends
round to it, otherwise more digits are taken, so that no rounding of this program's own can
hide or make a difference to what the gateway charged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath import MPContext, MPIntervalContext

NANO = 10**9
_PPM = 10**6
_DIGITS = (30, 60, 120, 240, 480)
_LARGEST_EXPONENT = 10**18
_intervals = MPIntervalContext()
_numbers = MPContext()
_numbers.dps = 60


class PriceError(ValueError):
    """No number can be given: the mechanism is unknown, or its price beyond all numbers."""


def price(event: Mapping[str, Any], alpha: int) -> int:
    """Nano-RDP at `alpha` of all releases of an event, rounded up.

    Raises:
        PriceError: no price is known.
    """
    sensitivity2, sigma2, count = event["sensitivity2"], event["sigma2"], event["count"]
    if event["kind"] == "discrete-gaussian":
        # alpha * rho, rho = sensitivity2 / (2 sigma2): Canonne, Kamath, Steinke 2020, theorem 4.
        return math.ceil(Fraction(NANO * alpha * count * sensitivity2, 2 * sigma2))
    if event["kind"] == "poisson-gaussian":
        return _sampled(event["rate_ppm"], sensitivity2, sigma2, count, alpha)
    raise PriceError(f"no price is known for {event['kind']!r}")


def cap(epsilon: float, delta: float, alpha: int) -> int:
    """Nano-RDP that (epsilon, delta) allows at `alpha`, rounded down; may be 0 or less."""
    return _rounded(lambda iv: (iv.mpf(epsilon) - _conversion(iv, alpha, delta)) * NANO, math.floor)


def share(rho: float, alpha: int) -> int:
    """Nano-RDP of `rho` zCDP at `alpha`, rounded up."""
    return math.ceil(NANO * alpha * Fraction(rho))


@lru_cache(maxsize=65_536)
def epsilon_of(nano: int, delta: float, alpha: int) -> float:
    """The epsilon of `nano` spent, at `delta`; never below 0."""
    return max(0.0, float(_numbers.mpf(nano) / NANO + _conversion(_numbers, alpha, delta)))


def _conversion(context: Any, alpha: int, delta: float) -> Any:
    """Canonne, Kamath, Steinke 2020, proposition 12, written with one logarithm more."""
    a, d = context.mpf(alpha), context.mpf(delta)
    return context.log(a - 1) - context.log(a) - (context.log(d) + context.log(a)) / (a - 1)


@lru_cache(maxsize=4096)
def _sampled(rate_ppm: int, sensitivity2: int, sigma2: int, count: int, alpha: int) -> int:
    """Mironov, Talwar, Zhang 2019, section 3.3: the moment of a mixture, term by term."""
    if alpha * (alpha - 1) * sensitivity2 > 2 * _LARGEST_EXPONENT * sigma2:
        raise PriceError("so little noise has no price")

    def nano(iv: Any) -> Any:
        rate = iv.mpf(rate_ppm) / _PPM
        moment = (1 - rate) ** alpha + alpha * rate * (1 - rate) ** (alpha - 1)
        for k in range(2, alpha + 1):
            shift = iv.exp(iv.mpf(k * (k - 1) * sensitivity2) / (2 * sigma2))
            moment += math.comb(alpha, k) * rate**k * (1 - rate) ** (alpha - k) * shift
        return iv.log(moment) * NANO * count / (alpha - 1)

    return max(1, _rounded(nano, math.ceil, least=1))


def _rounded(
    value: Callable[[Any], Any], rounding: Callable[[Fraction], int], *, least: int | None = None
) -> int:
    """An integer that both ends of an interval round to; what is below `least` counts as it."""
    for digits in _DIGITS:
        _intervals.dps = digits
        ends = [rounding(_exact(end)) for end in value(_intervals)._mpi_]
        low, high = ends if least is None else (max(least, end) for end in ends)
        if low == high:
            return low
    raise PriceError("a price could not be told from the next integer")


def _exact(raw: tuple[int, int, int, int]) -> Fraction:
    sign, mantissa, exponent, _ = raw
    number = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -number if sign else number
