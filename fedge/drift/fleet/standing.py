"""A gateway's verdict as far as it needs no episode: stable, or unknown and why."""

from __future__ import annotations

from typing import Literal

from fedge.config import DriftSettings
from fedge.drift.fleet.history import History
from fedge.drift.fleet.labelled import ErrorStanding
from fedge.drift.fleet.silence import silent_after
from fedge.drift.fleet.verdict import Verdict
from fedge.drift.fleet.watch import ReleaseWatch

_BEGUN_BY = {"lift": "lifted", "recalibrate": "recalibrated"}


def standing(
    history: History, labels: ErrorStanding | None, heard: float | None, settings: DriftSettings
) -> Verdict:
    """The verdict where no episode is open.

    Args:
        labels: what its labelled errors can say; None where nobody labels.
        heard: when the centre got its latest report; None takes the latest window's closing.
    """
    current = history.current
    state, reason = _without_drift(history)
    last = max(history.closed_at, default=None)
    return Verdict(
        gateway=history.gateway,
        release=current.release if current is not None else 0,
        state=state,
        reason=reason,
        windows=history.windows,
        missing_windows=history.missing_windows,
        baseline_windows=current.baseline_windows if current is not None else 0,
        needed_windows=current.needed if current is not None else settings.baseline_windows,
        certifiable_false_alarms_per_month=current.certifiable if current is not None else None,
        severity="none" if state == "stable" else "unknown",
        notes=(*_skipped(current), *(labels.notes if labels is not None else ())),
        concept=labels.state if labels is not None else "unknown",
        held=held(history),
        last_report_at=heard if heard is not None else last,
        silent_after_s=silent_after(history.closed_at, settings),
    )


def held(history: History) -> Literal["check-sensor", "quarantine"] | None:
    """What keeps a gateway out of runs and comparisons."""
    if history.hold is None:
        return None
    return "quarantine" if history.hold.action == "quarantine" else "check-sensor"


def _without_drift(history: History) -> tuple[Literal["stable", "unknown"], str]:
    current = history.current
    if current is None:
        return "unknown", _no_window(history)
    if current.problem:
        return "unknown", current.problem
    if not current.tested:
        return "unknown", "no window after the baseline yet"
    if 2 * current.recent_rows < current.window_rows:
        return "unknown", f"only {current.recent_rows:.0f} records in the latest windows"
    return "stable", f"{current.tested} windows tested against {current.baseline_windows}"


def _no_window(history: History) -> str:
    """Why there is nothing to judge: no report at all, or none since a new baseline was begun."""
    ended = [segment.ended_by for segment in history.segments if segment.ended_by is not None]
    if not ended:
        return "no report has arrived"
    return f"{_BEGUN_BY[ended[-1].action]}; waits for the next window"


def _skipped(current: ReleaseWatch | None) -> tuple[str, ...]:
    """What could not be judged, in words."""
    if current is None:
        return ()
    skipped = [f"{len(one.windows)} windows: {one.reason}" for one in current.skipped]
    short = [
        f"sums over {length} windows are not tested for shape: the baseline lacks {lacking} windows"
        for length, lacking in current.untested_shape
    ]
    return (*skipped, *short)
