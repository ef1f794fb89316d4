"""Who answered a round's message, and with what: replies turned into verified answers.

Whatever carried a reply is believed nothing: an envelope counts if the key that the run's
specification names for its sender signed it, once per gateway. A reply without an envelope
says why, but nobody signed that: it can explain a missing gateway, never replace one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from fedge.errors import RecordError, RunFailedError
from fedge.identity import Artefact, Envelope
from fedge.records import RoundRequest, RunSpec

log = logging.getLogger(__name__)

NOT_IN_COHORT = "not-in-cohort"
FAILURES = frozenset(
    {"failed", "agent-unreachable", "malformed-request", "malformed-reply", "flower-error"}
)
"""Reasons that a gateway did not choose: the run fails and may be retried."""

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Reply:
    """One node's answer. A node's name means nothing; only the envelope says who answers.

    Attributes:
        envelope: sealed bytes, not verified; empty where the gateway declined or failed.
        reason: why there is none, one public word.
        detail: more about a failure, for the log.
    """

    envelope: bytes = b""
    reason: str = ""
    detail: str = ""


Enough = Callable[[Sequence[Reply], int], bool]
"""Told all replies so far and how many messages are unanswered, says whether to stop waiting."""


class Exchange(Protocol):
    """Sends one request to every node, also to those that connect meanwhile."""

    def __call__(self, request: RoundRequest, array: bytes, enough: Enough) -> Sequence[Reply]:
        """Answers all replies, in order of arrival, when `enough` or when the time is over."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[AnswerT]):
    """What a gateway of the cohort answered.

    Attributes:
        size: of its envelope in bytes.
        artefact: what it signed.
    """

    content: AnswerT
    size: int
    artefact: Artefact


class Tally(Generic[AnswerT]):
    """Sorts one phase's replies.

    Attributes:
        received: what gateways of the cohort signed as answers, used or not, each once.

    Args:
        kind: the only kind of envelope that counts.
        read: turns a verified payload into an answer; raises `RecordError` if it is none.
        simulated: whether envelopes must be marked as simulated.
    """

    def __init__(
        self, spec: RunSpec, kind: str, read: Callable[[bytes], AnswerT], *, simulated: bool
    ) -> None:
        self._keys = {p.gateway: bytes.fromhex(p.public_key) for p in spec.participants}
        self._kind, self._read, self._simulated = kind, read, simulated
        self._seen = 0
        self.answers: dict[str, Answer[AnswerT]] = {}
        self.received: dict[bytes, Artefact] = {}
        self.declined: list[str] = []
        self.failed: list[str] = []

    def enough(self, replies: Sequence[Reply], outstanding: int) -> bool:
        """Whether waiting longer can bring anything: the whole cohort answered, or everybody
        did and the rest of the cohort is explained. A gateway that is not connected may
        still come back before the round's time is over."""
        for reply in replies[self._seen :]:
            self._sort(reply)
        self._seen = len(replies)
        missing = len(self.missing)
        return not missing or (not outstanding and missing <= len(self.declined + self.failed))

    @property
    def missing(self) -> list[str]:
        """Gateways of the cohort without a valid envelope, sorted."""
        return sorted(set(self._keys) - set(self.answers))

    def close(self, replies: Sequence[Reply], what: str) -> dict[str, Answer[AnswerT]]:
        """The cohort's answers by gateway.

        Raises:
            RunFailedError: nobody answered, or a gateway of the cohort neither answered nor
                declined.
        """
        self.enough(replies, 0)
        unexplained = len(self.missing) - len(self.declined)
        if unexplained > 0:
            causes = sorted(set(self.failed)) or ["no answer in time"]
            raise RunFailedError(f"{what}: {unexplained} of {self.missing} failed: {causes}")
        if not self.answers:
            raise RunFailedError(f"{what}: the whole cohort declined: {sorted(set(self.declined))}")
        if self.declined:
            log.warning("%s: %d declined: %s", what, len(self.declined), self.declined)
        return dict(sorted(self.answers.items()))

    def _sort(self, reply: Reply) -> None:
        if not reply.envelope:
            if reply.reason in FAILURES:
                self.failed.append(": ".join(filter(None, (reply.reason, reply.detail))))
            elif reply.reason != NOT_IN_COHORT:
                self.declined.append(reply.reason)
            return
        try:
            gateway, answer = self._verified(reply.envelope)
        except RecordError as error:
            log.warning("an envelope is not used: %s", error)
            self.failed.append(f"invalid-envelope: {error}")
        else:
            self.answers.setdefault(gateway, answer)

    def _verified(self, data: bytes) -> tuple[str, Answer[AnswerT]]:
        envelope = Envelope.from_bytes(data)
        header = envelope.header
        key = self._keys.get(header.gateway)
        if key is None:
            raise RecordError(f"gateway {header.gateway} is not in the cohort")
        envelope.verify(key)
        if header.kind != self._kind or header.simulated != self._simulated:
            raise RecordError(f"{header.kind=}, {header.simulated=} was not asked")
        artefact = Artefact.of(envelope, "reply")
        # Whatever becomes of it: it was released.
        self.received[artefact.to_bytes()] = artefact
        return header.gateway, Answer(self._read(envelope.payload), len(data), artefact)
