"""The fleet judged from stored facts: verdicts, episodes, cohort, and what is due.

`assess` is pure and replayable: it reads released statistics and stored facts,
holds no state, and gives the same answer for the same facts. Asking for reports,
storing assessments, starting runs and carrying out actions belong to the flows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from fedge.config import DriftSettings
from fedge.drift.fleet.diagnosis import Diagnosis, Diagnostician
from fedge.drift.fleet.episodes import (
    CohortMember,
    Episode,
    RunFact,
    episodes_of,
    freeze_cohort,
)
from fedge.drift.fleet.heat import HeatMap, heat_map
from fedge.drift.fleet.history import History, Segment, history_of
from fedge.drift.fleet.interventions import MAX_REASON, Intervention, InterventionKind
from fedge.drift.fleet.labelled import LabelledWindow
from fedge.drift.fleet.policy import INTERVENTIONS
from fedge.drift.fleet.silence import aged
from fedge.drift.fleet.standing import held, standing
from fedge.drift.fleet.verdict import Evidence, Verdict
from fedge.drift.fleet.watch import Alarm, Finding
from fedge.drift.words import Action
from fedge.records import Count, Fingerprint, Record, Reference, WindowReport

__all__ = ["Due", "Evidence", "FleetAssessment", "HeatMap", "StoredFacts", "Verdict", "assess"]

LABELS = "labels"
"""The stream that a finding of risen labelled errors names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFacts:
    """Facts besides reports and runs.

    Attributes:
        interventions: in any order.
        labels: noised counts of right and wrong answers by gateway, each at its watermark.
        heard: when each gateway's latest report arrived, by the centre's clock.
        now: the moment for which the fleet is judged, by that clock; None leaves ages out.
    """

    interventions: Sequence[Intervention] = ()
    labels: Mapping[str, Sequence[LabelledWindow]] = field(default_factory=dict)
    heard: Mapping[str, float] = field(default_factory=dict)
    now: float | None = None


class Due(Record):
    """An intervention that the policy asks for and that is not stored yet.

    Attributes:
        window: last window that belongs to what was before it.
        reason: the verdict's sentence.
    """

    episode: str
    gateway: Fingerprint
    action: InterventionKind
    window: Count
    reason: str


class FleetAssessment(Record):
    """What the stored facts say about the fleet.

    Fields with a default were added later: assessments without them are still read.

    Attributes:
        cohort: gateways to retrain now and their windows, None while nobody is to be retrained.
            All of them are on release `cohort_release`.
        cohort_episodes: the ids of the episodes that they are retrained for.
        cohort_action: `retrain-gateway`, or `retrain-fleet` where gateways without an alarm of
            their own are in it, too.
        due: interventions to store now.
        at: the moment for which the fleet was judged; None where none was named.
    """

    episodes: tuple[Episode, ...]
    verdicts: tuple[Verdict, ...]
    cohort: tuple[CohortMember, ...] | None
    cohort_release: int | None
    cohort_episodes: tuple[str, ...]
    cohort_action: Action | None = None
    due: tuple[Due, ...] = ()
    heat: tuple[HeatMap, ...] = Field(repr=False)
    at: float | None = None


def assess(
    reports: Mapping[str, Sequence[WindowReport]],
    references: Mapping[str, Reference],
    settings: DriftSettings,
    runs: Sequence[RunFact],
    stored: StoredFacts | None = None,
) -> FleetAssessment:
    """Judge every gateway of a fleet.

    Args:
        reports: gateway fingerprint -> its stored reports, in any order.
        references: sha256 of a `reference.json` -> the reference.
        runs: every run ever created, in any order.
        stored: everything else; nothing by default.
    """
    facts = stored if stored is not None else StoredFacts()
    histories = {
        gateway: history_of(gateway, own, references, settings, facts.interventions)
        for gateway, own in sorted(reports.items())
    }
    doctor = Diagnostician(histories, references, settings, facts.labels)
    by_gateway = {
        gateway: episodes_of(history, runs, _LabelAlarms(doctor, gateway))
        for gateway, history in histories.items()
    }
    episodes = tuple(
        sorted(
            (episode for own in by_gateway.values() for episode in own),
            key=lambda episode: (episode.opened_at, episode.id),
        )
    )
    judged = [_judge(h, by_gateway[g], doctor, facts.heard.get(g)) for g, h in histories.items()]
    cohort = freeze_cohort(episodes, histories, settings, runs, doctor.diagnose)
    return FleetAssessment(
        episodes=episodes,
        verdicts=tuple(_at(verdict, facts.now) for verdict, _ in judged),
        cohort=cohort.members if cohort is not None else None,
        cohort_release=cohort.release if cohort is not None else None,
        cohort_episodes=cohort.episodes if cohort is not None else (),
        cohort_action=cohort.action if cohort is not None else None,
        due=_due(judged, histories, facts.interventions),
        heat=tuple(
            heat_map(gateway, watch)
            for gateway, history in histories.items()
            for segment in history.segments
            for watch in segment.watch.releases.values()
        ),
        at=facts.now,
    )


@dataclass(frozen=True, slots=True)
class _LabelAlarms:
    """The alarms that labelled errors of one gateway raise."""

    doctor: Diagnostician
    gateway: str

    def __call__(self, segment: Segment, release: int) -> Alarm | None:
        rise = self.doctor.rise(self.gateway, segment, release)
        if rise is None:
            return None
        # Only then could anybody know: gathering for a cohort begins with it. A pair may arrive
        # before the report of the window at whose close it was made.
        counted_at = self.doctor.counted_at(self.gateway, rise.opened_window)
        opened_at = min(counted_at, max(self.doctor.histories[self.gateway].closed_at))
        spread = max(rise.before * (1 - rise.before), 0.01) ** 0.5
        finding = Finding(
            stream=LABELS,
            statistic="errors",
            length=rise.length,
            z=rise.z,
            effect=(rise.after - rise.before) / spread,
        )
        return Alarm(rise.opened_window, opened_at, rise.first_window, (finding,))


Judged = tuple[Verdict, tuple[Episode, Diagnosis] | None]


def _at(verdict: Verdict, now: float | None) -> Verdict:
    return verdict if now is None else aged(verdict, now)


def _judge(
    history: History, episodes: Sequence[Episode], doctor: Diagnostician, heard: float | None
) -> Judged:
    """A gateway's verdict, and the episode and diagnosis that it rests on if it drifted."""
    current = history.current
    open_now = _on_now(history, episodes)
    labels = doctor.labels_of(history)
    verdict = standing(history, labels, heard, doctor.settings)
    if open_now is None or current is None:
        return verdict, None
    found = doctor.diagnose(open_now.onset)
    moved = ", ".join(open_now.streams)
    drifted = verdict.model_copy(
        update={
            "state": "drift",
            "reason": f"since window {open_now.first_window}: {moved}",
            "since_window": open_now.first_window,
            "findings": open_now.findings,
            "cause": found.cause.cause,
            "scope": found.scope.scope,
            "severity": found.severity,
            "action": _action(found, history),
            "evidence": found.evidence,
        }
    )
    return drifted, (open_now, found)


def _on_now(history: History, episodes: Sequence[Episode]) -> Episode | None:
    """The episode on the release and segment that the gateway is on now."""
    current = history.current
    if current is None:
        return None
    windows = history.latest.windows
    own = [e for e in episodes if e.release == current.release and e.opened_window in windows]
    return own[0] if own else None


def _action(found: Diagnosis, history: History) -> Action:
    """What the policy asks for; a hold outlasts what made it, until somebody lifts it."""
    if (hold := held(history)) is not None:
        return hold
    if found.action in INTERVENTIONS and not found.settled:
        return "watch"
    return found.action


def _due(
    judged: Sequence[Judged], histories: Mapping[str, History], stored: Sequence[Intervention]
) -> tuple[Due, ...]:
    """Interventions that no stored fact says are done, each once for an episode."""
    done = {(one.episode, one.action) for one in stored}
    due = []
    for verdict, drifted in judged:
        if drifted is None or verdict.held is not None or drifted[0].state != "open":
            continue
        episode, action = drifted[0], verdict.action
        if action == "recalibrate" or action == "check-sensor" or action == "quarantine":
            # A new baseline takes in everything since the alarm; a hold begins with what is next.
            begins_after = episode.opened_window
            if action != "recalibrate":
                begins_after = histories[episode.gateway].last_window
            if (episode.id, action) not in done:
                due.append(
                    Due(
                        episode=episode.id,
                        gateway=episode.gateway,
                        action=action,
                        window=begins_after,
                        reason=verdict.sentence[:MAX_REASON],
                    )
                )
    return tuple(due)
