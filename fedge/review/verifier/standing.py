"""What the exporter says it knows of each ledger, beside what it put into the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedge.review.verifier.form import count, name32
from fedge.review.verifier.verdict import Deviation, Finding, Rejected
from fedge.review.verifier.words import counted

FILE = "evidence/standing.json"


def check_standing(value: Mapping[str, Any], held: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """Findings about ledgers of which more is known than the bundle holds.

    Args:
        value: the evidence. held: entries and confirmed entries in the bundle, by gateway.

    Raises:
        Rejected: it is of another form, or contradicts the bundle.
    """
    lines = value.get("gateways")
    if not isinstance(lines, list):
        raise _rejected("form", "it names no gateways")
    seen: set[str] = set()
    findings = []
    for line in lines:
        if not isinstance(line, dict) or not name32(line.get("gateway")):
            raise _rejected("form", "it names a gateway by no fingerprint")
        gateway = line["gateway"]
        if gateway in seen:
            raise _rejected("standing", "it names a gateway twice", gateway)
        seen.add(gateway)
        findings += _compare(line, *held.get(gateway, (0, 0)))
    for gateway in sorted(held.keys() - seen) if seen else ():
        raise _rejected("standing", "it does not know this gateway", gateway)
    return findings


def _compare(line: Mapping[str, Any], entries: int, confirmed: int) -> list[Finding]:
    gateway = line["gateway"]
    stored, witnessed = _number(line, "entries"), _number(line, "witnessed")
    if stored < entries:
        what = f"it knows {stored} of the {entries} entries that are in the bundle"
        raise _rejected("standing", what, gateway)
    if stored == entries and "witnessed" in line and witnessed != confirmed:
        what = f"it knows of {witnessed} confirmed entries, the bundle of {confirmed}"
        raise _rejected("standing", what, gateway)
    most = max(stored, witnessed, _number(line, "announced"), _number(line, "beyond_gap"))
    if most <= entries:
        return []
    more = counted(most - entries, "entry", "entries")
    return [
        Finding(
            kind="lagging",
            what=f"the exporter knows of {more} more than the {entries} in the bundle",
            gateway=gateway,
            entry=entries,
            unproven=True,
        )
    ]


def _number(line: Mapping[str, Any], name: str) -> int:
    """0 where nothing is said of it."""
    number: Any = line.get(name)
    if number is None and name != "entries":
        return 0
    if not count(number):
        raise _rejected("form", f"{name} is no number of entries", line["gateway"])
    return int(number)


def _rejected(kind: str, what: str, gateway: str | None = None) -> Rejected:
    return Rejected(Deviation(kind=kind, what=what, gateway=gateway, file=FILE))
