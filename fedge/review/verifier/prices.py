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

from mpmath import MPContext, MPIntervalContext, libmp

from fedge.review.verifier.limits import Work

Raw = tuple[int, int, int, int]
"""A number as mpmath keeps it: sign, mantissa, exponent of 2, bits of the mantissa."""

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


class Tariff:
    """Prices of one verification: each sampled event once, and not more of them than it may take.

    Args:
        work: counts the terms of their sums.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._sampled: dict[tuple[int, ...], int] = {}

    def price(self, event: Mapping[str, Any], alpha: int) -> int:
        """As the function `price`.

        Raises:
            PriceError: no price is known.
            TooMuchError: so many different sampled events are in no honest bundle.
        """
        if event["kind"] != "poisson-gaussian":
            return price(event, alpha)
        names = ("rate_ppm", "sensitivity2", "sigma2", "count")
        key = (*(event[name] for name in names), alpha)
        if key not in self._sampled:
            self._work.take("terms", alpha)
            self._sampled[key] = price(event, alpha)
        return self._sampled[key]


@lru_cache(maxsize=65_536)
def cap(epsilon: float, delta: float, alpha: int) -> int:
    """Nano-RDP that (epsilon, delta) allows at `alpha`, rounded down; may be 0 or less."""
    return _rounded(
        lambda iv: (iv.mpf(epsilon) - _enclosed(alpha, delta, iv.prec)) * NANO, math.floor
    )


@lru_cache(maxsize=4096)
def _enclosed(alpha: int, delta: float, prec: int) -> Any:
    """The conversion as an interval of the present precision, which is `prec`."""
    return _conversion(_intervals, alpha, delta)


def share(rho: float | Fraction, alpha: int) -> int:
    """Nano-RDP of `rho` zCDP at `alpha`, rounded up."""
    return math.ceil(NANO * alpha * Fraction(rho))


@lru_cache(maxsize=65_536)
def epsilon_of(nano: int, delta: float, alpha: int) -> float:
    """The epsilon of `nano` spent, at `delta`; never below 0."""
    return max(0.0, float(_numbers.mpf(nano) / NANO + _converted(alpha, delta)))


@lru_cache(maxsize=4096)
def _converted(alpha: int, delta: float) -> Any:
    return _conversion(_numbers, alpha, delta)


def _conversion(context: Any, alpha: int, delta: float) -> Any:
    """Canonne, Kamath, Steinke 2020, proposition 12, written with one logarithm more."""
    a, d = context.mpf(alpha), context.mpf(delta)
    return context.log(a - 1) - context.log(a) - (context.log(d) + context.log(a)) / (a - 1)


@lru_cache(maxsize=65_536)
def _sampled(rate_ppm: int, sensitivity2: int, sigma2: int, count: int, alpha: int) -> int:
    """Mironov, Talwar, Zhang 2019, section 3.3: the moment of a mixture, term by term."""
    if alpha * (alpha - 1) * sensitivity2 > 2 * _LARGEST_EXPONENT * sigma2:
        raise PriceError("so little noise has no price")

    def nano(iv: Any) -> Any:
        """The charge in nano-RDP as an interval, before rounding; `iv` is mpmath's context."""
        moment = iv.make_mpf(_moment(iv, rate_ppm, sensitivity2, sigma2, alpha))
        return iv.log(moment) * NANO * count / (alpha - 1)

    return max(1, _rounded(nano, math.ceil, least=1))


def _moment(iv: Any, rate_ppm: int, sensitivity2: int, sigma2: int, alpha: int) -> tuple[Raw, Raw]:
    """Sum over k of C(alpha, k) q^k (1 - q)^(alpha - k) e^(k (k - 1) s), s half the ratio of
    `sensitivity2` to `sigma2`, between two numbers.

    Each term follows from the one before it by factors of which only e^(2 k s) is no fraction, and
    that one is a product of e^(2 s). All are positive, so that rounding down, or up, throughout
    gives a lower, or an upper, end.
    """
    rest = iv.mpf(_PPM - rate_ppm) / _PPM
    first = (rest**alpha)._mpi_
    growth = iv.exp(iv.mpf(sensitivity2) / sigma2)._mpi_
    low, high = (
        _sum(first[end], growth[end], (rate_ppm, _PPM - rate_ppm), alpha, iv.prec, "fc"[end])
        for end in (0, 1)
    )
    return low, high


def _sum(
    first: Raw, growth: Raw, odds: tuple[int, int], alpha: int, prec: int, towards: str
) -> Raw:
    """The sum from its term for k = 0 and e^(2 s) on, rounded in one direction."""
    term, power, total = first, libmp.fone, first
    for k in range(alpha):
        above, below = libmp.from_int((alpha - k) * odds[0]), libmp.from_int((k + 1) * odds[1])
        term = libmp.mpf_mul(term, power, prec, towards)
        term = libmp.mpf_mul(term, above, prec, towards)
        term = libmp.mpf_div(term, below, prec, towards)
        power = libmp.mpf_mul(power, growth, prec, towards)
        total = libmp.mpf_add(total, term, prec, towards)
    return total


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
