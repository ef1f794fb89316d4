"""Whether this gateway's ledger goes on from what the coordinator confirmed.

A state that was wiped, put back from a backup or copied would spend budget that is spent
already. Whoever knows better is asked, before anything content-derived is sent, once in the
life of each process: the coordinator answers with the latest head of this ledger that it
confirmed, which this gateway's own key has signed. Where the ledger does not go on from there,
it is recovered; where it is refused later on, it stays out of step until the next start. Until
it is known to be in step, nothing that derives from records is sent and no round is answered.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import Literal, Protocol

from fedge.errors import RecordError, SignatureError, StateError
from fedge.identity import Envelope
from fedge.privacy.heads import verify_witnessed
from fedge.privacy.ledger import Ledger
from fedge.records import AuditBatch, LedgerStanding
from fedge.statefile import StateFile
from fedge_client.agent.post import Get

log = logging.getLogger(__name__)

State = Literal["unknown", "in-step", "out-of-step"]

NOT_IN_STEP = "ledger-not-in-step"
"""The public reason for which a round is declined."""

LEVELS = {"unknown": logging.WARNING, "in-step": logging.INFO, "out-of-step": logging.ERROR}
MAX_STANDING_BYTES = 16 * 2**10


class Recovery(Protocol):
    """Makes a ledger go on from what was confirmed; see `recovery.Recoverer`."""

    def __call__(self, found: LedgerStanding, get: Get) -> None: ...


class Standing:
    """What is known about the ledger's standing with the coordinator; safe to use from threads.

    Args:
        state: where the standing is noted for the machine's own operator, and confirmed heads
            for reviewers.
        public_key: this gateway's, 32 raw bytes; its heads are checked against it.
        recover: called where the ledger does not go on from what was confirmed.
        greeted: called with what the coordinator knows, once the ledger is in step.

    Attributes:
        state: `unknown` until the coordinator answered.
        detail: why, in words.
        stored: entries that the coordinator has in one piece from the first; 0 until in step.
    """

    def __init__(
        self,
        state: StateFile,
        ledger: Ledger,
        *,
        gateway: str,
        public_key: bytes,
        recover: Recovery,
        greeted: Callable[[LedgerStanding], None],
    ) -> None:
        self._file, self._ledger = state, ledger
        self._gateway, self._public_key = gateway, public_key
        self._recover, self._greeted = recover, greeted
        self._lock = threading.RLock()
        self._said = ""
        self.state: State = "unknown"
        self.detail, self.stored = "not asked yet", 0
        state.ensure(
            "CREATE TABLE IF NOT EXISTS ledger_witnessed (size INTEGER PRIMARY KEY,"
            " body BLOB NOT NULL)",
            "CREATE TABLE IF NOT EXISTS ledger_standing (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " state TEXT NOT NULL, detail TEXT NOT NULL)",
        )
        self._set("unknown", self.detail)

    @property
    def due(self) -> bool:
        """Whether the coordinator is to be asked."""
        return self.state == "unknown"

    @property
    def cleared(self) -> int | None:
        """What derives from records may be sent if this many entries include its own; None where
        nothing may."""
        with self._lock:
            return self.stored if self.state == "in-step" else None

    def greet(self, get: Get) -> None:
        """Ask, and recover where that is needed; does nothing where the answer is known.

        Raises:
            OutboundError: nobody answers; ask again later.
            StateError: the disk refused; ask again later.
        """
        with self._lock:
            if not self.due:
                return
            status, body = get(f"/v1/ledgers/{self._gateway}", MAX_STANDING_BYTES)
            if status != 200:
                self._set("unknown", f"the coordinator does not tell (HTTP {status})")
                return
            try:
                found = self._checked(body)
                if not self._follows(found):
                    self._recover(found, get)
                self._in_step(found)
            except RecordError as error:
                # Not our coordinator, perhaps: nothing is sent, and it is asked again.
                self._set("unknown", f"the coordinator's answer cannot be believed: {error}")
            except StateError as error:
                if isinstance(error.__cause__, (OSError, sqlite3.Error)):
                    raise  # the disk refused, which says nothing about the ledger: ask again
                self._set("out-of-step", str(error))

    def taken(self, envelope: bytes) -> None:
        """Note that the coordinator stored ledger entries."""
        batch = AuditBatch.from_bytes(Envelope.from_bytes(envelope).payload)
        with self._lock:
            if batch.first_seq <= self.stored:
                self.stored = max(self.stored, batch.last_seq + 1)

    def refused(self) -> None:
        """Note that the coordinator refused ledger entries: it knows another ledger."""
        with self._lock:
            self._set("out-of-step", "the coordinator refused ledger entries; restart to recover")

    def _checked(self, body: bytes) -> LedgerStanding:
        found = LedgerStanding.from_bytes(body)
        witnessed = found.witnessed
        if found.gateway != self._gateway:
            raise RecordError(f"the coordinator answers for gateway {found.gateway}")
        if witnessed is not None:
            verify_witnessed(witnessed, bytes.fromhex(witnessed.witness), self._public_key)
            if witnessed.head.simulated != self._ledger.simulated:
                raise SignatureError("the coordinator mixes simulated and real")
        return found

    def _follows(self, found: LedgerStanding) -> bool:
        ledger = self._ledger
        if found.witnessed is not None:
            head = found.witnessed.head
            return head.size <= ledger.size and ledger.root(head.size) == head.root
        if found.entries > ledger.size:
            raise StateError(
                f"the coordinator holds {found.entries} entries and this ledger {ledger.size}, and"
                " no head was confirmed from which it could be recovered: set the gateway up anew,"
                " with a new identity"
            )
        return True

    def _in_step(self, found: LedgerStanding) -> None:
        self._greeted(found)
        if found.witnessed is not None:
            with self._file.transaction() as db:
                row = (found.witnessed.head.size, found.witnessed.to_bytes())
                db.execute("INSERT OR REPLACE INTO ledger_witnessed VALUES (?, ?)", row)
        self.stored = min(found.entries, self._ledger.size)
        self._set("in-step", f"goes on from the {self.stored} entries that the coordinator has")

    def _set(self, state: State, detail: str) -> None:
        self.state, self.detail = state, detail
        if f"{state} {detail}" == self._said:
            return
        self._said = f"{state} {detail}"
        with self._file.transaction() as db:
            db.execute("INSERT OR REPLACE INTO ledger_standing VALUES (1, ?, ?)", (state, detail))
        log.log(LEVELS[state], "ledger %s: %s", state, detail)
