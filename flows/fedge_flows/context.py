"""Opening what a flow process needs, by role, and its four steps over the real parts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedge.config import ServerSettings
from fedge.delivery.candidate import is_countersigned
from fedge.delivery.repository import ReleaseRepository
from fedge.errors import BudgetError, SettingError
from fedge.privacy.policy import read_policy
from fedge.records import RunResult, RunSpec, TrainingPlan
from fedge.tasks.schema import read_task
from fedge_flows import candidates
from fedge_flows.monitor import (
    Actions,
    Monitored,
    Planned,
    assessment_changes,
    monitor,
    read_references,
)
from fedge_flows.ports import AlertChannel, Bus, Environment, RunRow, process_environment
from fedge_flows.progress import (
    CREATED,
    PUBLISHED,
    SIGNED,
    TRAINED,
    TRAINING,
    Announcer,
    Claims,
)
from fedge_flows.publish import online_key, publish
from fedge_flows.recompile import recompile
from fedge_flows.releases import ReleaseShelf
from fedge_flows.retrain import Patience, retrain
from fedge_flows.roles import server_settings
from fedge_flows.staged_audit import audit_candidate, refuse_real_fleet
from fedge_flows.steps import Desk, advance
from fedge_flows.webhook import webhook_of
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.objects import ObjectStore
from fedge_server.superlink import run_status, stop_run, submit_run
from fedge_server.verdicts import LATEST

if TYPE_CHECKING:
    from fedge_flows.compliance import ComplianceRun

__all__ = ["LATEST", "FlowContext", "SuperLinkRounds", "bring_to_signatures", "open_context"]

log = logging.getLogger(__name__)

SUBMIT_SLACK_S = 120.0
"""What an attempt may take beyond its rounds: Flower's processes start slowly on a busy host."""


@contextlib.contextmanager
def open_context(
    role: str, bus: Bus, environment: Environment = process_environment
) -> Iterator[FlowContext]:
    """Database, object store and repository of the role's settings, closed afterwards."""
    settings = server_settings(environment, role)
    with Database(settings.database) as database:
        yield FlowContext(settings, Facts(database, time.time), bus)


def bring_to_signatures(
    settings: ServerSettings,
    shelf: ReleaseShelf,
    *,
    name: str,
    result: RunResult | None,
    build: Callable[[Path], None],
) -> Path:
    """`recompile` over the real gates, keys and repository of the builder's settings."""
    key = candidates.builder_key(settings.keys.builder)
    return recompile(
        name,
        objects_dir=settings.objects_dir,
        build=build,
        gate=candidates.gate(result, settings.training.min_gain_sigmas),
        stage=candidates.stager(settings, key, shelf, result),
        countersigned=lambda folder: is_countersigned(settings.releases_dir, folder),
        clock=time.monotonic,
        sleep=time.sleep,
    )


class SuperLinkRounds:
    """`fedge_flows.ports.Rounds` on the fleet's SuperLink."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings

    def submit(self, run_id: str) -> int:
        return submit_run(self._settings, run_id)

    def status(self, flower_run: int) -> str:
        return run_status(self._settings, flower_run)

    def stop(self, flower_run: int) -> None:
        stop_run(self._settings, flower_run)


class FlowContext:
    """The steps over one central host.

    Args:
        settings: of the role; each step asks it for the one key that it needs.
    """

    def __init__(self, settings: ServerSettings, facts: Facts, bus: Bus) -> None:
        self.settings, self.facts = settings, facts
        self.objects = ObjectStore(settings.objects_dir)
        self.shelf = ReleaseShelf(settings.releases_dir, settings.objects_dir, settings.family)
        flows_dir = settings.data_dir / "flows"
        self.claims = Claims(flows_dir / "claims")
        announcer = Announcer(bus, flows_dir / "sent", self.claims, time.time)
        self.desk = Desk(facts=facts, claims=self.claims, announcer=announcer)
        self._bus = bus

    def monitor(self) -> Monitored | None:
        """Judge the fleet, store the assessment, start what is due. None if another one does."""
        from fedge.drift.fleet.monitor import assess  # loads scipy, which no other flow needs

        with self.claims.claim("monitor") as mine:
            if not mine:
                return None
            looked = monitor(
                facts=self.facts,
                references=read_references(self.shelf.references()),
                settings=self.settings.drift,
                plan=self.planned,
                release_sha256=self.shelf.sha256,
                task=self.settings.task,
                announcer=self.desk.announcer,
                actions=self._actions(),
                judge=assess,
            )
            self._store(looked)
            return looked

    def retrain(self, run_id: str) -> str:
        """Run the rounds of a created run; answers its state afterwards."""
        return advance(
            self.desk, run_id, due=(CREATED, TRAINING), working=TRAINING, work=self._retrain
        )

    def due_for_training(self) -> tuple[str, ...]:
        """Runs that wait for their rounds, the oldest first."""
        due = (CREATED, TRAINING)
        return tuple(run.spec.run_id for run in self.facts.runs() if run.state in due)

    def compliance(self) -> ComplianceRun | None:
        """Export, verify and report on all ledgers. None if another process does.

        Raises:
            BundleError: the ledgers were rejected; the report says why.
        """
        # Loads the verifier, and what draws reports, which no other flow needs.
        from fedge_flows.compliance import make_compliance

        with self.claims.claim("compliance") as mine:
            if not mine:
                return None
            with Database(self.settings.database) as database:
                return make_compliance(self.settings, database, time.time())

    def renew(self) -> None:
        """Put new dates on what is published; nothing else changes."""
        ReleaseRepository(self.settings.releases_dir).renew(online_key(self.settings.keys))

    def recompile(self, run_id: str) -> str:
        """Bring the candidate of a trained run to two signatures; answers the run's state."""
        return advance(self.desk, run_id, due=(TRAINED,), work=self._recompile)

    def publish(self, run_id: str) -> str:
        """Publish the signed candidate of a run; answers the run's state."""
        online = online_key(self.settings.keys)

        def work(run: RunRow) -> str:
            folder = self.settings.objects_dir / "candidates" / run.spec.run_id
            done = publish(self.settings.releases_dir, folder, online)
            self.facts.record_release(run.spec.run_id, done.counter)
            return PUBLISHED

        return advance(self.desk, run_id, due=(SIGNED,), work=work)

    def _actions(self) -> Actions:
        webhook = webhook_of(self.settings.alerts, time.sleep)
        channels: list[AlertChannel] = [self._bus, *([webhook] if webhook is not None else [])]
        return Actions(log=self.facts.interventions, channels=channels, clock=time.time)

    def _retrain(self, run: RunRow) -> str:
        training = self.settings.training
        messages = run.spec.plan.rounds + 1
        retrain(
            run.spec,
            objects=self.objects,
            rounds=SuperLinkRounds(self.settings),
            patience=Patience(attempt_s=messages * training.round_timeout_s + SUBMIT_SLACK_S),
            clock=time.monotonic,
            sleep=time.sleep,
        )
        return TRAINED

    def _recompile(self, run: RunRow) -> str:
        spec, base = run.spec, self.shelf.folder(run.spec.base_release)
        audited = self.settings.compliance.one_run_audit
        if audited:
            self._refuse_real_fleet(spec)
        result = RunResult.from_bytes(self.objects.get(f"runs/{spec.run_id}/result.json"))
        vector = candidates.read_adapter(self.objects, result)
        choice = candidates.read_run_choice(self.objects, spec)
        candidate = bring_to_signatures(
            self.settings,
            self.shelf,
            name=spec.run_id,
            result=result,
            build=candidates.builder(
                read_task(base / "task.json").code,
                candidates.merged(base, result, vector),
                seed=0,
                choice=choice,
            ),
        )
        if audited:
            self._audit(candidate, spec, base)
        return SIGNED

    def _audit(self, candidate: Path, spec: RunSpec, base: Path) -> None:
        """Evidence decides about nothing: where none can be made, the release goes on without."""
        try:
            audit_candidate(candidate, spec, base=base, policy=self.settings.policy)
        except (BudgetError, SettingError) as error:
            log.error("run %s: no evidence about its training: %s", spec.run_id, error)

    def _refuse_real_fleet(self, spec: RunSpec) -> None:
        with Database(self.settings.database) as database:
            refuse_real_fleet(database, spec)

    def plan(self, release: int) -> TrainingPlan:
        """What a run on top of a published release would train and cost; see `planned`."""
        return self.planned(release).plan

    def planned(self, release: int) -> Planned:
        """How a run on top of a published release would train; keeps the choice that decided it.

        Raises:
            ChoiceError: the recorded choice does not apply, or is of another model.
            SettingError: the policy leaves nothing for training.
            StateError: the release was never published, or its candidate folder is gone.
        """
        from fedge.learning.chosen import chosen_training
        from fedge.learning.planning import plan_training

        policy, folder = read_policy(self.settings.policy), self.shelf.folder(release)
        chosen = chosen_training(self.settings.training, policy, self.settings.task)
        dimension = candidates.planned_dimension(folder, chosen.settings.adapter)
        plan = plan_training(policy, chosen.settings, dimension)
        if chosen.choice is None:
            return Planned(plan)
        return Planned(plan, candidates.keep_choice(self.objects, chosen.choice, plan))

    def _store(self, looked: Monitored) -> None:
        """Keep the latest assessment, and a copy of each that decides anything new."""
        data = looked.assessment.to_bytes()
        before = self.objects.get(LATEST) if self.objects.exists(LATEST) else None
        if assessment_changes(before, looked.assessment):
            self.objects.put(f"assessments/{time.time_ns()}.json", data)
        self.objects.replace(LATEST, data)
