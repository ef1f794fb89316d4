"""How old a verdict is, and when a gateway has said nothing for too long to have one.

Pure: ages are counted from stored facts to a moment that is named. A gateway that is
silent, or that nobody has judged since, is not stable; drift that was found stays found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedge.config import DriftSettings
from fedge.drift.fleet.verdict import Verdict

MONTH_S = 30 * 86400.0

_LATEST = 25
"""Closings from which a gateway's own pace is taken: about a day of hourly windows."""


def silent_after(closed_at: Sequence[float], settings: DriftSettings) -> float:
    """Seconds without a report after which a gateway counts as silent.

    That is `silent_windows` times what a window takes: what `windows_per_month` says, or the
    median of the gateway's latest ones where these took longer.

    Args:
        closed_at: when its windows closed, in any order.
    """
    expected = MONTH_S / settings.windows_per_month
    if len(closed_at) > 1:
        expected = max(expected, float(np.median(np.diff(np.sort(closed_at)[-_LATEST:]))))
    return settings.silent_windows * expected


def aged(
    verdict: Verdict, now: float, *, heard: float | None = None, judged_at: float | None = None
) -> Verdict:
    """A verdict as it stands at a later moment; asked again, the latest answer counts.

    Args:
        now: seconds since the epoch, by the centre's clock.
        heard: when a report of the gateway arrived last, where more is known than the verdict.
        judged_at: when the verdict was derived; None where it is new.
    """
    if verdict.last_report_at is None:
        return verdict
    last = verdict.last_report_at if heard is None else max(verdict.last_report_at, heard)
    age = max(0.0, now - last)
    older = verdict.model_copy(update={"last_report_at": last, "report_age_s": age})
    limit = verdict.silent_after_s
    if verdict.state == "drift" or limit is None:
        return older
    if age > limit:
        return _unknown(older, f"no report for {in_words(age)}")
    if judged_at is not None and now - judged_at > limit:
        return _unknown(older, f"not judged for {in_words(now - judged_at)}")
    return older


def in_words(seconds: float) -> str:
    """A duration in its largest unit, rounded down: `40 s`, `12 min`, `7 h`, `3 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def _unknown(verdict: Verdict, reason: str) -> Verdict:
    """What was said before goes into the notes, once."""
    before = f"{_BEFORE}{verdict.reason}"
    noted = any(note.startswith(_BEFORE) for note in verdict.notes)
    return verdict.model_copy(
        update={
            "state": "unknown",
            "reason": reason,
            "severity": "unknown",
            "concept": "unknown",
            "notes": verdict.notes if noted else (*verdict.notes, before),
        }
    )


_BEFORE = "before that: "
