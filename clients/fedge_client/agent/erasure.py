"""Erasing records, and withdrawing consent: everywhere on the gateway, within one call.

What is erased goes from the ring, from the open window, from the block store with labels
and sketches, from a running trainer's memory, and from the logs of the file systems that
we write ourselves. A journal makes good what a kill interrupts. The ledger is told how
many ids were asked for, never which or whose, nor what was found; no charge falls, because
what was released about them stays released.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import BlockStore
from fedge.data.consent_book import ConsentBook
from fedge.data.erasures import ErasureJournal, PendingErasure, Reason
from fedge.data.subjects import MAX_SUBJECT_CHARS, SubjectKey
from fedge.errors import RecordError, SettingError, StateError
from fedge.privacy.ledger import Ledger
from fedge.records.purposes import PURPOSES, TRAINING, purpose_bits
from fedge.serving.record_ids import RecordId
from fedge.serving.ring import LABEL, OBSERVATION, Match
from fedge.serving.ring_file import Records
from fedge.statefile import StateFile
from fedge_client.agent.admin_port import Command

log = logging.getLogger(__name__)

Slots = npt.NDArray[np.int64]


class Stream(Protocol):
    """Rows between the worker and the block store: in the ring, and held for the open window."""

    def erase(self, match: Match) -> int:
        """Wipe matching observations, and labels given to them; answers how many rows went.

        None of them reaches the block store any more when it returns.
        """

    def given_out(self) -> int:
        """No slot from here on was given to a row yet."""


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What one erasure did.

    Attributes:
        records: rows that were found and are gone.
        blocks: data blocks that held them.
        at: when it was asked for, seconds since the epoch.
        foreign: record ids that are another gateway's, or name another block than their record
            is in; nothing was done about them.
    """

    records: int
    blocks: tuple[int, ...]
    at: float
    foreign: int = 0


class Eraser:
    """Carries erasures out, one at a time; unfinished ones of an earlier process at once.

    Args:
        gateway: the prefix of this gateway's record ids.
        ring: the ring file; it need not exist.
        stream: what reads it.
        end_training: ends a running trainer, which holds copies of records.
        forget_local: drops what else was computed from records and is kept on this host.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        gateway: str,
        state: StateFile,
        store: BlockStore,
        ledger: Ledger,
        consent: ConsentBook,
        subjects: SubjectKey,
        ring: Path,
        stream: Stream,
        end_training: Callable[[], None],
        forget_local: Callable[[], None] = lambda: None,
        clock: Callable[[], float],
    ) -> None:
        self._gateway, self._state, self._store, self._ledger = gateway, state, store, ledger
        self._consent, self._subjects = consent, subjects
        self._ring, self._stream, self._end_training = ring, stream, end_training
        self._clock, self._forget_local = clock, forget_local
        self._journal = ErasureJournal(state)
        self._one = threading.Lock()

    def erase(
        self,
        *,
        record_ids: Sequence[str] = (),
        subject: str | None = None,
        reason: Reason = "erasure",
    ) -> ErasureReceipt:
        """Erase records by id, or all records of a subject; gone when it returns.

        Raises:
            RecordError: an id has another form; nothing was erased.
            SettingError: neither or both were given, or the subject is no subject.
            StateError: the disk refused; what is left to do is tried again until it is done.
        """
        if bool(record_ids) == (subject is not None):
            raise SettingError("name records, or one subject")
        ids = [RecordId.parse(text) for text in record_ids]
        own = [i for i in ids if i.gateway == self._gateway]
        who = None if subject is None else self._pseudonym(subject)
        # What was not served yet is nowhere; if buried, the row to come would count nowhere.
        given_out = self._stream.given_out() if own else 0
        served = {i for i in own if i.slot < given_out}
        if not served and who is None:
            return ErasureReceipt(0, (), self._clock(), len(ids) - len(own))
        with self._one:
            wrong = self._in_another_block(served)
            foreign = len(ids) - sum(i not in wrong for i in own)
            slots = np.unique(np.array([i.slot for i in served - wrong], dtype=np.int64))
            with self._state.transaction():
                pending = self._journal.begin(slots, who, reason, self._clock(), asked=len(served))
                self._store.bury(slots.tolist())
            records, blocks = self._carry_out(pending)
        log.info("erased %d records (%s)", records, reason)
        return ErasureReceipt(records, blocks, pending.at, foreign)

    def withdraw(self, subject: str, purposes: Sequence[str]) -> ErasureReceipt:
        """Note that a subject withdrew purposes; without `training` its stored rows go at once.

        Later rows of the subject no longer serve these purposes.

        Raises:
            SettingError: the subject is no subject, or a purpose cannot be withdrawn.
            StateError: the disk refused; asking again is safe.
        """
        known = [purpose for purpose in PURPOSES if purpose in purposes]
        if len(known) != len(set(purposes)):
            raise SettingError(f"purposes are {', '.join(PURPOSES)}")
        bits = purpose_bits(known)
        self._consent.withdraw(self._pseudonym(subject), bits)
        if bits & TRAINING:
            return self.erase(subject=subject, reason="consent")
        return ErasureReceipt(0, (), self._clock())

    def finish(self) -> int:
        """Carry out what is begun and not finished; answers how many erasures that were."""
        with self._one:
            pending = self._journal.pending()
            for erasure in pending:
                records, _ = self._carry_out(erasure)
                log.info("finished an erasure of %d records", records)
            self._state.scrub()
        return len(pending)

    @property
    def unfinished(self) -> int:
        """Erasures that wait for the disk."""
        return len(self._journal.pending())

    def _in_another_block(self, ids: set[RecordId]) -> set[RecordId]:
        """Ids of whose slot a record is known to lie in another block than they name."""
        if not ids:
            return set()
        blocks = _Blocks({i.slot for i in ids})
        # In this order: a row that leaves the ring meanwhile is in the store.
        self._stream.erase(blocks)
        found = dict(blocks.of)
        for slot in {i.slot for i in ids} - found.keys():
            window = self._store.window_of(slot)
            if window is not None:
                found.update((slot, block) for block in self._store.blocks_of(window, window))
        return {i for i in ids if found.get(i.slot, i.block) != i.block}

    def _carry_out(self, pending: PendingErasure) -> tuple[int, tuple[int, ...]]:
        """All steps, each of which may have been done before."""
        found = _Matcher(pending.slots, pending.subject)
        waiting = self._stream.erase(found)
        with self._state.transaction():
            # Known by slot from now on, should a power failure bring the ring's bytes back.
            self._store.bury(found.slots)
            self._journal.found(pending, waiting)
        erased = self._store.erase(
            slots=pending.slots,
            subject=pending.subject,
            also=lambda records: self._journal.found(pending, records),
        )
        # Labels that wait here for rows which were in the store.
        self._stream.erase(lambda rows: self._store.erased(rows["slot"].astype(np.int64)))
        # Always: whether there was something to erase shows in no round, and what an earlier try
        # erased before the disk refused may still be in a trainer's memory.
        self._end_training()
        self._forget_local()
        self._sync_ring()
        with self._state.transaction():
            records = self._journal.end(pending)
            # Public facts only: what was found depends on consent, and on who a record is about.
            self._ledger.note_erasure(pending.reason, asked=pending.asked)
        self._store.remove_leftovers()
        self._state.scrub()
        return records, tuple(sorted(found.blocks.union(erased.blocks)))

    def _sync_ring(self) -> None:
        """The ring is never synced while serving; what was wiped must be wiped on the disk."""
        try:
            with contextlib.suppress(FileNotFoundError), self._ring.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise StateError(f"cannot sync {self._ring}: {error}") from error

    def _pseudonym(self, subject: str) -> bytes:
        if not 1 <= len(subject) <= MAX_SUBJECT_CHARS:
            raise SettingError(f"a subject has 1 to {MAX_SUBJECT_CHARS} characters")
        return self._subjects.pseudonym(subject)


class _Blocks:
    """Matches no record of the ring, and remembers the block of each observation asked about."""

    def __init__(self, slots: set[int]) -> None:
        self._slots = np.fromiter(slots, np.int64)
        self.of: dict[int, int] = {}

    def __call__(self, rows: Records) -> npt.NDArray[np.bool_]:
        asked = (rows["kind"] == OBSERVATION) & np.isin(rows["slot"], self._slots)
        slots, blocks = rows["slot"][asked].tolist(), rows["block"][asked].tolist()
        self.of.update(zip(slots, blocks, strict=True))
        return np.zeros(len(rows), dtype=np.bool_)


class _Matcher:
    """Says which records of the ring are meant, and remembers where they were."""

    def __init__(self, slots: Slots, subject: bytes | None) -> None:
        self._named = slots
        self._subject = None if subject is None else np.frombuffer(subject, np.uint8)
        self.slots: set[int] = set()
        self.blocks: set[int] = set()

    def __call__(self, rows: Records) -> npt.NDArray[np.bool_]:
        observed = rows["kind"] == OBSERVATION
        meant = np.isin(rows["slot"], self._named) & (observed | (rows["kind"] == LABEL))
        if self._subject is not None:
            meant |= observed & (rows["subject"] == self._subject).all(axis=-1)
        # Wiped ones (no purpose) are counted once.
        fresh = meant & observed & (rows["purposes"] > 0)
        self.slots.update(rows["slot"][fresh].tolist())
        self.blocks.update(rows["block"][fresh].tolist())
        matched: npt.NDArray[np.bool_] = meant
        return matched


def admin_commands(eraser: Eraser) -> dict[str, Command]:
    """The commands `erase` and `withdraw` of the agent's admin socket."""

    def erase(request: dict[str, Any]) -> dict[str, Any]:
        """See `Eraser.erase`; of `record_ids` (texts) and `subject` one is given."""
        return asdict(
            eraser.erase(
                record_ids=_texts(request, "record_ids") if "record_ids" in request else (),
                subject=_text(request, "subject") if "subject" in request else None,
            )
        )

    def withdraw(request: dict[str, Any]) -> dict[str, Any]:
        return asdict(eraser.withdraw(_text(request, "subject"), _texts(request, "purposes")))

    return {"erase": erase, "withdraw": withdraw}


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise RecordError(f"{name} must be text")
    return value


def _texts(request: dict[str, Any], name: str) -> list[str]:
    value = request.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecordError(f"{name} must be a list of texts")
    return value
