"""From stored reports to verdicts, episodes and, when a cohort is frozen, one run.

Reads released statistics only, so it costs no privacy. Decides nothing that stored
facts do not already say: run again on the same facts it creates nothing new.
Training, building and publishing belong to the flows that its events start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedge.config import DriftSettings
from fedge.drift.fleet.episodes import RunFact
from fedge.drift.fleet.interventions import Intervention
from fedge.drift.fleet.labelled import LabelledWindow
from fedge.drift.fleet.monitor import FleetAssessment, StoredFacts
from fedge.errors import RecordError, SettingError
from fedge.records import (
    LabelReport,
    Participant,
    Reference,
    RunSpec,
    TrainingPlan,
    WindowReport,
    canonical,
    sha256_hex,
)
from fedge_flows.actions import announce, carry_out
from fedge_flows.alerts import Alert
from fedge_flows.ports import AlertChannel, Clock, Facts, Interventions, RunRow
from fedge_flows.progress import FAILED, PUBLISHED, REFUSED, Announcer

Assess = Callable[
    [
        Mapping[str, Sequence[WindowReport]],
        Mapping[str, Reference],
        DriftSettings,
        Sequence[RunFact],
        StoredFacts,
    ],
    FleetAssessment,
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitored:
    """What one look at the fleet did.

    Attributes:
        assessment: verdicts and episodes as derived from the stored facts.
        created: the run created by this look, if any.
        events: events sent, each with its run.
        interventions: what else was done, newly stored.
        alerts: alerts that every channel took.
    """

    assessment: FleetAssessment
    created: str | None
    events: tuple[tuple[str, str], ...]
    interventions: tuple[Intervention, ...] = ()
    alerts: tuple[Alert, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """How a run would train, and the hash of the recorded choice that decided it, if one did."""

    plan: TrainingPlan
    choice_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Actions:
    """What interventions need: where they are stored, who is told, and the time."""

    log: Interventions
    channels: Sequence[AlertChannel]
    clock: Clock


def monitor(
    *,
    facts: Facts,
    references: Mapping[str, Reference],
    settings: DriftSettings,
    plan: Callable[[int], Planned],
    release_sha256: Callable[[int], str],
    task: str,
    announcer: Announcer,
    actions: Actions,
    judge: Assess,
) -> Monitored:
    """Judge the fleet, create the run that a frozen cohort calls for, do and say what is due.

    Args:
        references: reference by the hash that reports name.
        plan: how a run on top of a release trains.
        release_sha256: manifest hash of a published release.
        judge: `fedge.drift.fleet.monitor.assess`.

    Raises:
        SettingError: no training plan fits the policy, or the recorded choice does not apply;
            the assessment is not lost by it, because it can be derived again.
    """
    runs = [run_fact(run) for run in facts.runs()]
    stored = StoredFacts(
        interventions=actions.log.all(),
        labels=labelled(facts.labels()),
        heard=facts.heard(),
        now=actions.clock(),
    )
    assessment = judge(facts.reports(), references, settings, runs, stored)
    spec = _run_spec(assessment, facts, plan, release_sha256, task)
    created = spec.run_id if spec is not None and facts.create_run(spec) else None
    sent = [(announcer.remind(run), run.spec.run_id) for run in facts.runs()]
    events = tuple((event, run_id) for event, run_id in sent if event is not None)
    done = carry_out(assessment.due, actions.log, actions.clock)
    # Last, because whoever is told may take his time.
    alerts = announce(actions.log, actions.channels)
    return Monitored(
        assessment=assessment, created=created, events=events, interventions=done, alerts=alerts
    )


def assessment_changes(before: bytes | None, now: FleetAssessment) -> bool:
    """Whether an assessment decides anything else than the stored one: episodes, verdicts, cohort.

    A stored one that cannot be read (of an earlier version) counts as different.
    """
    try:
        return before is None or _decisions(FleetAssessment.from_bytes(before)) != _decisions(now)
    except RecordError:
        return True


def _decisions(assessment: FleetAssessment) -> object:
    episodes = [(episode.id, episode.state) for episode in assessment.episodes]
    verdicts = [
        (v.gateway, v.state, v.cause, v.scope, v.severity, v.action, v.held)
        for v in assessment.verdicts
    ]
    return episodes, verdicts, assessment.cohort


def labelled(
    reports: Mapping[str, Sequence[LabelReport]],
) -> dict[str, tuple[LabelledWindow, ...]]:
    """Stored label reports as the drift rules see them, by gateway."""
    return {
        gateway: tuple(
            LabelledWindow(
                one.window, one.right, one.wrong, float(one.sigma2), one.watermark_windows
            )
            for one in own
        )
        for gateway, own in reports.items()
    }


def run_fact(run: RunRow) -> RunFact:
    """A stored run as the drift rules see it: every unfinished state is `running`."""
    finished = {PUBLISHED: "published", FAILED: "failed", REFUSED: "failed"}
    return RunFact(
        run_id=run.spec.run_id,
        created_at=run.created_at,
        episodes=run.spec.episodes,
        state=finished.get(run.state, "running"),  # type: ignore[arg-type]
        release=run.release,
    )


def run_id_of(episodes: Sequence[str]) -> str:
    """The one run id for a set of episodes: whoever asks again asks for the same run."""
    return f"run-{sha256_hex(canonical(sorted(episodes)))[:16]}"


def _run_spec(
    assessment: FleetAssessment,
    facts: Facts,
    plan: Callable[[int], Planned],
    release_sha256: Callable[[int], str],
    task: str,
) -> RunSpec | None:
    """The run for the frozen cohort; None if none is frozen."""
    release = assessment.cohort_release
    if not assessment.cohort or release is None:
        return None
    keys = {gateway.fingerprint: gateway.public_key for gateway in facts.gateways()}
    planned = plan(release)
    return RunSpec(
        run_id=run_id_of(assessment.cohort_episodes),
        task=task,
        base_release=release,
        base_sha256=release_sha256(release),
        plan=planned.plan,
        participants=tuple(
            Participant(
                gateway=member.gateway,
                public_key=keys[member.gateway],
                first_window=member.first_window,
                last_window=member.last_window,
            )
            for member in assessment.cohort
        ),
        episodes=assessment.cohort_episodes,
        choice_sha256=planned.choice_sha256,
    )


def read_references(files: Sequence[bytes]) -> dict[str, Reference]:
    """References by the hash of their bytes.

    Raises:
        SettingError: one of the files is no reference.
    """
    try:
        return {sha256_hex(data): Reference.from_bytes(data) for data in files}
    except RecordError as error:
        raise SettingError(f"a stored reference cannot be read: {error}") from error
