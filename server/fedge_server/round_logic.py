"""What a run's rounds are, without Flower: ask, verify, check, average, evaluate.

A gateway that declines is left out of that round, with equal weights for the others; one
that failed or stayed silent fails the run. A run may be retried under the same id: gateways
answer a repeated message with what they stored, and finished rounds are read from the
journal, so that a retry goes on from the very same adapter. Sending, files and time are ports.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import Field

from fedge.errors import RecordError, RunFailedError, UpdateInvalidError
from fedge.identity import Artefact
from fedge.learning.aggregation import Check, Vector, check_update, mean_update
from fedge.records import (
    AdapterUpdate,
    Fingerprint,
    PairedDifference,
    Record,
    RoundRequest,
    RunResult,
    RunSpec,
    Sha256,
    TrainingPlan,
    sha256_hex,
)
from fedge_server.round_replies import Answer, Exchange, Tally

log = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")


class RoundOutcome(Record):
    """A finished train round: what a retry goes on from.

    Attributes:
        contributors: gateways whose updates were averaged, sorted.
        update_bytes: sizes of their envelopes, in the same order.
        update_sha256: hashes of their updates, as their ledgers settled them; none where an
            earlier version ran the round.
        adapter: the adapter after the round, little-endian float32 in base64.
    """

    round: int = Field(ge=0)
    contributors: tuple[Fingerprint, ...]
    update_bytes: tuple[int, ...]
    update_sha256: tuple[Sha256, ...] = ()
    adapter: str

    @property
    def vector(self) -> Vector:
        data = base64.b64decode(self.adapter, validate=True)
        return np.frombuffer(data, dtype="<f4").astype(np.float32)


class Journal(Protocol):
    """Keeps finished rounds of one run, and what every message of it brought in."""

    def load(self, number: int) -> RoundOutcome | None: ...
    def save(self, outcome: RoundOutcome) -> None: ...
    def keep_replies(self, name: str, replies: Iterable[Artefact]) -> None: ...


class MemoryJournal:
    """A journal that lasts for one attempt."""

    def __init__(self) -> None:
        self._outcomes: dict[int, RoundOutcome] = {}

    def load(self, number: int) -> RoundOutcome | None:
        return self._outcomes.get(number)

    def save(self, outcome: RoundOutcome) -> None:
        self._outcomes[outcome.round] = outcome

    def keep_replies(self, name: str, replies: Iterable[Artefact]) -> None:
        pass


def run_rounds(
    spec: RunSpec,
    initial: Vector,
    exchange: Exchange,
    checks: Sequence[Check],
    *,
    journal: Journal | None = None,
    simulated: bool = False,
) -> tuple[RunResult, Vector]:
    """All train rounds and the evaluation of one run; answers its result and the final adapter.

    Args:
        initial: the adapter to start from, float32[dimension].
        checks: applied in order to every update before it is summed.
        simulated: whether envelopes must be marked as simulated; others are refused.

    Raises:
        RunFailedError: a round got no update, or a gateway of the cohort failed or did not
            answer. What was finished is in the journal; running it again is safe.
    """
    if initial.shape != (spec.plan.dimension,) or not np.isfinite(initial).all():
        raise RunFailedError(f"the initial adapter is not {spec.plan.dimension} finite values")
    run = _Run(spec, exchange, checks, journal or MemoryJournal(), simulated)
    vector = initial.astype(np.float32)
    outcomes = []
    for number in range(spec.plan.rounds):
        outcome = run.journal.load(number)
        if outcome is None:
            outcome = _train(run, number, vector)
            run.journal.save(outcome)
        vector = outcome.vector
        outcomes.append(outcome)
    answers = _evaluate(run, vector)
    result = RunResult(
        spec=spec,
        adapter_sha256=adapter_sha256(vector),
        update_bytes=tuple(size for outcome in outcomes for size in outcome.update_bytes),
        contributors=tuple(outcome.contributors for outcome in outcomes),
        counts=tuple(answer.content for answer in answers),
        update_sha256=tuple(one for outcome in outcomes for one in outcome.update_sha256),
        counts_sha256=tuple(answer.artefact.payload_sha256 for answer in answers),
    )
    return result, vector


def adapter_sha256(vector: Vector) -> str:
    """SHA-256 over an adapter's little-endian float32 bytes."""
    return sha256_hex(vector.astype("<f4").tobytes())


@dataclass(frozen=True, slots=True)
class _Run:
    """One attempt at a run."""

    spec: RunSpec
    exchange: Exchange
    checks: Sequence[Check]
    journal: Journal
    simulated: bool


def _train(run: _Run, number: int, vector: Vector) -> RoundOutcome:
    spec, checks = run.spec, run.checks

    def read(payload: bytes) -> Vector:
        """The change in an update of this round, float32[d]; RecordError where it is none."""
        update = AdapterUpdate.from_bytes(payload)
        if (update.run_id, update.round) != (spec.run_id, number):
            raise RecordError("the update is for another round")
        if len(update.values) != 4 * update.dimension:
            raise RecordError("the update does not hold as many values as it says")
        return np.frombuffer(update.values, dtype="<f4").astype(np.float32)

    tally = Tally(spec, "update", read, simulated=run.simulated)
    answers = _ask(run, "train", number, vector, tally)
    # In the order of names, so that the same updates give the same bits.
    passed = {n: a for n, a in answers.items() if _passes(n, a.content, checks, spec.plan)}
    if not passed:
        raise RunFailedError(f"round {number}: no update passed the checks")
    mean = mean_update([answer.content for answer in passed.values()], spec.plan, checks)
    return RoundOutcome(
        round=number,
        contributors=tuple(passed),
        update_bytes=tuple(answer.size for answer in passed.values()),
        update_sha256=tuple(answer.artefact.payload_sha256 for answer in passed.values()),
        adapter=base64.b64encode((vector + mean).astype("<f4").tobytes()).decode(),
    )


def _passes(gateway: str, change: Vector, checks: Sequence[Check], plan: TrainingPlan) -> bool:
    try:
        check_update(change, plan, checks)
    except UpdateInvalidError as error:
        log.warning("the update of %s is not summed: %s", gateway, error)
        return False
    return True


def _evaluate(run: _Run, vector: Vector) -> tuple[Answer[PairedDifference], ...]:
    spec = run.spec

    def read(payload: bytes) -> PairedDifference:
        paired = PairedDifference.from_bytes(payload)
        if (paired.run_id, paired.sigma2) != (spec.run_id, spec.plan.evaluation_sigma2):
            raise RecordError("the difference is of another run or under another noise")
        return paired

    tally = Tally(spec, "counts", read, simulated=run.simulated)
    return tuple(_ask(run, "evaluate", spec.plan.rounds, vector, tally).values())


def _ask(
    run: _Run,
    phase: Literal["train", "evaluate"],
    number: int,
    vector: Vector,
    tally: Tally[AnswerT],
) -> dict[str, Answer[AnswerT]]:
    array = vector.astype("<f4").tobytes()
    request = RoundRequest(
        spec=run.spec, phase=phase, round=number, arrays_sha256=sha256_hex(array)
    )
    replies = run.exchange(request, array, tally.enough)
    try:
        return tally.close(replies, f"{phase} {number}")
    finally:
        run.journal.keep_replies(f"{phase}-{number}", tally.received.values())
