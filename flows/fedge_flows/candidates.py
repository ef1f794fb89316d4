"""How a candidate is built, gated and described: the builder's side of `recompile`.

Torch is imported where it is used: the other flows share this package and must start in a
second.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedge.config import ServerSettings
from fedge.delivery.candidate import describe_files, stage
from fedge.durable import write_file
from fedge.errors import CandidateError, ChoiceError, GateFailedError, RunFailedError, SettingError
from fedge.learning.chosen import carried_choice, check_recorded, choice_object
from fedge.models.hardware import hardware_class
from fedge.models.weights import Vector, Weights, adapter_dimension, read_weights
from fedge.privacy.policy import read_policy
from fedge.privacy.rdp import epsilon_of, event_nano, telemetry_nano
from fedge.records import (
    CHOICE_FILE,
    AdapterChoice,
    AdapterKind,
    PrivacyPolicy,
    ReleaseManifest,
    RunResult,
    RunSpec,
    TrainingPlan,
    sha256_hex,
)
from fedge.tasks.code import TaskCode, load_task_code
from fedge.tasks.schema import read_task
from fedge_flows.ports import Objects
from fedge_flows.releases import ReleaseShelf

INITIAL = "initial"
"""Name and run id of the first candidate, which comes from public data alone."""

RELEASE_FILES = ("task.json", "reference.json", "golden.npz", "weights.npz", CHOICE_FILE)


def read_adapter(objects: Objects, result: RunResult) -> Vector:
    """The aggregated adapter that a run left, float32[dimension].

    Raises:
        RunFailedError: it is not the one that the result names.
    """
    run_id, dimension = result.spec.run_id, result.spec.plan.dimension
    try:
        vector = np.load(io.BytesIO(objects.get(f"runs/{run_id}/adapter.npy")), allow_pickle=False)
    except ValueError as error:
        raise RunFailedError(f"the adapter of run {run_id} cannot be read: {error}") from error
    if vector.shape != (dimension,) or not np.isfinite(vector).all():
        raise RunFailedError(f"the adapter of run {run_id} is not {dimension} finite numbers")
    vector = vector.astype("<f4")
    if sha256_hex(vector.tobytes()) != result.adapter_sha256:
        raise RunFailedError(f"the adapter of run {run_id} is not the one its result names")
    return np.asarray(vector, dtype=np.float32)


def merged(base: Path, result: RunResult, vector: Vector) -> Callable[[TaskCode], Weights]:
    """The weights of a run's candidate: the base release with the run's adapter added."""

    def weights(code: TaskCode) -> Weights:
        from fedge.models.build import merge_adapter

        kind = result.spec.plan.adapter
        return merge_adapter(code, read_weights(base / "weights.npz"), vector, kind)

    return weights


def keep_choice(objects: Objects, choice: AdapterChoice, plan: TrainingPlan) -> str:
    """Store the choice that decided a plan, under its own hash; answers the hash.

    Raises:
        ChoiceError: the adapter is of another length on the model that was studied.
    """
    if differs := choice.chosen.differs(plan):
        raise ChoiceError(f"the adapter's choice is of another model: {differs}")
    sha256 = choice.content_sha256
    objects.put(choice_object(sha256), choice.to_bytes())
    return sha256


def read_run_choice(objects: Objects, spec: RunSpec) -> bytes | None:
    """The choice that a run names; None where it names none.

    Raises:
        ChoiceError: it is not the one that the run names, or the run trains something else.
        MissingObjectError: it is gone.
    """
    if spec.choice_sha256 is None:
        return None
    data = objects.get(choice_object(spec.choice_sha256))
    check_recorded(data, spec)
    return data


def builder(
    code: str, weights: Callable[[TaskCode], Weights], seed: int, choice: bytes | None = None
) -> Callable[[Path], None]:
    """What fills a candidate folder.

    Args:
        code: the task's code part, `module:object`.
        seed: of everything that is drawn while building, so that a build can be repeated.
        choice: the recorded choice that the release is to carry.
    """

    def build(folder: Path) -> None:
        """Merge, export, quantize and measure into `folder`; see `build_candidate`."""
        # Models this small gain nothing from a second thread, and where the cores are busy its
        # spinning makes a build more than ten times slower. Read when torch is first imported.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from fedge.models.build import build_candidate

        task = load_task_code(code)
        build_candidate(task, weights(task), folder, hardware=hardware_class(), seed=seed)
        if choice is not None:
            write_file(folder / CHOICE_FILE, choice)

    return build


def gate(result: RunResult | None, min_gain_sigmas: float) -> Callable[[Path], None]:
    """What refuses a candidate before the builder signs it."""

    def check(folder: Path) -> None:
        from fedge.models.gates import judge

        report = judge(folder, result, min_gain_sigmas)
        if not report.passed:
            raise GateFailedError(report.to_bytes().decode())

    return check


def stager(
    settings: ServerSettings, key: Path, shelf: ReleaseShelf, result: RunResult | None
) -> Callable[[Path], None]:
    """What adds the manifest and the builder's signature to a built folder."""

    def add(folder: Path) -> None:
        """Write the manifest under the shelf's next counter, and sign it."""
        described = manifest(
            folder,
            family=settings.family,
            counter=shelf.next_counter(),
            result=result,
            policy=read_policy(settings.policy),
        )
        stage(settings.releases_dir, folder, described, key)

    return add


def manifest(
    folder: Path,
    *,
    family: str,
    counter: int,
    result: RunResult | None,
    policy: PrivacyPolicy,
) -> ReleaseManifest:
    """What a built folder becomes as release `counter`; its cohort is the run's.

    Raises:
        CandidateError: it does not carry the choice that the run names.
    """
    from fedge.models.build import read_build

    built = read_build(folder)
    names = (*RELEASE_FILES, *(f"model.{kind}.onnx" for kind in ("int8", "float")))
    present = [name for name in names if (folder / name).exists()]
    spec = result.spec if result is not None else None
    try:
        choice = carried_choice(folder, spec)
    except ChoiceError as error:
        raise CandidateError(str(error)) from error
    return ReleaseManifest(
        family=family,
        task_version=read_task(folder / "task.json").version,
        counter=counter,
        parent=spec.base_release if spec is not None else 0,
        run_id=spec.run_id if spec is not None else INITIAL,
        variants=built.variants,
        files=describe_files(folder, present),
        cohort=tuple(p.gateway for p in spec.participants) if spec is not None else (),
        privacy_epsilon=run_epsilon(spec.plan, policy) if spec is not None else 0.0,
        measures={**built.measures, **(choice.measures if choice is not None else {})},
    )


def planned_dimension(release: Path, adapter: AdapterKind) -> int:
    """Parameters of the adapter of a release, whose folder this is."""
    return adapter_dimension(read_weights(release / "weights.npz"), adapter)


def run_epsilon(plan: TrainingPlan, policy: PrivacyPolicy) -> float:
    """The bound of a block that this run read and that was fresh: its telemetry share and the run.

    Public facts only, so that it says the same at the centre and in every ledger.
    """
    nano = telemetry_nano(policy) + sum(event_nano(event, policy.alpha) for event in plan.events)
    return epsilon_of(nano, policy)


def builder_key(key: Path | None) -> Path:
    """The key that signs candidates first.

    Raises:
        SettingError: the settings do not name it.
    """
    if key is None:
        raise SettingError("building needs [keys] builder")
    return key
