"""What the exporter itself says is missing of each ledger: `evidence/standing.json`.

Its word, and believed where it speaks against the bundle: a ledger that lags makes the verdict
one about the past. The verifier's own findings about the same come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedge.review.report.model import Remark
from fedge.review.report.visible import shortened
from fedge.review.verifier import Verdict

Evidence = Mapping[str, Mapping[str, Any]]

LAGGING = "lagging"
"""The verifier's kind of finding for the same."""

_UNREADABLE = "what the exporter says about missing entries cannot be read"


def lag_of(evidence: Evidence, gateway: str, entries: int) -> str | None:
    """What is missing of a ledger, in words; empty: nothing, None: the exporter does not say.

    Args:
        entries: of this ledger in the bundle.
    """
    if "standing" not in evidence:
        return None
    try:
        known = {one["gateway"]: one for one in evidence["standing"]["gateways"]}
        return _lag(known[gateway], entries) if gateway in known else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return _UNREADABLE


def _lag(one: Mapping[str, Any], entries: int) -> str:
    if said := str(one["lag"]):
        return said
    behind = max(int(one.get(name) or 0) for name in ("entries", "announced", "beyond_gap"))
    if behind > entries:
        return f"{behind - entries} entries that the exporter knew of are not in the bundle"
    return "some entries are not here yet" if one.get("missing") else ""


def standing_remarks(
    verdict: Verdict, evidence: Evidence, names: Mapping[str, str]
) -> tuple[Remark, ...]:
    """A remark for each gateway that lags, those without a ledger in the bundle included.

    Args:
        names: what each gateway in the bundle is called, by fingerprint.
    """
    if "standing" not in evidence or verdict.facts is None:
        return ()
    entries = {one.gateway: one.entries for one in verdict.facts.gateways}
    said = {finding.gateway for finding in verdict.findings if finding.kind == LAGGING}
    try:
        known = {str(one["gateway"]): one for one in evidence["standing"]["gateways"]}
        lags = {gateway: _lag(one, entries.get(gateway, 0)) for gateway, one in known.items()}
        others = {gateway: shortened(str(one.get("name", ""))) for gateway, one in known.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return (Remark(gateway="", name="", entry=None, what=_UNREADABLE, unproven=False),)
    return tuple(
        Remark(
            gateway=gateway,
            name=names.get(gateway) or others[gateway] or shortened(gateway),
            entry=None,
            what=f"its ledger lags: {lag}",
            unproven=False,
            kind=LAGGING,
        )
        for gateway, lag in lags.items()
        if lag and gateway not in said
    )
