"""How sure a difference of two shares of right answers is.

Newcombe, "Interval estimation for the difference between independent proportions" (Statistics
in Medicine 17, 1998), method 10: from the two score intervals (Wilson 1927). It stays sensible
at few rows and at shares of 0 and 1. That both models answered the same rows, which mostly makes
a difference more certain, is not used: evidence holds shares alone.
"""

from __future__ import annotations

import math

from fedge.review.report.model import ClassAccuracy

Z95 = 1.959963984540054
"""Quantile of the normal distribution for a two-sided range of 95 %."""


def score_interval(share: float, rows: int) -> tuple[float, float]:
    """The range, 95 %, in which a share that was found on so many rows may truly lie."""
    near = share + Z95**2 / (2 * rows)
    wide = Z95 * math.sqrt(share * (1 - share) / rows + Z95**2 / (4 * rows**2))
    scale = 1 + Z95**2 / rows
    return max(0.0, (near - wide) / scale), min(1.0, (near + wide) / scale)


def difference_interval(first: float, second: float, rows: int) -> tuple[float, float]:
    """The same for `first - second`, each found on `rows` rows."""
    low1, high1 = score_interval(first, rows)
    low2, high2 = score_interval(second, rows)
    difference = first - second
    return (
        difference - math.hypot(first - low1, high2 - second),
        difference + math.hypot(high1 - first, second - low2),
    )


def difference_words(one: ClassAccuracy) -> str:
    """Private minus non-private in points, with its range; unknown is said."""
    if one.private is None or one.nonprivate is None:
        return "not measured"
    low, high = difference_interval(one.private, one.nonprivate, one.rows)
    found = 100 * (one.private - one.nonprivate)
    return f"{_signed(found)} points ({_signed(100 * low)} to {_signed(100 * high)})"


def _signed(points: float) -> str:
    """With one digit after the point, or as many more as tell it from 0."""
    digits = next((n for n in (1, 2, 3) if round(points, n)), 1)
    return f"{points + 0.0 if round(points, digits) else 0.0:+.{digits}f}"
