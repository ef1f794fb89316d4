"""Escalation: asking a larger model about requests that the local one finds hard.

Off by default. A whole request goes upstream when one of its rows is hard, all its rows
may be used for it, the agent granted their blocks (its ledger then says that they are
excluded from the guarantee), and the budget lasts. Whatever goes wrong, the local answer
stands, within the deadline. How often what happened is counted here and leaves the
gateway nowhere: it depends on what the requests held.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

import numpy.typing as npt

from fedge.breaker import CircuitBreaker
from fedge.config import EscalationSettings, GatewaySettings
from fedge.errors import OutboundError, OutboundTimeoutError, SettingError
from fedge.records import TaskSchema
from fedge.records.purposes import ESCALATION
from fedge.serving.escalation_budget import BUDGET_FILE, EscalationBudget
from fedge.serving.escalation_counts import EscalationCounts
from fedge.serving.escalation_messages import Outputs, can_ask, outputs_of, request_of
from fedge.serving.grants import GRANTS_FILE, GrantedBlocks
from fedge.serving.marks import Marks
from fedge.serving.scores import Scores
from fedge.serving.upstream import Endpoint, Headers, HttpClient

if TYPE_CHECKING:
    from fedge.serving.engine import Served

log = logging.getLogger(__name__)

Reason = Literal["", "not-granted", "budget", "deadline", "failed"]
"""Why the local answer stands in; empty where no other was looked for, or another was given."""

MAX_CONNECTIONS = 8
MAX_ANSWER_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class EscalationOutcome:
    """What became of one request.

    Attributes:
        considered: a row was hard and all rows have the purpose; the answer then says what came
            of it.
        outputs: the upstream answer to each wanted output; None: the local answer stands.
        reason: why it stands although the request was considered.
    """

    considered: bool
    outputs: Outputs | None = None
    reason: Reason = ""


NOT_CONSIDERED = EscalationOutcome(considered=False)


@dataclass(frozen=True, slots=True)
class Hardness:
    """Which rows the local model does not know well enough.

    Attributes:
        confidence_below: a row of less confidence is hard.
        ood_above: a row of a higher OOD score is hard; None: no score is.
    """

    confidence_below: float
    ood_above: float | None

    def any(self, scores: Scores) -> bool:
        """Whether a row is hard. One of unknown confidence (NaN) is: hence the negations."""
        hard = ~(scores.confidence >= self.confidence_below)
        if self.ood_above is not None:
            hard |= ~(scores.ood <= self.ood_above)
        return bool(hard.any())


class Escalator:
    """Decides about each request, and asks the upstream server.

    Args:
        task: what the rows are; the upstream model must take the same input, and give outputs
            of the same names and shapes.
        client: of the upstream server.
        target: path of the upstream model's inference.
        headers: sent along, such as a token.
        hardness, granted, budget, breaker: each may keep a request here.
        deadline_s: how long a caller may be kept waiting for another answer than the local one.
        counts: where outcomes are counted; None counts in memory.
    """

    def __init__(
        self,
        task: TaskSchema,
        client: HttpClient,
        target: str,
        *,
        headers: Headers,
        hardness: Hardness,
        granted: GrantedBlocks,
        budget: EscalationBudget,
        breaker: CircuitBreaker,
        deadline_s: float,
        counts: EscalationCounts | None = None,
    ) -> None:
        self._task, self._client, self._target, self._headers = task, client, target, headers
        self._hardness, self._granted, self._budget = hardness, granted, budget
        self._breaker, self._deadline_s = breaker, deadline_s
        self._counts = counts or EscalationCounts()

    @classmethod
    def open(
        cls,
        settings: GatewaySettings,
        task: TaskSchema,
        *,
        counts: Path | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self | None:
        """The escalator of one served model; None where escalation is off.

        Args:
            settings: of this model; its state folder holds budget and grants.
            counts: file for the counts of outcomes, for the loopback status.
            clock: seconds since the epoch, for the budget.
            monotonic: seconds, for the circuit breaker.

        Raises:
            SettingError: an address, model or file of `[escalation]` is wrong.
            StateError: the counts cannot be written.
        """
        wanted = settings.escalation
        if not wanted.url:
            return None
        if not wanted.model:
            raise SettingError("escalation.model: name the model of the upstream server")
        endpoint = Endpoint.parse(wanted.url, ca_file=wanted.ca_file)
        budget = _budget(wanted, settings.state_dir, clock)
        with contextlib.suppress(OSError):  # then each request finds out, and stays here
            budget.left()  # makes the file now: no request shall wait for its fsync
        return cls(
            task,
            HttpClient(
                endpoint, max_connections=MAX_CONNECTIONS, max_answer_bytes=MAX_ANSWER_BYTES
            ),
            f"/v2/models/{quote(wanted.model, safe='')}/infer",
            headers=_authorization(wanted.token_file),
            hardness=Hardness(wanted.confidence_below, wanted.ood_above),
            granted=GrantedBlocks(settings.state_dir / GRANTS_FILE),
            budget=budget,
            breaker=CircuitBreaker(f"upstream {endpoint.host}", monotonic),
            deadline_s=wanted.deadline_s,
            counts=EscalationCounts(counts),
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many requests were `escalated`, and how many not for each reason.

        They depend on what requests held: for the loopback status alone, which reads their file.
        """
        return self._counts.read()

    async def escalate(
        self, inputs: npt.NDArray[Any], served: Served, marks: Marks, wanted: tuple[str, ...]
    ) -> EscalationOutcome:
        """Ask upstream where that is called for, allowed and affordable.

        Returns within the deadline and never raises, but for the caller's cancellation, which
        also ends the request upstream.

        Args:
            inputs: the rows, n x the task's input shape.
            served: what the local model said, and the rows' blocks.
            marks: what the rows may be used for.
            wanted: names of the outputs that the caller asked for.
        """
        if not marks.purposes & ESCALATION or not self._hardness.any(served.scores):
            return NOT_CONSIDERED
        outcome = await self._outcome(inputs, served.blocks, wanted)
        self._counts.count(outcome.reason or "escalated")
        return outcome

    def close(self) -> None:
        """Close the connections that are kept."""
        self._client.close()

    async def _outcome(
        self, inputs: npt.NDArray[Any], blocks: list[int], wanted: tuple[str, ...]
    ) -> EscalationOutcome:
        try:
            refusal = self._refusal(blocks, wanted)
            if refusal:
                return EscalationOutcome(True, reason=refusal)
            return EscalationOutcome(True, await self._ask(inputs, wanted))
        except OutboundTimeoutError:
            return EscalationOutcome(True, reason="deadline")
        except OutboundError as error:
            log.warning("escalation failed: %s", error)
        except Exception as error:  # noqa: BLE001 - the local answer is there whatever happens
            # Without its text, which could repeat a value of the request.
            log.error("escalation failed: %s", type(error).__name__)
        return EscalationOutcome(True, reason="failed")

    def _refusal(self, blocks: list[int], wanted: tuple[str, ...]) -> Reason:
        """Why the request stays here; empty: it was paid for and must be sent."""
        if not can_ask(self._task, wanted):
            return "failed"
        if not self._granted.cover(blocks):
            return "not-granted"
        try:
            # Looked at before the breaker, which counts on a call that it let through.
            if not self._budget.left():
                return "budget"
            self._breaker.check()
            return "" if self._budget.take() else "budget"
        except OutboundError:
            return "failed"
        except OSError as error:
            log.error("the escalation budget cannot be kept, so nothing is sent: %s", error)
            return "budget"

    async def _ask(self, inputs: npt.NDArray[Any], wanted: tuple[str, ...]) -> Outputs:
        """One request upstream; every end of it but a cancellation is told to the breaker."""
        until = asyncio.get_running_loop().time() + self._deadline_s
        try:
            headers, body = request_of(inputs, self._task, wanted)
            response = await self._client.request(
                "POST",
                self._target,
                [*headers, *self._headers],
                body,
                timeout_s=until - asyncio.get_running_loop().time(),
                # The server might get to see the rows twice, and the budget knows of once.
                resend=False,
            )
            outputs = outputs_of(response, self._task, len(inputs), wanted)
        except Exception:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        return outputs


def _budget(
    wanted: EscalationSettings, state_dir: Path, clock: Callable[[], float]
) -> EscalationBudget:
    return EscalationBudget(
        state_dir / BUDGET_FILE,
        per_minute=wanted.per_minute,
        per_day=wanted.per_day,
        clock=clock,
    )


def _authorization(token_file: Path | None) -> Headers:
    if token_file is None:
        return []
    try:
        token = token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cannot read escalation.token_file: {error}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingError(f"{token_file} must hold one token of visible characters")
    return [(b"authorization", b"Bearer " + token.encode())]
