"""The report as tables for a spreadsheet: blocks, charges, their parameters, findings.

A name of a column says its unit. Amounts of the ledger's own unit, nano-RDP, stand beside an
epsilon or a share of the cap; times are ISO 8601 in UTC, with the seconds that they came from
beside them. Every file has its heads also where it has no row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedge.review.report import advice as advise
from fedge.review.report import words
from fedge.review.report.budget_sections import weight_of
from fedge.review.report.model import BlockLine, Charge, ComplianceReport, Mechanism, Remark
from fedge.review.report.verdict_words import as_of_words, verdict_words
from fedge.review.report.visible import visible

Row = Mapping[str, Any]

BLOCKS = (
    *("verdict", "as_of_utc", "gateway", "name", "block", "opened_utc", "opened_epoch_s"),
    *("epsilon_spent", "epsilon_recomputed", "epsilon_cap", "delta", "order", "unit"),
    *("spent_percent_of_cap", "monitoring_percent_of_cap", "training_percent_of_cap"),
    *("released_percent_of_cap", "remaining_percent_of_cap"),
    *("cap_nano_rdp", "monitoring_nano_rdp", "training_nano_rdp", "released_nano_rdp"),
    *("spent_nano_rdp", "recomputed_nano_rdp", "remaining_nano_rdp"),
    *("lost_its_budget", "left_out"),
)
CHARGES = (
    *("gateway", "name", "entry", "at_utc", "at_epoch_s", "kind", "about", "blocks"),
    *("cost_percent_of_cap", "cost_nano_rdp", "recomputed_nano_rdp", "mechanisms"),
    *("parts_released", "noise"),
)
MECHANISMS = (
    *("gateway", "name", "entry", "about", "number", "purpose", "mechanism", "sampling"),
    *("sampling_rate", "noise_multiplier", "releases", "values", "sensitivity_squared", "sigma2"),
)
FINDINGS = ("weight", "kind", "gateway", "name", "entry", "what", "what_to_do")


def csv_files(report: ComplianceReport) -> dict[str, bytes]:
    """Every block, every charge with its parameters, every finding; the verdict among them."""
    caps = report.caps
    return {
        "compliance-blocks.csv": _csv(BLOCKS, (_block(report, line) for line in report.blocks)),
        "compliance-charges.csv": _csv(CHARGES, (_charge(one, caps) for one in report.charges)),
        "compliance-mechanisms.csv": _csv(MECHANISMS, _mechanisms(report.charges)),
        "compliance-findings.csv": _csv(FINDINGS, _findings(report)),
    }


def _block(report: ComplianceReport, line: BlockLine) -> Row:
    budget = line.budget
    amounts = {
        "spent": budget.spent_nano,
        "monitoring": budget.telemetry_nano,
        "training": budget.training_nano,
        "released": budget.released_nano,
    }
    return {
        "verdict": verdict_words(report),
        "as_of_utc": words.iso(report.as_of),
        "gateway": budget.gateway,
        "name": budget.name,
        "block": budget.block,
        "opened_utc": words.iso(budget.opened_at),
        "opened_epoch_s": budget.opened_at,
        "epsilon_spent": _epsilon(budget.epsilon),
        "epsilon_recomputed": _epsilon(line.verified_epsilon),
        "epsilon_cap": budget.epsilon_cap,
        "delta": budget.policy.delta,
        "order": budget.policy.alpha,
        "unit": budget.policy.unit,
        **{f"{one}_percent_of_cap": words.taken(n, budget.cap_nano) for one, n in amounts.items()},
        "remaining_percent_of_cap": words.left(budget.remaining_nano, budget.cap_nano),
        "cap_nano_rdp": budget.cap_nano,
        **{f"{name}_nano_rdp": nano for name, nano in amounts.items()},
        "recomputed_nano_rdp": line.verified_nano,
        "remaining_nano_rdp": budget.remaining_nano,
        "lost_its_budget": budget.recovered,
        "left_out": " ".join(budget.excluded) or "nothing",
    }


def _charge(charge: Charge, caps: Mapping[tuple[str, int], int]) -> Row:
    """The share is of the smallest cap among the charged blocks: no block lost more of its own."""
    cap = min((caps[charge.gateway, block] for block in charge.blocks), default=0)
    return {
        "gateway": charge.gateway,
        "name": charge.name,
        "entry": charge.entry,
        "at_utc": words.iso(charge.at),
        "at_epoch_s": charge.at,
        "kind": charge.kind,
        "about": charge.about,
        "blocks": " ".join(map(str, charge.blocks)),
        "cost_percent_of_cap": words.taken(charge.ledger_nano, cap),
        "cost_nano_rdp": charge.ledger_nano,
        "recomputed_nano_rdp": charge.verified_nano,
        "mechanisms": len(charge.mechanisms),
        "parts_released": charge.released,
        "noise": " ".join(charge.noise) or "none was drawn",
    }


def _mechanisms(charges: Iterable[Charge]) -> Iterator[Row]:
    """A row for each priced event of a charge; `entry` is the charge's."""
    for charge in charges:
        for number, one in enumerate(charge.mechanisms):
            about = {"gateway": charge.gateway, "name": charge.name, "entry": charge.entry}
            yield {**about, "about": charge.about, "number": number, **_parameters(one)}


def _parameters(one: Mechanism) -> Row:
    return {
        "purpose": one.purpose,
        "mechanism": one.kind,
        "sampling": one.sampling,
        "sampling_rate": one.rate,
        "noise_multiplier": one.noise_multiplier,
        "releases": one.count,
        "values": one.dimension,
        "sensitivity_squared": one.sensitivity2,
        "sigma2": one.sigma2,
    }


def _findings(report: ComplianceReport) -> Iterator[Row]:
    verdict = f"{verdict_words(report)}, {as_of_words(report)}"
    if report.deviation is not None:
        verdict = verdict_words(report)
    yield {"weight": "verdict", "what": verdict}
    if report.deviation is not None:
        advice = advise.about_rejection(report.deviation)
        yield {"weight": "rejects", **_remark(report.deviation), "what_to_do": advice}
    for remark in report.remarks:
        advice = advise.what_to_do(remark)
        yield {"weight": weight_of(remark), **_remark(remark), "what_to_do": advice}


def _remark(one: Remark) -> Row:
    return {name: getattr(one, name) for name in ("kind", "gateway", "name", "entry", "what")}


def _epsilon(value: float | None) -> str:
    """Rounded up at the third digit after the point, as in the report."""
    return words.bound(value)


def _csv(heads: Sequence[str], rows: Iterable[Row]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue().encode()


def _cell(value: Any) -> Any:
    """Nothing hidden in it; a text that a spreadsheet would take for a formula is kept a text."""
    if value is None:
        return ""
    if isinstance(value, str):
        shown = visible(value)
        return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown
    return value
