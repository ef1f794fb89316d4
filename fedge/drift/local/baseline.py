"""Rows as a detector needs them: averaged in groups, in units of the stream's own noise.

Rows of a sensor depend on each other, and no two signals have the same scale. Averages of a
few dozen rows hardly depend on each other any more, and once a baseline of them is known a
detector's settings mean the same for every signal on every gateway.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fedge.drift.local.detectors import Detector, Signal
from fedge.errors import NonFiniteValueError, SettingError

Floats = npt.NDArray[np.float64]

_RECENT = 3
"""Groups that the present level is averaged over."""

_PATIENCE = 3
"""Baselines that are given up in a row because the stream moved while they were taken. Then one is
taken all the same: a stream that always wanders must not be without a watch for ever."""

_LARGEST = 1e100
"""What lies beyond counts as this much: squares of finite values stay finite."""

_FAR = 3.5
"""Standard errors between the halves of a baseline from which on it is none."""

_SURER = 1.65
"""Standard errors that are added to the logarithm of the spread: a baseline is short, and a
spread that is taken for too small costs false alarms for as long as the baseline stands."""


class BaselineDetector:
    """A detector on averages of rows, standardised by a baseline that the stream gave itself.

    Keeps every promise of `Detector`. Memory is fixed by the arguments.

    Args:
        make: builds the detector inside; it is fed one value per group, in units of the groups'
            long-run standard deviation, the baseline's groups first. Its warm-up should be
            `groups`.
        rows: rows that are averaged to one value.
        groups: values that form a baseline.
        floor: smallest standard deviation of one row that is believed, in stream units. It stands
            for the smallest shift that matters, and keeps a constant stream from having none.
        known: a baseline of an earlier process: what `baseline` answered.

    Attributes:
        baselines: how many were taken so far, a known one included.
        shift: of the latest drift, the baseline's mean and that of the latest rows then, in
            stream units; None before the first one.
    """

    _detector: Detector | None
    _first: list[float]
    _recent: deque[float]
    _level: float | None
    _filled: int
    _new: bool

    def __init__(
        self,
        make: Callable[[], Detector],
        *,
        rows: int = 32,
        groups: int = 30,
        floor: float,
        known: Sequence[float] = (),
    ) -> None:
        if not (rows >= 1 and groups >= 4 and 0 < floor < math.inf):  # catches NaN too
            raise SettingError(f"need {rows=} >= 1, {groups=} >= 4, 0 < {floor=} < inf")
        self._make, self._groups, self._floor = make, groups, floor
        self._buffer: Floats = np.empty(rows, dtype=np.float64)
        self.baselines = self._discarded = 0
        self.shift: tuple[float, float] | None = None
        self._start_over()
        if len(known) == groups and np.isfinite(known).all():
            self._learn(known)

    @property
    def baseline(self) -> tuple[float, ...]:
        """The averages that form the baseline; empty while it is being taken."""
        return tuple(self._first) if self._detector is not None else ()

    @property
    def level(self) -> float | None:
        """The baseline's mean, in stream units; None while it is being taken."""
        return self._level

    @property
    def level_now(self) -> float | None:
        """Mean of the latest rows, in stream units; None before the first full group."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def update(self, value: float) -> Signal:
        """See `Detector.update`."""
        return self.extend(np.array([value], dtype=np.float64))

    def extend(self, values: Floats) -> Signal:
        """Take in several values: as if each was given to `update`, in their order.

        Returns:
            `DRIFT` where any of them gave it, else what the last one gave.

        Raises:
            NonFiniteValueError: one is NaN or infinite. Nothing changed.
        """
        if not np.isfinite(values).all():
            raise NonFiniteValueError("a detector was given a value that is not finite")
        values = np.clip(values, -_LARGEST, _LARGEST)
        drifted, size, done = False, len(self._buffer), 0
        while done < len(values):
            piece = values[done : done + size - self._filled]
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            done += len(piece)
            if self._filled == size:
                self._filled = 0
                drifted |= self._group(_mean(self._buffer)) is Signal.DRIFT
        if drifted:
            return Signal.DRIFT
        # Between two groups nothing new is known, least of all the same drift again.
        return Signal.WARMING_UP if self._detector is None or self._new else Signal.STABLE

    def _group(self, value: float) -> Signal:
        if self._new:
            self._start_over()
        self._recent.append(value)
        if self._detector is None:
            self._first.append(value)
            if len(self._first) == self._groups:
                self._learn(self._first)
            return Signal.WARMING_UP
        signal = self._detector.update((value - self._centre) / self._spread)
        if signal is Signal.DRIFT:
            self.shift = self._centre, _mean(np.array(self._recent))
        if signal is not Signal.STABLE:
            # Also where it began anew without a word, after a shift that nobody asked for.
            self._new = True
        return signal

    def _learn(self, first: Sequence[float]) -> None:
        """Take a baseline, and show it to a new detector."""
        self._first = list(first)
        groups = np.array(first, dtype=np.float64)
        self._centre = self._level = _mean(groups)
        least = self._floor / math.sqrt(len(self._buffer))
        self._spread = max(_spread(groups), least)
        self._detector = self._make()
        signals = [self._detector.update((v - self._centre) / self._spread) for v in first]
        if self._discarded < _PATIENCE and (Signal.DRIFT in signals or _moved(groups)):
            self._discarded += 1
            self._start_over()
        else:
            self._discarded = 0
            self.baselines += 1

    def _start_over(self) -> None:
        self._detector, self._first, self._level = None, [], None
        self._recent = deque(maxlen=_RECENT)
        self._centre, self._spread = 0.0, 1.0
        self._filled, self._new = 0, False


def _mean(values: Floats) -> float:
    # Relative to the first one: of a constant stream it is exactly that constant.
    return float(values[0] + (values - values[0]).mean())


def _moved(groups: Floats) -> bool:
    """Whether the later half lies elsewhere than the earlier one, as neighbours judge it.

    By the mean squared difference of neighbours (von Neumann, Annals of Mathematical Statistics
    12, 1941), to which one step or a slow trend adds next to nothing.
    """
    half = len(groups) // 2
    steps = np.diff(groups)
    noise = math.sqrt(float(steps @ steps) / (2 * len(steps)))
    apart = abs(_mean(groups[half:]) - _mean(groups[:half]))
    return apart > _FAR * noise * math.sqrt(4 / len(groups))


def _spread(groups: Floats) -> float:
    """Long-run standard deviation of the groups, on the large side.

    As of an autoregression of order one (Andrews, "Heteroskedasticity and Autocorrelation
    Consistent Covariance Matrix Estimation", Econometrica 59, 1991): what dependence is left
    between neighbours makes sums of them wander more than their own spread says.
    """
    away = groups - _mean(groups)
    power = float(away @ away)
    if power == 0.0:
        return 0.0
    count = len(groups)
    # A short series shows less dependence than there is, by about 1 / n.
    neighbours = float(away[1:] @ away[:-1]) / power + 1.0 / count
    rho = min(max(neighbours, 0.0), 0.9)
    surer = math.exp(_SURER / math.sqrt(2 * (count - 1)))
    return math.sqrt(power / (count - 1) * (1 + rho) / (1 - rho)) * surer
