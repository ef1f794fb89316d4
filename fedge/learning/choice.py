"""Which adapter a task is trained with: a study on public data, and the record that it leaves.

    python -m fedge.learning.choice --policy policy.toml --task fedge.tasks.digits:CODE

Each candidate retrains a rehearsed fleet under faults of the task's public family, at the
whole budget that a policy leaves for training, noise and evaluation included. Private
data plays no part, so that the choice costs no budget and tells nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fedge.config import TrainingSettings
from fedge.durable import write_file
from fedge.errors import FedgeError, TaskError
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.planning import noise_multiplier, plan_training
from fedge.learning.rehearsal import labelled, predict, rehearse
from fedge.models.weights import Weights, adapter_dimension
from fedge.privacy.policy import read_policy
from fedge.records import AdapterKind, Name, PrivacyPolicy, Record
from fedge.tasks.code import FaultFamily, TaskCode, load_task_code

GATEWAYS, TEST_ROWS, SEEDS = 5, 500, (1, 2, 3)
FILE = "adapter-choice.json"
CANDIDATES: tuple[TrainingSettings, ...] = tuple(
    TrainingSettings(adapter=adapter, clip=clip, learning_rate=rate)
    for adapter, clip, rates in (
        ("input", 0.5, (1.2, 2.4)),
        ("conv", 0.5, (1.2, 2.4)),
        ("head", 0.5, (1.2, 2.4)),
        ("lora-b", 0.5, (5.0, 10.0)),
        ("lora", 0.5, (1.2, 2.4)),
    )
    for rate in rates
)

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Candidate(Record):
    """One way to train, and how far it got.

    Attributes:
        dimension: length of the adapter's vector.
        noise_multiplier: standard deviation of a step's noise, in clips.
        accuracies: after private training, on public rows that were not trained on, by seed.
    """

    adapter: AdapterKind
    rounds: int
    steps: int
    clip: float
    learning_rate: float
    dimension: int
    noise_multiplier: float
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.accuracies)


class AdapterChoice(Record):
    """A study's result; the choice follows from its figures.

    Attributes:
        epsilon, delta: per block, of the policy that was trained under.
        policy_sha256: of that policy.
        gateways, records: of the rehearsed fleet; records by gateway.
        seeds: each is another fault of the family, and other noise.
        stale: accuracies before any training, by seed.
        versions: of what computed.
    """

    task: Name
    epsilon: float
    delta: float
    policy_sha256: str
    gateways: int
    records: int
    seeds: tuple[int, ...]
    stale: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    versions: dict[str, str]

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The best first; of two equals the one with fewer values to train."""
        return tuple(sorted(self.candidates, key=lambda c: (-c.accuracy, c.dimension)))

    @property
    def chosen(self) -> Candidate:
        """The first of `ranked`."""
        return self.ranked[0]


def choose_adapter(
    code: TaskCode,
    weights: Weights,
    policy: PrivacyPolicy,
    candidates: Sequence[TrainingSettings] = CANDIDATES,
    seeds: Sequence[int] = SEEDS,
) -> AdapterChoice:
    """Compare candidates on public rows under the task's public family of faults.

    Args:
        weights: the release that would be trained.
        candidates: those whose adapter the model does not have are left out; all plan for as
            many records as the first.

    Raises:
        TaskError: the model has none of the adapters, or there are too few public rows.
        SettingError: the policy leaves nothing for training.
    """
    fitting = [settings for settings in candidates if _fits(weights, settings.adapter)]
    if not fitting or not seeds:
        raise TaskError("no candidate fits the model, or no seed was given")
    records = fitting[0].records
    trials = [_Trial(code, weights, seed, records) for seed in seeds]
    return AdapterChoice(
        task=code.schema.name,
        epsilon=policy.epsilon,
        delta=policy.delta,
        policy_sha256=policy.content_sha256,
        gateways=GATEWAYS,
        records=records,
        seeds=tuple(seeds),
        stale=tuple(trial.stale for trial in trials),
        candidates=tuple(_candidate(settings, policy, weights, trials) for settings in fitting),
        versions={name: version(name) for name in ("torch", "numpy", "opacus")},
    )


class _Trial:
    """A fleet of public rows under one fault, and rows of the same fault to judge by."""

    def __init__(self, code: TaskCode, weights: Weights, seed: int, records: int) -> None:
        self._code, self._weights, self._seed = code, weights, seed
        inputs, labels = _public_rows(code, seed, GATEWAYS * records + TEST_ROWS)
        self._test, self._labels = inputs[:TEST_ROWS], labels[:TEST_ROWS]
        present = predict(TrainableAdapter(code, weights, "head"), inputs)
        self.stale = float((present[:TEST_ROWS] == self._labels).mean())
        # In turn, so that no gateway has only some of the classes.
        rows = [TEST_ROWS + np.arange(g, GATEWAYS * records, GATEWAYS) for g in range(GATEWAYS)]
        self._fleet = [labelled(inputs[at], labels[at], present[at]) for at in rows]

    def accuracy(self, settings: TrainingSettings, policy: PrivacyPolicy) -> float:
        """After private training with `settings`."""
        plan = plan_training(policy, settings, adapter_dimension(self._weights, settings.adapter))
        done = rehearse(self._code, self._weights, plan, self._fleet, self._seed)
        adapter = TrainableAdapter(self._code, self._weights, settings.adapter)
        adapter.set_change(done.change)
        return float((predict(adapter, self._test) == self._labels).mean())


def _public_rows(code: TaskCode, seed: int, count: int) -> tuple[Floats, Integers]:
    """Rows under one fault where the task can say so, else under all of its family."""
    if isinstance(code, FaultFamily):
        inputs, labels = code.faulted_rows(seed, count)
    else:
        public = code.public()
        order = np.random.default_rng(seed).permutation(len(public.faulted_labels))[:count]
        inputs, labels = public.faulted[order], public.faulted_labels[order]
    if len(labels) < count:
        raise TaskError(f"the study needs {count} public rows under a fault, not {len(labels)}")
    return inputs, labels


def _fits(weights: Weights, adapter: AdapterKind) -> bool:
    try:
        return adapter_dimension(weights, adapter) > 0
    except TaskError:
        return False


def _candidate(
    settings: TrainingSettings,
    policy: PrivacyPolicy,
    weights: Weights,
    trials: Sequence[_Trial],
) -> Candidate:
    dimension = adapter_dimension(weights, settings.adapter)
    return Candidate(
        adapter=settings.adapter,
        rounds=settings.rounds,
        steps=settings.steps,
        clip=settings.clip,
        learning_rate=settings.learning_rate,
        dimension=dimension,
        noise_multiplier=noise_multiplier(plan_training(policy, settings, dimension)),
        accuracies=tuple(trial.accuracy(settings, policy) for trial in trials),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Study, print a table and write the record. Exit status 1 where it could not be done."""
    parser = argparse.ArgumentParser(prog="fedge.learning.choice", description=__doc__)
    parser.add_argument("--task", default="fedge.tasks.digits:CODE", help="module:object")
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(FILE))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        code = load_task_code(options.task)
        policy = read_policy(options.policy)
        choice = choose_adapter(code, code.base_weights(1), policy, seeds=options.seeds)
        write_file(options.out, choice.to_bytes())
    except (FedgeError, OSError) as error:
        print(f"fedge: {error}", file=sys.stderr)
        return 1
    print(f"stale {statistics.fmean(choice.stale):.3f}, epsilon {choice.epsilon:g} per block")
    for one in choice.ranked:
        print(
            f"{one.adapter:8} clip {one.clip:g} rate {one.learning_rate:g}: {one.accuracy:.3f} "
            f"({min(one.accuracies):.3f} to {max(one.accuracies):.3f}), {one.dimension} values"
        )
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
