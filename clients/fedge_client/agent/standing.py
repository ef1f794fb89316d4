"""Whether this gateway's ledger goes on from what the coordinator confirmed.

A state that was wiped, put back from a backup or copied would spend budget that is spent
already. Whoever knows better is asked, before anything content-derived is sent, once in the
life of each process: the coordinator answers with the latest head of this ledger that it
confirmed, which this gateway's own key has signed, and signs the whole answer with the key that
this gateway trusts. Where the ledger does not go on from there, it is recovered; where it is
refused later on, it stays out of step until the next start. Until it is known to be in step,
nothing that derives from records is sent and no round is answered. Where another key answers,
it may be anybody's, and nothing but statuses is sent.

In step, it is asked again now and then which head was confirmed last: a reviewer who gets this
gateway's own export finds there what the coordinator says of it.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

from fedge.errors import RecordError, SignatureError, StateError, WitnessKeyError
from fedge.identity import Envelope
from fedge.privacy.heads import verify_standing
from fedge.privacy.ledger import Ledger
from fedge.records import AuditBatch, LedgerStanding, WitnessedHead, WitnessedStanding
from fedge.statefile import StateFile
from fedge_client.agent.post import Get
from fedge_client.agent.trusted_witness import WHAT_TO_DO, TrustedWitness

log = logging.getLogger(__name__)

State = Literal["unknown", "in-step", "out-of-step"]

NOT_IN_STEP = "ledger-not-in-step"
"""The public reason for which a round is declined."""

LEVELS = {"unknown": logging.WARNING, "in-step": logging.INFO, "out-of-step": logging.ERROR}
MAX_STANDING_BYTES = 16 * 2**10

NOT_KNOWN = 404
CONFIRM_S = 300.0
"""Shortest time between two questions for heads that were confirmed meanwhile."""
KEPT_HEADS = 8
"""Confirmed heads that are kept, the latest ones: each covers all entries before it."""


class Recovery(Protocol):
    """Makes a ledger go on from what was confirmed; see `recovery.Recoverer`."""

    def __call__(self, found: LedgerStanding, get: Get) -> None: ...


class Standing:
    """What is known about the ledger's standing with the coordinator; safe to use from threads.

    Args:
        state: where the standing is noted for the machine's own operator, and confirmed heads
            for reviewers.
        public_key: this gateway's, 32 raw bytes; its heads are checked against it.
        witness: whose answers count.
        recover: called where the ledger does not go on from what was confirmed.
        greeted: called with what the coordinator knows, once the ledger is in step.
        clock: seconds that never go back.

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
        witness: TrustedWitness,
        recover: Recovery,
        greeted: Callable[[LedgerStanding], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._asked_at, self._confirmed = clock, clock(), 0
        self._file, self._ledger = state, ledger
        self._gateway, self._public_key, self._witness = gateway, public_key, witness
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
    def unconfirmed(self) -> bool:
        """Whether the coordinator has entries beyond the latest confirmed head that is kept."""
        with self._lock:
            return self.state == "in-step" and self.stored > self._confirmed

    @property
    def confirm_due(self) -> bool:
        """Whether it is time to ask for a later one."""
        return self.unconfirmed and self._clock() - self._asked_at >= CONFIRM_S

    @property
    def foreign(self) -> bool:
        """Whether it was another witness than the trusted one that answered last."""
        return self._witness.refused is not None

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
            nonce, status, body = self._ask(get)
            if status != 200:
                why = "does not know this gateway" if status == NOT_KNOWN else "does not tell"
                self._set("unknown", f"the coordinator {why} (HTTP {status})")
                return
            try:
                found = self._checked(body, nonce)
                if not self._follows(found):
                    self._recover(found, get)
                self._in_step(found)
            except WitnessKeyError as error:
                self._set("unknown", f"{error}: {WHAT_TO_DO}", logging.ERROR)
            except RecordError as error:
                # Not our coordinator, perhaps: nothing is sent, and it is asked again.
                self._set("unknown", f"the coordinator's answer cannot be believed: {error}")
            except StateError as error:
                if isinstance(error.__cause__, (OSError, sqlite3.Error)):
                    raise  # the disk refused, which says nothing about the ledger: ask again
                self._set("out-of-step", str(error))

    def confirm(self, get: Get) -> None:
        """Ask for the latest confirmed head and keep it; does nothing out of step.

        What is being sent does not wait for the answer. One that cannot be believed changes
        nothing, but for the key under it: see `greet`.

        Raises:
            OutboundError: nobody answers.
            StateError: the disk refused.
        """
        if self.state != "in-step":
            return
        nonce, status, body = self._ask(get)
        if status != 200:
            log.info("the coordinator does not tell what it confirmed (HTTP %d)", status)
            return
        with self._lock:
            if self.state == "in-step":
                self._take_confirmed(body, nonce)

    def _take_confirmed(self, body: bytes, nonce: str) -> None:
        try:
            head = self._checked(body, nonce).witnessed
        except WitnessKeyError as error:
            self._set("unknown", f"{error}: {WHAT_TO_DO}", logging.ERROR)
        except RecordError as error:
            log.warning("what the coordinator confirmed cannot be believed: %s", error)
        else:
            if head is not None and not self._holds(head):
                self._set("out-of-step", "another ledger was confirmed; restart to recover")
            elif head is not None:
                self._keep(head)

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

    def _ask(self, get: Get) -> tuple[str, int, bytes]:
        """The number of the question, and what came back: status and body."""
        nonce, self._asked_at = secrets.token_hex(16), self._clock()
        path = f"/v1/ledgers/{self._gateway}/standing/{nonce}"
        return (nonce, *get(path, MAX_STANDING_BYTES))

    def _checked(self, body: bytes, nonce: str) -> LedgerStanding:
        """The standing in an answer that its witness signed for this very question, if that
        witness is the trusted one."""
        answer = WitnessedStanding.from_bytes(body)
        found = answer.standing
        if found.gateway != self._gateway:
            raise RecordError(f"the coordinator answers for gateway {found.gateway}")
        verify_standing(answer, nonce, self._public_key)
        head = found.witnessed
        if head is not None and head.head.simulated != self._ledger.simulated:
            raise SignatureError("the coordinator mixes simulated and real")
        self._witness.accept(answer.witness)
        return found

    def _follows(self, found: LedgerStanding) -> bool:
        ledger = self._ledger
        if found.witnessed is not None and not self._holds(found.witnessed):
            return False
        if found.entries > ledger.size:
            raise StateError(
                f"the coordinator holds {found.entries} entries and this ledger {ledger.size}, and"
                " no head was confirmed from which it could be recovered: set the gateway up anew,"
                " with a new identity"
            )
        return True

    def _holds(self, witnessed: WitnessedHead) -> bool:
        """Whether this ledger begins with the entries under a head."""
        head, ledger = witnessed.head, self._ledger
        return head.size <= ledger.size and ledger.root(head.size) == head.root

    def _in_step(self, found: LedgerStanding) -> None:
        self._greeted(found)
        if found.witnessed is not None:
            self._keep(found.witnessed)
        self.stored = min(found.entries, self._ledger.size)
        self._set("in-step", f"goes on from the {self.stored} entries that the coordinator has")

    def _keep(self, newest: WitnessedHead) -> None:
        """Keep a head that this ledger holds, and of earlier ones the latest of the same witness.

        They were held by this ledger when they came, and the one chain that a witness confirms is
        also what a recovery takes up.
        """
        size = newest.head.size
        with self._file.transaction() as db:
            rows = db.execute("SELECT size, body FROM ledger_witnessed ORDER BY size DESC")
            earlier = [row for row in rows if row[0] < size and _is_of(newest.witness, row[1])]
            db.execute("DELETE FROM ledger_witnessed")
            db.executemany(
                "INSERT INTO ledger_witnessed VALUES (?, ?)",
                [(size, newest.to_bytes()), *earlier[: KEPT_HEADS - 1]],
            )
        self._confirmed = size

    def _set(self, state: State, detail: str, level: int | None = None) -> None:
        self.state, self.detail = state, detail
        if f"{state} {detail}" == self._said:
            return
        self._said = f"{state} {detail}"
        with self._file.transaction() as db:
            db.execute("INSERT OR REPLACE INTO ledger_standing VALUES (1, ?, ?)", (state, detail))
        log.log(LEVELS[state] if level is None else level, "ledger %s: %s", state, detail)


def _is_of(witness: str, body: object) -> bool:
    """Whether that is a head which this witness confirmed."""
    try:
        return isinstance(body, bytes) and WitnessedHead.from_bytes(body).witness == witness
    except RecordError:
        return False
