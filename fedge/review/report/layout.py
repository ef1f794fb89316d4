"""From the model of a report to a document: which parts there are, in which order."""

from __future__ import annotations

from collections.abc import Iterator

from fedge.review.report import trust_words, words
from fedge.review.report.advice import about_rejection
from fedge.review.report.budget_sections import (
    budget_section,
    findings_section,
    guarantee_section,
)
from fedge.review.report.document import Bullets, Document, Fact, Grid, Paragraph, Section
from fedge.review.report.exports import processing_record
from fedge.review.report.fact_sections import (
    accuracy_section,
    audit_section,
    charges_section,
    estimate_section,
    incident_section,
    policy_section,
    release_section,
    trust_section,
)
from fedge.review.report.headroom import headroom_words, projection_section
from fedge.review.report.integrity_sections import integrity_section, key_section
from fedge.review.report.model import ComplianceReport
from fedge.review.report.verdict_words import (
    UNREADABLE,
    as_of_words,
    deviation_words,
    headline,
    tone,
)
from fedge.review.report.visible import visible_document

_MAKERS = {
    "coordinator": "the coordinator, from its copies",
    "gateway": "a gateway, from its own",
}


def lay_out(report: ComplianceReport) -> Document:
    """Everything a reader is told; of a rejected bundle no more than why, and what it claims.

    A simulated one, which is always rejected, also shows its audits.
    """
    sections = [findings_section(report)]
    if report.verdict != "rejected":
        sections.insert(0, guarantee_section(report))
        sections += [
            budget_section(report),
            projection_section(report),
            trust_section(report),
            charges_section(report),
            policy_section(report),
            audit_section(report),
            accuracy_section(report),
            integrity_section(report),
            key_section(report),
            incident_section(report),
            release_section(report),
            *([estimate_section(report)] if report.estimates else []),
            _processing_section(report),
            _terms_section(),
        ]
    elif report.simulated and report.audits:
        # What canaries showed about the training holds whatever a staging ledger is worth.
        sections.append(audit_section(report))
    document = Document(
        title="Privacy budget report",
        kind="Differential privacy: compliance report",
        tone=tone(report),
        headline=headline(report),
        sentences=_sentences(report),
        facts=_facts(report),
        sections=tuple(sections),
        footer=_footer(report),
    )
    return visible_document(document)


def _sentences(report: ComplianceReport) -> tuple[str, ...]:
    if report.deviation is not None:
        what = deviation_words(report.deviation)
        return (f"First deviation: {what}.", about_rejection(report.deviation))
    lines = list(_conditions(report))
    worst = report.worst
    if worst is None:
        nothing = "No block of data was opened, so nothing was released about any record"
        return (*lines, f"{nothing}, and there is nothing yet that could be proven.")
    budget = worst.budget
    lines.append(
        f"The most that was spent of any block is epsilon {words.bound(budget.epsilon)} of at most "
        f"{budget.epsilon_cap:g} (at delta {words.small(budget.policy.delta)}): block "
        f"{budget.block} of {budget.name}."
    )
    if report.verdict == "proven":
        lines.append(words.plainly(budget.policy, budget.epsilon, report.excluded))
    if left := headroom_words(report):
        lines.append(left)
    lines.append(
        f"Replayed: {words.count_of(len(report.blocks), 'block')} at "
        f"{words.count_of(len(report.integrity), 'gateway')}; every charge was calculated again by "
        f"a second, independent implementation. What a ledger cannot show stands under 'Not "
        f"covered by this bound'."
    )
    return tuple(lines)


def _conditions(report: ComplianceReport) -> Iterator[str]:
    """What stands against the verdict, or beside it, before any number."""
    for name, remarks in (
        ("Why", [remark for remark in report.remarks if remark.unproven]),
        ("With reservations", report.reservations),
    ):
        named = list(dict.fromkeys(f"{o.name}: {o.what}" if o.name else o.what for o in remarks))
        if named:
            more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
            yield f"{name}: {'; '.join(named[:3])}{more}. See Findings, also for what to do."
    if not report.pinned:
        whose = ", ".join(words.WHOSE_KEYS[kind] for kind in report.unpinned)
        yield (
            f"Not given from outside and taken from the bundle itself: {whose}. Whoever made the "
            "bundle may have made them, too. Compare them by hand, see Keys to compare."
        )
    if report.excluded:
        yield (
            f"Left out of the bound by the ledgers: {'; '.join(words.exclusions(report.excluded))}."
        )
    if report.as_of is not None and report.verdict == "proven":
        yield (
            f"It holds {as_of_words(report)}, the time of the last state of a ledger that was "
            "countersigned (of several ledgers: of the one that has waited longest for its next). "
            "What happened later is not in it: for that ask for a newer bundle."
        )


def _facts(report: ComplianceReport) -> tuple[Fact, ...]:
    maker = _MAKERS.get(report.made_by, report.made_by or UNREADABLE)
    made = UNREADABLE if report.made_at is None else words.moment(report.made_at)
    bundle = (
        Fact("bundle made", made),
        Fact("bundle made by", maker),
        Fact("verified", words.moment(report.verified_at)),
    )
    if report.verdict == "rejected":
        return (Fact("SHA-256 of the file", report.bundle_sha256 or UNREADABLE), *bundle)
    as_of = words.moment(report.as_of)
    entries = sum(one.entries for one in report.integrity)
    witnessed = sum(one.witnessed for one in report.integrity)
    return (
        Fact("holds as of" if report.verdict == "proven" else "last confirmed", as_of),
        Fact("gateways", str(len(report.integrity))),
        Fact("ledger entries", f"{entries:,}"),
        Fact("of them countersigned", f"{witnessed:,}"),
        Fact("retrainings charged", f"{len({c.about for c in report.charges if c.kind == 'run'})}"),
        Fact("window reports charged", f"{sum(c.kind == 'window' for c in report.charges):,}"),
        *bundle,
    )


def _processing_section(report: ComplianceReport) -> Section:
    record = processing_record(report)
    rows = tuple(
        (name.replace("_", " "), _text(value))
        for name, value in record.items()
        if name not in ("schema", "title", "verification", "note")
    )
    text = (
        "Facts for the controller's record of processing activities (Regulation (EU) 2016/679, "
        "Article 30(1)), from the ledgers and the controller's own file (--controller, or the "
        "setting of that name for reports on schedule). It is a draft: the controller completes "
        "and answers for it."
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
    items = tuple(f"{term}: {meaning}" for term, meaning in trust_words.GLOSSARY)
    return Section("Terms", "terms", (Bullets(items),))


def _footer(report: ComplianceReport) -> tuple[str, ...]:
    return (
        "Check it yourself, without access to any gateway or record: "
        "fedge ledger verify BUNDLE --witness-key KEY --reviewer-key KEY --gateway-key KEY, with "
        "keys that you have from elsewhere (exit status 0: accepted; 3: rejected).",
        f"Bundle SHA-256 {report.bundle_sha256 or UNREADABLE}, exporter's key "
        f"{report.exporter_key or UNREADABLE}, made with fedge {report.fedge or UNREADABLE}.",
        "This report holds parameters, times and hashes; no record of anybody is in it, and it "
        "loads nothing from anywhere. It is an engineering document, no legal advice.",
    )
