"""Labelled errors of a window: how many answers were right and wrong, noised, once, on time.

A label may come long after its window was closed. So that neither the time nor the number
of releases depends on what labels came, each window has one, at a fixed watermark: when so
many further windows have closed, also if there was no label at all. What comes later
counts for nothing. Whether a window has one was decided when it closed, by the policy of
its block alone; until then a row of the state file waits for the watermark.

Counted are records that may still be watched and that the block store keeps. Which windows
there are, and when they are final, is the watcher's part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import BlockStore
from fedge.errors import BudgetError
from fedge.privacy.ledger import LABELS, Ledger, Reservation
from fedge.privacy.noise import Noise
from fedge.privacy.policy import label_event
from fedge.profiles.windows import WindowSpan
from fedge.records import LabelReport
from fedge.records.purposes import MONITORING
from fedge.statefile import StateFile
from fedge_client.agent.egress import EgressGate

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]
LARGEST_COUNT = 2**31 - 1
Allowed = Callable[[npt.NDArray[np.int64], Bytes, Bytes], Bytes]
"""What rows may be used for now: from slots [n], subjects [n, 16] and the purposes [n] that
they came with."""


@dataclass(frozen=True, slots=True)
class Due:
    """A window that is at its watermark; None is noised if the ledger refused, or it was lost."""

    window: int
    noised: tuple[bytes, Reservation] | None


@dataclass(frozen=True, slots=True)
class _Planned:
    """A window that waits for its watermark."""

    window: int
    block: int
    release: int
    task: str
    due: int


class LabelReporter:
    """Counts, charges, noises and releases labelled errors.

    Args:
        allowed: asked about the labelled rows of a window at its watermark.
        watermark_windows: further windows that close before a window's labels are counted.
    """

    def __init__(
        self,
        *,
        state: StateFile,
        store: BlockStore,
        ledger: Ledger,
        noise: Noise,
        gate: EgressGate,
        allowed: Allowed,
        watermark_windows: int,
    ) -> None:
        self._state, self._store, self._ledger = state, store, ledger
        self._noise, self._gate, self._allowed = noise, gate, allowed
        self._watermark = watermark_windows
        state.ensure(
            "CREATE TABLE IF NOT EXISTS label_windows (window INTEGER PRIMARY KEY,"
            " block INTEGER NOT NULL, release INTEGER NOT NULL, task TEXT NOT NULL,"
            " due INTEGER NOT NULL)"
        )

    def plan(self, span: WindowSpan, task: str) -> None:
        """Note that a window which becomes final gets a label report; joins the transaction.

        It does only where the policy of its block left something for it, and the block has not
        lost its budget.
        """
        if not self._ledger.is_open(span.block):
            return
        if label_event(self._ledger.policy_of(span.block)) is None:
            return
        due = span.window + self._watermark
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO label_windows VALUES (?, ?, ?, ?, ?)",
                (span.window, span.block, span.release, task, due),
            )

    def forget_planned(self) -> None:
        """Give up all reports that are planned, as their blocks have no budget left; joins."""
        with self._state.transaction() as db:
            db.execute("DELETE FROM label_windows")

    def waits(self, window: int) -> bool:
        """Whether some window is at its watermark once `window` is final."""
        return bool(self._planned(window))

    def prepare(self, window: int) -> list[Due]:
        """Charge and noise what is due when `window` becomes final, the oldest first.

        Asked again for what was not released, it charges nothing more, and loses what was noised.

        Raises:
            StateError: the disk refused.
        """
        return [Due(one.window, self._noised(one)) for one in self._planned(window)]

    def release(self, due: Sequence[Due]) -> None:
        """Let what was noised leave, once; joins the transaction in which the window is final."""
        with self._state.transaction() as db:
            for one in due:
                if one.noised is not None:
                    payload, reservation = one.noised
                    self._gate.release(
                        "labels",
                        payload,
                        reservation=reservation,
                        key=LABELS,
                        noise_kind=self._noise.kind,
                        channel="push",
                        spool_key=f"labels/{one.window}",
                    )
                db.execute("DELETE FROM label_windows WHERE window = ?", (one.window,))

    def _planned(self, window: int) -> list[_Planned]:
        rows = self._state.rows(
            "SELECT window, block, release, task, due FROM label_windows WHERE due <= ?"
            " ORDER BY window",
            window,
        )
        return [_Planned(*row) for row in rows]

    def _noised(self, planned: _Planned) -> tuple[bytes, Reservation] | None:
        """A window's report and its charge; None where the ledger refuses."""
        event = label_event(self._ledger.policy_of(planned.block))
        if event is None:
            raise RuntimeError(f"block {planned.block} has nothing for labels any more")
        try:
            reservation = self._ledger.reserve_window(
                planned.window, planned.block, (event,), purpose=LABELS
            )
            grant = self._ledger.grant(reservation, LABELS, event)
        except BudgetError as error:
            log.error("labels of window %d are not reported: %s", planned.window, error)
            return None
        noised = self._noise.discrete_gaussian(
            self._count(planned.window),
            sensitivity2=event.sensitivity2,
            sigma2=event.sigma2,
            grant=grant,
        )
        # What a record can hold: to fail after the draw would lose it.
        right, wrong = np.clip(noised, -LARGEST_COUNT, LARGEST_COUNT).tolist()
        report = LabelReport(
            task=planned.task,
            window=planned.window,
            block=planned.block,
            release=planned.release,
            watermark_windows=planned.due - planned.window,
            right=right,
            wrong=wrong,
            sigma2=event.sigma2,
        )
        return report.to_bytes(), reservation

    def _count(self, window: int) -> npt.NDArray[np.int64]:
        """Right and wrong answers among the labelled rows that may be watched, int64 [2]."""
        found = self._store.answers(window)
        watched = self._allowed(found.slots, found.subjects, found.purposes) & MONITORING > 0
        right = int(np.count_nonzero(found.right & watched))
        return np.array([right, int(np.count_nonzero(watched)) - right], dtype=np.int64)
