"""The part of a report about the bound itself: what is promised, spent, and left."""

from __future__ import annotations

from collections.abc import Mapping

from fedge.review.report import trust_words, words
from fedge.review.report.document import Block, Bullets, Grid, Paragraph, Section, cut
from fedge.review.report.model import BlockLine, ComplianceReport, Remark
from fedge.review.report.plots import MOST_BARS, budget_bars
from fedge.review.report.verdict_words import as_of_words, tone, verdict_words

MOST_BLOCKS = 60
NOTE = "note"
NEARLY_SPENT = 0.95
"""A block of whose cap so much is taken is marked."""


def guarantee_section(report: ComplianceReport) -> Section:
    """Who is protected against what, and what is not."""
    worst = report.worst
    blocks: list[Block] = []
    if worst is None:
        blocks.append(Paragraph("No block of data was opened: nothing was released about records."))
    elif report.verdict == "unproven":
        text = "As long as the findings below stand, what follows is claimed and not proven."
        blocks.append(Paragraph(text))
    elif tone(report) != "good":
        text = (
            f"What follows is {verdict_words(report)}; it speaks of what happened up to the last "
            f"countersignatures ({as_of_words(report)})."
        )
        blocks.append(Paragraph(text))
    for policy in report.present_policies:
        own = [line for line in report.blocks if line.budget.policy == policy]
        gateways = len({line.budget.gateway for line in own})
        excluded = {what for line in own for what in line.budget.excluded}
        blocks.append(Paragraph(words.guarantee(policy, excluded)))
        blocks.append(
            Paragraph(
                f"This policy holds for {words.count_of(len(own), 'block')} at "
                f"{words.count_of(gateways, 'gateway')}. "
                f"{words.plainly(policy, own[0].budget.epsilon, excluded)}"
            )
        )
    if worst is not None:
        shown = trust_words.implementation(
            len(report.audits), sum(a.passed is True for a in report.audits)
        )
        blocks.append(Paragraph("Not covered by this bound:"))
        blocks.append(Bullets(trust_words.unprotected(worst.budget.policy, report.excluded, shown)))
        blocks += _exposure(report)
    return Section("What is guaranteed", "guarantee", tuple(blocks))


def _exposure(report: ComplianceReport) -> list[Block]:
    worst = report.worst
    if worst is None or not report.exposure:
        return []
    who = "Somebody with one record in each of"
    if worst.budget.policy.unit == "subject":
        who = "A subject that is present in"
    text = (
        f"{who} several blocks: charges add up across blocks. If each of them were spent like the "
        f"worst block of this report, the bound would be:"
    )
    delta = words.small(worst.budget.policy.delta)
    heads = ("present in", "epsilon at most", f"that is, except with probability {delta}")
    rows = tuple(
        (
            words.count_of(count, "block"),
            words.bound(epsilon),
            words.strength(epsilon),
        )
        for count, epsilon in report.exposure.items()
    )
    return [Paragraph(text), Grid(heads, rows, widths=(1, 1, 3))]


def findings_section(report: ComplianceReport) -> Section:
    """What the verifier found, the worst first."""
    blocks: list[Block] = []
    if report.deviation is not None:
        where = _where(report.deviation.name, report.deviation.entry)
        text = (
            f"Rejected: {where}{report.deviation.what}. A bundle is only as good as its weakest "
            f"entry: nothing that it says is to be relied on until this is explained."
        )
        blocks.append(Paragraph(text))
    grouped: dict[tuple[str, str], list[Remark]] = {}
    for remark in sorted(report.remarks, key=lambda one: (not one.unproven, not one.reserves)):
        grouped.setdefault((weight_of(remark), remark.what), []).append(remark)
    rows = tuple(
        (
            weight,
            words.listed(sorted({one.name or "the bundle" for one in alike})),
            words.listed(sorted({str(o.entry) for o in alike if o.entry is not None}), 3),
            what,
        )
        for (weight, what), alike in grouped.items()
    )
    shown, hidden = cut(rows, MOST_BLOCKS)
    if shown:
        marked = frozenset(place for place, (weight, _) in enumerate(grouped) if weight != NOTE)
        heads = ("weight", "gateway", "entry", "what was found")
        blocks.append(Grid(heads, shown, marked=marked, widths=(2, 2, 1, 8), hidden=hidden))
    elif report.deviation is None:
        blocks.append(Paragraph("None: every check passed without a remark."))
    return Section("Findings", "findings", tuple(blocks))


def weight_of(remark: Remark) -> str:
    """What a remark does to the verdict."""
    if remark.unproven:
        return "guarantee unproven"
    if remark.kind == "unpinned":
        return "condition"
    return "reservation" if remark.reserves else NOTE


def _where(name: str, entry: int | None) -> str:
    at = "" if entry is None else f", entry {entry}"
    return f"{name}{at}: " if name or at else ""


def budget_section(report: ComplianceReport) -> Section:
    """Every block: cap, spent, remaining; the worst first."""
    if not report.blocks:
        return Section("Budget by block", "budget", (Paragraph("No block was opened."),))
    caption = (
        "Each bar is one block; the red line is its cap. Monitoring's part is set aside when the "
        "block opens, so that retrainings can never silence monitoring."
    )
    if len(report.blocks) > MOST_BARS:
        caption += f" The {MOST_BARS} of {len(report.blocks)} blocks with most spent are drawn."
    heads = (
        *("gateway", "block", "opened (UTC)", "cap", "monitoring", "retraining"),
        *("remaining", "epsilon spent", "of at most", "verifier"),
    )
    rows, hidden = cut(tuple(map(_block_row, report.blocks)), MOST_BLOCKS)
    marked = frozenset(
        place for place, line in enumerate(report.blocks[:MOST_BLOCKS]) if _needs_attention(line)
    )
    note = (
        "Cap, monitoring, retraining and remaining are in the ledger's unit (RDP at the policy's "
        "order). Monitoring is what is reserved for it. Retraining: released / reserved. "
        f"Marked: {100 * NEARLY_SPENT:.0f} % or more of the cap is taken, or something is left out "
        "(escalation: records sent on un-noised) or lost. Verifier: the independent second "
        "calculation of epsilon."
    )
    widths = (2.0, 1.0, 2.4, 1.2, 1.7, 2.3, 1.6, 1.4, 1.1, 1.2)
    grid = Grid(heads, rows, marked=marked, widths=widths, hidden=hidden, note=note)
    return Section("Budget by block", "budget", (budget_bars(report.blocks, caption), grid))


def _needs_attention(line: BlockLine) -> bool:
    budget = line.budget
    return bool(budget.share >= NEARLY_SPENT or budget.excluded or budget.recovered)


def _block_row(line: BlockLine) -> tuple[str, ...]:
    budget = line.budget
    return (
        budget.name,
        f"{budget.block}{_block_marks(line)}",
        words.when(budget.opened_at),
        words.rdp(budget.cap_nano),
        words.rdp(budget.telemetry_nano),
        f"{words.rdp(budget.released_nano)} / {words.rdp(budget.training_nano)}",
        words.rdp(budget.remaining_nano),
        words.bound(budget.epsilon),
        f"{budget.epsilon_cap:g}",
        words.bound(line.verified_epsilon),
    )


def _block_marks(line: BlockLine) -> str:
    """What is special about a block, beside its number."""
    marks = ["lost its budget"] if line.budget.recovered else []
    marks += [f"without {what}" for what in line.budget.excluded]
    return f" ({', '.join(marks)})" if marks else ""


def projection_section(report: ComplianceReport) -> Section:
    """How many retrainings like the latest one still fit."""
    if not report.projections:
        text = "No retraining was charged yet, so there is no price to project from."
        return Section("What still fits", "projection", (Paragraph(text),))
    rows = tuple(
        (
            one.name,
            one.run_id,
            words.rdp(one.cost_nano),
            _fits(one.fits),
            f"{one.fresh}",
        )
        for one in report.projections
    )
    heads = ("gateway", "latest run", "its cost", "more on open blocks", "on a fresh block")
    text = (
        "How many more retrainings with the settings of the latest one the budget carries. When "
        "none fits, a gateway declines to train on that block; monitoring goes on, and a new block "
        "starts with a budget of its own. No budget is ever raised for a block that is open."
    )
    shown, hidden = cut(rows, MOST_BLOCKS)
    grid = Grid(heads, shown, widths=(2, 4, 1.5, 4, 2), hidden=hidden)
    return Section("What still fits", "projection", (Paragraph(text), grid))


def _fits(fits: Mapping[int, int]) -> str:
    """The latest few blocks."""
    found = [f"block {block}: {count}" for block, count in list(fits.items())[-6:]]
    return ", ".join(found) or "no block is open"
