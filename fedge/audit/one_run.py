"""The audit of one run: evidence about a release, from canaries in a staging gateway's data.

Each canary, a public row with a wrong label, is among the records by a fair coin of its
own. After the run that the gateway would have carried out, an attacker who knows everything
but coins, samples and noise guesses the coins from the released updates. That shows little
where noise is large, so it is evidence and no gate. Canaries harm the model and spend budget:
only a simulated ledger, whose releases prove nothing to anybody, is charged for them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from fedge.audit.estimators import Floats, guess_extremes, one_run_epsilon
from fedge.audit.evidence import AuditedCase, AuditEvidence, installed_versions
from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.data.subjects import PSEUDONYM_BYTES
from fedge.errors import AuditRefusedError, SettingError
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.planning import plan_training
from fedge.learning.session import TrainingSession, on_grid
from fedge.models.weights import Weights, adapter_dimension
from fedge.privacy.ledger import Ledger
from fedge.privacy.noise import Noise
from fedge.privacy.rdp import epsilon_of, event_nano
from fedge.records import TrainingPlan, sha256_hex
from fedge.tasks.code import TaskCode

Coins = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float32]

CANARIES = 300
LEAST_CANARIES, MOST_CANARIES = 20, 2000
CONFIDENCE = 0.95
SHARES = (0.2, 0.5, 1.0)
"""Parts of the canaries on which a guess is made; each gets its part of the error allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Staging:
    """A gateway on which nothing is at stake.

    Attributes:
        code, weights: the release that the run starts from.
        ledger: simulated; every block of `records` is open in it.
        records: labelled, in slot order; may be empty.
        release: its counter, where there is one.
    """

    code: TaskCode
    weights: Weights
    ledger: Ledger
    records: LabelledRecords
    release: int | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """What everybody may see of a run: where each round started, and the noised change."""

    starts: tuple[Vector, ...]
    changes: tuple[Vector, ...]


def one_run(
    staging: Staging,
    settings: TrainingSettings,
    noise: Noise,
    *,
    canaries: int = CANARIES,
    seed: int | None = None,
    clock: Callable[[], float] = time.time,
) -> AuditEvidence:
    """Plan a run with room for all records, and audit it; see `audit_plan`.

    Args:
        settings: how runs are planned; `records` is not used.
    """
    _check_canaries(canaries)
    plan = _plan_for(staging, settings, len(staging.records) + canaries)
    return audit_plan(staging, plan, noise, canaries=canaries, seed=seed, clock=clock)


def audit_plan(
    staging: Staging,
    plan: TrainingPlan,
    noise: Noise,
    *,
    canaries: int = CANARIES,
    seed: int | None = None,
    clock: Callable[[], float] = time.time,
    go_on: Callable[[int], bool] = lambda rounds: True,
) -> AuditEvidence:
    """Train once with canaries, as planned, and bound epsilon from below.

    Args:
        noise: what the gateway would draw from.
        seed: of canaries and coins; drawn from the system unless given.
        go_on: told after each round how many were trained; where it answers False no further one
            is. What fewer rounds show bounds the whole run as well, against the whole claim.

    Raises:
        AuditRefusedError: the ledger is a real one; nothing was charged.
        SettingError: too few or too many canaries, more records than the plan has room for, or a
            negative seed.
        BudgetExhaustedError: a block of the records has too little left.
    """
    if not staging.ledger.simulated:
        raise AuditRefusedError(
            "canaries do not go into a real ledger's data; audit a staging gateway"
        )
    _check_canaries(canaries)
    if len(staging.records) + canaries > plan.divisor:
        raise SettingError(
            f"{len(staging.records)} records and {canaries} canaries do not fit a plan of "
            f"{plan.divisor}: some canaries would not be trained on"
        )
    if seed is not None and seed < 0:
        raise SettingError(f"a seed starts at 0, not {seed}")
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    planted = canary_records(staging, canaries, rng)
    coins: Coins = rng.random(canaries) < 0.5
    trained = _joined(staging.records, _null(planted, ~coins))
    released = _train(staging, plan, trained, noise, go_on)
    scores = coin_scores(staging, plan, planted, released)
    return AuditEvidence(
        kind="one-run",
        at=clock(),
        versions=installed_versions(),
        task=staging.code.schema.name,
        release=staging.release,
        runs=1,
        canaries=canaries,
        claimed_epsilon=_claimed(staging.ledger, plan),
        delta=staging.ledger.policy.delta,
        confidence=CONFIDENCE,
        cases=(
            AuditedCase(
                name="one run",
                seeded_bug=False,
                counted_epsilon=bound_of(scores, coins, staging.ledger.policy.delta),
            ),
        ),
    )


def canary_records(staging: Staging, count: int, rng: np.random.Generator) -> LabelledRecords:
    """Public rows with wrong labels, on slots after the gateway's own."""
    public, records = staging.code.public(), staging.records
    rows = len(public.labels)
    chosen = rng.choice(rows, size=count, replace=count > rows)
    classes = len(staging.code.schema.classes)
    labels = (public.labels[chosen] + rng.integers(1, classes, size=count)) % classes
    first = int(records.slots[-1]) + 1 if len(records) else 0
    block = int(records.blocks[-1]) if len(records) else 0
    return LabelledRecords(
        slots=np.arange(first, first + count),
        blocks=np.full(count, block, dtype=np.int64),
        inputs=public.clean[chosen].reshape(count, -1),
        labels=labels,
        predictions=public.labels[chosen],
    )


def coin_scores(
    staging: Staging, plan: TrainingPlan, planted: LabelledRecords, released: Released
) -> Floats:
    """The best linear guess of each coin from what was released, float64 [m].

    Each round released about the sum of the clipped gradients of whoever was in it, taken at
    its start, plus noise of known size. With the coins' mean 1/2 and variance 1/4 known, this
    is their linear posterior mean; higher where a canary seems to be in. Where steps read
    samples, the sum over one is scaled up to all, and that samples differ is passed over: any
    guess bounds epsilon from below, a worse one from further below.
    """
    gram = np.zeros((len(planted), len(planted)))
    matched = np.zeros(len(planted))
    rate = 1.0 if plan.rate_ppm is None else plan.rate_ppm / 10**6
    variance = plan.sigma2 / plan.steps / 4.0**plan.grid_bits / rate**2
    for start, change in zip(released.starts, released.changes, strict=True):
        pulls = _clipped(staging, plan, planted, start)
        known = _clipped(staging, plan, staging.records, start).sum(axis=0)
        summed = -change.astype(np.float64) * plan.divisor / (plan.learning_rate * plan.steps)
        left = summed - known - pulls.sum(axis=0) / 2
        gram += pulls @ pulls.T
        matched += pulls @ left
    blurred = gram + 4 * variance * np.eye(len(planted))
    return np.asarray(np.linalg.solve(blurred, matched), dtype=np.float64)


def bound_of(scores: Floats, coins: Coins, delta: float) -> float:
    """The largest bound over `SHARES`, at `CONFIDENCE` for all of them together."""
    each = 1 - (1 - CONFIDENCE) / len(SHARES)
    guesses = [guess_extremes(scores, coins, share) for share in SHARES]
    return max(one_run_epsilon(one, delta, each) for one in guesses)


def _plan_for(staging: Staging, settings: TrainingSettings, records: int) -> TrainingPlan:
    roomy = settings.model_copy(update={"records": records})
    dimension = adapter_dimension(staging.weights, settings.adapter)
    return plan_training(staging.ledger.policy, roomy, dimension)


def _check_canaries(canaries: int) -> None:
    if not LEAST_CANARIES <= canaries <= MOST_CANARIES:
        raise SettingError(f"need {LEAST_CANARIES} to {MOST_CANARIES} canaries, not {canaries}")


def _train(
    staging: Staging,
    plan: TrainingPlan,
    records: LabelledRecords,
    noise: Noise,
    go_on: Callable[[int], bool],
) -> Released:
    """The run as a gateway carries it out: reserved whole, granted and settled by rounds."""
    ledger, run_id = staging.ledger, f"audit-{secrets.token_hex(8)}"
    blocks = sorted({int(block) for block in records.blocks})
    for block in blocks:
        ledger.open_block(block)
    reservation = ledger.reserve_run(run_id, blocks, plan.events)
    session = TrainingSession(staging.code, staging.weights, plan, records, noise)
    vector, starts, changes = np.zeros(plan.dimension, dtype=np.float32), [], []
    for number in range(plan.rounds):
        key = f"{run_id}/train/{number}"
        change = session.round(vector, ledger.grant(reservation, key, plan.round_event))
        ledger.settle(reservation, key, sha256_hex(change.tobytes()), noise.kind)
        starts.append(vector)
        changes.append(change)
        vector = vector + change
        if not go_on(number + 1):
            break
    return Released(tuple(starts), tuple(changes))


def _clipped(
    staging: Staging, plan: TrainingPlan, records: LabelledRecords, start: Vector
) -> Floats:
    """Each record's bounded gradient where a round started, float64 [n, dimension]."""
    schema = staging.code.schema
    adapter = TrainableAdapter(staging.code, staging.weights, plan.adapter)
    adapter.set_change(start)
    inputs = np.clip(records.inputs.astype(np.float32), schema.input.low, schema.input.high)
    prepared = adapter.prepared(inputs.reshape(-1, *schema.input.shape))
    gradients = adapter.row_gradients(prepared, torch.from_numpy(np.asarray(records.labels)))
    bounded: Floats = on_grid(gradients, plan) / 2.0**plan.grid_bits
    return bounded


def _claimed(ledger: Ledger, plan: TrainingPlan) -> float:
    """Epsilon of the run's charge alone."""
    nano = sum(event_nano(event, ledger.policy.alpha) for event in plan.events)
    return epsilon_of(nano, ledger.policy)


def _null(records: LabelledRecords, absent: Coins) -> LabelledRecords:
    """The same slots with null records where `absent`."""
    return replace(
        records,
        inputs=np.where(absent[:, None], 0.0, records.inputs).astype(np.float32),
        labels=np.where(absent, -1, records.labels),
        predictions=np.where(absent, -1, records.predictions),
    )


def _joined(first: LabelledRecords, then: LabelledRecords) -> LabelledRecords:
    """The records of a gateway, then canaries, which are about nobody."""
    inputs = [records.inputs.reshape(len(records), -1) for records in (first, then) if len(records)]
    subjects = np.zeros((len(first) + len(then), PSEUDONYM_BYTES), dtype=np.uint8)
    if first.subjects is not None:
        subjects[: len(first)] = first.subjects
    return LabelledRecords(
        slots=np.concatenate([first.slots, then.slots]),
        blocks=np.concatenate([first.blocks, then.blocks]),
        inputs=np.concatenate(inputs),
        labels=np.concatenate([first.labels, then.labels]),
        predictions=np.concatenate([first.predictions, then.predictions]),
        subjects=subjects,
    )
