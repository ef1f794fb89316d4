"""The fleet judged from stored reports: verdicts, episodes, cohort.

`assess` is pure and replayable: it reads released statistics and stored facts,
holds no state, and gives the same answer for the same facts. Asking for reports,
storing assessments and starting runs belong to the monitor flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from fedge.config import DriftSettings
from fedge.drift.episodes import (
    CohortMember,
    Episode,
    RunFact,
    episodes_of,
    freeze_cohort,
)
from fedge.drift.watch import GatewayWatch, ReleaseWatch, watch_gateway
from fedge.records import Count, Fingerprint, Record, Reference, WindowReport


class Verdict(Record):
    """How a gateway stands on the release it serves now.

    `stable` says: no alarm against its own baseline. It is `unknown` until that baseline is
    complete, while no window came after it, and while the latest windows hold too few records.

    Attributes:
        reason: why, in words.
        windows, missing_windows: reports that are there, and numbers skipped among them.
        certifiable_false_alarms_per_month: over the fleet, the rate that this baseline can vouch
            for although the site may wander slowly; None while there is no baseline. Larger than
            the setting: the baseline is too short to certify what was asked.
    """

    gateway: Fingerprint
    release: int = Field(ge=0)
    state: Literal["stable", "drift", "unknown"]
    reason: str
    windows: Count
    missing_windows: Count
    baseline_windows: Count
    certifiable_false_alarms_per_month: float | None = None


class HeatMap(Record):
    """Largest |z| of each stream in each window of one gateway on one release, for plots.

    Attributes:
        z: one row per window, one value per stream; None where nothing could be tested. Windows
            up to the end of the baseline are shown against the baseline that they belong to.
    """

    gateway: Fingerprint
    release: int
    streams: tuple[str, ...]
    windows: tuple[int, ...]
    z: tuple[tuple[float | None, ...], ...]


class FleetAssessment(Record):
    """What the stored facts say about the fleet.

    Attributes:
        cohort: gateways to retrain now and their windows, None while nobody is to be retrained.
            All of them drifted on release `cohort_release`.
        cohort_episodes: their episodes' ids.
    """

    episodes: tuple[Episode, ...]
    verdicts: tuple[Verdict, ...]
    cohort: tuple[CohortMember, ...] | None
    cohort_release: int | None
    cohort_episodes: tuple[str, ...]
    heat: tuple[HeatMap, ...] = Field(repr=False)


def assess(
    reports: Mapping[str, Sequence[WindowReport]],
    references: Mapping[str, Reference],
    settings: DriftSettings,
    runs: Sequence[RunFact],
) -> FleetAssessment:
    """Judge every gateway of a fleet.

    Args:
        reports: gateway fingerprint -> its stored reports, in any order.
        references: sha256 of a `reference.json` -> the reference.
        runs: every run ever created, in any order.
    """
    watches = {
        gateway: watch_gateway(gateway, own, references, settings)
        for gateway, own in sorted(reports.items())
    }
    by_gateway = {gateway: episodes_of(watch, runs) for gateway, watch in watches.items()}
    episodes = tuple(
        sorted(
            (episode for own in by_gateway.values() for episode in own),
            key=lambda episode: (episode.opened_at, episode.id),
        )
    )
    cohort = freeze_cohort(episodes, watches, settings, runs)
    members = _members(episodes, cohort)
    return FleetAssessment(
        episodes=episodes,
        verdicts=tuple(_verdict(watch, by_gateway[g], settings) for g, watch in watches.items()),
        cohort=cohort,
        cohort_release=members[0].release if members else None,
        cohort_episodes=tuple(sorted(episode.id for episode in members)),
        heat=tuple(_heat_map(g, w) for g, gw in watches.items() for w in gw.releases.values()),
    )


def _members(episodes: Sequence[Episode], cohort: tuple[CohortMember, ...] | None) -> list[Episode]:
    gateways = {member.gateway for member in cohort or ()}
    return [e for e in episodes if e.gateway in gateways and e.state == "open"]


def _verdict(watch: GatewayWatch, episodes: Sequence[Episode], settings: DriftSettings) -> Verdict:
    current = watch.current
    state, reason = _judge(current, episodes, settings)
    return Verdict(
        gateway=watch.gateway,
        release=current.release if current is not None else 0,
        state=state,
        reason=reason,
        windows=watch.windows,
        missing_windows=watch.missing_windows,
        baseline_windows=current.baseline_windows if current is not None else 0,
        certifiable_false_alarms_per_month=current.certifiable if current is not None else None,
    )


def _judge(
    current: ReleaseWatch | None, episodes: Sequence[Episode], settings: DriftSettings
) -> tuple[Literal["stable", "drift", "unknown"], str]:
    if current is None:
        return "unknown", "no report has arrived"
    for episode in episodes:
        if episode.release == current.release:
            moved = ", ".join(episode.streams)
            return "drift", f"since window {episode.first_window}: {moved}"
    if current.problem:
        return "unknown", current.problem
    if not current.tested:
        return "unknown", "no window after the baseline yet"
    if 2 * current.recent_rows < current.window_rows:
        return "unknown", f"only {current.recent_rows:.0f} records in the latest windows"
    return "stable", f"{current.tested} windows tested against {current.baseline_windows}"


def _heat_map(gateway: str, watch: ReleaseWatch) -> HeatMap:
    return HeatMap(
        gateway=gateway,
        release=watch.release,
        streams=watch.streams,
        windows=tuple(report.window for report in watch.reports),
        z=tuple(
            tuple(None if np.isnan(value) else round(float(value), 3) for value in row)
            for row in watch.heat
        ),
    )
