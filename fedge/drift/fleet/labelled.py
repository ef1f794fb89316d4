"""Labelled errors of one gateway: has the share of wrong answers risen?

Labels come late, so a window's counts are those at a fixed watermark after it, noised
and charged like any other. The one thing that they show and nothing else does is
concept drift: the same inputs, another truth.

Pairs are sent from a release's first window on, labels may begin much later. Nothing is
compared with the noise of windows before them: the series starts where labels show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings

BUDGET = 0.1
"""Part of the fleet's false-alarm budget that all error series together may spend."""

MIN_RISE = 0.05
"""Smallest rise of the error rate that may alarm."""

_MAX_LAGS = 12
_WINDOWS_A_LAG = 8
"""Windows of the baseline for each lag over which dependence is looked for: labels are few, and a
variance with few degrees of freedom would hide any rise."""


_CLEAR = 5.0
"""Standard errors by which labels must stand out of the noise to have begun, or to be missing:
so many that no search over a year of hourly windows finds some where there are none."""


@dataclass(frozen=True, slots=True)
class LabelledWindow:
    """Noised counts of right and wrong answers among a window's labelled rows.

    Attributes:
        sigma2: noise variance of each of the two counts.
        watermark_windows: further windows that had closed when labels were counted.
    """

    window: int
    right: int
    wrong: int
    sigma2: float
    watermark_windows: int = 0


@dataclass(frozen=True, slots=True)
class ErrorRise:
    """A rise of the error rate.

    Attributes:
        opened_window: window whose labels raised it.
        first_window: where the rise most likely began.
        length: latest windows whose sum raised it.
        before, after: error rates; NaN where there was no label.
        z: of the rise, in standard errors.
    """

    opened_window: int
    first_window: int
    length: int
    before: float
    after: float
    z: float


@dataclass(frozen=True, slots=True)
class ErrorStanding:
    """What labelled errors say of a gateway's release.

    Attributes:
        state: of concept drift; unknown until the baseline of labelled errors is complete, and
            while the latest windows hold less than half of the labels that it had.
        notes: what could not be judged, and from where the baseline is, in words.
    """

    state: Literal["stable", "drift", "unknown"]
    notes: tuple[str, ...]


def error_standing(series: Sequence[LabelledWindow], settings: DriftSettings) -> ErrorStanding:
    """What the pairs of one release say by now, and what they cannot say yet.

    Args:
        series: as for `error_rise`.
    """
    own = begun(series)
    if not own:
        return ErrorStanding("unknown", ("no labels have begun: concept drift is not judged",))
    notes: tuple[str, ...] = ()
    if own[0].window > min(one.window for one in series):
        notes = (
            f"labels began at window {own[0].window}; baseline of labelled errors is from there",
        )
    lacking = settings.baseline_windows + 1 - len(own)
    if lacking > 0:
        wanted = f"concept drift is not judged yet: {lacking} more labelled windows needed"
        return ErrorStanding("unknown", (*notes, wanted))
    if error_rise(series, settings) is not None:
        return ErrorStanding("drift", notes)
    labels, _ = _totals(own)
    usual, latest = labels[: settings.baseline_windows].mean(), labels[-max(settings.lengths) :]
    if 2 * latest.mean() < usual:
        few = f"only about {max(latest.sum(), 0.0):.0f} labels in the latest windows"
        return ErrorStanding("unknown", (*notes, few))
    return ErrorStanding("stable", notes)


def begun(series: Sequence[LabelledWindow]) -> list[LabelledWindow]:
    """The windows in order, each once, from the one where labels began; none before they show.

    They began with the first window unless what came before it lacks clearly what came then. A
    beginning, once it shows, does not move with later windows.
    """
    ordered = [one for _, one in sorted({one.window: one for one in series}.items())]
    labels, variance = _totals(ordered)
    sums, spread = (np.concatenate([[0.0], np.cumsum(part)]) for part in (labels, variance))
    shown, length = len(ordered), 1
    while length <= len(ordered):
        clear = (sums[length:] - sums[:-length]) ** 2 > _CLEAR**2 * (
            spread[length:] - spread[:-length]
        )
        clear &= sums[length:] > sums[:-length]
        if clear.any():
            shown = min(shown, int(clear.argmax()) + length - 1)
        length *= 2
    if shown == len(ordered):
        return []
    end = shown + 1
    start = int(np.argmax((sums[end] - sums[:end]) / np.sqrt(spread[end] - spread[:end])))
    wanted = start * (sums[end] - sums[start]) / (end - start)
    late = wanted - sums[start] > _CLEAR * np.sqrt(spread[start] + wanted)
    return ordered[start:] if late else ordered


def _totals(series: Sequence[LabelledWindow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels of each window, and their noise variance: at least that of one label, where none."""
    labels = np.array([one.right + one.wrong for one in series], dtype=np.float64)
    noise = np.array([2 * one.sigma2 for one in series], dtype=np.float64)
    return labels, np.maximum(noise, 1.0)


def error_rise(series: Sequence[LabelledWindow], settings: DriftSettings) -> ErrorRise | None:
    """The first rise of the error rate over a gateway's own baseline; None if there is none.

    The baseline are the first `baseline_windows` windows since labels began; before, nothing is
    said.

    Args:
        series: windows of one release, in any order; a window twice counts once.
    """
    ordered = begun(series)
    size = settings.baseline_windows
    if len(ordered) <= size:
        return None
    right, wrong, noise = (
        np.array([getattr(one, name) for one in ordered], dtype=np.float64)
        for name in ("right", "wrong", "sigma2")
    )
    labels = right + wrong
    if labels[:size].sum() <= 0:
        return None
    rate = float(np.clip(wrong[:size].sum() / labels[:size].sum(), 0.0, 1.0))
    # wrong - rate (right + wrong) has mean zero whatever the number of labels.
    excess = wrong * (1 - rate) - right * rate
    row = max(rate * (1 - rate), 0.01)
    variance = noise * ((1 - rate) ** 2 + rate**2) + np.maximum(labels, 0.0) * row
    inflation, degrees = _inflation(excess[:size] / np.sqrt(variance[:size]))
    limit = _limit(settings, degrees)
    share = labels / max(float(labels[:size].sum()), 1.0)
    for end in range(size, len(ordered)):
        for length in settings.lengths:
            part = slice(end + 1 - length, end + 1)
            if end + 1 - length < size or labels[part].sum() <= 0:
                continue
            spread = variance[part].sum() + share[part].sum() ** 2 * variance[:size].sum()
            z = float(excess[part].sum() / np.sqrt(inflation * spread))
            after = float(wrong[part].sum() / labels[part].sum())
            if z > limit and after - rate >= MIN_RISE:
                first = _onset(excess[size : end + 1], variance[size : end + 1])
                since = ordered[size + first].window
                return ErrorRise(ordered[end].window, since, length, rate, after, z)
    return None


def error_change(series: Sequence[LabelledWindow], since: int) -> tuple[float, float] | None:
    """Change of the error rate and its standard error; None where either side has no label.

    Args:
        since: windows from this one on are the time after, those before it since labels began the
            time before.
    """
    labelled = begun(series)
    rates, variance = [], 0.0
    for later in (False, True):
        part = [one for one in labelled if (one.window >= since) == later]
        labels = sum(one.right + one.wrong for one in part)
        if labels <= 0:
            return None
        rate = min(1.0, max(0.0, sum(one.wrong for one in part) / labels))
        noise = sum(one.sigma2 for one in part) * ((1 - rate) ** 2 + rate**2)
        variance += (noise + labels * max(rate * (1 - rate), 0.01)) / labels**2
        rates.append(rate)
    return rates[1] - rates[0], float(np.sqrt(variance))


def _onset(excess: NDArray[np.float64], variance: NDArray[np.float64]) -> int:
    """Start of the run of latest windows whose summed evidence is largest."""
    sums, spread = np.cumsum(excess[::-1])[::-1], np.cumsum(variance[::-1])[::-1]
    return int(np.argmax(sums / np.sqrt(spread)))


def _inflation(residuals: NDArray[np.float64]) -> tuple[float, float]:
    """Long-run variance of a series of mean about zero, at least 1, and its degrees of freedom."""
    windows = len(residuals)
    lags = np.abs(np.subtract.outer(np.arange(windows), np.arange(windows)))
    kernel = np.maximum(0.0, 1 - lags / (min(_MAX_LAGS, windows // _WINDOWS_A_LAG) + 1))
    centre = np.eye(windows) - 1 / windows
    form = centre @ kernel @ centre
    trace = float(np.trace(form))
    degrees = trace**2 / float((form * form).sum())
    return max(1.0, float(residuals @ form @ residuals) / trace), degrees


def _limit(settings: DriftSettings, degrees: float) -> float:
    """One-sided t limit by which all error series of the fleet spend their part of the budget."""
    from scipy.stats import t  # heavy

    tests = settings.windows_per_month * settings.max_fleet * len(settings.lengths)
    return float(t.isf(min(0.5, BUDGET * settings.false_alarms_per_month / tests), degrees))
