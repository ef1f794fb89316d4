"""How `fedge ledger` shows what it found: tables for people, objects for programs.

Names and texts come from bundles, ledgers and databases, and anybody may have written those: people
get them without markup, with whatever steers a terminal spelt out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedge.privacy.rdp import NANO
from fedge.records import SignedHead
from fedge.review.budget import BlockBudget
from fedge.texts import escaped

if TYPE_CHECKING:
    from fedge.cli.ledger_sources import Ledgers, PlannedRun
    from fedge.review.source import GatewayLedger
    from fedge.review.verifier import Verdict

MOST_BLOCKS = 40
NEARLY_SPENT = 0.95
_KEYS = 3
"""Kinds of keys that a verification may be given: witness, reviewers, gateways."""


# --- show -------------------------------------------------------------------------------


def show_budgets(found: Ledgers, budgets: Sequence[BlockBudget], entries: int) -> None:
    """A line a block, then the latest entries of each ledger."""
    console = Console()
    heads = ("gateway", "block", "cap", "monitor", "retrain", "left", "epsilon", "runs")
    table = _table(heads, right=range(1, 8))
    for budget in budgets[:MOST_BLOCKS]:
        _add_row(table, _cells(budget), _style(budget))
    console.print(table)
    if len(budgets) > MOST_BLOCKS:
        console.print(f"{len(budgets) - MOST_BLOCKS} more blocks; --json shows all")
    console.print(
        "cap, monitor(ing: reserved), retrain(ing: charged) and left in RDP at the policy's order; "
        "epsilon: spent, of at most",
        style="dim",
        highlight=False,
    )
    for one in found.source.gateways:
        _show_entries(console, one, entries)
    for lag in found.lags:
        if lag.lags:
            _say(console, f"{lag.name}: {lag.describe()}", "yellow")


def _cells(budget: BlockBudget) -> tuple[str, ...]:
    return (
        budget.name,
        f"{budget.block}" + (" lost" if budget.recovered else ""),
        _rdp(budget.cap_nano),
        _rdp(budget.telemetry_nano),
        _rdp(budget.training_nano),
        _rdp(budget.remaining_nano),
        f"{budget.epsilon:.3f} of {budget.epsilon_cap:g}",
        str(budget.runs),
    )


def _style(budget: BlockBudget) -> str:
    if budget.recovered or budget.share >= NEARLY_SPENT:
        return "red"
    return "yellow" if budget.excluded else ""


def _show_entries(console: Console, ledger: GatewayLedger, entries: int) -> None:
    head = _largest(ledger)
    signed = "no head is signed" if head is None else f"root {head.root[:16]} at {head.size}"
    count = len(ledger.entries)
    console.print()
    many = counted(count, "entry", "entries")
    _say(console, f"{ledger.name} {ledger.gateway}: {many}, {signed}")
    for entry in _latest(ledger, entries):
        _say(console, f"  {entry['seq']:>6}  {_moment(entry['at'])}  {_entry_words(entry)}")


def _entry_words(entry: dict[str, Any]) -> str:
    names = ("block", "blocks", "window", "run_id", "purpose", "key", "reason", "what")
    facts = [f"{name} {entry[name]}" for name in names if name in entry]
    return " ".join([entry["kind"], *facts])


def _latest(ledger: GatewayLedger, entries: int) -> list[dict[str, Any]]:
    return [json.loads(data) for data in ledger.entries[len(ledger.entries) - entries :]]


def _largest(ledger: GatewayLedger) -> SignedHead | None:
    return max(ledger.heads, key=lambda head: head.size, default=None)


def budget_json(found: Ledgers, budgets: Sequence[BlockBudget], entries: int) -> dict[str, Any]:
    """Everything that `show` knows."""
    return {
        "made_by": found.source.made_by,
        "simulated": found.source.simulated,
        "blocks": [block_json(budget) for budget in budgets],
        "ledgers": [
            {
                "gateway": one.gateway,
                "name": one.name,
                "entries": len(one.entries),
                "witnessed": max((head.head.size for head in one.witnessed), default=0),
                "latest": _latest(one, entries),
            }
            for one in found.source.gateways
        ],
        "lagging": [
            {"gateway": lag.gateway, "name": lag.name, "what": lag.describe()}
            for lag in found.lags
            if lag.lags
        ],
    }


def block_json(budget: BlockBudget) -> dict[str, Any]:
    """One block, amounts in nano-RDP."""
    return {
        "gateway": budget.gateway,
        "name": budget.name,
        "block": budget.block,
        "opened_at": budget.opened_at,
        "epsilon": budget.epsilon,
        "epsilon_cap": budget.epsilon_cap,
        "delta": budget.policy.delta,
        "alpha": budget.policy.alpha,
        "cap_nano": budget.cap_nano,
        "monitoring_nano": budget.telemetry_nano,
        "training_nano": budget.training_nano,
        "released_nano": budget.released_nano,
        "spent_nano": budget.spent_nano,
        "remaining_nano": budget.remaining_nano,
        "runs": budget.runs,
        "windows": budget.windows,
        "excluded": list(budget.excluded),
        "recovered": budget.recovered,
    }


# --- plan -------------------------------------------------------------------------------


def show_plan(found: PlannedRun) -> None:
    """The run in one line, then what it would cost each block."""
    console, plan = Console(), found.plan
    console.print(
        f"{plan.rounds} rounds of {plan.steps} steps on the {plan.adapter} adapter, "
        f"{plan.sampling} batches, noise {(plan.sigma2 / plan.sensitivity2) ** 0.5:.2f} clips, "
        f"{plan.divisor} planned records a gateway.",
        highlight=False,
    )
    _say(console, f"What chose the adapter: {found.chosen}.")
    smallest = plan.smallest_detectable(found.gateways)
    share = smallest / (plan.divisor * found.gateways)
    console.print(
        f"Its evaluation finds a gain of {smallest:.0f} records or more ({share:.1%} of the "
        f"planned ones, gateways: {found.gateways}) in 4 of 5 cases.",
        highlight=False,
    )
    heads = ("gateway", "block", "left", "cost", "then left", "then epsilon", "fits")
    table = _table(heads, right=range(1, 7))
    for price in found.prices[:MOST_BLOCKS]:
        budget = price.budget
        cells = (
            budget.name,
            str(budget.block),
            _rdp(budget.remaining_nano),
            _rdp(price.cost_nano),
            _rdp(price.left_nano) if price.fits else "too little",
            f"{price.epsilon_after:.3f} of {budget.epsilon_cap:g}",
            str(price.fits),
        )
        _add_row(table, cells, "" if price.fits else "yellow")
    console.print(table)
    console.print(
        f"Runs like this that a block carries which opens now: {found.fresh}. Nothing was spent.",
        highlight=False,
    )


def plan_json(found: PlannedRun) -> dict[str, Any]:
    """Everything that `plan` knows; amounts in nano-RDP."""
    return {
        "plan": found.plan.model_dump(mode="json"),
        "choice": None if found.choice is None else found.choice.summary(),
        "noise_multiplier": (found.plan.sigma2 / found.plan.sensitivity2) ** 0.5,
        "smallest_detectable": found.plan.smallest_detectable(found.gateways),
        "gateways": found.gateways,
        "fits_fresh_block": found.fresh,
        "blocks": [
            {
                "gateway": price.budget.gateway,
                "name": price.budget.name,
                "block": price.budget.block,
                "remaining_nano": price.budget.remaining_nano,
                "cost_nano": price.cost_nano,
                "left_nano": price.left_nano,
                "fits": price.fits,
                "epsilon_after": price.epsilon_after,
            }
            for price in found.prices
        ],
    }


# --- verify -----------------------------------------------------------------------------


def show_verdict(verdict: Verdict) -> None:
    """One line that says it, then what a reviewer must know besides."""
    console = Console(soft_wrap=True)
    if not verdict.accepted:
        first = str(verdict.deviations[0]) if verdict.deviations else "it cannot be taken apart"
        _say(console, f"REJECTED: {first}", "bold red")
        more = len(verdict.deviations) - 1
        if more > 0:
            _say(console, f"{counted(more, 'more deviation')}; --json shows all")
        return
    clear = verdict.proven and verdict.pinned and not verdict.reservations
    _say(console, _accepted(verdict), "bold green" if clear else "bold yellow")
    for finding in sorted(verdict.findings, key=lambda one: not one.unproven):
        weight = "unproven" if finding.unproven else "note"
        _say(console, f"{weight}: {finding}", "yellow" if finding.unproven else "")


def _accepted(verdict: Verdict) -> str:
    gateways = () if verdict.facts is None else verdict.facts.gateways
    blocks = [block for one in gateways for block in one.blocks]
    entries = sum(one.entries for one in gateways)
    as_of = None if verdict.facts is None else verdict.facts.as_of
    since = "as of no signed time" if as_of is None else f"as of {_moment(as_of)} UTC"
    worst = max(blocks, key=lambda block: block.epsilon / block.epsilon_cap, default=None)
    spent = "no block"
    if worst is not None:
        spent = f"worst block epsilon {worst.epsilon:.3f} of {worst.epsilon_cap:g}"
    return (
        f"{_proven(verdict, bool(blocks))}, {since}: {counted(len(gateways), 'gateway')}, "
        f"{counted(entries, 'entry', 'entries')}, {spent}"
    )


def _proven(verdict: Verdict, bounded: bool) -> str:
    """How far an accepted bundle proves its bound; without a block there is none."""
    if not bounded:
        return "accepted, but nothing is proven: no block was opened yet"
    if not verdict.proven:
        return "accepted, but the guarantee is unproven"
    proven = "proven, with reservations" if verdict.reservations else "proven"
    if verdict.pinned:
        return proven
    none = sum(one.kind == "unpinned" for one in verdict.findings) == _KEYS
    which = "in it" if none else "that were not given"
    return f"{proven}, if the keys {which} are the right ones"


# --- lines ------------------------------------------------------------------------------


def counted(number: int, one: str, many: str = "") -> str:
    """A number and its noun, whose plural ends in s unless given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _moment(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"at {at:g} s"  # before year 1, or after 9999: some gateway's clock, or its word


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(escaped(text), style=style), highlight=False)


def _add_row(table: Table, cells: Sequence[str], style: str) -> None:
    table.add_row(*(Text(escaped(cell)) for cell in cells), style=style)


def _rdp(nano: int) -> str:
    return f"{nano / NANO:.4f}"


def _table(heads: Sequence[str], *, right: range) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place in right else "left", no_wrap=True)
    return table
