"""pr-recover, pr-best: how much of what a fault took comes back under the budget.

share = (private - stale) / (nonprivate - stale), where nonprivate is the same adapter
trained to convergence on the pooled records without noise or clipping. Monitoring's
share of every block and the evaluation are paid for. Hyperparameters come from public
data (`python -m fedge.learning.choice`).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from benchmarks.figures import Figure
from benchmarks.privacy.fleets import GATEWAYS, fleet, policy
from fedge.config import TrainingSettings
from fedge.demo.yardstick import train_yardstick
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.planning import plan_training, run_nano
from fedge.learning.rehearsal import rehearse
from fedge.models.weights import adapter_dimension
from fedge.privacy.rdp import epsilon_of, telemetry_nano
from fedge.records import AdapterKind
from fedge.tasks.digits import CODE

SEEDS, DIRT_SEEDS = (1, 2, 3, 4, 5), (1,)
DEFAULT = TrainingSettings()
SETTINGS: Mapping[tuple[AdapterKind, int], TrainingSettings] = {
    ("input", 3): DEFAULT,
    # The smaller budget pays a smaller part of itself for the evaluation.
    ("input", 1): TrainingSettings(evaluation_rho=0.0015),
    ("head", 3): TrainingSettings(adapter="head", learning_rate=2.4),
    ("conv", 3): TrainingSettings(adapter="conv", learning_rate=2.4),
    ("lora-b", 3): TrainingSettings(adapter="lora-b", learning_rate=10.0),
    ("lora", 3): TrainingSettings(adapter="lora", learning_rate=2.4),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """Accuracies under one fault with one seed.

    Attributes:
        nonprivate: the yardstick, by adapter.
        private: after federated private training, by adapter and epsilon.
        gains: noised records won, with the smallest gain that would have been found.
    """

    seed: int
    stale: float
    nonprivate: Mapping[str, float]
    private: Mapping[tuple[str, int], float]
    gains: Mapping[tuple[str, int], tuple[int, float]]

    def share(self, adapter: str, epsilon: int, of: str | None = None) -> float:
        """Against the yardstick of the same adapter, or of another one."""
        whole = self.nonprivate[of or adapter] - self.stale
        return (self.private[adapter, epsilon] - self.stale) / whole

    @property
    def best(self) -> str:
        """The adapter that recovers most without privacy."""
        return max(self.nonprivate, key=lambda adapter: self.nonprivate[adapter])


def recover(fault: str, seed: int) -> Recovery:
    """Measure all adapters on one fleet."""
    torch.set_num_threads(1)
    made = fleet(fault, seed)
    inputs, labels = made.pooled
    nonprivate, private, gains = {}, {}, {}
    for kind in dict.fromkeys(kind for kind, _ in SETTINGS):
        model = train_yardstick(CODE, made.weights, kind, inputs, labels)
        with torch.no_grad():
            right = model(torch.from_numpy(made.test)).argmax(dim=1).numpy() == made.labels
        nonprivate[kind] = float(right.mean())
    for (kind, epsilon), settings in SETTINGS.items():
        plan = plan_training(policy(epsilon), settings, adapter_dimension(made.weights, kind))
        done = rehearse(CODE, made.weights, plan, made.records, seed)
        adapter = TrainableAdapter(CODE, made.weights, kind)
        adapter.set_change(done.change)
        private[kind, epsilon] = made.accuracy(adapter)
        gains[kind, epsilon] = done.gain, plan.smallest_detectable(GATEWAYS)
    return Recovery(
        seed=seed,
        stale=made.accuracy(TrainableAdapter(CODE, made.weights, "head")),
        nonprivate=nonprivate,
        private=private,
        gains=gains,
    )


def measure(dirt_seeds: Sequence[int] = DIRT_SEEDS) -> list[Figure]:
    """All three ids; two processes, as every session works on one thread.

    Args:
        dirt_seeds: of the fault that is only printed beside; the study takes all of `SEEDS`.
    """
    asked = [("lens", seed) for seed in SEEDS] + [("dirt", seed) for seed in dirt_seeds]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(recover, *zip(*asked, strict=True)))
    lens, dirt = found[: len(SEEDS)], found[len(SEEDS) :]
    for name, runs in (("lens", lens), ("dirt", dirt)):
        _print(name, runs)
    return [
        _recovered("pr-recover-3", lens, 3, 0.95),
        _recovered("pr-recover-1", lens, 1, 0.85),
        _best(lens, dirt),
    ]


def _recovered(name: str, runs: Sequence[Recovery], epsilon: int, goal: float) -> Figure:
    shares = [run.share("input", epsilon) for run in runs]
    plan = plan_training(policy(epsilon), SETTINGS["input", epsilon], 26)
    spent = epsilon_of(
        telemetry_nano(policy(epsilon)) + run_nano(plan, policy(epsilon).alpha), policy(epsilon)
    )
    return Figure(
        id=name,
        what=f"share of a lens fault recovered, {_spread(shares)}, epsilon {spent:.4f} a block",
        ours=statistics.fmean(shares),
        peer=1.0,
        peer_name="the same adapter without privacy",
        unit="share",
        goal=f">= {goal} at ({epsilon}, 1e-5)",
        holds=statistics.fmean(shares) >= goal and spent <= epsilon,
    )


def _best(lens: Sequence[Recovery], dirt: Sequence[Recovery]) -> Figure:
    shares = [run.share("input", 3, of=run.best) for run in lens]
    beside = [
        f"{fault} {kind} {statistics.fmean(run.share(kind, 3, of=run.best) for run in runs):.2f}"
        for fault, runs, kinds in (
            ("lens", lens, ("head", "conv", "lora-b", "lora")),
            ("dirt", dirt, ("input", "head", "conv", "lora-b", "lora")),
        )
        for kind in kinds
    ]
    return Figure(
        id="pr-best",
        what=(
            f"share of the best adapter's yardstick ({_names(lens)}), {_spread(shares)}; "
            f"beside it: {', '.join(beside)}"
        ),
        ours=statistics.fmean(shares),
        peer=1.0,
        peer_name="the best adapter without privacy",
        unit="share",
        goal=">= 0.90 at (3, 1e-5)",
        holds=statistics.fmean(shares) >= 0.90,
    )


def _spread(shares: Sequence[float]) -> str:
    return f"{len(shares)} seeds {min(shares):.3f} to {max(shares):.3f}"


def _names(runs: Sequence[Recovery]) -> str:
    return ", ".join(sorted({run.best for run in runs}))


def _print(fault: str, runs: Sequence[Recovery]) -> None:
    for run in runs:
        columns = [f"{fault} seed {run.seed}: stale {run.stale:.3f}"]
        columns += [f"{kind} nonprivate {value:.3f}" for kind, value in run.nonprivate.items()]
        columns += [
            f"{kind} at {epsilon} {value:.3f} (gain {gain[0]}, finds {gain[1]:.0f})"
            for (kind, epsilon), value in run.private.items()
            for gain in (run.gains[kind, epsilon],)
        ]
        print("; ".join(columns), file=sys.stderr)
