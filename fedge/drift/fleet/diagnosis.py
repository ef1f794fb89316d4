"""What one episode is: cause, scope, severity, action, and the evidence for them.

Pure: derived from stored reports, labels and interventions alone. Asked for a moment, it
counts the windows that had closed and the labels that had been counted by then. What can
still change the answer for a moment that is past: a report that arrives late, an alarm of
another gateway by which its own baseline ends sooner, a hold that was set or lifted since.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedge.config import DriftSettings
from fedge.drift.fleet.cause import CauseFound, find_cause
from fedge.drift.fleet.evidence import accuracy_of, evidence_of
from fedge.drift.fleet.history import History, Segment
from fedge.drift.fleet.labelled import (
    ErrorRise,
    ErrorStanding,
    LabelledWindow,
    error_change,
    error_rise,
    error_standing,
)
from fedge.drift.fleet.movement import Counted, Movement, movement
from fedge.drift.fleet.policy import decide, severity
from fedge.drift.fleet.scope import Moves, ScopeFound, find_scope
from fedge.drift.fleet.verdict import Evidence
from fedge.drift.fleet.watch import ReleaseWatch
from fedge.drift.words import Action, Severity
from fedge.records import Reference, WindowReport

LATEST_WINDOWS = 12
"""Windows since the onset that are looked at, the latest ones: drift may grow."""


@dataclass(frozen=True, slots=True)
class Onset:
    """Where an episode began."""

    gateway: str
    release: int
    opened_window: int
    first_window: int
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What an episode was at a moment.

    Attributes:
        settled: enough windows came since the onset for anything but a retraining.
        still: gateways of the release that are shown to have stayed where they were.
    """

    cause: CauseFound
    scope: ScopeFound
    severity: Severity
    action: Action
    evidence: Evidence
    settled: bool

    @property
    def still(self) -> tuple[str, ...]:
        return self.scope.still


@dataclass(frozen=True, slots=True)
class Diagnostician:
    """Reads a whole fleet.

    Attributes:
        labels: noised counts of right and wrong answers, by gateway; none where nobody labels.
    """

    histories: Mapping[str, History]
    references: Mapping[str, Reference]
    settings: DriftSettings
    labels: Mapping[str, Sequence[LabelledWindow]]
    # By the identity of watches, which `histories` keeps alive.
    _read: dict[int, Counted] = field(default_factory=dict)

    def diagnose(self, onset: Onset, moment: float = math.inf) -> Diagnosis:
        """Judge an episode by what had closed at `moment`."""
        own, segment = self._own(onset)
        counted = self._counted(own)
        before = _before(own, onset.first_window)
        after = _since(own, onset.first_window, moment)
        moved = movement(counted, before, after)
        rise = self.rise(onset.gateway, segment, onset.release, moment)
        cause = find_cause(counted.reference, moved, onset.streams, rise, self.settings.min_effect)
        by_labels = cause.cause == "concept"
        scope = self._scope(onset, own, None if by_labels else moved, moment, by_labels)
        accuracy = self._accuracy(onset, counted, before, after)
        effect = _effect(moved, cause.features)
        loss = _loss(cause.cause, accuracy, rise)
        policy = self.settings.policy
        grade = severity(policy, cause=cause.cause, effect=effect, loss=loss)
        return Diagnosis(
            cause=cause,
            scope=scope,
            severity=grade,
            action=decide(
                policy, cause=cause.cause, scope=scope.scope, severity=grade, effect=effect
            ),
            evidence=evidence_of(cause, scope, accuracy, rise, effect, len(after)),
            settled=len(after) >= policy.settle_windows,
        )

    def rise(
        self, gateway: str, segment: Segment, release: int, moment: float = math.inf
    ) -> ErrorRise | None:
        """A rise of labelled errors on one release, if there are labels and it can be judged."""
        own = segment.watch.releases.get(release)
        if own is None or own.baseline is None or gateway not in self.labels:
            return None
        windows = [report.window for report in own.reports if report.closed_at <= moment]
        return error_rise(self._labelled(gateway, windows, moment), self.settings)

    def labels_of(self, history: History) -> ErrorStanding | None:
        """What labelled errors can say of the release that a gateway is on; None without any."""
        own, gateway = history.current, history.gateway
        if own is None or own.baseline is None or gateway not in self.labels:
            return None
        windows = [report.window for report in own.reports]
        return error_standing(self._labelled(gateway, windows, math.inf), self.settings)

    def counted_at(self, gateway: str, window: int) -> float:
        """When a window's labels were counted; inf where that is not known yet."""
        return min(
            (self._known_at(gateway, one) for one in self.labels[gateway] if one.window == window),
            default=math.inf,
        )

    def _known_at(self, gateway: str, one: LabelledWindow) -> float:
        return self.histories[gateway].closing_of(one.window + one.watermark_windows)

    def _labelled(
        self, gateway: str, windows: Sequence[int], moment: float
    ) -> list[LabelledWindow]:
        """Those of some windows whose labels had been counted at `moment`."""
        wanted = set(windows)
        return [
            one
            for one in self.labels[gateway]
            if one.window in wanted and self._known_at(gateway, one) <= moment
        ]

    def _own(self, onset: Onset) -> tuple[ReleaseWatch, Segment]:
        for segment in self.histories[onset.gateway].segments:
            if onset.opened_window in segment.windows:
                return segment.watch.releases[onset.release], segment
        raise RuntimeError(f"window {onset.opened_window} of {onset.gateway} is in no segment")

    def _scope(
        self,
        onset: Onset,
        own: ReleaseWatch,
        moved: Movement | None,
        moment: float,
        by_labels: bool,
    ) -> ScopeFound:
        began = next(r for r in own.reports if r.window == onset.first_window)
        moves: dict[str, Moves | None] = {}
        for gateway, history in self.histories.items():
            if gateway != onset.gateway and history.hold is not None:
                continue
            if by_labels:
                moves[gateway] = self._errors(gateway, history, onset.release, began, moment)
            elif gateway == onset.gateway:
                moves[gateway] = _in_streams(moved, onset.streams)
            else:
                other = self._meanwhile(history, onset, began, moment)
                moves[gateway] = _in_streams(other, onset.streams)
        known = {gateway: one for gateway, one in moves.items() if one is not None}
        return find_scope(onset.gateway, known, self.settings.policy.fleet_share)

    def _errors(
        self, gateway: str, history: History, release: int, began: WindowReport, moment: float
    ) -> Moves | None:
        """How a gateway's labelled errors changed since an onset, its own or another's."""
        for segment in reversed(history.segments):
            watch = segment.watch.releases.get(release)
            if watch is None or gateway not in self.labels:
                continue
            closed = [r.window for r in watch.reports if r.closed_at <= moment]
            since = [r.window for r in watch.reports if r.opened_at >= began.opened_at]
            if not since or since[0] not in closed:
                continue
            change = error_change(self._labelled(gateway, closed, moment), since[0])
            if change is not None:
                return Moves(np.array(change[:1]), np.array(change[1:]))
        return None

    def _meanwhile(
        self, history: History, onset: Onset, began: WindowReport, moment: float
    ) -> Movement | None:
        """How another gateway on the release moved in the time since an onset elsewhere."""
        for segment in reversed(history.segments):
            watch = segment.watch.releases.get(onset.release)
            if watch is None or watch.baseline is None:
                continue
            if watch.reports[0].reference_sha256 != began.reference_sha256:
                continue  # counted on other bins: no comparison
            own_onset = watch.alarm.first_window if watch.alarm is not None else None
            before = [
                r.window
                for r in watch.reports[: watch.baseline_windows]
                if (own_onset is None or r.window < own_onset) and r.closed_at <= began.opened_at
            ]
            since = [
                r.window
                for r in watch.reports
                if began.opened_at < r.opened_at and r.closed_at <= moment
            ]
            if before and since:
                counted = self._counted(watch)
                return movement(counted, before, since[-LATEST_WINDOWS:], onset.streams)
        return None

    def _accuracy(
        self,
        onset: Onset,
        counted: Counted,
        before: Sequence[int],
        after: Sequence[int],
    ) -> tuple[float, float] | None:
        """Expected accuracy before and after; None where the reference cannot say.

        Before is what the gateway had when the release was new: what was lost in several small
        steps, each with a new baseline, is still lost.
        """
        old, reference = counted.pile(before), counted.reference
        for segment in self.histories[onset.gateway].segments:
            first = segment.watch.releases.get(onset.release)
            if first is not None and first.baseline is not None:
                if onset.opened_window not in segment.windows:
                    windows = [r.window for r in first.reports[: first.baseline_windows]]
                    old = self._counted(first).pile(windows)
                break
        found = accuracy_of(reference, old), accuracy_of(reference, counted.pile(after))
        return None if found[0] is None or found[1] is None else (found[0], found[1])

    def _counted(self, watch: ReleaseWatch) -> Counted:
        """The reports of one release as arrays; each is read once."""
        if id(watch) not in self._read:
            reference = self.references[watch.reports[0].reference_sha256]
            self._read[id(watch)] = Counted.of(reference, watch.reports)
        return self._read[id(watch)]


def _in_streams(moved: Movement | None, streams: Sequence[str]) -> Moves | None:
    """A movement in the named streams; in all, where none of these is watched."""
    if moved is None:
        return None
    named = [one for one in moved.streams if one.name in streams] or list(moved.streams)
    return Moves(
        np.concatenate([one.change for one in named]), np.concatenate([one.error for one in named])
    )


def _before(watch: ReleaseWatch, first_window: int) -> list[int]:
    """Baseline windows before an onset."""
    size = max(watch.baseline_windows, 1)
    return [report.window for report in watch.reports if report.window < first_window][:size]


def _since(watch: ReleaseWatch, first_window: int, moment: float) -> list[int]:
    """The latest windows after an onset; the one in which it fell only where there is no other."""
    later = [r.window for r in watch.reports if r.window > first_window and r.closed_at <= moment]
    return later[-LATEST_WINDOWS:] or [first_window]


def _effect(moved: Movement | None, features: Sequence[str]) -> float:
    """Strongest movement of a feature, or of the OOD score where no feature moved."""
    if moved is None:
        return 0.0
    named = [one for one in moved.streams if one.name in features]
    return max((one.effect for one in named or moved.streams), default=0.0)


def _loss(cause: str, accuracy: tuple[float, float] | None, rise: ErrorRise | None) -> float | None:
    """Loss of accuracy: labelled where there are labels, else expected.

    Of concept drift nothing shows in the confidence, so there an expectation is no answer.
    """
    if rise is not None and math.isfinite(rise.after):
        return rise.after - rise.before
    if cause == "concept" or accuracy is None:
        return None
    return accuracy[0] - accuracy[1]
