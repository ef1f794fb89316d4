"""From the model of a report to a document: which parts there are, in which order."""

from __future__ import annotations

from fedge.review.report import words
from fedge.review.report.budget_sections import (
    budget_section,
    findings_section,
    guarantee_section,
    projection_section,
)
from fedge.review.report.document import Bullets, Document, Fact, Grid, Paragraph, Section, Tone
from fedge.review.report.exports import processing_record
from fedge.review.report.fact_sections import (
    accuracy_section,
    audit_section,
    charges_section,
    estimate_section,
    incident_section,
    integrity_section,
    policy_section,
    release_section,
    trust_section,
)
from fedge.review.report.model import ComplianceReport, Verdict

_TONES: dict[Verdict, Tone] = {"proven": "good", "unproven": "warn", "rejected": "bad"}


def lay_out(report: ComplianceReport) -> Document:
    """Everything a reader is told; of a rejected bundle no more than why, and what it claims."""
    sections = [findings_section(report)]
    if report.verdict != "rejected":
        sections.insert(0, guarantee_section(report))
        sections += [
            budget_section(report),
            projection_section(report),
            trust_section(),
            charges_section(report),
            policy_section(report),
            audit_section(report),
            accuracy_section(report),
            integrity_section(report),
            incident_section(report),
            release_section(report),
            *([estimate_section(report)] if report.estimates else []),
            _processing_section(report),
            _terms_section(),
        ]
    return Document(
        title="Privacy budget report",
        kind="Differential privacy: compliance report",
        tone=_TONES[report.verdict],
        headline=_headline(report),
        sentences=_sentences(report),
        facts=_facts(report),
        sections=tuple(sections),
        footer=_footer(report),
    )


def _headline(report: ComplianceReport) -> str:
    match report.verdict:
        case "rejected":
            return "REJECTED: this bundle does not hold together"
        case "unproven":
            return "The guarantee is UNPROVEN"
        case "proven":
            return "The ledgers prove the guarantee"


def _sentences(report: ComplianceReport) -> tuple[str, ...]:
    if report.deviation is not None:
        where = report.deviation.name
        if report.deviation.entry is not None:
            where += f", entry {report.deviation.entry}"
        return (f"First deviation: {where + ': ' if where else ''}{report.deviation.what}.",)
    lines: list[str] = []
    reasons = [remark for remark in report.remarks if remark.unproven]
    if reasons:
        named = list(dict.fromkeys(remark.what for remark in reasons))
        more = f" and {len(named) - 3} more reasons" if len(named) > 3 else ""
        lines.append("Why: " + "; ".join(named[:3]) + more + ". See Findings.")
    worst = report.worst
    if worst is None:
        return (*lines, "No block of data was opened, so nothing was released about any record.")
    budget = worst.budget
    lines.append(
        f"The most that was spent of any block is epsilon {words.bound(budget.epsilon)} of at most "
        f"{budget.epsilon_cap:g} (at delta {words.small(budget.policy.delta)}): block "
        f"{budget.block} of {budget.name}."
    )
    if report.verdict == "proven":
        lines.append(words.plainly(budget.policy, budget.epsilon))
    lines.append(
        f"Replayed: {words.count_of(len(report.blocks), 'block')} at "
        f"{words.count_of(len(report.integrity), 'gateway')}; every charge was calculated again by "
        f"a second, independent implementation. What a ledger cannot show stands under 'Not "
        f"covered by this bound'."
    )
    return tuple(lines)


def _facts(report: ComplianceReport) -> tuple[Fact, ...]:
    entries = sum(one.entries for one in report.integrity)
    witnessed = sum(one.witnessed for one in report.integrity)
    maker = {
        "coordinator": "the coordinator, from its copies",
        "gateway": "a gateway, from its own",
    }
    return (
        Fact("gateways", str(len(report.integrity))),
        Fact("ledger entries", f"{entries:,}"),
        Fact("of them countersigned", f"{witnessed:,}"),
        Fact("retrainings charged", f"{len({c.about for c in report.charges if c.kind == 'run'})}"),
        Fact("window reports charged", f"{sum(c.kind == 'window' for c in report.charges):,}"),
        Fact("bundle made", words.moment(report.made_at)),
        Fact("bundle made by", maker.get(report.made_by, report.made_by)),
        Fact("verified", words.moment(report.verified_at)),
    )


def _processing_section(report: ComplianceReport) -> Section:
    record = processing_record(report)
    rows = tuple(
        (name.replace("_", " "), _text(value))
        for name, value in record.items()
        if name not in ("schema", "title", "note")
    )
    text = (
        "Facts for the controller's record of processing activities (Regulation (EU) 2016/679, "
        "Article 30(1)), from the ledgers and the controller's own file. It is a draft: the "
        "controller completes and answers for it."
    )
    grid = Grid(("item", "content"), rows, widths=(2, 7))
    return Section("Record of processing", "processing", (Paragraph(text), grid))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')}: {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_text, value))
    return str(value)


def _terms_section() -> Section:
    items = tuple(f"{term}: {meaning}" for term, meaning in words.GLOSSARY)
    return Section("Terms", "terms", (Bullets(items),))


def _footer(report: ComplianceReport) -> tuple[str, ...]:
    return (
        "Check it yourself, without access to any gateway or record: "
        "fedge ledger verify BUNDLE (exit status 0: accepted; 3: rejected).",
        f"Bundle SHA-256 {report.bundle_sha256}, exporter's key {report.exporter_key}, "
        f"made with fedge {report.fedge}.",
        "This report holds parameters, times and hashes; no record of anybody is in it, and it "
        "loads nothing from anywhere. It is an engineering document, no legal advice.",
    )
