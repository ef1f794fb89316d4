"""What the exporter says it knows of each ledger, beside what it put into the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedge.review.verifier.form import count, moment, name32
from fedge.review.verifier.verdict import Deviation, Finding, Rejected
from fedge.review.verifier.words import counted

FILE = "evidence/standing.json"
UNDER_WAY_S = 900.0
"""A gateway's own count may be ahead of its last confirmed head by what it wrote in so long."""


@dataclass(frozen=True, slots=True)
class Held:
    """How far a ledger in the bundle reaches: entries, confirmed ones, and as of when."""

    entries: int = 0
    confirmed: int = 0
    as_of: float | None = None


def check_standing(value: Mapping[str, Any], held: Mapping[str, Held]) -> list[Finding]:
    """Findings about ledgers of which more is known than the bundle holds.

    Args:
        value: the evidence. held: what is in the bundle, by gateway.

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
        findings += _compare(line, held.get(gateway, Held()))
    for gateway in sorted(held.keys() - seen) if seen else ():
        raise _rejected("standing", "it does not know this gateway", gateway)
    return findings


def _compare(line: Mapping[str, Any], held: Held) -> list[Finding]:
    gateway, entries, confirmed = line["gateway"], held.entries, held.confirmed
    stored, witnessed = _number(line, "entries"), _number(line, "witnessed")
    if stored < entries:
        what = f"it knows {stored} of the {entries} entries that are in the bundle"
        raise _rejected("standing", what, gateway)
    if stored == entries and "witnessed" in line and witnessed != confirmed:
        what = f"it knows of {witnessed} confirmed entries, the bundle of {confirmed}"
        raise _rejected("standing", what, gateway)
    known = max(stored, witnessed, _number(line, "beyond_gap"))
    most = max(known, _number(line, "announced"))
    if most <= entries:
        return []
    more = counted(most - entries, "entry", "entries")
    return [
        Finding(
            kind="lagging",
            what=f"the exporter knows of {more} more than the {entries} in the bundle",
            gateway=gateway,
            entry=entries,
            unproven=known > entries or not _under_way(line.get("status_at"), held.as_of),
        )
    ]


def _under_way(announced_at: Any, as_of: float | None) -> bool:
    """Whether what a gateway announced may just not have arrived, both by its own clock."""
    if as_of is None or not moment(announced_at):
        return False
    return bool(announced_at <= as_of + UNDER_WAY_S)


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
