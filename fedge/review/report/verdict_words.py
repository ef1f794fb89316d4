"""The verdict in words: the same ones in every file of a report, with what they rest on.

"Proven" alone is said only where nothing stands against it: all keys came from outside the
bundle, and no remark keeps it from being the whole truth. Everything else is said in one breath
with it.
"""

from __future__ import annotations

from typing import Any

from fedge.review.report import words
from fedge.review.report.document import Tone
from fedge.review.report.model import ComplianceReport, Remark

UNREADABLE = "not readable"


def verdict_words(report: ComplianceReport) -> str:
    """What a program or a register is told, such as `proven, if the keys ...`."""
    if report.verdict != "proven":
        return report.verdict
    return f"proven{_conditions(report)}"


def headline(report: ComplianceReport) -> str:
    """The first line that a person reads."""
    match report.verdict:
        case "rejected":
            return "REJECTED: this bundle does not hold together"
        case "unproven":
            return f"The guarantee is UNPROVEN ({as_of_words(report)})"
    if tone(report) == "good":
        return f"The ledgers prove the guarantee {as_of_words(report)}"
    return f"Proven {as_of_words(report)}{_conditions(report)}"


def tone(report: ComplianceReport) -> Tone:
    """Green for a verdict without a condition alone."""
    if report.verdict == "rejected":
        return "bad"
    clear = report.verdict == "proven" and report.pinned and not report.reservations
    return "good" if clear else "warn"


def as_of_words(report: ComplianceReport) -> str:
    """Up to when every ledger was countersigned."""
    if report.as_of is None:
        return "as of no time that anybody confirmed"
    return f"as of {words.moment(report.as_of)}"


def deviation_words(deviation: Remark) -> str:
    """What rejects a bundle, after the place where it was found."""
    return words.place(deviation.name, deviation.entry) + deviation.what


def _conditions(report: ComplianceReport) -> str:
    found = ", with reservations" if report.reservations else ""
    if not report.pinned:
        found += f", if {_missing_keys(report)} in the bundle are the right ones"
    return found


def _missing_keys(report: ComplianceReport) -> str:
    if len(report.unpinned) == len(words.WHOSE_KEYS):
        return "the keys"
    return " and ".join(words.WHOSE_KEYS[kind] for kind in report.unpinned)


def verdict_facts(report: ComplianceReport) -> dict[str, Any]:
    """The verdict and what it rests on, for programs: one object in every JSON file."""
    deviation = report.deviation
    return {
        "verdict": verdict_words(report),
        "state": report.verdict,
        "pinned": report.pinned,
        "as_of": report.as_of,
        "as_of_utc": None if report.as_of is None else words.iso(report.as_of),
        "bundle_sha256": report.bundle_sha256,
        "deviation": None if deviation is None else deviation_words(deviation),
        "reservations": list(dict.fromkeys(one.what for one in report.reservations)),
    }
