"""Training seen from inside: on neighbouring data, with all randomness held equal.

Neighbours differ in one record, which in one of them is a null record in its slot. Both run
the real session; the second is answered what the first drew, so that each step starts from
the same released values. What the charge rests on is then read off, step by step.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from fakes.recording_noise import RecordingNoise, ReplayedNoise, Transcript
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedge.audit import toy
from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.learning.planning import plan_training
from fedge.learning.session import TrainingSession
from fedge.models.weights import Weights, adapter_dimension
from fedge.privacy.entries import RunReserved, read_entry
from fedge.privacy.grants import Grant
from fedge.privacy.ledger import Ledger
from fedge.privacy.noise import SeededNoise
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, TrainingPlan, sha256_hex
from fedge.statefile import StateFile
from fedge.tasks.code import TaskCode
from fedge.tasks.digits import CODE as DIGITS

POLICY = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=1))
RATE_PPM = 400_000
FLOAT_SLACK = 1e-5
"""Of a continuous sum: its charge is proven up to floating point, and said to be."""

ROWS = 8
HOSTILE = st.one_of(
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, 1e-40, 8.0, 3.4e38, -3.4e38, np.nan, np.inf, -np.inf]),
)
INPUTS = hnp.arrays(np.float32, (ROWS, toy.WIDTH), elements=HOSTILE)
LABELS = hnp.arrays(np.int64, ROWS, elements=st.integers(-2, 3))


def records_of(inputs: np.ndarray, labels: np.ndarray) -> LabelledRecords:
    slots = np.arange(len(labels), dtype=np.int64)
    return LabelledRecords(
        slots=slots,
        blocks=np.zeros_like(slots),
        inputs=inputs.astype(np.float32),
        labels=labels.astype(np.int64),
        predictions=np.zeros_like(slots),
    )


def without(records: LabelledRecords, index: int | np.ndarray) -> LabelledRecords:
    """The neighbour: a record, or all of a subject's, are null records in their slots."""
    inputs, labels = records.inputs.copy(), records.labels.copy()
    predictions = records.predictions.copy()
    inputs[index], labels[index], predictions[index] = 0.0, -1, -1
    return replace(records, inputs=inputs, labels=labels, predictions=predictions)


def planned(
    weights: Weights, adapter: str, *, sampled: bool = False, count: int = ROWS, **update: object
) -> TrainingPlan:
    given = TrainingSettings(adapter=adapter, rounds=1, steps=3, records=count)  # type: ignore[arg-type]
    plan = plan_training(POLICY, given, adapter_dimension(weights, given.adapter))
    if sampled:
        update |= {"sampling": "poisson", "rate_ppm": RATE_PPM}
    return plan.model_copy(update=update)


@lru_cache(maxsize=1)
def digits_weights() -> Weights:
    """Random ones: what is promised here does not rest on what a model has learnt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        state = DIGITS.new_model().state_dict()
    return {name: value.numpy().copy() for name, value in state.items()}


@contextmanager
def calls() -> Iterator[list[tuple[str, str]]]:
    """Which functions of ours are called, in order, while it is open.

    The noise's own aside, and facts that records derive: on a grid, float rounding may ask once
    more whether an integer bound holds.
    """
    seen: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        _, ours, name = code.co_filename.rpartition("/fedge/")
        if event == "call" and ours and not name.startswith(("privacy/", "records/")):
            seen.append((name, code.co_name))

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


class World:
    """One task, its plan, and how to run a session on it."""

    def __init__(self, code: TaskCode, weights: Weights, plan: TrainingPlan) -> None:
        self.code, self.weights, self.plan = code, weights, plan

    def run(
        self, records: LabelledRecords, noise: RecordingNoise
    ) -> tuple[bytes, int, list[tuple[str, str]]]:
        """One round and the evaluation; what was released, and the calls that led to it."""
        plan = self.plan
        session = TrainingSession(self.code, self.weights, plan, records, noise)
        start = np.zeros(plan.dimension, dtype=np.float32)
        with calls() as seen:
            change = session.round(start, Grant(1, "round", plan.round_event, simulated=True))
            grant = Grant(1, "evaluation", plan.evaluation_event, simulated=True)
            difference = session.evaluate(start + change, grant)
        return change.tobytes(), difference, seen

    def neighbours(
        self, records: LabelledRecords, index: int | np.ndarray, seed: int = 1
    ) -> tuple[Transcript, Transcript]:
        """Transcripts of both, after what must be equal was found equal."""
        first = RecordingNoise(SeededNoise(seed))
        ours = self.run(records, first)
        second = ReplayedNoise(first.transcript)
        theirs = self.run(without(records, index), second)
        assert ours[:2] == theirs[:2], "what was released depends on more than noised values"
        # A null record is left out of a sample's computation, as it is out of its sum: whether
        # a sample is empty decides there which functions are called, but never how often noise is.
        if self.plan.sampling == "full":
            assert ours[2] == theirs[2], "which way the code took depends on the record"
        assert first.transcript.flow == second.transcript.flow
        return first.transcript, second.transcript


def check_bound(first: Transcript, second: Transcript) -> None:
    """Every exact release differs by at most what is charged for it."""
    for ours, theirs in zip(first.draws, second.draws, strict=True):
        if ours.rate_ppm is None:
            moved = [int(a) - int(b) for a, b in zip(ours.exact, theirs.exact, strict=True)]
            assert sum(d * d for d in moved) <= ours.sensitivity2
        else:
            moved2 = float(((ours.exact - theirs.exact) ** 2).sum())
            assert moved2 <= ours.sensitivity2 * (1 + FLOAT_SLACK)
        assert np.isfinite(ours.exact).all() and np.isfinite(theirs.exact).all()


TOY = toy.CODE.base_weights(0)


@settings(max_examples=60, deadline=None)
@given(inputs=INPUTS, labels=LABELS, index=st.integers(0, ROWS - 1), sampled=st.booleans())
def test_whatever_one_record_holds_it_moves_each_sum_by_its_bound(
    inputs: np.ndarray, labels: np.ndarray, index: int, sampled: bool
) -> None:
    """Huge, tiny, NaN, infinite, unlabelled, of one class: same calls, same draws, bounded."""
    world = World(toy.CODE, TOY, planned(TOY, "head", sampled=sampled))

    check_bound(*world.neighbours(records_of(inputs, labels), index))


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("adapter", ["input", "head", "lora-b", "lora", "conv"])
def test_every_adapter_keeps_the_bound(adapter: str, sampled: bool) -> None:
    """On pictures, through real layers, with one wild record among ordinary ones."""
    weights = digits_weights()
    rng = np.random.default_rng(3)
    inputs = rng.uniform(0, 1, (ROWS, 64)).astype(np.float32)
    inputs[2], inputs[5, :9] = 1e30, np.nan
    records = records_of(inputs, rng.integers(0, 10, ROWS))
    world = World(DIGITS, weights, planned(weights, adapter, sampled=sampled))

    for index in (0, 2, 5):
        check_bound(*world.neighbours(records, index))


@settings(max_examples=25, deadline=None)
@given(
    inputs=INPUTS,
    labels=LABELS,
    owners=hnp.arrays(np.uint8, ROWS, elements=st.integers(0, 3)),
    sampled=st.booleans(),
)
def test_a_subject_moves_each_sum_by_its_bound(
    inputs: np.ndarray, labels: np.ndarray, owners: np.ndarray, sampled: bool
) -> None:
    """With all its records in the block gone at once, however many there were."""
    plan = planned(TOY, "head", sampled=sampled, unit="subject", max_records=2)
    subjects = np.repeat(owners[:, None], 16, axis=1)
    records = replace(records_of(inputs, labels), subjects=subjects)
    mine = np.flatnonzero(owners == owners[0]) if owners[0] else np.array([0])

    check_bound(*World(toy.CODE, TOY, plan).neighbours(records, mine))


@pytest.mark.parametrize("sampled", [False, True])
def test_the_bound_is_reached(sampled: bool) -> None:
    """The canary moves a sum by the whole clip: a smaller charge would be too small."""
    plan = planned(TOY, "head", sampled=sampled, count=toy.RECORDS, steps=12)
    world = World(toy.CODE, TOY, plan)
    first, second = world.neighbours(toy.records(with_canary=True), toy.RECORDS - 1)

    moved = [
        float(((a.exact - b.exact) ** 2).sum())
        for a, b in zip(first.draws, second.draws, strict=True)
    ]
    assert max(moved[:-1]) == pytest.approx(plan.sensitivity2, rel=1e-3)
    if sampled:
        assert min(moved[:-1]) == 0.0, "a sample without the canary does not see it"


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5, ROWS])
def test_nothing_released_tells_how_many_records_there_were(count: int, sampled: bool) -> None:
    """Given the same noised values, the very same bytes leave: the divisor is public."""
    plan = planned(TOY, "head", sampled=sampled)
    world = World(toy.CODE, TOY, plan)
    full = records_of(np.ones((ROWS, toy.WIDTH)), np.arange(ROWS) % 2)
    noise = RecordingNoise(SeededNoise(4))
    expected, _, _ = world.run(full, noise)
    fewer = records_of(np.full((count, toy.WIDTH), 0.5), np.zeros(count))
    if sampled:  # a sample has an entry for each record, so another one is drawn
        noise.transcript.samples[:] = [np.ones(count, dtype=np.bool_)] * plan.steps

    released, _, _ = world.run(fewer, ReplayedNoise(noise.transcript))

    assert released == expected


def test_a_round_is_its_noised_values_times_public_numbers() -> None:
    """Learning rate, grid and planned divisor; nothing else stands between noise and release."""
    plan = planned(TOY, "head")
    noise = RecordingNoise(SeededNoise(4))
    released, _, _ = World(toy.CODE, TOY, plan).run(toy.records(with_canary=True), noise)

    noised = np.sum([draw.noisy for draw in noise.transcript.draws[:-1]], axis=0)
    expected = -plan.learning_rate * noised / 2.0**plan.grid_bits / ROWS
    np.testing.assert_allclose(np.frombuffer(released, np.float32), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_executed_is_what_was_reserved(sampled: bool, tmp_path: Path) -> None:
    """The ledger's entry names the draws of a run: how many, how noisy, how long, how sampled."""
    plan = planned(TOY, "head", sampled=sampled, rounds=2, sigma2=10**13)
    with contextlib.closing(StateFile(tmp_path / "state.sqlite")) as state:
        ledger = Ledger(state, POLICY, clock=lambda: 0.0, simulated=True)
        ledger.open_block(0)
        reservation = ledger.reserve_run("run-1", [0], plan.events)
        noise = RecordingNoise(SeededNoise(2))
        session = TrainingSession(toy.CODE, TOY, plan, toy.records(with_canary=True), noise)
        vector = np.zeros(plan.dimension, dtype=np.float32)
        for number in range(plan.rounds):
            change = session.round(
                vector, ledger.grant(reservation, f"train/{number}", plan.round_event)
            )
            ledger.settle(reservation, f"train/{number}", sha256_hex(change.tobytes()), noise.kind)
        session.evaluate(vector, ledger.grant(reservation, "evaluate", plan.evaluation_event))
        entries = [read_entry(body) for body in ledger.entries()]

    (reserved,) = (entry for entry in entries if isinstance(entry, RunReserved))
    charged = [
        (e.sensitivity2, e.sigma2, e.dimension, getattr(e, "rate_ppm", None))
        for e in reserved.events
        for _ in range(e.count)
    ]
    assert [draw.parameters for draw in noise.transcript.draws] == charged
    assert len(noise.transcript.samples) == (plan.rounds * plan.steps if sampled else 0)
