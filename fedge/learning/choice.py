"""Which adapter a task is trained with: a study on public data, and the record that it leaves.

    python -m fedge.learning.choice --server server.toml --task fedge.tasks.digits:CODE

Each candidate retrains a rehearsed fleet under faults of the task's public family, at the
whole budget that a policy leaves for training, noise and evaluation included. Private
data plays no part, so that the choice costs no budget and tells nothing. `[training] choice`
in `server.toml` names the record, and `fedge.learning.chosen` applies it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fedge.config import ServerSettings, TrainingSettings
from fedge.durable import write_file
from fedge.errors import FedgeError, SettingError, TaskError
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.planning import noise_multiplier, plan_training
from fedge.learning.rehearsal import labelled, predict, rehearse
from fedge.models.weights import Weights, adapter_dimension
from fedge.privacy.policy import read_policy
from fedge.records import CHOICE_FILE, AdapterChoice, AdapterKind, PrivacyPolicy, TriedAdapter
from fedge.tasks.code import FaultFamily, TaskCode, load_task_code

GATEWAYS, TEST_ROWS = 5, 500
SEEDS = tuple(range(1, 11))
"""Ten faults: rates of one adapter differ by less than a few of them could tell."""
GRID: tuple[tuple[AdapterKind, float, tuple[float, ...]], ...] = (
    ("input", 0.5, (1.2, 2.4)),
    ("conv", 0.5, (1.2, 2.4)),
    ("head", 0.5, (1.2, 2.4)),
    ("lora-b", 0.5, (5.0, 10.0)),
    ("lora", 0.5, (1.2, 2.4)),
)
"""Adapter, clip and learning rates that are tried."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def candidates_of(base: TrainingSettings) -> tuple[TrainingSettings, ...]:
    """What is tried: `GRID`, with rounds, steps, records and evaluation as in `base`."""
    return tuple(
        base.model_copy(update={"adapter": adapter, "clip": clip, "learning_rate": rate})
        for adapter, clip, rates in GRID
        for rate in rates
    )


CANDIDATES = candidates_of(TrainingSettings())


def choose_adapter(
    code: TaskCode,
    weights: Weights,
    policy: PrivacyPolicy,
    candidates: Sequence[TrainingSettings] = CANDIDATES,
    seeds: Sequence[int] = SEEDS,
    at: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> AdapterChoice:
    """Compare candidates on public rows under the task's public family of faults.

    Args:
        weights: the release that would be trained.
        candidates: those whose adapter the model does not have are left out; all plan for as
            many records as the first.
        seeds: different ones, from 0: the same fault twice would count twice.
        at: now, in seconds since the epoch, to be written down; it changes no figure.
        tell: told in words how far the study is.

    Raises:
        TaskError: the model has none of the adapters, or there are too few public rows.
        SettingError: the policy leaves nothing for training, or a seed is negative or twice there.
    """
    fitting = [settings for settings in candidates if _fits(weights, settings.adapter)]
    if not fitting or not seeds:
        raise TaskError("no candidate fits the model, or no seed was given")
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise SettingError("seeds are different numbers, from 0")
    records = fitting[0].records
    trials = [_Trial(code, weights, seed, records) for seed in seeds]
    tried = []
    for number, settings in enumerate(fitting, start=1):
        tell(f"{number} of {len(fitting)}: {settings.adapter}, rate {settings.learning_rate:g}")
        tried.append(_candidate(settings, policy, weights, trials))
    return AdapterChoice.sealed(
        task=code.schema.name,
        epsilon=policy.epsilon,
        delta=policy.delta,
        policy_sha256=policy.content_sha256,
        gateways=GATEWAYS,
        records=records,
        seeds=tuple(seeds),
        stale=tuple(trial.stale for trial in trials),
        candidates=tuple(tried),
        versions={name: version(name) for name in ("fedge", "torch", "numpy", "opacus")},
        at=at,
        unit=policy.unit,
        max_records=policy.max_records,
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
) -> TriedAdapter:
    dimension = adapter_dimension(weights, settings.adapter)
    return TriedAdapter(
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
    """Study, write the record and print a table; how far it is goes to standard error.

    Exit status 0 when it is written, 1 where it could not be done, 2 for wrong usage, 130
    interrupted.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        choice = _study(options)
        write_file(options.out, choice.to_bytes())
    except (FedgeError, OSError) as error:
        print(f"fedge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fedge: interrupted, no record was written", file=sys.stderr)
        return 130
    _show(choice)
    print(f"written to {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedge.learning.choice",
        description=__doc__,
        epilog="Exit status: 0 written, 1 failed, 2 wrong usage, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", default="fedge.tasks.digits:CODE", help="module:object")
    under = parser.add_mutually_exclusive_group(required=True)
    under.add_argument("--server", type=Path, help="server.toml: its policy and [training]")
    under.add_argument("--policy", type=Path, help="a policy; [training] as it is by default")
    parser.add_argument(
        "--out", type=Path, default=Path(CHOICE_FILE), help=f"the record; {CHOICE_FILE} by default"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(SEEDS), help="of faults and noise, from 0"
    )
    return parser


def _study(options: argparse.Namespace) -> AdapterChoice:
    # Before minutes of work, not after.
    if options.out.is_dir() or not options.out.parent.is_dir():
        raise SettingError(f"--out must be a file in a folder that is there, not {options.out}")
    code = load_task_code(options.task)
    policy, base = _asked(options.server, options.policy, code)
    return choose_adapter(
        code,
        code.base_weights(1),
        policy,
        candidates_of(base),
        seeds=options.seeds,
        at=time.time(),
        tell=lambda line: print(f"studying {line}", file=sys.stderr, flush=True),
    )


def _asked(
    server: Path | None, policy: Path | None, code: TaskCode
) -> tuple[PrivacyPolicy, TrainingSettings]:
    if server is None:
        return read_policy(policy or Path()), TrainingSettings()
    settings = ServerSettings.load(server)
    if settings.task != code.schema.name:
        raise SettingError(f"{server} is for task {settings.task}, not {code.schema.name}")
    return read_policy(settings.policy), settings.training


def _show(choice: AdapterChoice) -> None:
    print(f"stale {statistics.fmean(choice.stale):.3f}, epsilon {choice.epsilon:g} per block")
    for one in choice.ranked:
        print(
            f"{one.adapter:8} clip {one.clip:g} rate {one.learning_rate:g}: {one.accuracy:.3f} "
            f"({min(one.accuracies):.3f} to {max(one.accuracies):.3f}), {one.dimension} values"
        )


if __name__ == "__main__":
    sys.exit(main())
