"""Pushing the spool to the coordinator: at least once, oldest first, with backoff.

The coordinator acknowledges an envelope only when it is on its disk; only then
does it leave the spool. A refusal for good puts one envelope aside and goes on.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import urllib3

from fedge.errors import OutboundError
from fedge_client.agent.spool import Spool

log = logging.getLogger(__name__)

FINAL_REFUSALS = {400: "malformed", 409: "sequence-conflict", 413: "too-large"}
"""Statuses that no retry will change. A key that is not admitted yet (401, 403) may be later."""


Post = Callable[[bytes], int]
"""Sends one envelope and answers the HTTP status; raises `OutboundError` when it cannot."""


class HttpPost:
    """Posts envelopes to `<base>/v1/envelopes` over a kept connection."""

    def __init__(self, base_url: str, *, timeout_s: float = 10.0) -> None:
        self._url = base_url.rstrip("/") + "/v1/envelopes"
        self._pool = urllib3.PoolManager(
            num_pools=1, timeout=urllib3.Timeout(timeout_s), retries=False
        )

    def __call__(self, envelope: bytes) -> int:
        headers = {"Content-Type": "application/octet-stream"}
        try:
            return self._pool.request("POST", self._url, body=envelope, headers=headers).status
        except urllib3.exceptions.HTTPError as error:
            raise OutboundError(f"cannot reach {self._url}: {error}") from error


class Sender:
    """Drains a spool through a `Post`.

    Args:
        spool, post: from where, to where.
        interval_s: pause between rounds when all is well.
        jitter: random factor source in [0, 1), so that a fleet does not come back in step.
    """

    def __init__(
        self,
        spool: Spool,
        post: Post,
        *,
        interval_s: float,
        max_backoff_s: float = 60.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._spool, self._post = spool, post
        self._interval_s, self._max_backoff_s = interval_s, max_backoff_s
        self._jitter = jitter
        self._failures = 0

    def push(self) -> float:
        """Send what waits and answer how many seconds to wait before the next call."""
        while batch := self._spool.waiting():
            for item in batch:
                if not self._send(item.seq, item.envelope):
                    self._failures += 1
                    backoff = min(self._interval_s * float(2**self._failures), self._max_backoff_s)
                    return backoff * (0.5 + 0.5 * self._jitter())
        self._failures = 0
        return self._interval_s

    def _send(self, seq: int, envelope: bytes) -> bool:
        try:
            status = self._post(envelope)
        except OutboundError as error:
            log.info("push waits: %s", error)
            return False
        if status == 200:
            self._spool.acknowledge(seq)
            return True
        if status in FINAL_REFUSALS:
            log.error("envelope %d was refused: %s", seq, FINAL_REFUSALS[status])
            self._spool.quarantine(seq, FINAL_REFUSALS[status])
            return True
        log.warning("envelope %d was not taken (HTTP %d), trying again later", seq, status)
        return False
