"""Episodes of drift and how they end: derived from stored facts, never stored as truth.

An episode belongs to one gateway and one release: it opens with the first alarm
on that release's windows, and can only end with another release, because until
then the same model meets the same data. Which window alarmed is `watch`'s
finding; this module adds what became of it and who is retrained together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from fedge.config import DriftSettings
from fedge.drift.watch import Finding, GatewayWatch
from fedge.records import Count, Fingerprint, Record, RunId

EpisodeState = Literal["open", "retraining", "released", "re-baselining", "closed"]


class RunFact(Record):
    """What is stored about a retraining run.

    Attributes:
        episodes: ids of the episodes it was created for.
        state: `running` from its creation on; `failed` also where a gate refused its candidate.
        release: counter of the release it led to, once published.
    """

    run_id: RunId
    created_at: float = Field(ge=0)
    episodes: tuple[str, ...]
    state: Literal["running", "failed", "published"]
    release: int | None = Field(default=None, ge=1)


class Episode(Record):
    """One drift of one gateway on one release.

    Attributes:
        id: `<gateway>-<release>-<opened_window>`.
        opened_window: last window of the reports that opened it.
        opened_at: when that window closed.
        first_window: first drifted window, as localised when it opened.
        streams: what moved, strongest first.
        findings: the evidence, strongest first.
        run_id: the latest run created for it.
    """

    id: str
    gateway: Fingerprint
    release: int = Field(ge=1)
    opened_window: Count
    opened_at: float = Field(ge=0)
    first_window: Count
    streams: tuple[str, ...]
    findings: tuple[Finding, ...]
    state: EpisodeState
    run_id: RunId | None = None


class CohortMember(NamedTuple):
    """One gateway of a frozen cohort and the closed windows to train on."""

    gateway: str
    first_window: int
    last_window: int


def episodes_of(watch: GatewayWatch, runs: Sequence[RunFact]) -> tuple[Episode, ...]:
    """Every episode of one gateway, in order of opening."""
    return tuple(
        Episode(
            id=f"{watch.gateway}-{release}-{alarm.opened_window}",
            gateway=watch.gateway,
            release=release,
            opened_window=alarm.opened_window,
            opened_at=alarm.opened_at,
            first_window=alarm.first_window,
            streams=tuple(dict.fromkeys(finding.stream for finding in alarm.findings)),
            findings=alarm.findings,
            state=_state(watch, release, alarm.opened_window, run),
            run_id=run.run_id if run is not None else None,
        )
        for release, alarm in sorted(watch.alarms().items(), key=lambda item: item[1].opened_window)
        for run in [_latest_run(watch.gateway, release, runs)]
    )


def _latest_run(gateway: str, release: int, runs: Sequence[RunFact]) -> RunFact | None:
    """By gateway and release, not by window: a report that arrives late may move the window."""
    named = [
        run
        for run in runs
        if any(episode.startswith(f"{gateway}-{release}-") for episode in run.episodes)
    ]
    return max(named, key=lambda run: (run.created_at, run.run_id), default=None)


def _state(
    watch: GatewayWatch, release: int, opened_window: int, run: RunFact | None
) -> EpisodeState:
    successors = [w for w in watch.releases.values() if w.last_window > opened_window]
    successors = [w for w in successors if w.release != release]
    if any(successor.baseline is not None for successor in successors):
        return "closed"
    if successors and watch.current is not None and watch.current.release != release:
        return "re-baselining"
    if run is None or run.state == "failed":
        return "open"
    return "retraining" if run.state == "running" else "released"


def freeze_cohort(
    episodes: Sequence[Episode],
    watches: Mapping[str, GatewayWatch],
    settings: DriftSettings,
    runs: Sequence[RunFact],
) -> tuple[CohortMember, ...] | None:
    """Who is retrained together, once the gathering time is over; None before.

    Gathering starts with the first alarm that no run was created for and ends when any gateway
    has closed `gather_windows` windows after it. Whoever alarmed until then on the same release is
    in; more reports change nothing any more. A later one waits for the next run, and nobody starts
    while a run is on its way. An episode whose run failed joins the next cohort, but starts none.
    """
    if any(run.state == "running" for run in runs):
        return None
    waiting = [episode for episode in episodes if episode.state == "open"]
    fresh = [episode for episode in waiting if episode.run_id is None]
    if not fresh:
        return None
    first = min(fresh, key=lambda episode: (episode.opened_at, episode.id))
    ends = [_nth_close(w, first.opened_at, settings.gather_windows) for w in watches.values()]
    moment = min((end for end in ends if end is not None), default=None)
    if moment is None:
        return None
    return tuple(
        CohortMember(
            episode.gateway,
            episode.first_window,
            watches[episode.gateway].releases[episode.release].last_closed_by(moment),
        )
        for episode in sorted(waiting, key=lambda episode: episode.gateway)
        if episode.release == first.release and episode.opened_at <= moment
    )


def _nth_close(watch: GatewayWatch, after: float, count: int) -> float | None:
    """When a gateway closed its `count`-th window after a moment."""
    closed = sorted(watch.closed_at)
    index = bisect_right(closed, after) + count - 1
    return closed[index] if index < len(closed) else None
