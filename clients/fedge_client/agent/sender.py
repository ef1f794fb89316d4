"""Pushing the spool to the coordinator: at least once, important ones first, with backoff.

What derives from records waits until the coordinator holds the ledger entries that charge
for it: see `standing`. The coordinator acknowledges an envelope only when it is on its
disk; only then does it leave the spool. A refusal for good puts one envelope aside and goes
on. One that keeps failing while the coordinator answers does not hold up the others.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Literal

from fedge.breaker import CircuitBreaker
from fedge.errors import OutboundError, StateError
from fedge_client.agent.post import Get, HttpPost, Post
from fedge_client.agent.spool import CONTENT_KINDS, Spool, Spooled
from fedge_client.agent.standing import Standing

log = logging.getLogger(__name__)

CONFLICT = 409
FINAL_REFUSALS = {400: "malformed", CONFLICT: "conflict", 413: "too-large"}
"""Statuses that no retry will change. A key that is not admitted yet (401, 403) may be later."""

ROUND_S = 5.0
"""Longest time of one `push`, but for the call that is under way: after it the loop around it
sees whether it is to stop."""

RESET_S = 10.0
"""How long the breaker refuses. Shorter than the longest backoff, so that it never delays what
backoff would have let through by much."""

MAX_PASSED_OVER = 32

Outcome = Literal["taken", "refused", "not-admitted", "failed"]


def outcome_of(status: int) -> Outcome:
    """What an HTTP status says about the envelope that it answers.

    `failed` is trouble at the other end (5xx, 408, 429) or another server than ours (3xx, 404):
    the same envelope may be taken later.
    """
    if status == 200:
        return "taken"
    if status in FINAL_REFUSALS:
        return "refused"
    return "not-admitted" if status in (401, 403) else "failed"


class Sender:
    """Drains a spool through a `Post`.

    Args:
        spool, post: from where, to where.
        standing: of the ledger; asked for before the first envelope is sent.
        interval_s: pause between rounds when all is well.
        max_backoff_s: longest pause; until then it doubles with each failure in a row.
        jitter: random factor source in [0, 1), so that a fleet does not come back in step.
        clock: seconds that never go back.
        breaker: stands before the coordinator; one of its own unless given.
    """

    def __init__(
        self,
        spool: Spool,
        post: Post,
        standing: Standing,
        *,
        interval_s: float,
        max_backoff_s: float = 60.0,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._spool, self._post, self._standing = spool, post, standing
        self._interval_s, self._max_backoff_s = interval_s, max_backoff_s
        self._jitter, self._clock = jitter, clock
        self.breaker = breaker or CircuitBreaker("the coordinator", clock, reset_s=RESET_S)
        self._failures = 0
        self._passed_over: set[int] = set()
        self._held_audit: int | None = None
        self._stopping = threading.Event()

    def push(self) -> float:
        """Send what waits, for `ROUND_S` at most; answers the seconds until the next call."""
        end = self._clock() + ROUND_S
        if not self.greet():
            self._failures += 1
            return self._pause_s()
        while batch := self._next_batch():
            for item in batch:
                if self._stopping.is_set():
                    return self._interval_s
                if not self._send(item):
                    self._failures += 1
                    return self._pause_s()
                if self._clock() > end:
                    return 0.0
        self._failures = 0
        if self._standing.confirm_due:
            self._confirm(self._post.get)  # whatever comes of it delays nothing
        return self._interval_s

    def greet(self) -> bool:
        """Ask for the ledger's standing where it is not known; says whether to go on sending.

        May be called from another thread while a `push` is under way.
        """
        if not self._standing.due:
            return True
        try:
            self.breaker.check()
            self._standing.greet(self._post.get)
        except OutboundError as error:
            log.info("the ledger's standing is not known: %s", error)
            self.breaker.failed()
            return False
        self.breaker.succeeded()
        return True

    def last_look(self) -> None:
        """Before an orderly end: fetch what the coordinator confirmed since it was last asked.

        For whoever exports the ledger of a gateway that does not run. Takes a moment at most.
        """
        if self._standing.unconfirmed:
            soon = self._post.get_soon if isinstance(self._post, HttpPost) else self._post.get
            self._confirm(soon)

    def _confirm(self, get: Get) -> None:
        if self.breaker.wait_s > 0:
            return
        try:
            self.breaker.check()
            self._standing.confirm(get)
        except OutboundError as error:
            log.info("what the coordinator confirmed is not known: %s", error)
            self.breaker.failed()
            return
        except StateError as error:
            log.warning("what the coordinator confirmed could not be kept: %s", error)
        self.breaker.succeeded()

    def stop(self) -> None:
        """End a `push` in another thread: no call is begun, one under way is cut off.

        What was under way may have arrived; it is sent again at the next start.
        """
        self._stopping.set()
        if isinstance(self._post, HttpPost):
            self._post.abort()

    def _next_batch(self) -> list[Spooled]:
        cleared = self._standing.cleared
        batch = self._in_order(self._spool.waiting(without=self._passed_over, cleared=cleared))
        if not batch and self._passed_over:
            self._passed_over.clear()
            self._held_audit = None
            batch = self._in_order(self._spool.waiting(cleared=cleared))
        return batch

    def _in_order(self, batch: list[Spooled]) -> list[Spooled]:
        """`batch` without what must wait.

        No ledger entry overtakes one that was passed over, and none goes to a coordinator that may
        know another ledger: entries beyond a hole there would contradict the ledger of a gateway
        that is recovered up to the hole. What another witness acknowledges may have reached nobody:
        to it go statuses alone, of which the next makes up for each.
        """
        if self._standing.foreign:
            return [item for item in batch if item.kind == "status"]
        if self._standing.state != "in-step":
            return [item for item in batch if item.kind != "audit"]
        held = self._held_audit
        if held is None:
            return batch
        return [item for item in batch if item.kind != "audit" or item.seq < held]

    def _pause_s(self) -> float:
        doubled = self._interval_s * 2.0 ** min(self._failures, 32)
        backoff = min(doubled, self._max_backoff_s) * (0.5 + 0.5 * self._jitter())
        return max(backoff, self.breaker.wait_s)

    def _send(self, item: Spooled) -> bool:
        """Send one envelope; says whether to go on with the next one."""
        if self.breaker.wait_s > 0:
            return False
        if item.kind in CONTENT_KINDS and self._standing.cleared is None:
            return True  # a refusal came since the batch was put together
        envelope = self._spool.hand_out(item.seq)
        if envelope is None:
            return True
        try:
            self.breaker.check()
            status = self._post(envelope)
        except OutboundError as error:
            log.info("push waits: %s", error)
            self.breaker.failed()
            self._spool.give_back()
            return False
        self._tell_standing(item, envelope, status)
        return self._judge(item, status)

    def _tell_standing(self, item: Spooled, envelope: bytes, status: int) -> None:
        if item.kind == "audit" and status == 200:
            self._standing.taken(envelope)
        elif item.kind == "audit" and status == CONFLICT:
            self._standing.refused()

    def _judge(self, item: Spooled, status: int) -> bool:
        seq, outcome = item.seq, outcome_of(status)
        if outcome == "failed":
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        if outcome == "taken":
            self._spool.acknowledge(seq)
            self._failures = 0
            return True
        if outcome == "refused":
            log.error("envelope %d was refused: %s", seq, FINAL_REFUSALS[status])
            self._spool.quarantine(seq, FINAL_REFUSALS[status])
            return True
        log.warning("envelope %d was not taken (HTTP %d), trying again later", seq, status)
        self._spool.give_back()
        if outcome == "failed":
            self._pass_over(item)
        return False

    def _pass_over(self, item: Spooled) -> None:
        """The next round begins with another envelope: this one may be the trouble."""
        if len(self._passed_over) >= MAX_PASSED_OVER:
            self._passed_over.clear()
            self._held_audit = None
        self._passed_over.add(item.seq)
        if item.kind == "audit" and (self._held_audit is None or item.seq < self._held_audit):
            self._held_audit = item.seq
