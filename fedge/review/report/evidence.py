"""What is shown beside the ledger and was not proven from it: audits, accuracy, an estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedge.errors import RecordError
from fedge.privacy.entries import RunReserved, WindowReserved, read_entry
from fedge.records import AuditEvidence, PrivacyEvent, canonical
from fedge.review.evidence import AUDIT
from fedge.review.report import words
from fedge.review.report.model import AuditResult, BlockLine, ClassAccuracy, Estimate
from fedge.review.source import GatewayLedger


def audits_of(evidence: Mapping[str, Mapping[str, Any]]) -> tuple[AuditResult, ...]:
    """Audits of the code, then of releases by counter; an unreadable one counts as not known."""
    found = [
        _audit(name.removeprefix(AUDIT), value)
        for name, value in sorted(evidence.items())
        if name.startswith(AUDIT)
    ]
    return tuple(sorted(found, key=lambda one: -1 if one.release is None else one.release))


def _audit(name: str, value: Mapping[str, Any]) -> AuditResult:
    try:
        found = AuditEvidence.from_bytes(canonical(dict(value)))
    except RecordError as error:
        return AuditResult(
            name=name, at="", method=f"unreadable: {error}", claimed=None, lower=None, passed=None
        )
    about = "" if found.release is None else f", release {found.release}"
    bugs = found.bugs_seeded
    method = f"{found.runs} trainings of {found.task}, {found.canaries} canaries in each"
    if bugs:
        method += f"; {len(found.bugs_flagged)} of {len(bugs)} planted bugs found"
    for case in found.cases:
        if case.claimed_epsilon is not None and not case.seeded_bug:
            shown, claimed = words.number(case.lower_bound), words.number(case.claimed_epsilon)
            method += f"; {case.name}: {shown} shown of {claimed} claimed"
    return AuditResult(
        name=f"{found.kind}{about}",
        release=found.release,
        at=words.moment(found.at),
        method=f"{method}; confidence {100 * found.confidence:g} %",
        claimed=found.claimed_epsilon,
        lower=found.lower_bound,
        passed=found.passed,
    )


def accuracy_of(evidence: Mapping[str, Mapping[str, Any]]) -> tuple[ClassAccuracy, ...]:
    """Accuracy by class, worst private figure first; nothing where none can be read."""
    try:
        found = [_class(row) for row in evidence.get("accuracy", {}).get("classes", ())]
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()  # the exporter's word, and no words: as if none were there
    return tuple(sorted(found, key=lambda one: (one.private is None, one.private, one.label)))


def _class(row: Mapping[str, Any]) -> ClassAccuracy:
    return ClassAccuracy(
        label=str(row["class"]),
        rows=_rows(row["rows"]),
        stale=_share(row["stale"]),
        private=_share(row["private"]),
        nonprivate=_share(row["nonprivate"]),
    )


def _rows(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**53:
        raise ValueError(f"{value} is no number of rows")
    return value


def _share(value: Any) -> float | None:
    """A share between 0 and 1, or None where it was not measured."""
    if value is not None and not 0 <= float(value) <= 1:
        raise ValueError(f"{value} is no share")
    return None if value is None else float(value)


def estimate_of(
    ledgers: Sequence[GatewayLedger], lines: Sequence[BlockLine]
) -> tuple[Estimate, ...]:
    """The worst block's charges by privacy loss distributions; nothing without dp-accounting."""
    if not lines:
        return ()
    budget = lines[0].budget
    ledger = next(one for one in ledgers if one.gateway == budget.gateway)
    events = _events_of(ledger, budget.block)
    try:
        from fedge.privacy.accounting import pld_estimate

        found = pld_estimate(events, budget.policy.delta)
    except ImportError:
        return ()
    return (
        Estimate(
            gateway=budget.gateway,
            name=budget.name,
            block=budget.block,
            epsilon=found.epsilon,
            method=found.label,
        ),
    )


def _events_of(ledger: GatewayLedger, block: int) -> list[PrivacyEvent]:
    """All runs about a block, and the window with most: a record lies in one window."""
    events: list[PrivacyEvent] = []
    windows: dict[int, list[PrivacyEvent]] = {}
    for entry in map(read_entry, ledger.entries):
        if isinstance(entry, RunReserved) and block in entry.blocks:
            events += entry.events
        elif isinstance(entry, WindowReserved) and entry.block == block:
            windows.setdefault(entry.window, []).extend(entry.events)
    heaviest = max(windows.values(), key=_rho, default=[])
    return events + heaviest


def _rho(events: Sequence[PrivacyEvent]) -> float:
    return sum(event.count * event.sensitivity2 / (2 * event.sigma2) for event in events)
