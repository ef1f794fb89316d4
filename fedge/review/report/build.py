"""From a verified bundle to the model of a report.

What a bundle claims about itself is taken from the verifier's facts; entries are read for
their words (who approved what and why), never for totals. Where the ledger's arithmetic and the
verifier's disagree, the bundle is rejected: one of them is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedge.errors import FedgeError
from fedge.review.budget import epsilon_across, worst_first
from fedge.review.report.choices import choice_facts, choices_of
from fedge.review.report.evidence import accuracy_of, audits_of, estimate_of
from fedge.review.report.headroom import projection
from fedge.review.report.keys import key_lines, unpinned_kinds
from fedge.review.report.model import (
    BlockLine,
    ComplianceReport,
    Integrity,
    Remark,
)
from fedge.review.report.parts import LedgerPart, read_ledger
from fedge.review.report.standing import lag_of, standing_remarks
from fedge.review.report.visible import display_names
from fedge.review.source import Bundle
from fedge.review.verifier import Facts, Verdict

PRESENT_IN = (2, 5, 10, 30)
"""Numbers of blocks for which the bound across blocks is told."""


def build_report(
    bundle: Bundle | None,
    verdict: Verdict,
    *,
    verified_at: float,
    file: Path | None = None,
    controller: Mapping[str, Any] | None = None,
    estimate: bool = True,
) -> ComplianceReport:
    """The model of a report about one bundle.

    Args:
        bundle: as it was read; None where it could not be, which only a rejected one may.
        verified_at: when the verifier ran, seconds since the epoch.
        file: the bundle's, whose hash is named also where nothing else of it can be read.
        controller: contacts and declarations from the controller's own file.
        estimate: also compute the tighter estimate, which needs dp-accounting.

    Raises:
        ValueError: an accepted bundle was not handed over.
    """
    if bundle is None and verdict.accepted:
        raise ValueError("an accepted bundle can be read")
    facts = verdict.facts
    # Of a rejected bundle no text of its maker's is told, and a name may be a sentence.
    names = display_names(
        (one.gateway, one.name if verdict.accepted else "")
        for one in (() if facts is None else facts.gateways)
    )
    parts, deviation = _read(bundle, verdict, names)
    evidence = {} if bundle is None else bundle.source.evidence
    lines = _lines(parts)
    policies = tuple(change for part in parts for change in part.policies)
    unpinned = unpinned_kinds(verdict)
    return ComplianceReport(
        bundle_sha256=_sha256(facts, file),
        made_at=None if facts is None else facts.made_at,
        made_by="" if facts is None else facts.made_by,
        exporter_key="" if facts is None else facts.exporter_key,
        fedge="" if facts is None else facts.fedge,
        simulated=bundle is not None and bundle.source.simulated,
        verified_at=verified_at,
        as_of=None if facts is None or deviation is not None else facts.as_of,
        unpinned=unpinned,
        keys=key_lines(facts, policies, unpinned, names),
        deviation=deviation,
        remarks=(*_remarks(verdict, names), *standing_remarks(verdict, evidence, names)),
        blocks=lines,
        charges=tuple(charge for part in parts for charge in part.charges),
        projections=tuple(p for part in parts if (p := projection(part)) is not None),
        policies=policies,
        incidents=tuple(incident for part in parts for incident in part.incidents),
        integrity=tuple(_integrity(part, evidence) for part in parts),
        exposure=_exposure(lines),
        estimates=estimate_of([p.ledger for p in parts], lines) if estimate else (),
        audits=audits_of(evidence),
        accuracy=accuracy_of(evidence),
        accuracy_about=str(evidence.get("accuracy", {}).get("about", "on public evaluation rows")),
        releases=() if bundle is None or not parts else _releases(bundle),
        controller={**evidence.get("controller", {}), **(controller or {})},
    )


def _read(
    bundle: Bundle | None, verdict: Verdict, names: Mapping[str, str]
) -> tuple[list[LedgerPart], Remark | None]:
    """What the ledgers say, or nothing of it and why the bundle is rejected."""
    deviation = _deviation(verdict, names)
    if deviation is None and bundle is not None and verdict.facts is not None:
        deviation = _other_bytes(bundle, verdict.facts)
    if bundle is None or deviation is not None:
        return [], deviation
    try:
        parts = _parts(bundle, verdict, names)
    except FedgeError as error:
        return [], _disagree(f"the ledger's own replay refuses what the verifier took: {error}")
    disagreement = next((part.disagreement for part in parts if part.disagreement), "")
    return ([], _disagree(disagreement)) if disagreement else (parts, None)


def _sha256(facts: Facts | None, file: Path | None) -> str:
    """Of the file; empty where it cannot be read any more, or was not named."""
    if facts is not None:
        return facts.sha256
    if file is None:
        return ""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _deviation(verdict: Verdict, names: Mapping[str, str]) -> Remark | None:
    if verdict.accepted:
        return None
    if not verdict.deviations:
        return _disagree("the bundle could not be taken apart")
    first = verdict.deviations[0]
    named = first.file and first.entry is None and not first.what.startswith(first.file)
    file = f"{first.file}: " if named else ""
    return Remark(
        gateway=first.gateway or "",
        name=_name(names, first.gateway),
        entry=first.entry,
        what=file + first.what,
        unproven=True,
        kind=first.kind,
    )


def _other_bytes(bundle: Bundle, facts: Facts) -> Remark | None:
    """The file is read once to be verified and once to be told: it may be another by then."""
    if bundle.sha256 == facts.sha256:
        return None
    return _disagree("the file was changed while it was read; ask for it again")


def _disagree(what: str) -> Remark:
    return Remark(gateway="", name="", entry=None, what=what, unproven=True)


def _remarks(verdict: Verdict, names: Mapping[str, str]) -> tuple[Remark, ...]:
    return tuple(
        Remark(
            gateway=finding.gateway or "",
            name=_name(names, finding.gateway),
            entry=finding.entry,
            what=finding.what,
            unproven=finding.unproven,
            kind=finding.kind,
        )
        for finding in verdict.findings
    )


def _name(names: Mapping[str, str], gateway: str | None) -> str:
    return names.get(gateway or "", gateway or "")


def _parts(bundle: Bundle, verdict: Verdict, names: Mapping[str, str]) -> list[LedgerPart]:
    """By name as it is shown: the one in the bundle may be of any length and hold anything."""
    facts = {} if verdict.facts is None else {one.gateway: one for one in verdict.facts.gateways}
    ledgers = [replace(one, name=names[one.gateway]) for one in bundle.source.gateways]
    ledgers.sort(key=lambda one: (one.name, one.gateway))
    return [read_ledger(ledger, facts[ledger.gateway]) for ledger in ledgers]


def _lines(parts: list[LedgerPart]) -> tuple[BlockLine, ...]:
    verified = {
        (part.ledger.gateway, block.block): block for part in parts for block in part.facts.blocks
    }
    found = []
    for budget in worst_first(budget for part in parts for budget in part.budgets):
        own = verified[budget.gateway, budget.block]
        found.append(
            BlockLine(budget=budget, verified_nano=own.spent_nano, verified_epsilon=own.epsilon)
        )
    return tuple(found)


def _integrity(part: LedgerPart, evidence: Mapping[str, Mapping[str, Any]]) -> Integrity:
    facts, ledger = part.facts, part.ledger
    sent = {artefact.payload_sha256 for artefact in ledger.artefacts}
    return Integrity(
        gateway=ledger.gateway,
        name=ledger.name,
        entries=facts.entries,
        signed=facts.signed_size,
        witnessed=facts.witnessed_size,
        witnessed_at=facts.witnessed_at,
        root=facts.root,
        lag=lag_of(evidence, ledger.gateway, facts.entries),
        settled=len(part.settled),
        linked=len(part.settled & sent),
    )


def _exposure(lines: tuple[BlockLine, ...]) -> dict[int, float]:
    if not lines:
        return {}
    worst = lines[0].budget
    return {1: worst.epsilon, **{n: epsilon_across(worst, n) for n in PRESENT_IN}}


def _releases(bundle: Bundle) -> tuple[Mapping[str, Any], ...]:
    choices = choices_of(bundle)
    return tuple(
        {
            "family": one.family,
            "counter": one.counter,
            "run_id": one.run_id,
            "parent": one.parent,
            "manifest_sha256": one.manifest_sha256,
            "privacy": dict(one.privacy),
            **choice_facts(one, bundle, choices),
        }
        for one in bundle.source.releases
    )
