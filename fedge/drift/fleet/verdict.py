"""What is said about a gateway: records derived from stored facts, and their sentence.

A verdict holds the evidence it was derived from, so that whoever doubts it can look.
Deriving one belongs to `diagnosis` and `monitor`, what follows from it to `policy`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedge.drift.expected_accuracy import BLIND_SPOT
from fedge.drift.fleet.watch import Finding
from fedge.drift.words import Action, Cause, Scope, SensorFault, Severity
from fedge.records import Count, Fingerprint, Record

SHOWN_STREAMS = 3


class ScopeEvidence(Record):
    """The partition of the fleet's movement; see `scope.Partition`."""

    total: float
    pooled: float
    heterogeneity: float
    degrees: Count
    gateways: Count
    share: float


class Evidence(Record):
    """What a verdict of drift rests on, besides its findings.

    None stands for what could not be estimated.

    Attributes:
        windows: windows since the onset that were looked at.
        features: features that moved, strongest first.
        effect: strongest of their movements in reference standard deviations, its error taken off.
        faults: features with a broken sensor, and its fault.
        mix_explained: part of the movement that another mix of classes explains.
        mix_change: share of rows that changed class under that mix.
        ood_before, ood_after: share of rows above the OOD calibration.
        accuracy_before, accuracy_after: expected from confidence; concept drift does not show.
        errors_before, errors_after: rates of labelled errors.
        scope: None where no other gateway could be compared.
        cause_reason, scope_reason: in words.
    """

    windows: Count
    features: tuple[str, ...] = ()
    effect: float = 0.0
    faults: tuple[tuple[str, SensorFault], ...] = ()
    mix_explained: float | None = None
    mix_change: float | None = None
    ood_before: float | None = None
    ood_after: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    errors_before: float | None = None
    errors_after: float | None = None
    scope: ScopeEvidence | None = None
    cause_reason: str = ""
    scope_reason: str = ""


class Verdict(Record):
    """How a gateway stands on the release it serves now.

    `stable` says: no alarm against its own baseline. It is `unknown` until that baseline is
    complete, while no window came after it, while the latest windows hold too few records, and
    once no report has come for too long.
    Fields with a default were added later: assessments without them are still read.

    Attributes:
        reason: why, in words.
        windows, missing_windows: reports that are there, and numbers skipped among them.
        certifiable_false_alarms_per_month: over the fleet, the rate that this baseline can vouch
            for although the site may wander slowly; None while there is no baseline. Larger than
            the setting: the baseline is too short to certify what was asked.
        needed_windows: full windows that the baseline still lacks at least.
        notes: what could not be judged, in words.
        since_window: first drifted window; None without drift.
        findings: what alarmed, strongest first.
        cause, scope: None without drift.
        action: what the policy asks for now. Whether it was carried out is another stored fact.
        held: what keeps the gateway out of runs and comparisons, until a person lifts it.
        concept: what labelled errors say of the truth behind the same inputs; unknown where there
            are no labels, or not yet enough.
        last_report_at: when the latest report arrived, by the centre's clock, or else when its
            window closed; None where there is none.
        silent_after_s: age of the latest report from which the verdict is unknown.
        report_age_s: age of the latest report when the verdict was asked for; None where no moment
            was named.
    """

    gateway: Fingerprint
    release: int = Field(ge=0)
    state: Literal["stable", "drift", "unknown"]
    reason: str
    windows: Count
    missing_windows: Count
    baseline_windows: Count
    certifiable_false_alarms_per_month: float | None = None
    needed_windows: Count = 0
    notes: tuple[str, ...] = ()
    since_window: Count | None = None
    findings: tuple[Finding, ...] = ()
    cause: Cause | None = None
    scope: Scope | None = None
    severity: Severity = "unknown"
    action: Action = "none"
    evidence: Evidence | None = None
    held: Literal["check-sensor", "quarantine"] | None = None
    concept: Literal["stable", "drift", "unknown"] = "unknown"
    last_report_at: float | None = None
    silent_after_s: float | None = None
    report_age_s: float | None = None

    @property
    def sentence(self) -> str:
        """The verdict for a person, with its evidence and what follows."""
        parts = [self._standing()]
        if self.state == "drift":
            parts += [self._moved(), self._why(), self._harm(), _FOLLOWS[self.action]]
        if self.held is not None:
            parts.append(f"Held ({self.held}) until somebody lifts it.")
        return " ".join(part for part in parts if part)

    def _standing(self) -> str:
        if self.state == "stable":
            return f"Stable on release {self.release}: {self.reason}."
        if self.state == "unknown":
            return f"Unknown: {self.reason}."
        return f"Drift since window {self.since_window} on release {self.release}."

    def _moved(self) -> str:
        named = [
            f"{f.stream} ({f.statistic} by {f.effect:+.1f} sd)"
            for f in self.findings[:SHOWN_STREAMS]
        ]
        more = len(self.findings) - len(named)
        rest = f" and {more} more" if more > 0 else ""
        return f"Moved: {', '.join(named)}{rest}." if named else ""

    def _why(self) -> str:
        cause = _CAUSES.get(self.cause or "unknown", "")
        reason = self.evidence.cause_reason if self.evidence is not None else ""
        where = _SCOPES.get(self.scope or "unknown", "")
        return f"Cause: {cause}{f' ({reason})' if reason else ''}, {where}."

    def _harm(self) -> str:
        seen = self.evidence
        if seen is None:
            return ""
        if seen.errors_before is not None and seen.errors_after is not None:
            return f"Labelled errors: {seen.errors_before:.0%}, now {seen.errors_after:.0%}."
        if seen.accuracy_before is None or seen.accuracy_after is None:
            return "What it does to accuracy cannot be estimated here."
        return (
            f"Expected accuracy: {seen.accuracy_before:.0%}, now {seen.accuracy_after:.0%} "
            f"({BLIND_SPOT})."
        )


_CAUSES: dict[Cause, str] = {
    "covariate": "covariate shift",
    "label": "label shift",
    "concept": "concept drift",
    "ood": "unfamiliar rows",
    "sensor": "a broken sensor",
    "unknown": "unknown",
}
_SCOPES: dict[Scope, str] = {
    "gateway": "here and not in the fleet",
    "fleet": "in most of the fleet alike",
    "unknown": "and nobody can say whether elsewhere, too",
}
_FOLLOWS: dict[Action, str] = {
    "none": "Nothing is to be done.",
    "watch": "It is watched, nothing else is done.",
    "recalibrate": "The same model gets a new baseline from here on.",
    "retrain-gateway": "The gateways that drifted are retrained.",
    "retrain-fleet": "The fleet is retrained.",
    "check-sensor": "Somebody must look at the sensor.",
    "quarantine": "The gateway is kept apart until somebody has looked at it.",
}
