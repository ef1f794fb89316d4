"""What still fits: how many more retrainings budgets carry, and quotas allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedge.review.prices import price_run, runs_in_fresh_block
from fedge.review.report import words
from fedge.review.report.document import Grid, Paragraph, Section, cut
from fedge.review.report.model import ComplianceReport, Projection
from fedge.review.report.parts import LedgerPart

MOST_GATEWAYS = 60
MOST_RANGES = 6
"""Ranges of blocks that are told apart; earlier ones are told together."""


def projection(part: LedgerPart) -> Projection | None:
    """How often the latest run of a ledger still fits; None where there was none."""
    run = part.last_run
    if run is None:
        return None
    usable = [budget for budget in part.budgets if not budget.recovered]
    prices = price_run(usable, run.events, run.uses, run.task)
    policy = part.policies[-1].policy if part.policies else part.budgets[-1].policy
    return Projection(
        gateway=part.ledger.gateway,
        name=part.ledger.name,
        run_id=run.run_id,
        cost_nano=max((price.cost_nano for price in prices), default=0),
        fits={price.budget.block: price.fits for price in prices},
        fresh=runs_in_fresh_block(policy, run.events, run.uses, run.task),
    )


def headroom_words(report: ComplianceReport) -> str:
    """What is left, in a sentence for who reads no table; empty where nothing was retrained."""
    if not report.projections:
        return ""
    able = sum(count > 0 for one in report.projections for count in one.fits.values())
    retrained = {one.gateway for one in report.projections}
    blocks = sum(line.budget.gateway in retrained for line in report.blocks)
    fresh = _span(one.fresh for one in report.projections)
    return (
        f"Left for retraining: of {words.count_of(blocks, 'block')}, {able} "
        f"{'has' if able == 1 else 'have'} room for another one like the latest; a block that "
        f"opens now has room for {fresh}. See What still fits."
    )


def projection_section(report: ComplianceReport) -> Section:
    """How many retrainings like the latest one still fit, by gateway."""
    if not report.projections:
        text = "No retraining was charged yet, so there is no price to project from."
        return Section("What still fits", "projection", (Paragraph(text),))
    rows = tuple(
        (one.name, one.run_id, words.rdp(one.cost_nano), fits_words(one.fits), f"{one.fresh}")
        for one in report.projections
    )
    heads = ("gateway", "latest run", "its cost (RDP)", "more on open blocks", "on a fresh block")
    text = (
        "How many more retrainings with the settings of the latest one the budget carries, and the "
        "policy's quotas allow. When none fits, a gateway declines to train on that block; "
        "monitoring goes on, and a new block starts with a budget of its own. No budget is ever "
        "raised for a block that is open; one that lost its budget is not named here."
    )
    shown, hidden = cut(rows, MOST_GATEWAYS)
    grid = Grid(heads, shown, widths=(2, 3, 1.5, 5, 2), hidden=hidden)
    return Section("What still fits", "projection", (Paragraph(text), grid))


def fits_words(fits: Mapping[int, int]) -> str:
    """Every block: neighbours with the same count together, the latest ones apart.

    >>> fits_words({0: 0, 1: 2, 2: 2})
    'block 0: none, blocks 1 to 2: 2 each'
    """
    ranges: list[tuple[int, int, int]] = []
    for block, count in sorted(fits.items()):
        if ranges and ranges[-1][1:] == (block - 1, count):
            ranges[-1] = (ranges[-1][0], block, count)
        else:
            ranges.append((block, block, count))
    earlier, late = ranges[:-MOST_RANGES], ranges[-MOST_RANGES:]
    told = [_range(*one) for one in late]
    if earlier:
        first, last = earlier[0][0], earlier[-1][1]
        span = _span(count for _, _, count in earlier)
        told.insert(0, f"of blocks {first} to {last}: {span} each")
    return ", ".join(told) or "no block is open"


def _range(first: int, last: int, count: int) -> str:
    told = str(count) if count else "none"
    if first == last:
        return f"block {first}: {told}"
    return f"blocks {first} to {last}: {told}{' each' if count else ''}"


def _span(counts: Iterable[int]) -> str:
    """The smallest and the largest count."""
    found = sorted(counts)
    return str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
