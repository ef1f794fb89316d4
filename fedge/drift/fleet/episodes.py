"""Episodes of drift and how they end: derived from stored facts, never stored as truth.

An episode belongs to one gateway and one release: it opens with the first alarm
on that release's windows, and ends with another release or with a new baseline that
an intervention began. Which window alarmed is `watch`'s finding, what it means
`diagnosis`'s; this module adds what became of it and who is retrained together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from fedge.config import DriftSettings
from fedge.drift.fleet.diagnosis import Diagnosis, Onset
from fedge.drift.fleet.history import History, Segment
from fedge.drift.fleet.policy import RETRAINING
from fedge.drift.fleet.watch import Alarm, Finding, GatewayWatch, ReleaseWatch
from fedge.drift.words import Action
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
        opened_at: when that window closed; of labelled errors, when its labels were counted.
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

    @property
    def onset(self) -> Onset:
        """What a diagnosis starts from."""
        return Onset(
            self.gateway, self.release, self.opened_window, self.first_window, self.streams
        )


class CohortMember(NamedTuple):
    """One gateway of a frozen cohort and the closed windows to train on."""

    gateway: str
    first_window: int
    last_window: int


class Cohort(NamedTuple):
    """Who is retrained together, by which action, and for which episodes."""

    action: Action
    release: int
    members: tuple[CohortMember, ...]
    episodes: tuple[str, ...]


Diagnose = Callable[[Onset, float], Diagnosis]
LabelAlarm = Callable[[Segment, int], Alarm | None]


def episodes_of(
    history: History, runs: Sequence[RunFact], label_alarm: LabelAlarm
) -> tuple[Episode, ...]:
    """Every episode of one gateway, in order of opening.

    Args:
        label_alarm: the alarm that labelled errors raise on a release of a segment. It opens an
            episode only where the inputs raised none.
    """
    return tuple(
        _episode(history, number, release, alarm, runs)
        for number, segment in enumerate(history.segments)
        for release, alarm in sorted(
            _alarms(segment, label_alarm).items(), key=lambda item: item[1].opened_window
        )
    )


def _alarms(segment: Segment, label_alarm: LabelAlarm) -> dict[int, Alarm]:
    found = segment.watch.alarms()
    for release in segment.watch.releases:
        by_labels = label_alarm(segment, release) if release not in found else None
        if by_labels is not None:
            found[release] = by_labels
    return found


def _episode(
    history: History, number: int, release: int, alarm: Alarm, runs: Sequence[RunFact]
) -> Episode:
    segment = history.segments[number]
    run = _latest_run(history.gateway, release, segment, runs)
    return Episode(
        id=f"{history.gateway}-{release}-{alarm.opened_window}",
        gateway=history.gateway,
        release=release,
        opened_window=alarm.opened_window,
        opened_at=alarm.opened_at,
        first_window=alarm.first_window,
        streams=tuple(dict.fromkeys(finding.stream for finding in alarm.findings)),
        findings=alarm.findings,
        state=_state(history, number, release, alarm.opened_window, run),
        run_id=run.run_id if run is not None else None,
    )


def _latest_run(
    gateway: str, release: int, segment: Segment, runs: Sequence[RunFact]
) -> RunFact | None:
    """By gateway, release and segment, not by window: a late report may move the window."""
    prefix = f"{gateway}-{release}-"
    named = [
        run
        for run in runs
        if any(
            episode.startswith(prefix) and _inside(episode.removeprefix(prefix), segment)
            for episode in run.episodes
        )
    ]
    return max(named, key=lambda run: (run.created_at, run.run_id), default=None)


def _inside(window: str, segment: Segment) -> bool:
    if not window.isdecimal() or not segment.windows:
        return False
    last = max(segment.windows) if segment.ended_by is not None else float("inf")
    return min(segment.windows) <= int(window) <= last


def _state(
    history: History, number: int, release: int, opened_window: int, run: RunFact | None
) -> EpisodeState:
    segment = history.segments[number]
    watch = segment.watch
    successors = _successors(watch, release, opened_window)
    if any(successor.baseline is not None for successor in successors):
        return "closed"
    if segment.ended_by is not None:
        return "closed" if history.rebaselined(number) else "re-baselining"
    if successors and watch.current is not None and watch.current.release != release:
        return "re-baselining"
    if run is None or run.state == "failed":
        return "open"
    return "retraining" if run.state == "running" else "released"


def _successors(watch: GatewayWatch, release: int, opened_window: int) -> list[ReleaseWatch]:
    return [
        later
        for later in watch.releases.values()
        if later.last_window > opened_window and later.release != release
    ]


def freeze_cohort(
    episodes: Sequence[Episode],
    histories: Mapping[str, History],
    settings: DriftSettings,
    runs: Sequence[RunFact],
    diagnose: Diagnose,
) -> Cohort | None:
    """Who is retrained together, once the gathering time is over; None before.

    Gathering starts with the first alarm that no run was created for and ends when any gateway
    has closed `gather_windows` windows after it. Whoever alarmed until then on the same release,
    and is to be retrained by what was known then, is in; more reports change nothing any more. A
    later one waits for the next run, and nobody starts while a run is on its way. An episode whose
    run failed joins the next cohort, but starts none. An episode that was to be watched is looked
    at again after each further gathering time.
    """
    if any(run.state == "running" for run in runs):
        return None
    waiting = [e for e in episodes if e.state == "open" and histories[e.gateway].hold is None]
    fresh = sorted(
        (episode for episode in waiting if episode.run_id is None),
        key=lambda episode: (episode.opened_at, episode.id),
    )
    for first in fresh:
        for moment in _moments(first, histories, settings.gather_windows):
            if diagnose(first.onset, moment).action in RETRAINING:
                return _frozen(first, moment, episodes, waiting, histories, diagnose)
    return None


def _moments(first: Episode, histories: Mapping[str, History], gather_windows: int) -> list[float]:
    """When gathering for an episode ended, and each further gathering time, as far as it came."""
    moments: list[float] = []
    while True:
        count = gather_windows * (len(moments) + 1)
        ends = [_nth_close(h.closed_at, first.opened_at, count) for h in histories.values()]
        moment = min((end for end in ends if end is not None), default=None)
        if moment is None:
            return moments
        moments.append(moment)


def _frozen(
    first: Episode,
    moment: float,
    episodes: Sequence[Episode],
    waiting: Sequence[Episode],
    histories: Mapping[str, History],
    diagnose: Diagnose,
) -> Cohort:
    """The cohort that an episode starts, by what was known at `moment`."""
    joined, still, everybody = [], set[str](), False
    for episode in waiting:
        if episode.release != first.release or episode.opened_at > moment:
            continue
        found = diagnose(episode.onset, moment)
        if found.action not in RETRAINING:
            continue
        joined.append(episode)
        if found.action == "retrain-fleet":
            everybody = True
            still |= set(found.still)
    members = [_member(episode, histories, moment) for episode in joined]
    if everybody:
        out = still | _alarmed(episodes, first.release, moment, histories)
        members += _unalarmed(first, moment, histories, out | {m.gateway for m in members})
    return Cohort(
        action="retrain-fleet" if everybody else "retrain-gateway",
        release=first.release,
        members=tuple(sorted(members)),
        episodes=tuple(sorted(episode.id for episode in joined)),
    )


def _member(episode: Episode, histories: Mapping[str, History], moment: float) -> CohortMember:
    watch = histories[episode.gateway].latest.watch.releases[episode.release]
    return CohortMember(episode.gateway, episode.first_window, watch.last_closed_by(moment))


def _alarmed(
    episodes: Sequence[Episode], release: int, moment: float, histories: Mapping[str, History]
) -> set[str]:
    """Gateways with an episode on the release that had opened by then, by whatever alarm."""
    return {
        e.gateway
        for e in episodes
        if e.release == release
        and e.opened_at <= moment
        and e.opened_window in histories[e.gateway].latest.windows
    }


def _unalarmed(
    first: Episode, moment: float, histories: Mapping[str, History], out: set[str]
) -> list[CohortMember]:
    """Gateways on the release that are not `out`: these had alarmed, or are shown to have stayed.

    They train on the windows since the onset of the episode that started the cohort.
    """
    onset = histories[first.gateway].latest.watch.releases[first.release]
    began = next(r.opened_at for r in onset.reports if r.window == first.first_window)
    found = []
    for gateway, history in sorted(histories.items()):
        current = history.current
        if gateway in out or history.hold is not None or current is None:
            continue
        if current.release != first.release:
            continue
        since = [
            r.window for r in current.reports if began <= r.opened_at and r.closed_at <= moment
        ]
        if since:
            found.append(CohortMember(gateway, min(since), max(since)))
    return found


def _nth_close(closed_at: Sequence[float], after: float, count: int) -> float | None:
    """When a gateway closed its `count`-th window after a moment."""
    closed = sorted(closed_at)
    index = bisect_right(closed, after) + count - 1
    return closed[index] if index < len(closed) else None
