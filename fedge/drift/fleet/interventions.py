"""What was done about drift besides retraining: stored facts from which verdicts are derived.

An intervention is written once for an episode and never changed. Each of them cuts
the gateway's windows into segments: what comes after is compared with a baseline of
its own. Storing and carrying out belong to the flows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from fedge.records import Count, Fingerprint, Name, Record, WindowReport

InterventionKind = Literal["recalibrate", "check-sensor", "quarantine", "lift"]

MAX_REASON = 1000

POLICY = "policy"
"""Who decided, where no person did."""


class Intervention(Record):
    """One thing done, once for an episode.

    Attributes:
        episode: id of the episode.
        action: `check-sensor` and `quarantine` hold the gateway: it joins no run and no comparison
            of the fleet. `lift` ends that.
        window: last window of the gateway that belongs to what was before.
        at: when it was decided, by the centre's clock.
        by: `policy`, or the name of the person who reviewed it.
        reason: in words.
    """

    episode: str = Field(min_length=1, max_length=128)
    gateway: Fingerprint
    action: InterventionKind
    window: Count
    at: float = Field(ge=0)
    by: Name
    reason: str = Field(max_length=MAX_REASON)


@dataclass(frozen=True, slots=True)
class Piece:
    """Reports of one segment, and the intervention that ended it; None for the latest."""

    reports: tuple[WindowReport, ...]
    ended_by: Intervention | None


def hold_of(gateway: str, interventions: Iterable[Intervention]) -> Intervention | None:
    """The hold that nobody lifted yet; the gravest if there are several."""
    open_holds: dict[str, Intervention] = {}
    for one in in_order(gateway, interventions):
        if one.action == "lift":
            open_holds.clear()
        elif one.action != "recalibrate":
            open_holds[one.action] = one
    return open_holds.get("quarantine", open_holds.get("check-sensor"))


def in_order(gateway: str, interventions: Iterable[Intervention]) -> list[Intervention]:
    """A gateway's interventions in the order in which they were decided.

    By their windows, because the centre's clock may be set back: a hold and what comes after a
    lift lie beyond all windows before, and a lift lies nowhere before its hold.
    """
    own = [one for one in interventions if one.gateway == gateway]
    return sorted(
        own,
        key=lambda one: (one.window, one.action == "lift", one.at, one.action, one.episode),
    )


def segments(
    reports: Sequence[WindowReport], interventions: Sequence[Intervention]
) -> tuple[Piece, ...]:
    """Cut a gateway's reports where a new baseline begins.

    Windows between a quarantine and its end are in no segment: nobody vouches for them.

    Args:
        reports: in any order.
        interventions: the gateway's own, in order.
    """
    pieces: list[Piece] = []
    rest = sorted(reports, key=lambda report: report.window)
    quarantined: Intervention | None = None
    for one in interventions:
        if one.action == "quarantine" and quarantined is None:
            quarantined = one
        if one.action not in ("recalibrate", "lift"):
            continue
        last = quarantined.window if quarantined is not None else one.window
        pieces.append(Piece(tuple(r for r in rest if r.window <= last), one))
        rest = [report for report in rest if report.window > one.window]
        if quarantined is not None:
            # What was measured before the lift and arrives after it had waited on the gateway.
            rest = [report for report in rest if report.opened_at >= one.at]
        quarantined = None
    if quarantined is not None:
        rest = [report for report in rest if report.window <= quarantined.window]
    return (*pieces, Piece(tuple(rest), None))
