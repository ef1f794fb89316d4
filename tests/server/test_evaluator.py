"""Promises of the evaluator: it signs what it judged itself, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.choices import choice_of, tried
from fakes.digits_base import demo_policy
from fakes.releases import FAMILY, GATEWAY, ReleaseWorld

from fedge.config import KeySettings, ServerSettings
from fedge.delivery.candidate import (
    ACCEPTED,
    READY,
    REFUSED,
    describe_files,
    is_countersigned,
    publish,
    read_manifest,
    stage,
)
from fedge.delivery.extension import DELEGATION
from fedge.errors import CandidateError, GateFailedError, SettingError
from fedge.records import (
    CHOICE_FILE,
    AdapterChoice,
    PairedDifference,
    Participant,
    RunResult,
    RunSpec,
    TrainingPlan,
)
from fedge_server.evaluator import Evaluator


@dataclass
class Report:
    passed: bool

    def to_bytes(self) -> bytes:
        return b'{"failed":["gain"]}' if not self.passed else b"{}"


class Judge:
    """Gates that pass what they are told to pass, and remember what they were asked."""

    def __init__(self, passed: bool = True) -> None:
        self.passed = passed
        self.asked: list[tuple[bytes, RunResult | None, float]] = []

    def __call__(self, folder: Path, result: RunResult | None, sigmas: float) -> Report:
        self.asked.append(((folder / "model.int8.onnx").read_bytes(), result, sigmas))
        return Report(self.passed)


@pytest.fixture
def world(tmp_path: Path) -> ReleaseWorld:
    return ReleaseWorld(tmp_path / "data")


def settings_of(world: ReleaseWorld, keys: KeySettings | None = None) -> ServerSettings:
    return ServerSettings(
        data_dir=world.folder,
        policy=world.folder / "policy.toml",
        family=FAMILY,
        keys=keys or KeySettings(evaluator=world.keys.evaluator),
    )


def ready(world: ReleaseWorld, counter: int = 1, run_id: str = "initial") -> Path:
    """A staged candidate where the evaluator looks."""
    folder, manifest = world.candidate(counter, run_id=run_id)
    place = world.folder / "objects" / "candidates" / run_id
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    stage(world.releases_dir, place, manifest, world.keys.builder)
    (place / READY).write_bytes(b"{}")
    return place


def result_of(run_id: str, base_release: int = 1) -> RunResult:
    plan = TrainingPlan(
        adapter="input",
        rounds=1,
        steps=1,
        clip=1.0,
        learning_rate=1.0,
        divisor=10,
        grid_bits=10,
        sigma2=100,
        evaluation_sigma2=100,
        dimension=26,
    )
    spec = RunSpec(
        run_id=run_id,
        task="toy",
        base_release=base_release,
        base_sha256="0" * 64,
        plan=plan,
        participants=(
            Participant(gateway=GATEWAY, public_key="0" * 64, first_window=0, last_window=1),
        ),
        episodes=(),
    )
    counts = PairedDifference(run_id=run_id, difference=85, sigma2=100)
    return RunResult(
        spec=spec,
        adapter_sha256="0" * 64,
        update_bytes=(1,),
        contributors=((GATEWAY,),),
        counts=(counts,),
    )


def write_result(world: ReleaseWorld, run_id: str, result: RunResult) -> None:
    folder = world.folder / "objects" / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(result.to_bytes())


def reason(folder: Path) -> str:
    return str(json.loads((folder / REFUSED).read_bytes())["reason"])


def test_passing_candidate_is_signed_once(world: ReleaseWorld) -> None:
    """What passes the gates gets the second signature, and is then publishable."""
    folder, judge = ready(world), Judge()
    evaluator = Evaluator(settings_of(world), judge)

    assert [evaluator.run_once(), evaluator.run_once()] == [1, 0]

    assert (folder / ACCEPTED).exists() and is_countersigned(world.releases_dir, folder)
    assert publish(world.releases_dir, folder, world.keys.online, gateways=None).published
    assert judge.asked[0][1:] == (None, 3.0)


def test_failed_gate_is_refused_with_its_reason(world: ReleaseWorld) -> None:
    """What does not pass is never signed, and whoever waits reads why."""
    folder = ready(world)

    Evaluator(settings_of(world), Judge(passed=False)).run_once()

    assert "gain" in reason(folder)
    assert not is_countersigned(world.releases_dir, folder)


@pytest.mark.parametrize(
    "error", [GateFailedError("too slow"), ValueError("bad file"), KeyError(1)]
)
def test_broken_gate_signs_nothing(world: ReleaseWorld, error: Exception) -> None:
    """An error in the gates is a refusal, never a pass, and the evaluator lives on."""

    def judge(*_: object) -> Report:
        raise error

    folder = ready(world)
    Evaluator(settings_of(world), judge).run_once()

    assert reason(folder)
    assert not is_countersigned(world.releases_dir, folder)


def test_result_of_the_run_is_judged(world: ReleaseWorld) -> None:
    """The gates see the run's own counts, from the store and not from the candidate."""
    world.release(1)
    write_result(world, "run-1", result_of("run-1"))
    folder, judge = ready(world, 2, "run-1"), Judge()

    Evaluator(settings_of(world), judge).run_once()

    assert (folder / ACCEPTED).exists()
    assert judge.asked[0][1] == result_of("run-1")


@pytest.mark.parametrize(
    ("run_id", "result", "words"),
    [
        ("run-1", None, "left no result"),
        ("run-1", result_of("run-2"), "run-2"),
        ("run-1", result_of("run-1", base_release=7), "release 7"),
        ("initial", None, "first release"),
    ],
    ids=["missing", "other-run", "other-parent", "no-run"],
)
def test_no_result_no_signature(
    world: ReleaseWorld, run_id: str, result: RunResult | None, words: str
) -> None:
    """A candidate cannot dodge the gain gate by naming no run, or somebody else's."""
    world.release(1)
    if result is not None:
        write_result(world, run_id, result)
    folder, judge = ready(world, 2, run_id), Judge()

    Evaluator(settings_of(world), judge).run_once()

    assert words in reason(folder)
    assert judge.asked == []


def test_unsigned_candidate_is_not_judged(world: ReleaseWorld) -> None:
    """Without the builder's signature the gates do not even run."""
    folder, judge = ready(world), Judge()
    (folder / DELEGATION).unlink()

    Evaluator(settings_of(world), judge).run_once()

    assert "no signed candidate" in reason(folder) and judge.asked == []


def carries(world: ReleaseWorld, choice: AdapterChoice | None, **measures: float) -> Path:
    """A staged candidate of run-1 with this choice among its files, and these figures."""
    folder, manifest = world.candidate(2, run_id="run-1")
    place = world.folder / "objects" / "candidates" / "run-1"
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    files = dict(manifest.files)
    if choice is not None:
        (place / CHOICE_FILE).write_bytes(choice.to_bytes())
        files |= describe_files(place, [CHOICE_FILE])
    manifest = manifest.model_copy(update={"files": files, "measures": measures})
    stage(world.releases_dir, place, manifest, world.keys.builder)
    (place / READY).write_bytes(b"{}")
    return place


def run_that_names(choice: AdapterChoice | None) -> RunResult:
    result = result_of("run-1")
    sha256 = None if choice is None else choice.content_sha256
    spec = result.spec.model_copy(update={"choice_sha256": sha256})
    return result.model_copy(update={"spec": spec})


def own_choice(**changes: float) -> AdapterChoice:
    best = tried(result_of("run-1").spec.plan, 0.7, 0.9).model_copy(update=changes)
    return choice_of(demo_policy(), best, task="toy")


def test_the_choice_that_the_run_names_is_signed_with_the_release(world: ReleaseWorld) -> None:
    """Its hash and its figures stand in the manifest that both keys sign."""
    world.release(1)
    choice = own_choice()
    write_result(world, "run-1", run_that_names(choice))
    folder = carries(world, choice, **choice.measures)

    Evaluator(settings_of(world), Judge()).run_once()

    assert (folder / ACCEPTED).exists() and is_countersigned(world.releases_dir, folder)
    assert read_manifest(folder).files[CHOICE_FILE].sha256 == choice.content_sha256
    assert read_manifest(folder).measures["adapter_choice_accuracy"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("named", "carried", "measures", "words"),
    [
        (own_choice(), None, {}, "carries none"),
        (None, own_choice(), own_choice().measures, "names the adapter's choice none"),
        (own_choice(), own_choice(clip=2.0), own_choice().measures, "carries"),
        (own_choice(clip=2.0), own_choice(clip=2.0), own_choice().measures, "clip is 1.0"),
        (own_choice(), own_choice(), {"adapter_choice_accuracy": 0.99}, "other figures"),
        (None, None, {"adapter_choice_accuracy": 0.99}, "other figures"),
    ],
    ids=["missing", "unnamed", "another", "unfit", "polished", "invented"],
)
def test_a_builder_cannot_say_another_choice(
    world: ReleaseWorld,
    named: AdapterChoice | None,
    carried: AdapterChoice | None,
    measures: dict[str, float],
    words: str,
) -> None:
    """Other than the run's, or one that the run did not follow: refused before any gate runs."""
    world.release(1)
    write_result(world, "run-1", run_that_names(named))
    folder, judge = carries(world, carried, **measures), Judge()

    Evaluator(settings_of(world), judge).run_once()

    assert words in reason(folder) and judge.asked == []
    assert not is_countersigned(world.releases_dir, folder)


def test_files_changed_while_judged_are_not_signed_for(world: ReleaseWorld) -> None:
    """The signature covers what was judged: a swap meanwhile makes the candidate worthless."""
    folder = ready(world)
    honest = (folder / "model.int8.onnx").read_bytes()

    def judge(copy: Path, *_: object) -> Report:
        (folder / "model.int8.onnx").write_bytes(b"evil")
        assert (copy / "model.int8.onnx").read_bytes() == honest
        return Report(passed=True)

    Evaluator(settings_of(world), judge).run_once()

    with pytest.raises(CandidateError, match=r"model\.int8\.onnx"):
        publish(world.releases_dir, folder, world.keys.online, gateways=None)


def test_own_trouble_is_no_verdict(world: ReleaseWorld) -> None:
    """A repository that cannot be read right now leaves the candidate waiting."""
    folder = ready(world)
    evaluator = Evaluator(settings_of(world), Judge())
    timestamp = world.releases_dir / "metadata" / "1.snapshot.json"
    good = timestamp.read_bytes()
    timestamp.write_bytes(b"")

    assert evaluator.run_once() == 0
    assert not (folder / REFUSED).exists()

    timestamp.write_bytes(good)
    assert evaluator.run_once() == 1
    assert (folder / ACCEPTED).exists()


@pytest.mark.parametrize("other", ["builder", "online"])
def test_two_keys_in_one_hand_are_refused(world: ReleaseWorld, other: str) -> None:
    """An evaluator that is given a second key does not start; nor does one without its own."""
    both = KeySettings(**{"evaluator": world.keys.evaluator, other: world.keys.builder})
    with pytest.raises(SettingError, match="no other key"):
        Evaluator(settings_of(world, both), Judge())
    with pytest.raises(SettingError):
        Evaluator(settings_of(world, KeySettings()), Judge())


def test_process_refuses_nonsense_and_ends_on_sigterm(world: ReleaseWorld) -> None:
    """The real process with the real gates refuses a toy that is no model, and lives on."""
    folder = ready(world)
    config = world.folder / "server.toml"
    config.write_text(
        f'data_dir = "."\npolicy = "policy.toml"\n[keys]\nevaluator = "{world.keys.evaluator}"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "fedge_server.evaluator", "--config", str(config)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        deadline = time.monotonic() + 30
        while not (folder / REFUSED).exists():
            assert process.poll() is None, "the evaluator ended"
            assert time.monotonic() < deadline, "no verdict in 30 s"
            time.sleep(0.05)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert not is_countersigned(world.releases_dir, folder)
