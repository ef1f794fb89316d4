"""Change detectors for one numeric stream, on river's ADWIN and Page-Hinkley.

A detector is fed one value at a time and answers one question: has this stream changed?
It touches no file, clock or network, its memory does not grow with the stream (ADWIN's does
with the logarithm of the stream's length: some kilobytes at most), and the same values always
give the same answers. Recording and telling alarms belong to whoever feeds it.

Both tests are made for independent values. `baseline.BaselineDetector` prepares rows for them.
"""

from __future__ import annotations

import enum
import math
from typing import Any, Literal, Protocol, get_args

from fedge.drift.local.river_parts import river_class
from fedge.errors import NonFiniteValueError, SettingError

Direction = Literal["up", "down", "both"]

_FARTHEST = 1e9
"""In scales from the baseline's first value: what lies beyond counts as this far. It keeps sums
of finite values finite."""


class Signal(enum.Enum):
    """How a stream looks after a value."""

    WARMING_UP = "warming-up"
    STABLE = "stable"
    DRIFT = "drift"


class Detector(Protocol):
    """What every detector of this package promises."""

    def update(self, value: float) -> Signal:
        """Take in one value and say how the stream looks now.

        After `Signal.DRIFT` the next value starts a new baseline.

        Raises:
            NonFiniteValueError: `value` is NaN or infinite. Nothing changed.
        """
        ...


class AdwinDetector:
    """Reports a shift of a stream's mean: adaptive windowing.

    Bifet and Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007.
    The window of all values since the baseline began is cut at every place that its buckets
    allow; a cut whose sides differ by more than chance is a shift.

    Args:
        delta: risk of a false cut, before the test's own conservatism; lower is quieter.
        scale: a typical deviation in stream units. The bound was proven for values within one
            unit: values are divided by this, so that it neither fires at noise nor sleeps.
        warmup: values to see before the first verdict.
        direction: which shifts are reported; after another one there is a new baseline, too.

    >>> detector = AdwinDetector(scale=1.0, warmup=5)
    >>> signals = [detector.update(x) for x in [20.0] * 50 + [22.0] * 20]
    >>> signals.index(Signal.DRIFT) - 50   # values into the shift
    12
    """

    _origin: float | None

    def __init__(
        self,
        *,
        delta: float = 0.002,
        scale: float = 1.0,
        warmup: int = 30,
        direction: Direction = "both",
    ) -> None:
        if not (0 < delta < 1 and 0 < scale < math.inf and warmup >= 1):  # catches NaN too
            raise SettingError(f"need 0 < {delta=} < 1, 0 < {scale=} < inf, {warmup=} >= 1")
        self.delta, self.scale, self.warmup = delta, scale, warmup
        self.direction = _known(direction)
        self._class = river_class("ADWIN")
        self._start_over()

    def update(self, value: float) -> Signal:
        """See `Detector.update`."""
        scaled = _scaled(value, self._origin, self.scale)
        if self._origin is None:
            self._origin = value
        self._count += 1
        self._sum += scaled
        self._river.update(scaled)
        if self._river.drift_detected:
            wanted = self.direction in ("both", "up" if self._rose() else "down")
            self._start_over()
            return Signal.DRIFT if wanted else Signal.WARMING_UP
        return Signal.WARMING_UP if self._count < self.warmup else Signal.STABLE

    def _rose(self) -> bool:
        """Whether the part that ADWIN kept lies higher than the part that it just cut off."""
        kept = self._river.width
        before = (self._sum - self._river.total) / max(self._count - kept, 1)
        return bool(self._river.total / max(kept, 1) > before)

    def _start_over(self) -> None:
        # Its default of looking at every 32nd value only would be a delay without a use here.
        self._river: Any = self._class(
            delta=self.delta, clock=1, min_window_length=5, grace_period=self.warmup - 1
        )
        self._origin = None
        self._count, self._sum = 0, 0.0


class PageHinkleyDetector:
    """Reports a shift of a stream's mean: the Page-Hinkley test, a CUSUM against the running mean.

    Page, "Continuous Inspection Schemes", Biometrika 41, 1954; Hinkley, "Inference about the
    change-point from cumulative sum tests", Biometrika 58, 1971.

    Args:
        threshold: summed excess that counts as a shift, in stream units; higher is slower and
            quieter.
        slack: excess forgiven at each value, in stream units: half the shift that matters.
        warmup: values to see before the first verdict.
        direction: which shifts are looked for.

    >>> detector = PageHinkleyDetector(threshold=3.0, slack=0.1, warmup=5)
    >>> signals = [detector.update(x) for x in [20.0] * 30 + [21.0] * 10]
    >>> signals.index(Signal.DRIFT) - 30   # values into the shift
    3
    """

    _origin: float | None

    def __init__(
        self,
        *,
        threshold: float,
        slack: float,
        warmup: int = 30,
        direction: Direction = "both",
    ) -> None:
        if not (0 < threshold < math.inf and 0 <= slack < math.inf and warmup >= 1):
            raise SettingError(f"need 0 < {threshold=} < inf, 0 <= {slack=} < inf, {warmup=} >= 1")
        self.threshold, self.slack, self.warmup = threshold, slack, warmup
        self.direction = _known(direction)
        self._class = river_class("PageHinkley")
        self._start_over()

    def update(self, value: float) -> Signal:
        """See `Detector.update`."""
        # In units of the threshold, so that the clamp means the same for every stream.
        scaled = _scaled(value, self._origin, self.threshold)
        if self._origin is None:
            self._origin = value
        self._count += 1
        self._river.update(scaled)
        if self._river.drift_detected:
            self._start_over()
            return Signal.DRIFT
        return Signal.WARMING_UP if self._count < self.warmup else Signal.STABLE

    def _start_over(self) -> None:
        # No forgetting: with river's default the sums decay towards a level of their own, and the
        # distance to their smallest value since the start grows with time alone.
        self._river: Any = self._class(
            min_instances=self.warmup,
            delta=self.slack / self.threshold,
            threshold=1.0,
            alpha=1.0,
            mode=self.direction,
        )
        self._origin = None
        self._count = 0


def _known(direction: Direction) -> Direction:
    if direction not in get_args(Direction):
        raise SettingError(f"direction is one of {', '.join(get_args(Direction))}")
    return direction


def _scaled(value: float, origin: float | None, scale: float) -> float:
    """A value relative to the baseline's first one: of a constant stream, exactly zero.

    Raises:
        NonFiniteValueError: it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise NonFiniteValueError(f"a detector was given {value}")
    away = 0.0 if origin is None else (value - origin) / scale
    return min(max(away, -_FARTHEST), _FARTHEST)
