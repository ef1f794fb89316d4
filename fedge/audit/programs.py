"""What the many-run audit runs: the training code as it is, and with bugs planted in it.

Every program goes the gateway's own way: the ledger reserves and grants, a training session
clips, sums and noises under the grant, the ledger settles. A bug is planted from outside,
where a mistake of ours would sit, and never in the code itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fedge.audit import toy
from fedge.config import TrainingSettings
from fedge.learning import session as training
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.planning import plan_training
from fedge.learning.session import TrainingSession
from fedge.models.weights import Weights, adapter_dimension
from fedge.privacy.grants import Grant
from fedge.privacy.ledger import Ledger, Reservation
from fedge.privacy.noise import Booleans, Integers, Noise, SeededNoise
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, PrivacyPolicy, TrainingPlan, sha256_hex
from fedge.statefile import StateFile

Floats = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

EPSILON, DELTA = 8.0, 1e-5
"""The claim. A wrong scale is as wrong at any epsilon, but is found more easily at a large one."""

SAMPLED_EPSILON = 1.0
"""The claim of runs on samples. Only counts bound those, and never by more than the logarithm of
their number: five or so from a thousand."""

_LITTLE_RHO = 1e-6


def _policy(epsilon: float) -> PrivacyPolicy:
    return new_policy(
        epsilon=epsilon,
        delta=DELTA,
        block=BlockLength(kind="windows", value=1),
        # All but nothing goes to training, whose guarantee is what is tested.
        telemetry_rho=_LITTLE_RHO,
        window_rho=_LITTLE_RHO,
    )


POLICY, SAMPLED_POLICY = _policy(EPSILON), _policy(SAMPLED_EPSILON)
ROUNDS = 4
SETTINGS = TrainingSettings(
    adapter="head",
    rounds=ROUNDS,
    steps=2,
    clip=1.0,
    # So small that the canary's gradient keeps its direction: nothing it shows gets lost.
    learning_rate=1e-3,
    records=toy.RECORDS,
    evaluation_rho=_LITTLE_RHO,
)
SAMPLED_SETTINGS = SETTINGS.model_copy(update={"records": 256, "sample_above": 1, "sample": 1})
"""Planned for more records than there are: each is in one sample of 256, so that nearly all of the
claim rests on who is left out."""


class HalvedNoise(SeededNoise):
    """A bug: half the standard deviation that was charged."""

    def discrete_gaussian(
        self, exact: Integers, *, sensitivity2: int, sigma2: int, grant: Grant
    ) -> Integers:
        """See `Noise.discrete_gaussian`."""
        noisy = super().discrete_gaussian(
            exact, sensitivity2=sensitivity2, sigma2=sigma2, grant=grant
        )
        return exact + (noisy - exact) // 2


class NobodyLeftOut(SeededNoise):
    """A bug: every sample holds every record, and is charged as if it did not."""

    def poisson_sample(self, units: int, rate_ppm: int) -> Booleans:
        """See `Noise.poisson_sample`."""
        super().poisson_sample(units, rate_ppm)
        return np.ones(units, dtype=np.bool_)


@contextmanager
def no_clipping() -> Iterator[None]:
    """A bug: gradients of any length reach the sum."""

    def only_rounded(gradients: Floats, plan: TrainingPlan) -> Integers:
        return np.trunc(gradients * 2.0**plan.grid_bits).astype(np.int64)

    right = training.on_grid
    training.on_grid = only_rounded
    try:
        yield
    finally:
        training.on_grid = right


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One way to train.

    Attributes:
        noise: from a seed.
        planted: a bug that is there while it is entered.
        forgets: each round is planned and reserved as if it were the only one.
        sampled: steps read Poisson samples, under `SAMPLED_POLICY`.
    """

    name: str
    seeded_bug: bool = True
    noise: Callable[[int], Noise] = SeededNoise
    planted: Callable[[], AbstractContextManager[None]] = nullcontext
    forgets: bool = False
    sampled: bool = False


PROGRAMS = (
    Program(name="the code as it is", seeded_bug=False),
    Program(name="halved noise", noise=HalvedNoise),
    Program(name="no clipping", planted=no_clipping),
    Program(name="accountant reset per round", forgets=True),
    Program(name="the code on samples", seeded_bug=False, sampled=True),
    Program(name="samples that leave nobody out", noise=NobodyLeftOut, sampled=True),
)


class Laboratory:
    """Trains a program on the toy again and again, each time on a fresh block of one ledger.

    Args:
        folder: for the ledger's file; must exist.

    Attributes:
        ledger: simulated.
        plan: what every training carries out.
        claimed_epsilon: the most that the ledger ever said about one block.
    """

    def __init__(self, folder: Path, program: Program) -> None:
        self._program = program
        self._state = StateFile(folder / "state.sqlite")
        # A power failure costs an audit nothing; waiting for the disk thousands of times does.
        self._state.rows("PRAGMA synchronous=OFF")
        policy = SAMPLED_POLICY if program.sampled else POLICY
        self.ledger = Ledger(self._state, policy, clock=lambda: 0.0, simulated=True)
        self._weights = toy.CODE.base_weights(0)
        self.plan = _planned(self._weights, program)
        self._pull = canary_pull(self._weights, self.plan)
        self._blocks = 0
        self.claimed_epsilon = 0.0

    def close(self) -> None:
        """Close the ledger's file."""
        self._state.close()

    def score(self, seed: int, *, with_canary: bool) -> float:
        """Train once; how far the released adapter went where the canary pulls it."""
        records = toy.records(with_canary=with_canary)
        noise = self._program.noise(seed)
        session = TrainingSession(toy.CODE, self._weights, self.plan, records, noise)
        vector = np.zeros(self.plan.dimension, dtype=np.float32)
        reservation: Reservation | None = None
        with self._program.planted():
            for number in range(ROUNDS):
                if reservation is None or self._program.forgets:
                    reservation = self._reserve()
                vector = vector + self._round(session, vector, reservation, f"train/{number}")
        return float(vector.astype(np.float64) @ self._pull)

    def _reserve(self) -> Reservation:
        """Reserve a run about the next block; a program that forgets takes another each round."""
        block, self._blocks = self._blocks, self._blocks + 1
        self.ledger.open_block(block)
        reservation = self.ledger.reserve_run(f"run-{block}", [block], self.plan.events)
        spent = self.ledger.spending(block).epsilon
        self.claimed_epsilon = max(self.claimed_epsilon, spent)
        return reservation

    def _round(
        self, session: TrainingSession, vector: Vector, reservation: Reservation, key: str
    ) -> Vector:
        """One round under its grant, settled as a gateway settles it."""
        grant = self.ledger.grant(reservation, key, self.plan.round_event)
        change = session.round(vector, grant)
        self.ledger.settle(reservation, key, sha256_hex(change.tobytes()), "seeded")
        return change


def canary_pull(weights: Weights, plan: TrainingPlan) -> Floats:
    """Where the toy's canary pulls the adapter at the start, float64 [dimension], of length 1."""
    adapter = TrainableAdapter(toy.CODE, weights, plan.adapter)
    canary = toy.records(with_canary=True)
    prepared = adapter.prepared(canary.inputs[-1:])
    gradient = adapter.row_gradients(prepared, torch.from_numpy(canary.labels[-1:]))[0]
    pull: Floats = -gradient / np.linalg.norm(gradient)
    return pull


def _planned(weights: Weights, program: Program) -> TrainingPlan:
    policy, settings = POLICY, SETTINGS
    if program.sampled:
        policy, settings = SAMPLED_POLICY, SAMPLED_SETTINGS
    if program.forgets:
        settings = settings.model_copy(update={"rounds": 1})
    return plan_training(policy, settings, adapter_dimension(weights, settings.adapter))
