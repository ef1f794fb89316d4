"""From a judged fleet to one stored run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from flow_fakes import PLAN, Clock, FakeGateway, FileFacts, MemoryBus, MemoryInterventions

from fedge.config import DriftSettings
from fedge.drift.fleet.episodes import CohortMember, RunFact
from fedge.drift.fleet.monitor import FleetAssessment, StoredFacts
from fedge.errors import SettingError
from fedge.records import Reference, WindowReport
from fedge_flows.monitor import (
    Actions,
    Monitored,
    Planned,
    monitor,
    read_references,
    run_fact,
    run_id_of,
)
from fedge_flows.progress import COHORT_FROZEN, STATES, Announcer, Claims

A, B = "a" * 32, "b" * 32
QUIET = FleetAssessment(
    episodes=(), verdicts=(), cohort=None, cohort_release=None, cohort_episodes=(), heat=()
)
FROZEN = QUIET.model_copy(
    update={
        "cohort": (CohortMember(A, 3, 9), CohortMember(B, 5, 9)),
        "cohort_release": 1,
        "cohort_episodes": (f"{A}-1-4", f"{B}-1-6"),
    }
)


class Centre:
    """File facts, a memory bus and drift rules that find what they are told to."""

    def __init__(self, folder: Path) -> None:
        self.found, self.seen = QUIET, list[RunFact]()
        self.facts = FileFacts(
            folder / "facts", [FakeGateway(A, "1" * 64), FakeGateway(B, "2" * 64)]
        )
        self.bus, self.clock, self.log = MemoryBus(), Clock(), MemoryInterventions()
        self.planned = Planned(PLAN)
        claims = Claims(folder / "claims")
        self.announcer = Announcer(self.bus, folder / "sent", claims, self.clock)

    def judge(
        self,
        reports: Mapping[str, Sequence[WindowReport]],
        references: Mapping[str, Reference],
        settings: DriftSettings,
        runs: Sequence[RunFact],
        stored: StoredFacts,
    ) -> FleetAssessment:
        self.seen = list(runs)
        return self.found

    def look(self) -> Monitored:
        return monitor(
            facts=self.facts,
            references={},
            settings=DriftSettings(),
            plan=lambda release: self.planned,
            release_sha256=lambda release: "e" * 64,
            task="digits",
            announcer=self.announcer,
            actions=Actions(log=self.log, channels=(self.bus,), clock=self.clock),
            judge=self.judge,
        )


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return Centre(tmp_path)


def test_quiet_fleet_starts_nothing(centre: Centre) -> None:
    """No frozen cohort: no run, no event."""
    looked = centre.look()

    assert (looked.created, looked.events) == (None, ())
    assert centre.facts.runs() == []


def test_frozen_cohort_becomes_one_run(centre: Centre) -> None:
    """The run names every member with its key and its windows, the base release and the plan."""
    centre.found = FROZEN
    looked = centre.look()
    (run,) = centre.facts.runs()

    assert looked.created == run.spec.run_id == run_id_of(FROZEN.cohort_episodes)
    assert looked.events == ((COHORT_FROZEN, run.spec.run_id),)
    assert [
        (p.gateway, p.public_key, p.first_window, p.last_window) for p in run.spec.participants
    ] == [
        (A, "1" * 64, 3, 9),
        (B, "2" * 64, 5, 9),
    ]
    assert (run.spec.base_release, run.spec.base_sha256) == (1, "e" * 64)
    assert (run.spec.plan, run.spec.episodes) == (PLAN, FROZEN.cohort_episodes)


def test_a_run_names_the_choice_that_decided_it(centre: Centre) -> None:
    """Fixed with the plan, for good: another choice meanwhile changes no run that is there."""
    centre.found = FROZEN
    centre.planned = Planned(PLAN, "ab" * 32)
    centre.look()
    centre.planned = Planned(PLAN, "cd" * 32)
    centre.look()

    assert [run.spec.choice_sha256 for run in centre.facts.runs()] == ["ab" * 32]


def test_the_same_facts_create_nothing_new(centre: Centre) -> None:
    """Looking again, also after a kill before the event was sent, leaves one run and one event."""
    centre.found = FROZEN
    looks = [centre.look() for _ in range(3)]

    assert [looked.created is not None for looked in looks] == [True, False, False]
    assert len(centre.bus.sent) == 1


def test_run_id_depends_on_the_episodes_alone() -> None:
    """The order of episodes does not matter, every one of them does."""
    assert run_id_of(["x", "y"]) == run_id_of(["y", "x"])
    assert run_id_of(["x", "y"]) != run_id_of(["x"])


def test_drift_rules_see_every_stored_run(centre: Centre) -> None:
    """An unfinished run is `running`, whatever step it is in; a refused candidate is a failure."""
    centre.found = FROZEN
    centre.look()
    (run,) = centre.facts.runs()
    states = {state: run_fact(replace(run, state=state)).state for state in STATES}

    assert states == {
        "created": "running",
        "training": "running",
        "trained": "running",
        "signed": "running",
        "published": "published",
        "failed": "failed",
        "refused": "failed",
    }


def test_a_damaged_reference_is_not_ignored() -> None:
    """A reference that cannot be read stops the monitor instead of leaving a gateway unwatched."""
    with pytest.raises(SettingError):
        read_references([b"{}"])
