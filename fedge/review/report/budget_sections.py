"""The part of a report about the bound itself: what is promised, and what was spent of it."""

from __future__ import annotations

from collections.abc import Sequence

from fedge.review.budget import BlockBudget
from fedge.review.report import trust_words, words
from fedge.review.report.advice import about_rejection, what_to_do
from fedge.review.report.document import Block, Bullets, Grid, Paragraph, Section, cut
from fedge.review.report.model import BlockLine, ComplianceReport, Remark
from fedge.review.report.plots import MOST_BARS, budget_bars
from fedge.review.report.verdict_words import as_of_words, deviation_words, tone, verdict_words

MOST_BLOCKS = 60
NOTE = "note"
NEARLY_SPENT = 0.95
"""A block of whose cap so much is taken is marked."""
_WEIGHTS = (
    "Weight: what a finding does to the verdict. Guarantee unproven: while it stands, the bound is "
    "claimed and not proven. Condition: the verdict holds if this does. Reservation: something is "
    "missing or left out; the bound holds for the rest. Note: takes nothing from the bound. Entry: "
    "number in the gateway's ledger."
)


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
            f"states that were countersigned ({as_of_words(report)})."
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
        f"{who} several blocks, of one gateway or of several: charges add up across blocks. If "
        f"each of them were spent like the worst block of this report, the bound would be:"
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
        text = (
            f"Rejected: {deviation_words(report.deviation)}. A bundle is only as good as its "
            f"weakest entry: nothing that it says is to be relied on until this is explained."
        )
        blocks += [Paragraph(text), Paragraph(about_rejection(report.deviation))]
    grouped: dict[tuple[str, str], list[Remark]] = {}
    for remark in sorted(report.remarks, key=lambda one: (not one.unproven, not one.reserves)):
        grouped.setdefault((weight_of(remark), remark.what), []).append(remark)
    rows = tuple(
        (
            weight,
            words.listed(sorted({one.name or "the bundle" for one in alike})),
            words.listed(sorted({str(o.entry) for o in alike if o.entry is not None}), 3),
            what,
            what_to_do(alike[0]),
        )
        for (weight, what), alike in grouped.items()
    )
    shown, hidden = cut(rows, MOST_BLOCKS)
    if shown:
        marked = frozenset(place for place, (weight, _) in enumerate(grouped) if weight != NOTE)
        heads = ("weight", "gateway", "entry", "what was found", "what to do")
        grid = Grid(
            heads, shown, marked=marked, widths=(2, 2, 1, 5, 5), hidden=hidden, note=_WEIGHTS
        )
        blocks.append(grid)
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


def budget_section(report: ComplianceReport) -> Section:
    """Every block: cap, spent, remaining; the worst first."""
    if not report.blocks:
        return Section("Budget by block", "budget", (Paragraph("No block was opened."),))
    caption = (
        "Each bar is one block; the red line is its cap. Monitoring's part is set aside when the "
        "block opens, so that retrainings can never silence monitoring."
    )
    if len(report.blocks) > MOST_BARS:
        caption += f" The {MOST_BARS} of {len(report.blocks):,} blocks with most spent are drawn."
    heads = (
        *("gateway", "block", "opened (UTC)", "epsilon spent", "of at most", "verifier"),
        *("monitoring", "retraining", "remaining", "cap (RDP)"),
    )
    rows, hidden = cut(tuple(map(_block_row, report.blocks)), MOST_BLOCKS)
    marked = frozenset(
        place for place, line in enumerate(report.blocks[:MOST_BLOCKS]) if _needs_attention(line)
    )
    note = (
        "Verifier: the independent second calculation of epsilon. Monitoring, retraining and "
        "remaining are parts of the block's cap: what is set aside for monitoring, what was "
        "reserved for retrainings (with what of it was released, where that is less), and what is "
        "left. What is taken is rounded up, what is left down. The cap is in the ledger's own "
        f"unit, RDP (see Terms). Marked: {100 * NEARLY_SPENT:.0f} % or more of the cap is taken, "
        "or something is outside the bound (escalation: records sent on un-noised) or lost."
    )
    widths = (2.0, 1.3, 2.4, 1.2, 1.1, 1.2, 1.6, 2.2, 1.5, 1.2)
    grid = Grid(heads, rows, marked=marked, widths=widths, hidden=hidden, note=note)
    blocks: list[Block] = [budget_bars(report.blocks, caption), grid]
    if hidden:
        blocks += [Paragraph("Each gateway, by its worst block:"), _by_gateway(report.blocks)]
    return Section("Budget by block", "budget", tuple(blocks))


def _by_gateway(lines: Sequence[BlockLine]) -> Grid:
    """A row for each gateway, so that none is missing where most blocks are; the worst first."""
    groups: dict[str, list[BlockLine]] = {}
    for line in lines:
        groups.setdefault(line.budget.gateway, []).append(line)
    rows = tuple(map(_gateway_row, groups.values()))
    heads = (
        *("gateway", "blocks", "most epsilon spent", "of at most", "least remaining"),
        "blocks with nothing left",
    )
    shown, hidden = cut(rows, MOST_BLOCKS)
    return Grid(heads, shown, widths=(2, 1, 2, 1, 2, 2), hidden=hidden)


def _gateway_row(own: Sequence[BlockLine]) -> tuple[str, ...]:
    worst = own[0].budget
    least = min(own, key=lambda line: line.budget.remaining_nano / max(1, line.budget.cap_nano))
    return (
        worst.name,
        f"{len(own):,}",
        words.bound(worst.epsilon),
        f"{worst.epsilon_cap:g}",
        f"{words.left(least.budget.remaining_nano, least.budget.cap_nano)} %",
        f"{sum(not line.budget.remaining_nano for line in own):,}",
    )


def _needs_attention(line: BlockLine) -> bool:
    budget = line.budget
    return bool(budget.share >= NEARLY_SPENT or budget.excluded or budget.recovered)


def _block_row(line: BlockLine) -> tuple[str, ...]:
    budget = line.budget
    return (
        budget.name,
        f"{budget.block}{_block_marks(line)}",
        words.when(budget.opened_at),
        words.bound(budget.epsilon),
        f"{budget.epsilon_cap:g}",
        words.bound(line.verified_epsilon),
        f"{words.taken(budget.telemetry_nano, budget.cap_nano)} %",
        _retraining(budget),
        f"{words.left(budget.remaining_nano, budget.cap_nano)} %",
        words.rdp(budget.cap_nano),
    )


def _retraining(budget: BlockBudget) -> str:
    """What retrainings reserved, and what of it was released where that is less."""
    reserved = f"{words.taken(budget.training_nano, budget.cap_nano)} %"
    if budget.released_nano == budget.training_nano:
        return reserved
    return f"{reserved} ({words.taken(budget.released_nano, budget.cap_nano)} % released)"


def _block_marks(line: BlockLine) -> str:
    """What is special about a block, beside its number."""
    marks = ["lost its budget"] if line.budget.recovered else []
    marks += [f"{what} not covered" for what in line.budget.excluded]
    return f" ({', '.join(marks)})" if marks else ""
