"""What becomes of one window's rows: kept, sketched, counted, charged, noised.

Only rows with the purpose for it take part in each step, and what a subject
withdrew or had erased counts for neither. Which rows form a window, and when it
is final, is the watcher's part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import BlockStore
from fedge.data.subjects import PSEUDONYM_BYTES
from fedge.errors import BudgetError
from fedge.privacy.ledger import FEATURES, Ledger, Reservation
from fedge.privacy.noise import Noise
from fedge.profiles.counts import feature_counts, join, window_event
from fedge.profiles.sketches import KllProfile
from fedge.profiles.streams import StreamReader
from fedge.profiles.table import WindowProfile
from fedge.profiles.windows import WindowSpan
from fedge.profiles.wire import encode_report
from fedge.records import PrivacyPolicy, WindowReport
from fedge.records.purposes import MONITORING, TRAINING
from fedge.serving.ring_file import Records
from fedge.serving.scores import Scores
from fedge.statefile import StateFile
from fedge_client.agent.contributions import Contributions
from fedge_client.agent.releases import Installed

log = logging.getLogger(__name__)

Withdrawn = Callable[[bytes], int]
"""Purposes (bits) that a subject, named by its pseudonym, withdrew."""


@dataclass(frozen=True, slots=True)
class Closing:
    """When a window opened and closed, seconds since the epoch."""

    opened_at: float
    closed_at: float


class WindowReporter:
    """Turns windows into kept rows and noised reports.

    Args:
        window_slots: arrival slots of a full window.
        withdrawn: asked once for each subject in a window.
    """

    def __init__(
        self,
        *,
        state: StateFile,
        store: BlockStore,
        ledger: Ledger,
        noise: Noise,
        policy: PrivacyPolicy,
        window_slots: int,
        withdrawn: Withdrawn,
    ) -> None:
        self._state, self._store, self._ledger = state, store, ledger
        self._noise, self._policy = noise, policy
        self._window_slots, self._withdrawn = window_slots, withdrawn
        self._contributions = Contributions(state)
        self.noise_kind = noise.kind

    def report(
        self, span: WindowSpan, rows: Records, installed: Installed, closing: Closing
    ) -> tuple[bytes, Reservation] | None:
        """Keep the rows, count, charge and noise; None where the ledger refuses, or it was lost.

        Args:
            rows: the ring's records of the window's present rows, in slot order.

        Raises:
            StateError: the disk refused, before anything was noised. It can be asked again.
        """
        policy = self._policy_of(span.block)
        purposes = self.purposes(rows)
        if policy.unit == "subject":
            purposes[~self._within(span, rows, purposes, policy.max_records)] = 0
        profile, predictions = _profiled(rows, purposes & MONITORING > 0, installed)
        trained = _chosen(purposes & TRAINING > 0)
        # Of all rows: when a window is deleted must not depend on which of them are kept.
        self._keep(
            span,
            rows[trained],
            predictions[trained],
            purposes[trained],
            arrived=float(rows["time"].max()) if len(rows) else None,
            present=len(rows) if "training" in installed.task.purposes else 0,
        )
        self._sketch(span, profile.sketch)
        event = window_event(installed.reference, policy.window_rho, policy.max_records)
        try:
            self._ledger.open_block(span.block)
            reservation = self._ledger.reserve_window(span.window, span.block, (event,))
            grant = self._ledger.grant(reservation, FEATURES, event)
        except BudgetError as error:
            log.error("window %d is not reported: %s", span.window, error)
            return None
        noised = self._noise.discrete_gaussian(
            join(profile.counts),
            sensitivity2=event.sensitivity2,
            sigma2=event.sigma2,
            grant=grant,
        )
        report = WindowReport(
            task=installed.task.name,
            window=span.window,
            block=span.block,
            release=span.release,
            reference_sha256=installed.reference_sha256,
            first_slot=span.first_slot,
            slots=span.slots,
            # Time was the plan: then what came is all that was to come, unless nothing did.
            planned_slots=max(1, span.slots) if span.timed else self._window_slots,
            dropped=span.dropped,
            opened_at=closing.opened_at,
            closed_at=closing.closed_at,
            features=feature_counts(installed.reference, noised, event),
        )
        return encode_report(report), reservation

    def purposes(self, rows: Records) -> npt.NDArray[np.uint8]:
        """What each row may be used for now, uint8[n]."""
        return self.allowed(rows["slot"], rows["subject"], rows["purposes"])

    def allowed(
        self, slots: npt.NDArray[Any], subjects: npt.NDArray[np.uint8], given: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """What of the purposes that rows came with is left now, uint8[n].

        Args:
            slots: int[n]. subjects: uint8[n, 16]. given: uint8[n].
        """
        purposes = given.copy()
        purposes[self._store.erased(slots)] = 0
        about_somebody = np.flatnonzero(subjects.any(axis=1))
        if len(about_somebody):
            distinct, which = np.unique(subjects[about_somebody], axis=0, return_inverse=True)
            bits = [self._withdrawn(subject.tobytes()) for subject in distinct]
            purposes[about_somebody] &= ~np.array(bits, dtype=np.uint8)[which.ravel()]
        return purposes

    def _within(
        self, span: WindowSpan, rows: Records, purposes: npt.NDArray[np.uint8], limit: int
    ) -> npt.NDArray[np.bool_]:
        """Which rows are among the first `limit` of their subject in the block, bool[n].

        A row that may be used for nothing is a null record anyway, and takes none of them.
        """
        subjects = rows["subject"].reshape(-1, PSEUDONYM_BYTES).copy()
        subjects[purposes & (MONITORING | TRAINING) == 0] = 0
        return self._contributions.within(span.block, span.window, subjects, limit)

    def _policy_of(self, block: int) -> PrivacyPolicy:
        """What holds for a block: the policy that it was opened under, if it is open."""
        try:
            return self._ledger.policy_of(block)
        except BudgetError:
            return self._policy

    def _keep(
        self,
        span: WindowSpan,
        rows: Records,
        predictions: npt.NDArray[np.int32],
        purposes: npt.NDArray[np.uint8],
        *,
        arrived: float | None,
        present: int,
    ) -> None:
        """Put rows that may be trained on into their block."""
        self._store.write_window(
            block=span.block,
            window=span.window,
            slots=rows["slot"].astype(np.int64),
            inputs=rows["inputs"],
            features=rows["features"],
            predictions=predictions.astype(np.int64),
            subjects=rows["subject"].reshape(-1, PSEUDONYM_BYTES),
            purposes=purposes,
            arrived=arrived,
            present=present,
        )

    def _sketch(self, span: WindowSpan, sketch: KllProfile) -> None:
        """Keep a sketch of the window; it never leaves, and dies with its block."""
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO profiles VALUES (?, ?, ?)",
                (span.window, span.block, sketch.to_bytes()),
            )


def _chosen(rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | slice:
    """An index of these rows: all of them, as it is mostly, without a copy."""
    return slice(None) if rows.all() else rows


def _profiled(
    rows: Records, watched: npt.NDArray[np.bool_], installed: Installed
) -> tuple[WindowProfile, npt.NDArray[np.int32]]:
    """Sketch and count the watched rows, and predict the class of all, in pieces."""
    profile, streams = WindowProfile(installed.reference), StreamReader(installed.task)
    predictions = np.empty(len(rows), dtype=np.int32)
    for start in range(0, len(rows), profile.piece_rows):
        piece = slice(start, start + profile.piece_rows)
        scores = Scores.from_outputs(rows["logits"][piece], rows["features"][piece])
        predictions[piece] = scores.predictions
        chosen = _chosen(watched[piece])
        profile.update(
            streams.values(
                scores.features[chosen],
                scores.predictions[chosen],
                scores.confidence[chosen],
                scores.ood[chosen],
            )
        )
    return profile, predictions
