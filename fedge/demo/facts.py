"""What a run's folder holds, and what can be derived from it: nothing here asks a process."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedge.config import ServerSettings
from fedge.demo.plan import PlayPlan
from fedge.drift.fleet.monitor import FleetAssessment, StoredFacts, assess
from fedge.errors import RunFailedError
from fedge.records import AdapterKind, Reference, WindowReport, sha256_hex
from fedge_flows.context import LATEST
from fedge_flows.monitor import labelled, run_fact
from fedge_server.database import Database
from fedge_server.facts import Facts, Run
from fedge_server.objects import ObjectStore

ENDED_BADLY = ("failed", "refused")
"""States in which a run leads to no release."""


class RunFolder:
    """The folder of one run and the names in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.evaluations = path / "evaluations.parquet"
        self.training = path / "training.parquet"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.logs = path / "logs"

    def write_plan(self, plan: PlayPlan, gateways: dict[str, str]) -> None:
        """Keep what is played, and which name belongs to which fingerprint."""
        content = {"plan": dataclasses.asdict(plan), "gateways": gateways}
        (self.path / "plan.json").write_text(json.dumps(content, indent=2))

    def plan(self) -> PlayPlan:
        values = self._content["plan"]
        return PlayPlan(**{**values, "onset_rows": tuple(values["onset_rows"])})

    @property
    def gateways(self) -> dict[str, str]:
        """Name -> fingerprint, in the order of the gateways' numbers."""
        return dict(self._content["gateways"])

    @cached_property
    def settings(self) -> ServerSettings:
        return ServerSettings.load(self.path / "server" / "server.toml")

    def candidate(self, name: str) -> Path:
        """Folder of the candidate `initial`, or of a run's."""
        return self.settings.objects_dir / "candidates" / name

    def state_dir(self, gateway: str) -> Path:
        return self.path / "gateways" / gateway / "state"

    @contextmanager
    def facts(self) -> Iterator[Facts]:
        """The centre's stored facts."""
        with Database(self.settings.database) as database:
            yield Facts(database, time.time)

    def latest_assessment(self) -> FleetAssessment | None:
        """What the monitor flow stored last; None before its first run."""
        objects = ObjectStore(self.settings.objects_dir)
        if not objects.exists(LATEST):
            return None
        return FleetAssessment.from_bytes(objects.get(LATEST))

    def assess(self) -> FleetAssessment:
        """Derive verdicts and episodes again from the stored reports and runs."""
        references = {}
        for path in sorted((self.settings.objects_dir / "candidates").glob("*/reference.json")):
            data = path.read_bytes()
            references[sha256_hex(data)] = Reference.from_bytes(data)
        with self.facts() as facts:
            return assess(
                facts.reports(),
                references,
                self.settings.drift,
                [run_fact(run) for run in facts.runs()],
                StoredFacts(
                    interventions=facts.interventions.all(), labels=labelled(facts.labels())
                ),
            )

    @cached_property
    def _content(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "plan.json").read_text()))


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortMember:
    """A gateway of the run and the slots whose records it trained on, by the public rule."""

    number: int
    name: str
    fingerprint: str
    slots: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortRun:
    """The published run, and the adapter that it trained."""

    run_id: str
    release: int
    adapter: AdapterKind
    members: tuple[CohortMember, ...]


def published_run(runs: Sequence[Run]) -> Run | None:
    """The first run that led to a release, if there is one."""
    return next((run for run in runs if run.release is not None), None)


def followed_run(runs: Sequence[Run]) -> Run | None:
    """The run that decides how a demo goes on; None before there is one.

    The first that led to a release: a gateway that alarmed late has a run of its own, which
    nobody waits for, and whose failure takes nothing back. Before any release, the first that
    ended badly, else the latest.

    Args:
        runs: the oldest first.
    """
    bad = next((run for run in runs if run.state in ENDED_BADLY), None)
    return published_run(runs) or bad or (runs[-1] if runs else None)


def cohort_run(plan: PlayPlan, folder: RunFolder) -> CohortRun:
    """Who trained on what, derived from the run's specification and the stored reports.

    Raises:
        RunFailedError: no run led to a release.
    """
    with folder.facts() as facts:
        run, reports = published_run(facts.runs()), facts.reports()
    if run is None or run.release is None:
        raise RunFailedError("no run of this demo led to a release")
    names = {fingerprint: name for name, fingerprint in folder.gateways.items()}
    members = []
    for participant in run.spec.participants:
        name = names[participant.gateway]
        windows = [
            report
            for report in reports[participant.gateway]
            if participant.first_window <= report.window <= participant.last_window
        ]
        members.append(
            CohortMember(
                number=list(names.values()).index(name),
                name=name,
                fingerprint=participant.gateway,
                slots=labelled_slots(windows, plan.label_every)[: run.spec.plan.divisor],
            )
        )
    return CohortRun(
        run_id=run.spec.run_id,
        release=run.release,
        adapter=run.spec.plan.adapter,
        members=tuple(members),
    )


def labelled_slots(windows: list[WindowReport], label_every: int) -> tuple[int, ...]:
    """The slots of these windows whose label was fed back, by the public rule."""
    return tuple(
        slot
        for report in sorted(windows, key=lambda report: report.window)
        for slot in range(report.first_slot, report.first_slot + report.slots)
        if slot % label_every == 0
    )
