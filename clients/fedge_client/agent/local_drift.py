"""The local fast path: rows and labels that the agent reads anyway, given to change detectors.

For this gateway's operator. An alarm goes to the log, a bounded history, the status on
loopback and, where one is set, a webhook on this host. This module knows neither gate nor
spool, ledger, windows or training: nothing that leaves the gateway, and nothing that it does
about it, depends on an alarm. No error in here reaches the watch loop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.config import GatewaySettings, LocalDriftSettings
from fedge.drift.local.alarms import LocalAlarm, SignalName, SignalWatch, standard_detector
from fedge.drift.local.ood import logit_scores
from fedge.drift.local.outputs import StrangeRows
from fedge.errors import SettingError
from fedge.records.purposes import MONITORING
from fedge.serving.ring_file import Records
from fedge.serving.scores import Scores
from fedge.statefile import StateFile
from fedge_client.agent.alarm_book import AlarmBook
from fedge_client.agent.alarm_webhook import AlarmWebhook
from fedge_client.agent.predictions import Predictions
from fedge_client.agent.releases import Installed
from fedge_client.local_marks import LOG_MARK

log = logging.getLogger(__name__)

REPEAT_S = 60.0
"""An alarm of the same signal within so many seconds of one that was told is only counted."""
RELEASES = 2
"""Releases under watch at a time: the one that serves, and one whose worker still drains."""
MISSING_S = 60.0
"""So long a release that lies in no slot is not looked for again."""
MAX_PLACES = 2**15
"""Slots back to which a label is judged, at most."""
LATEST = 5
"""Alarms in the status."""

Purposes = Callable[[Records], npt.NDArray[np.uint8]]


@dataclass(slots=True)
class _Release:
    """What is watched of one release's rows.

    Attributes:
        strange: None where the release calibrates no OOD score.
        unwatched: signals that are not watched, and why.
        saved: by signal, the number of its baseline that is on the disk.
    """

    watches: dict[SignalName, SignalWatch]
    strange: StrangeRows | None = None
    unwatched: dict[str, str] = field(default_factory=dict)
    saved: dict[SignalName, int] = field(default_factory=dict)


class LocalDrift:
    """Watches the signals of one served model; made by `open_local_drift`.

    Args:
        purposes: what each of some ring records may be used for now.
        installed: a release in a slot, by its counter.
        clock: seconds since the epoch. steady: seconds that never jump.
    """

    def __init__(
        self,
        settings: LocalDriftSettings,
        *,
        family: str,
        book: AlarmBook,
        places: int,
        purposes: Purposes,
        installed: Callable[[int], Installed | None],
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._settings, self._family, self._book = settings, family, book
        self._purposes, self._installed = purposes, installed
        self._clock, self._steady = clock, steady
        self.webhook = AlarmWebhook(settings.webhook) if settings.webhook else None
        self._predictions = Predictions(places)
        self._releases: dict[int, _Release] = {}
        self._next_slot = self._failures = self._repeats = 0
        self._told: dict[SignalName, float] = {}
        # Status and erasures ask from other threads.
        self._lock = threading.Lock()
        self._missing: dict[int, float] = {}
        # Now, not with the first baseline: without river the agent must not start.
        standard_detector(settings.detector, "both", settings.baseline_groups)

    # --- rows and labels ------------------------------------------------------------------

    def take_in(self, rows: Records, labels: Records) -> None:
        """Watch some more of the stream; each row and label counts once, however often it comes.

        Args:
            rows: the ring's observations in slot order, all of their fields.
            labels: label records that came with or after them.
        """
        try:
            with self._lock:
                self._take_rows(rows)
                self._take_labels(labels)
        except Exception as error:  # windows and reports must not depend on this
            self._failures += 1
            if self._failures & (self._failures - 1) == 0:  # now and then, should it be every time
                # Without its message, which could quote a value.
                log.error("the local fast path failed: %s", type(error).__name__)
                log.debug("the local fast path failed", exc_info=True)

    def _take_rows(self, rows: Records) -> None:
        rows = rows[int(np.searchsorted(rows["slot"], self._next_slot)) :]
        if not len(rows):
            return
        self._next_slot = int(rows["slot"][-1]) + 1
        rows = _those(rows, self._purposes(rows) & MONITORING > 0)
        for counter in sorted(set(rows["release"].tolist())):
            release = self._release(counter)
            if release is not None:
                self._take_release(counter, release, _those(rows, rows["release"] == counter))

    def _take_release(self, counter: int, release: _Release, rows: Records) -> None:
        scores = Scores.from_outputs(rows["logits"], rows["features"])
        self._feed(counter, release, "confidence", scores.confidence)
        if release.strange is not None:
            strangeness = self._strangeness(scores)
            self._feed(counter, release, "ood", release.strange.ranks(strangeness))
        if "error" in release.watches:
            slots, blocks, releases = (
                rows[name].astype(np.int64) for name in ("slot", "block", "release")
            )
            self._predictions.add(slots, blocks, releases, scores.predictions)

    def _strangeness(self, scores: Scores) -> npt.NDArray[np.floating[Any]]:
        """The OOD score that is set; what the model's scores hold already is not computed anew."""
        if self._settings.ood_score == "energy":
            return scores.ood
        if self._settings.ood_score == "msp":
            return -scores.confidence
        return logit_scores(self._settings.ood_score, scores.logits)

    def _take_labels(self, labels: Records) -> None:
        if not len(labels) or "error" not in self._settings.signals:
            return
        slots, classes, blocks = (
            labels[name].astype(np.int64) for name in ("slot", "label", "block")
        )
        releases, wrong = self._predictions.judge(slots, classes, blocks)
        for counter in np.unique(releases).tolist():
            if counter in self._releases:
                chosen = wrong[releases == counter]
                self._feed(counter, self._releases[counter], "error", chosen)

    def _feed(
        self,
        counter: int,
        release: _Release,
        signal: SignalName,
        values: npt.NDArray[np.floating[Any]],
    ) -> None:
        watch = release.watches.get(signal)
        if watch is None:
            return
        alarm = watch.take_in(values, self._clock())
        if alarm is not None:
            self._tell(alarm)
        elif watch.baselines > release.saved.get(signal, 0) and watch.baseline:
            self._book.keep_baseline(counter, signal, watch.baseline, self._clock())
            release.saved[signal] = watch.baselines

    # --- what is watched ------------------------------------------------------------------

    def _release(self, counter: int) -> _Release | None:
        """The state of a release, the latest asked for kept last; None where it is gone."""
        release = self._releases.pop(counter, None)
        if release is None:
            if self._steady() < self._missing.get(counter, 0.0):
                return None
            installed = self._installed(counter)
            if installed is None:
                # Looked for on the disk: not again for each of its rows.
                self._missing = {counter: self._steady() + MISSING_S}
                return None
            release = self._begin(counter, installed)
        self._releases[counter] = release
        while len(self._releases) > RELEASES:
            del self._releases[next(iter(self._releases))]
        return release

    def _begin(self, counter: int, installed: Installed) -> _Release:
        settings, release = self._settings, _Release({})
        for signal in settings.signals:
            if signal == "ood":
                try:
                    release.strange = StrangeRows(
                        installed.reference, settings.ood_score, settings.ood_rate
                    )
                except SettingError as error:
                    release.unwatched[signal] = str(error)
                    continue
            watch = release.watches[signal] = self._watch(counter, signal)
            release.saved[signal] = watch.baselines
        return release

    def _watch(self, counter: int, signal: SignalName) -> SignalWatch:
        return SignalWatch(
            signal,
            self._settings.detector,
            release=counter,
            group_rows=self._settings.group_rows,
            baseline_groups=self._settings.baseline_groups,
            known=self._book.baseline(counter, signal),
        )

    # --- alarms ---------------------------------------------------------------------------

    def _tell(self, alarm: LocalAlarm) -> None:
        now, last = self._steady(), self._told.get(alarm.signal)
        if last is not None and now - last < REPEAT_S:
            self._repeats += 1
            self._book.ended(alarm)
            return
        self._told[alarm.signal] = now
        log.warning("%s %s (release %d)", LOG_MARK, alarm, alarm.release)
        if self.webhook is not None:
            self.webhook.enqueue({"family": self._family, **asdict(alarm)})
        self._book.add(alarm)

    def forget(self) -> None:
        """Start all baselines anew: records that are in them are to be erased.

        Raises:
            StateError: the disk refused.
        """
        with self._lock:
            self._releases.clear()
            self._predictions.forget()
            self._book.forget_baselines()

    def expire(self) -> None:
        """Forget alarms that are older than records may be.

        Raises:
            StateError: the disk refused.
        """
        self._book.expire(self._clock())

    def facts(self) -> dict[str, Any]:
        """What the machine's own operator may know; it never leaves the host."""
        with self._lock:
            counter = next(reversed(self._releases), None)
            release = None if counter is None else self._releases[counter]
            return {
                "detector": self._settings.detector,
                "release": counter,
                "signals": {} if release is None else _signals(release),
                "unwatched": {} if release is None else dict(release.unwatched),
                "strange": None if release is None else self._strange(release),
                "alarms": self._book.kept,
                "latest": self._book.latest(LATEST),
                "repeats": self._repeats,
                "failures": self._failures,
                "webhook": None if self.webhook is None else _delivery(self.webhook),
            }

    def _strange(self, release: _Release) -> dict[str, object] | None:
        strange = release.strange
        if strange is None:
            return None
        share = strange.recent_share
        return {
            "score": self._settings.ood_score,
            "rate": self._settings.ood_rate,
            "recent_share": None if share is None else round(share, 4),
            "why": strange.why,
        }


def _those(rows: Records, wanted: npt.NDArray[np.bool_]) -> Records:
    """Some of the rows; all of them, as it is mostly, without a copy."""
    return rows if wanted.all() else rows[wanted]


def _signals(release: _Release) -> dict[str, object]:
    return {signal: watch.facts() for signal, watch in release.watches.items()}


def _delivery(webhook: AlarmWebhook) -> dict[str, int]:
    return {"sent": webhook.sent, "given_up": webhook.given_up, "waiting": webhook.waiting}


def open_local_drift(
    settings: GatewaySettings,
    *,
    state: StateFile,
    purposes: Purposes,
    installed: Callable[[int], Installed | None],
    clock: Callable[[], float],
    steady: Callable[[], float],
) -> LocalDrift:
    """The local fast path that the settings ask for.

    Raises:
        SettingError: river is not installed.
        StateError: the disk refused.
    """
    wanted = settings.local_drift
    book = AlarmBook(
        state,
        setting=f"{wanted.group_rows} rows, {wanted.ood_score}",
        history=wanted.history,
        max_age_s=settings.retention.max_age_s,
    )
    book.expire(clock())
    return LocalDrift(
        wanted,
        family=settings.family,
        book=book,
        places=min(settings.feedback_slots, MAX_PLACES),
        purposes=purposes,
        installed=installed,
        clock=clock,
        steady=steady,
    )
