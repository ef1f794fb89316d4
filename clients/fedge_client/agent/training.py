"""What the agent decides about a training request, and the run that follows.

The server asks; the gateway decides by itself, from its own policy and ledger
and from public facts only. The whole run is reserved before its first step, the
trainer sees records only under that reservation, and a round that is asked
again gets the stored answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import BlockStore, LabelledRecords
from fedge.errors import (
    BudgetError,
    BudgetExhaustedError,
    DrawLostError,
    FedgeError,
    ParticipationRefusedError,
    QuotaExceededError,
    ReservationError,
    StateError,
    UnknownEventError,
)
from fedge.identity import EnvelopeKind
from fedge.privacy.grants import Grant
from fedge.privacy.ledger import Ledger, Reservation
from fedge.records import (
    AdapterUpdate,
    PairedDifference,
    RoundRequest,
    RunSpec,
    TrainingPlan,
    sha256_hex,
)
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.held import Held
from fedge_client.agent.plan_fit import PlanFit
from fedge_client.agent.spool import Spool
from fedge_client.agent.standing import NOT_IN_STEP

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]
LARGEST_COUNT = 2**31 - 1


class Trainer(Protocol):
    """Trains one run's adapter; every answer is noised already."""

    @property
    def noise_kind(self) -> str:
        """What the trainer draws with; recorded with each settlement."""

    def round(self, vector: Vector, grant: Grant) -> Vector:
        """Local steps from `vector`; answers the change, float32, of the same length."""

    def evaluate(self, vector: Vector, grant: Grant) -> int:
        """Noised difference of right answers: candidate less present release."""

    def close(self) -> None:
        """End the trainer and forget its records."""


StartTrainer = Callable[[Path, TrainingPlan, LabelledRecords], Trainer]


@dataclass(frozen=True, slots=True)
class Serving:
    """The committed release: where its files lie and what it is."""

    counter: int
    sha256: str
    folder: Path


class TrainingDesk:
    """Answers a run's messages.

    Args:
        gateway: this gateway's fingerprint.
        serving: the committed release, or None before the first.
        closed_windows: number of windows closed so far, a public fact.
        in_step: whether the ledger goes on from what the coordinator confirmed; until it is known
            to, nothing is answered, stored or not.
        secured: whether the coordinator has every entry of the ledger up to now, sent if need be;
            before that no run reads a record, and no answer is handed out.
        start_trainer: starts the trainer of a run.
        enabled: whether this gateway takes part in runs at all.
    """

    def __init__(
        self,
        *,
        gateway: str,
        task: str,
        ledger: Ledger,
        store: BlockStore,
        gate: EgressGate,
        spool: Spool,
        serving: Callable[[], Serving | None],
        closed_windows: Callable[[], int],
        in_step: Callable[[], bool],
        secured: Callable[[], bool],
        start_trainer: StartTrainer,
        enabled: bool = True,
    ) -> None:
        self._gateway, self._task, self._enabled = gateway, task, enabled
        self._ledger, self._store, self._gate, self._spool = ledger, store, gate, spool
        self._serving, self._closed_windows = serving, closed_windows
        self._in_step, self._secured = in_step, secured
        self._start_trainer = start_trainer
        self._run_id = ""
        self._fit = PlanFit()
        self._trainer: Trainer | None = None
        self._payload: Held[tuple[EnvelopeKind, bytes]] = Held()
        self._reading: tuple[int, ...] = ()
        self._endings = 0

    @property
    def reading(self) -> tuple[int, ...]:
        """The blocks that a run which is under way reads: they must not be evicted under it."""
        return self._reading

    def answer(self, request: RoundRequest, arrays: bytes) -> bytes:
        """The sealed envelope that answers `request`.

        Raises:
            ParticipationRefusedError: this gateway does not take part; `reason` is public.
            FedgeError: it wanted to and failed. Asking again under the same run id is safe; where
                noise was drawn by then, it is lost, and this answer is refused.
        """
        spec = request.spec
        key = f"{spec.run_id}/{request.phase}/{request.round}"
        self._check_standing(spec)
        stored = self._spool.stored(key)
        answer = self._fresh(request, arrays, key) if stored is None else stored
        if not self._secured():
            # The settlement must be where a copy of this state would find it, before the reply is
            # anywhere: else the copy would noise the same round again. The reply stays stored.
            raise ParticipationRefusedError(NOT_IN_STEP)
        return answer

    def _fresh(self, request: RoundRequest, arrays: bytes, key: str) -> bytes:
        """Reserve, train or evaluate, and settle: the envelope, stored."""
        spec = request.spec
        serving = self._check(request, arrays)
        reservation = self._reserve(spec)
        if not self._secured():
            # Of two gateways that go on from one state, one is stopped here.
            raise ParticipationRefusedError(NOT_IN_STEP)
        trainer = self._trainer_for(spec, serving)
        kind, payload = self._payload.of(
            key, lambda: self._noised(request, arrays, trainer, reservation, key)
        )
        try:
            envelope = self._gate.release(
                kind,
                payload,
                reservation=reservation,
                key=key,
                noise_kind=trainer.noise_kind,
                channel="reply",
                spool_key=key,
            )
        except BudgetError:  # the ledger does not know of it any more
            self._payload.forget()
            raise
        self._payload.forget()
        if request.phase == "evaluate":
            self.close()
        return envelope

    def close(self) -> None:
        """End the present run's trainer, if one lives.

        Also from another thread, because records were erased: the round that is under way fails and
        is lost. The rounds after it read the records that are left.
        """
        self._endings += 1
        trainer, self._trainer, self._run_id = self._trainer, None, ""
        if trainer is not None:
            trainer.close()
        self._reading = ()

    def _noised(
        self,
        request: RoundRequest,
        arrays: bytes,
        trainer: Trainer,
        reservation: Reservation,
        key: str,
    ) -> tuple[EnvelopeKind, bytes]:
        """Train or evaluate: what leaves, once it is settled."""
        vector = np.frombuffer(arrays, dtype="<f4").astype(np.float32)
        try:
            if request.phase == "train":
                return "update", self._train(request, vector, trainer, reservation, key)
            return "counts", self._evaluate(request, vector, trainer, reservation, key)
        except DrawLostError as error:
            log.warning("run %s: %s", request.spec.run_id, error)
            raise ParticipationRefusedError("draw-lost") from error
        except (OSError, FedgeError):
            self.close()
            raise

    def _check_standing(self, spec: RunSpec) -> None:
        # First: a gateway that is not asked has no reason to give.
        if all(p.gateway != self._gateway for p in spec.participants):
            raise ParticipationRefusedError("not-in-cohort")
        if not self._in_step():
            raise ParticipationRefusedError(NOT_IN_STEP)

    def _check(self, request: RoundRequest, arrays: bytes) -> Serving:
        """Everything about participation is decided here, from public facts alone."""
        spec, plan = request.spec, request.spec.plan
        mine = next(p for p in spec.participants if p.gateway == self._gateway)
        if not self._enabled:
            raise ParticipationRefusedError("training-switched-off")
        if spec.task != self._task:
            raise ParticipationRefusedError("other-task")
        serving = self._serving()
        if serving is None or (serving.counter, serving.sha256) != (
            spec.base_release,
            spec.base_sha256,
        ):
            raise ParticipationRefusedError("other-release")
        if not mine.first_window <= mine.last_window < self._closed_windows():
            raise ParticipationRefusedError("windows-not-closed")
        # The evaluation comes after the last round. A number is part of what the ledger names.
        last = plan.rounds - 1 if request.phase == "train" else plan.rounds
        if request.round > last:
            raise ParticipationRefusedError("round-not-planned")
        if len(arrays) != 4 * plan.dimension or sha256_hex(arrays) != request.arrays_sha256:
            raise ParticipationRefusedError("arrays-do-not-fit")
        if not np.isfinite(np.frombuffer(arrays, dtype="<f4")).all():
            raise ParticipationRefusedError("arrays-not-finite")
        self._fit.check(plan, serving.sha256, serving.folder)
        return serving

    def _reserve(self, spec: RunSpec) -> Reservation:
        mine = next(p for p in spec.participants if p.gateway == self._gateway)
        blocks = self._store.blocks_of(mine.first_window, mine.last_window)
        if not blocks:
            raise ParticipationRefusedError("windows-not-kept")
        self._check_unit(spec.plan, blocks)
        try:
            return self._ledger.reserve_run(
                spec.run_id,
                blocks,
                spec.plan.events,
                purposes=("training", "evaluation"),
                task=spec.task,
                base_release=spec.base_release,
                base_sha256=spec.base_sha256,
            )
        except QuotaExceededError as error:
            log.warning("run %s refused: %s", spec.run_id, error)
            raise ParticipationRefusedError("quota-exceeded") from error
        except (BudgetExhaustedError, UnknownEventError) as error:
            # So little noise that it has no price at all is more than any budget.
            log.warning("run %s refused: %s", spec.run_id, error)
            raise ParticipationRefusedError("budget-exhausted") from error
        except ReservationError as error:
            raise ParticipationRefusedError("run-id-used-for-other-content") from error

    def _check_unit(self, plan: TrainingPlan, blocks: tuple[int, ...]) -> None:
        """The plan must bound what this gateway's owner protects, with the owner's m."""
        for block in blocks:
            if not self._ledger.is_open(block):  # kept, but a recovery closed it before it opened
                raise ParticipationRefusedError("budget-exhausted")
            policy = self._ledger.policy_of(block)
            if (plan.unit, plan.max_records) != (policy.unit, policy.max_records):
                raise ParticipationRefusedError("other-unit")

    def _trainer_for(self, spec: RunSpec, serving: Serving) -> Trainer:
        if self._trainer is not None and self._run_id == spec.run_id:
            return self._trainer
        self.close()
        endings = self._endings
        mine = next(p for p in spec.participants if p.gateway == self._gateway)
        self._reading = self._store.blocks_of(mine.first_window, mine.last_window)
        records = self._store.labelled(mine.first_window, mine.last_window, spec.plan.divisor)
        trainer = self._start_trainer(serving.folder, spec.plan, records)
        self._trainer, self._run_id = trainer, spec.run_id
        if self._endings != endings:
            self.close()
            raise StateError("records were erased while the trainer started")
        return trainer

    def _train(
        self,
        request: RoundRequest,
        vector: Vector,
        trainer: Trainer,
        reservation: Reservation,
        key: str,
    ) -> bytes:
        plan = request.spec.plan
        change = trainer.round(vector, self._ledger.grant(reservation, key, plan.round_event))
        return AdapterUpdate(
            run_id=request.spec.run_id,
            round=request.round,
            dimension=plan.dimension,
            values=change.astype("<f4").tobytes(),
        ).to_bytes()

    def _evaluate(
        self,
        request: RoundRequest,
        vector: Vector,
        trainer: Trainer,
        reservation: Reservation,
        key: str,
    ) -> bytes:
        plan = request.spec.plan
        grant = self._ledger.grant(reservation, key, plan.evaluation_event)
        return PairedDifference(
            run_id=request.spec.run_id,
            # What a record can hold: to fail here, after the draw, would lose it.
            difference=max(-LARGEST_COUNT, min(LARGEST_COUNT, trainer.evaluate(vector, grant))),
            sigma2=plan.evaluation_sigma2,
        ).to_bytes()
