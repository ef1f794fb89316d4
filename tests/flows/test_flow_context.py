"""The steps over a real central host: database, object store, keys and release repository."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from fakes.choices import choice_of, studied
from fakes.releases import FILES, HARDWARE, toy_reference, toy_task
from flow_fakes import MemoryBus, run_spec

from fedge.config import ServerSettings
from fedge.delivery.candidate import countersign, describe_files, stage
from fedge.delivery.repository import ReleaseRepository
from fedge.drift.fleet.monitor import FleetAssessment
from fedge.errors import ChoiceError, SettingError, StateError
from fedge.models.weights import weights_to_bytes
from fedge.privacy.policy import new_policy, read_policy, write_policy
from fedge.records import (
    AdapterChoice,
    BlockLength,
    PrivacyPolicy,
    ReleaseManifest,
    TriedAdapter,
)
from fedge_flows.candidates import read_run_choice
from fedge_flows.context import LATEST, FlowContext
from fedge_flows.initial import publish_initial
from fedge_flows.progress import FAILED, PUBLISHED, SIGNED
from fedge_flows.roles import server_settings
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.facts import Facts

COHORT = ("a" * 32,)


class Host:
    """A central host in a folder, with settings per role and hand-made candidates."""

    def __init__(self, folder: Path) -> None:
        policy = folder / "fleet.toml"
        write_policy(
            new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=60)), policy
        )
        self.settings = init_server(
            folder / "host", policy=policy, settings={"family": "toy", "task": "toy"}
        )
        self.environment = {"FEDGE_SERVER_CONFIG": str(folder / "host" / "server.toml")}
        self.database, self.bus = Database(self.settings.database), MemoryBus()
        self.facts = Facts(self.database, time.time)

    def evaluator_key(self) -> Path:
        key = ServerSettings.load(self.settings.data_dir.parent / "evaluator.toml").keys.evaluator
        assert key is not None
        return key

    def role(self, role: str) -> ServerSettings:
        return server_settings(self.environment, role)

    def context(self, role: str) -> FlowContext:
        return FlowContext(self.role(role), self.facts, self.bus)

    def candidate(
        self, name: str, counter: int, cohort: Sequence[str] = (), *, countersigned: bool = True
    ) -> Path:
        folder = self.settings.objects_dir / "candidates" / name
        folder.mkdir(parents=True)
        for file in FILES:
            (folder / file).write_bytes(f"{name} {file}".encode())
        (folder / "task.json").write_bytes(toy_task().to_bytes())
        (folder / "reference.json").write_bytes(toy_reference(toy_task()).to_bytes())
        weights = {"input_adapter.weight": np.zeros((5, 5), "f4"), "head.bias": np.zeros(2, "f4")}
        (folder / "weights.npz").write_bytes(weights_to_bytes(weights))
        manifest = ReleaseManifest(
            family="toy",
            task_version=1,
            counter=counter,
            parent=counter - 1,
            run_id=name,
            variants={HARDWARE: "int8"},
            files=describe_files(folder, FILES),
            cohort=tuple(cohort),
            privacy_epsilon=0.0,
            measures={},
        )
        builder = self.role("builder").keys.builder
        assert builder is not None
        stage(self.settings.releases_dir, folder, manifest, builder)
        if countersigned:
            countersign(self.settings.releases_dir, folder, self.evaluator_key())
        return folder

    def signed_run(self, *, countersigned: bool = True) -> None:
        """Release 1 is out; run-1 has led to the candidate of release 2."""
        self.candidate("initial", 1)
        publish_initial(self.role("publisher"))
        self.candidate("run-1", 2, COHORT, countersigned=countersigned)
        self.facts.create_run(run_spec())
        self.facts.set_run_state("run-1", SIGNED)

    @property
    def policy(self) -> PrivacyPolicy:
        return read_policy(self.settings.policy)

    def chosen(self, *candidates: TriedAdapter) -> tuple[FlowContext, AdapterChoice]:
        """The server's steps where `[training]` names the record of this choice."""
        choice = choice_of(self.policy, *candidates, task="toy")
        file = self.settings.data_dir / "adapter-choice.json"
        file.write_bytes(choice.to_bytes())
        own = self.role("server")
        training = own.training.model_copy(update={"choice": file})
        settings = own.model_copy(update={"training": training})
        return FlowContext(settings, self.facts, self.bus), choice

    def state(self) -> tuple[str, int | None]:
        (run,) = self.facts.runs()
        return run.state, run.release

    def metadata(self) -> list[str]:
        return sorted(p.name for p in (self.settings.releases_dir / "metadata").iterdir())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_each_role_knows_its_own_key_alone(host: Host) -> None:
    """The server's settings name no key; builder, evaluator and publisher one each."""
    named = {
        role: {name for name, key in host.role(role).keys if key is not None}
        for role in ("server", "builder", "publisher")
    }

    assert named == {"server": set(), "builder": {"builder"}, "publisher": {"online"}}


def test_first_release_is_for_everyone_and_made_once(host: Host) -> None:
    """The first candidate is published once, however often it is asked for."""
    host.candidate("initial", 1)

    assert [publish_initial(host.role("publisher")).published for _ in range(2)] == [True, False]
    assert host.context("server").shelf.next_counter() == 2
    assert host.context("server").shelf.folder(1).name == "initial"


def test_publishing_a_run(host: Host) -> None:
    """The cohort is offered the new release, the others stay; a second call changes nothing."""
    host.signed_run()
    publisher = host.context("publisher")
    assert publisher.publish("run-1") == PUBLISHED
    table = ReleaseRepository(host.settings.releases_dir).rollout_table("toy")
    before = host.metadata()

    assert publisher.publish("run-1") == PUBLISHED
    assert table is not None
    assert (table.counter_for(COHORT[0]), table.counter_for("b" * 32)) == (2, 1)
    assert (host.state(), host.metadata()) == ((PUBLISHED, 2), before)


class DyingFacts(Facts):
    """Dies where a release was published and is about to be noted."""

    def record_release(self, run_id: str, counter: int) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_publisher_killed_after_publishing(host: Host) -> None:
    """kill -9 between publishing and noting it: the next call publishes nothing twice."""
    host.signed_run()
    host.database.close()  # not to be shared over a fork

    def work() -> None:
        facts = DyingFacts(Database(host.settings.database), time.time)
        FlowContext(host.role("publisher"), facts, host.bus).publish("run-1")

    victim = multiprocessing.get_context("fork").Process(target=work)
    victim.start()
    victim.join(20)
    assert victim.exitcode == -signal.SIGKILL
    assert host.state() == (SIGNED, None)
    before = host.metadata()

    assert host.context("publisher").publish("run-1") == PUBLISHED
    assert (host.state(), host.metadata()) == ((PUBLISHED, 2), before)


def test_one_signature_is_not_published(host: Host) -> None:
    """A candidate that only its builder signed fails the run, and gateways see nothing of it."""
    host.signed_run(countersigned=False)

    assert host.context("publisher").publish("run-1") == FAILED
    assert "1 of 2" in host.facts.run_history("run-1")[-1].detail
    assert ReleaseRepository(host.settings.releases_dir).published().releases("toy").keys() == {1}


def test_other_settings_cannot_publish(host: Host) -> None:
    """Neither the server's settings nor the builder's are enough, and the run stays due."""
    host.signed_run()
    for role in ("server", "builder"):
        with pytest.raises(SettingError):
            host.context(role).publish("run-1")
    assert host.state() == (SIGNED, None)


def test_monitor_stores_what_it_found(host: Host) -> None:
    """The latest assessment can be read back; one that decides nothing new gets no copy."""
    host.candidate("initial", 1)
    context = host.context("server")
    for _ in range(3):
        looked = context.monitor()
        assert looked is not None
        assert FleetAssessment.from_bytes(context.objects.get(LATEST)) == looked.assessment

    assert len(context.objects.list("assessments")) == 2


def test_two_monitors_do_not_meet(host: Host) -> None:
    """A monitor that starts while another still looks leaves at once."""
    context = host.context("server")
    with context.claims.claim("monitor"):
        assert context.monitor() is None


def test_the_choice_that_decides_a_plan_is_kept(host: Host, tmp_path: Path) -> None:
    """Stored under the hash that the run will name; the settings left its rate to it."""
    host.candidate("initial", 1)
    publish_initial(host.role("publisher"))
    context, choice = host.chosen(studied(host.policy, 25, learning_rate=0.7))

    for _ in range(2):
        planned = context.planned(1)
    assert planned.choice_sha256 == choice.content_sha256
    assert planned.plan.learning_rate == 0.7
    spec = run_spec().model_copy(
        update={"plan": planned.plan, "task": "toy", "choice_sha256": planned.choice_sha256}
    )
    assert read_run_choice(context.objects, spec) == choice.to_bytes()


def test_a_plan_without_a_choice_names_none(host: Host) -> None:
    host.candidate("initial", 1)
    publish_initial(host.role("publisher"))
    context = host.context("server")

    assert context.planned(1).choice_sha256 is None
    assert read_run_choice(context.objects, run_spec()) is None
    assert context.objects.list("choices") == ()


def test_a_choice_for_another_model_plans_nothing(host: Host) -> None:
    """The adapter that was studied is longer than this release's."""
    host.candidate("initial", 1)
    publish_initial(host.role("publisher"))
    context, _ = host.chosen(studied(host.policy, 26))

    with pytest.raises(ChoiceError, match="dimension is 25, the study chose 26"):
        context.planned(1)
    assert context.objects.list("choices") == ()


def test_a_stored_choice_that_was_changed_builds_nothing(host: Host) -> None:
    host.candidate("initial", 1)
    publish_initial(host.role("publisher"))
    context, choice = host.chosen(studied(host.policy, 25))
    planned = context.planned(1)
    name = f"choices/{choice.content_sha256}.json"
    context.objects.replace(name, context.objects.get(name).replace(b"0.7", b"0.9"))
    spec = run_spec().model_copy(update={"choice_sha256": planned.choice_sha256})

    with pytest.raises(ChoiceError, match="carries"):
        read_run_choice(context.objects, spec)


def test_plan_fits_the_released_model(host: Host) -> None:
    """A run is planned for the adapter that the base release has; an unknown release has none."""
    host.candidate("initial", 1)
    publish_initial(host.role("publisher"))

    assert host.context("server").plan(1).dimension == 25
    with pytest.raises(StateError):
        host.context("server").plan(2)
