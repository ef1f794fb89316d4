"""From weights to a published release, with the real builder, evaluator process and keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.choices import choice_of, tried
from flow_fakes import PLAN, MemoryBus, run_spec

from fedge.delivery.candidate import read_manifest
from fedge.delivery.repository import ReleaseRepository
from fedge.lifetime import die_with_parent
from fedge.models.weights import read_weights
from fedge.privacy.policy import new_policy, read_policy, write_policy
from fedge.records import (
    CHOICE_FILE,
    AdapterChoice,
    BlockLength,
    PairedDifference,
    RunResult,
    RunSpec,
    sha256_hex,
)
from fedge_flows.candidates import keep_choice
from fedge_flows.context import FlowContext
from fedge_flows.initial import build_initial, publish_initial
from fedge_flows.progress import CANDIDATE_SIGNED, PUBLISHED, REFUSED, SIGNED, TRAINED
from fedge_flows.retrain import initial_vector
from fedge_flows.roles import server_settings
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.published import releases

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from fedge_flows import candidates
from fedge_flows.context import open_context
real = candidates.builder
def builder(*a, **k):
    build = real(*a, **k)
    def dying(folder):
        build(folder)
        os.kill(os.getpid(), signal.SIGKILL)
    return dying
candidates.builder = builder
class Bus:
    def emit(self, event, run_id): raise AssertionError(event)
with open_context("builder", Bus()) as context:
    context.recompile(sys.argv[1])
"""


class Centre:
    """A central host for `digits` with a running evaluator and the first release published."""

    def __init__(self, folder: Path) -> None:
        policy = folder / "fleet.toml"
        write_policy(
            new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=60)), policy
        )
        self.settings = init_server(folder / "host", policy=policy)
        self.environment = {"FEDGE_SERVER_CONFIG": str(folder / "host" / "server.toml")}
        self.facts, self.bus = Facts(Database(self.settings.database), time.time), MemoryBus()
        with (folder / "evaluator.log").open("wb") as log:
            self.evaluator = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fedge_server.evaluator"),
                    *("--config", str(folder / "host" / "evaluator.toml")),
                ],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        self.first = build_initial(
            server_settings(self.environment, "builder"), "fedge.tasks.digits:CODE", seed=1
        )
        publish_initial(server_settings(self.environment, "publisher"))

    def context(self, role: str) -> FlowContext:
        return FlowContext(server_settings(self.environment, role), self.facts, self.bus)

    def trained(self, run_id: str, *, gained: int, choice: AdapterChoice | None = None) -> RunSpec:
        """A run whose rounds ended with a zero adapter and this noised gain."""
        context = self.context("server")
        base = run_spec(run_id)
        sha256 = None if choice is None else keep_choice(context.objects, choice, base.plan)
        spec = base.model_copy(
            update={"base_sha256": context.shelf.sha256(1), "choice_sha256": sha256}
        )
        counts = PairedDifference(run_id=run_id, difference=gained, sigma2=100)
        vector = np.zeros(spec.plan.dimension, "<f4")
        result = RunResult(
            spec=spec,
            adapter_sha256=sha256_hex(vector.tobytes()),
            update_bytes=(100,),
            contributors=(("a" * 32,),),
            counts=(counts,),
        )
        context.objects.put(f"runs/{run_id}/adapter.npy", initial_vector(spec))
        context.objects.put(f"runs/{run_id}/result.json", result.to_bytes())
        self.facts.create_run(spec)
        self.facts.set_run_state(run_id, TRAINED)
        return spec

    def published(self) -> set[int]:
        return set(ReleaseRepository(self.settings.releases_dir).published().releases("digits"))


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    made = Centre(tmp_path_factory.mktemp("centre"))
    yield made
    made.evaluator.kill()
    made.evaluator.wait(10)


def test_first_release(centre: Centre) -> None:
    """The first release holds what a gateway needs and what was measured, and is for everyone."""
    manifest = read_manifest(centre.first)

    assert (manifest.counter, manifest.parent, manifest.run_id) == (1, 0, "initial")
    assert manifest.cohort == () and manifest.privacy_epsilon == 0.0
    assert {"task.json", "reference.json", "golden.npz", "weights.npz"} <= manifest.files.keys()
    assert manifest.measures["float_accuracy_clean_public"] > 0.9
    assert centre.context("server").plan(1).dimension == 26


def test_no_gain_is_refused(centre: Centre) -> None:
    """A candidate whose noised counts show no gain is never signed, and the run says why."""
    centre.trained("run-worse", gained=5)

    assert centre.context("builder").recompile("run-worse") == REFUSED
    assert "gain" in centre.facts.run_history("run-worse")[-1].detail
    assert not (centre.settings.objects_dir / "candidates/run-worse/delegation.json").exists()


def test_killed_builder_and_then_the_release(centre: Centre) -> None:
    """kill -9 while a candidate is built; the next try builds, signs and publishes one release.

    It carries the study that chose its adapter, signed by both keys with everything else.
    """
    choice = choice_of(read_policy(centre.settings.policy), tried(PLAN, 0.7, 0.8))
    spec = centre.trained("run-better", gained=90, choice=choice)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, spec.run_id],
        env=os.environ | centre.environment,
        check=False,
        capture_output=True,
        timeout=200,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (centre.settings.objects_dir / "candidates" / spec.run_id).exists()

    assert centre.context("builder").recompile(spec.run_id) == SIGNED
    assert (CANDIDATE_SIGNED, spec.run_id) in centre.bus.sent
    assert centre.context("publisher").publish(spec.run_id) == PUBLISHED
    folder = centre.settings.objects_dir / "candidates" / spec.run_id
    manifest = read_manifest(folder)
    assert (manifest.counter, manifest.parent, manifest.run_id) == (2, 1, spec.run_id)
    assert manifest.cohort == ("a" * 32,)
    assert manifest.privacy_epsilon > 0
    assert (folder / CHOICE_FILE).read_bytes() == choice.to_bytes()
    assert manifest.files[CHOICE_FILE].sha256 == spec.choice_sha256 == choice.content_sha256
    assert manifest.measures["adapter_choice_accuracy"] == pytest.approx(0.75)
    first, second = releases(centre.settings)
    assert (first.choice, first.study) == ("none was trained", None)
    assert second.choice == choice.describe() and second.study == choice.summary()
    assert choice.describe() in second.describe()
    assert centre.published() == {1, 2}
    before, after = read_weights(centre.first / "weights.npz"), read_weights(folder / "weights.npz")
    assert all(np.array_equal(before[name], after[name]) for name in before)  # a zero adapter
