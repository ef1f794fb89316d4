"""The part of a report about what happened: charges, policies, audits, accuracy, integrity."""

from __future__ import annotations

from collections.abc import Iterable

from fedge.review.report import trust_words, words
from fedge.review.report.differences import difference_words
from fedge.review.report.document import Block, Bullets, Grid, Paragraph, Section, cut
from fedge.review.report.model import Charge, ComplianceReport, Mechanism
from fedge.review.report.plots import charge_timeline

MOST_ROWS = 80


def trust_section(report: ComplianceReport) -> Section:
    """Who sees what, and what protects it from them; un-noised records that leave are marked."""
    rows = trust_words.who_sees_what(report.excluded)
    marked = frozenset(place for place, row in enumerate(rows) if "larger model" in row[0])
    blocks: list[Block] = []
    if report.excluded:
        text = (
            f"Left out of the bound by the ledgers: {'; '.join(words.exclusions(report.excluded))}."
        )
        blocks.append(Paragraph(text))
    blocks.append(Grid(("who", "sees", "protection"), rows, marked=marked, widths=(2, 4, 4)))
    blocks.append(Paragraph("What no signature can replace, and has to be trusted:"))
    blocks.append(Bullets(trust_words.trusted(report.excluded)))
    return Section("Who sees what, and whom to trust", "trust", tuple(blocks))


def charges_section(report: ComplianceReport) -> Section:
    """What was reserved and released, alike ones together."""
    if not report.charges:
        text = "Nothing was charged: no report left a gateway and no retraining took place."
        return Section("What was released", "charges", (Paragraph(text),))
    rows = tuple(_charge_rows(report))
    shown, hidden = cut(rows, MOST_ROWS)
    heads = (
        *("gateway", "what", "purpose and mechanism", "released"),
        *("cost (RDP)", "recomputed (RDP)"),
    )
    note = (
        "Cost is what one window or one run charged each block, by the ledger's arithmetic, in its "
        "own unit and as a part of the block's cap (of the smallest, where caps differ); "
        "recomputed is the same by the verifier, from the parameters alone. Windows count against "
        "monitoring's share, of which only the heaviest window of a block matters: a record lies "
        "in one window, and a window's price is that of all records of a subject that count."
    )
    names = list(dict.fromkeys(line.budget.name for line in report.blocks))
    timeline = charge_timeline(
        report.charges,
        report.policies,
        report.incidents,
        names,
        "Every charge, policy and incident that the ledgers hold.",
    )
    grid = Grid(heads, shown, widths=(1.6, 2.4, 4.6, 1.7, 2.0, 1.5), hidden=hidden, note=note)
    return Section("What was released", "charges", (timeline, grid))


def _charge_rows(report: ComplianceReport) -> Iterable[tuple[str, ...]]:
    """Windows with the same mechanism share a row, and so do gateways in the same run."""
    groups: dict[tuple[object, ...], list[Charge]] = {}
    for charge in report.charges:
        about = charge.about if charge.kind == "run" else ""
        cost = (charge.ledger_nano, charge.verified_nano)
        key = (charge.kind, about, charge.mechanisms, cost, charge.released > 0)
        groups.setdefault(key, []).append(charge)
    for alike in groups.values():
        first = alike[0]
        what = first.about if first.kind == "run" else words.count_of(len(alike), "window")
        blocks = sorted({block for charge in alike for block in charge.blocks})
        cap = min(report.caps[charge.gateway, b] for charge in alike for b in charge.blocks)
        yield (
            words.listed(sorted({charge.name for charge in alike})),
            f"{what}; {_block_words(blocks)}",
            "; ".join(map(mechanism_words, first.mechanisms)),
            _released_words(alike),
            f"{words.rdp(first.ledger_nano)} ({words.taken(first.ledger_nano, cap)} %)",
            words.rdp(first.verified_nano),
        )


def _block_words(blocks: list[int]) -> str:
    if len(blocks) > 4:
        return f"{len(blocks)} blocks, {blocks[0]} to {blocks[-1]}"
    return f"{'block' if len(blocks) == 1 else 'blocks'} {', '.join(map(str, blocks))}"


def _released_words(charges: list[Charge]) -> str:
    parts = sum(charge.released for charge in charges)
    noise = sorted({kind for charge in charges for kind in charge.noise})
    kinds = {"os": "system entropy", "os-float": "system entropy, floating point"}
    source = ", ".join(kinds.get(kind, kind) for kind in noise)
    return f"{words.count_of(parts, 'part')}, {source}" if parts else "nothing; the charge stands"


def mechanism_words(one: Mechanism) -> str:
    """What was noised, how often, and with how much noise."""
    purpose = words.PURPOSES.get(one.purpose, one.purpose)
    name = "discrete Gaussian" if one.kind == "discrete-gaussian" else "sampled Gaussian"
    sampled = "" if one.sampling == "full" else f", Poisson sample of {100 * one.rate:.3g} %"
    return (
        f"{purpose}: {one.count} x {name} noise of {words.number(one.noise_multiplier)} "
        f"sensitivities on {words.count_of(one.dimension, 'value')}{sampled}"
    )


def policy_section(report: ComplianceReport) -> Section:
    """Every policy that was adopted, by whom and why."""
    if not report.policies:
        text = (
            "No entry names a policy by itself: these ledgers were begun by a version of fedge "
            "that wrote the policy into each block."
        )
        return Section("Policies and approvals", "policies", (Paragraph(text),))
    rows = tuple(
        (
            change.name,
            words.when(change.at),
            words.policy_words(change.policy),
            change.reviewer or "nobody signed",
            change.reason or "none given",
        )
        for change in report.policies
    )
    shown, hidden = cut(rows, MOST_ROWS)
    marked = frozenset(p for p, change in enumerate(report.policies) if not change.reviewer)
    heads = ("gateway", "adopted (UTC)", "policy", "reviewer", "reason")
    text = (
        "A changed policy holds for blocks opened after it. For a block that is open the budget "
        "can only fall; its order, delta, unit and adjacency never change."
    )
    grid = Grid(heads, shown, marked=marked, widths=(1.5, 2, 5, 2, 3), hidden=hidden)
    return Section("Policies and approvals", "policies", (Paragraph(text), grid))


def audit_section(report: ComplianceReport) -> Section:
    """Whether the code does what the ledger says, as far as attacks can show."""
    if not report.audits:
        text = (
            "No audit evidence came with this bundle. A ledger shows what was charged, not that "
            "noise was really drawn: `make audit` attacks the implementation and leaves evidence."
        )
        return Section("Audits of the implementation", "audits", (Paragraph(text),))
    rows = tuple(
        (
            audit.name,
            audit.at,
            audit.method,
            words.number(audit.claimed),
            words.number(audit.lower),
            {True: "passed", False: "FAILED", None: "not known"}[audit.passed],
        )
        for audit in report.audits
    )
    shown, hidden = cut(rows, MOST_ROWS)
    marked = frozenset(p for p, audit in enumerate(report.audits) if audit.passed is not True)
    heads = ("audit", "date", "method", "claimed epsilon", "shown at least", "outcome")
    text = (
        "Attacks on the implementation: an audit passes if the strongest attack shows no more "
        "than was claimed, and if it finds every bug that was planted for it. This is evidence as "
        "the exporter put it in; run the audit again to be sure."
    )
    if any(audit.release is not None for audit in report.audits):
        text += (
            " An audit of a release trained as that release was planned, on a staging fleet's own "
            "ledger and with canaries among public rows; where noise is large it shows little."
        )
    grid = Grid(heads, shown, marked=marked, widths=(2, 2, 5, 1.4, 1.4, 1.4), hidden=hidden)
    return Section("Audits of the implementation", "audits", (Paragraph(text), grid))


def accuracy_section(report: ComplianceReport) -> Section:
    """What privacy costs, by class: small groups pay most."""
    heading, anchor = "What privacy costs in accuracy", "accuracy"
    if not report.accuracy:
        return Section(heading, anchor, (Paragraph("Not measured."),))
    rows = tuple(
        (
            one.label,
            f"{one.rows:,}",
            words.percent(one.stale),
            words.percent(one.private),
            words.percent(one.nonprivate),
            difference_words(one),
        )
        for one in report.accuracy
    )
    shown, hidden = cut(rows, MOST_ROWS)
    heads = (
        *("class", "rows", "before retraining", "private", "without privacy"),
        "difference (95 % range)",
    )
    text = (
        f"Share of right answers by class, {report.accuracy_about}. Noise weighs most on rare "
        "classes: look at the smallest figures, not at the average. The difference is private "
        "minus without privacy, in percentage points; a range that holds 0 leaves open whether "
        "there is any. Ranges take the rows for independent: where several rows show the same "
        "object, the truth is less certain. One training of each kind was compared; other noise "
        "gives other figures. Marked: the class that loses most, where that is over 2 points."
    )
    losses = [_loss(one.private, one.nonprivate) for one in report.accuracy]
    marked = frozenset(p for p, loss in enumerate(losses) if loss == max(losses) and loss > 0.02)
    grid = Grid(heads, shown, marked=marked, widths=(1.5, 1, 2, 1.5, 2, 4), hidden=hidden)
    return Section(heading, anchor, (Paragraph(text), grid))


def _loss(private: float | None, nonprivate: float | None) -> float:
    return 0.0 if private is None or nonprivate is None else nonprivate - private


def incident_section(report: ComplianceReport) -> Section:
    """Erasures, exclusions, lost states and lost parts."""
    heading = "Erasure, consent, retention and incidents"
    text = (
        "Erasing a record never gives budget back and does not take it out of a model that was "
        "released: the bound already limits what any release can tell about it."
    )
    if not report.incidents:
        none = (
            "The ledgers hold no erasure, withdrawal of consent, deletion by age, exclusion from "
            "the bound, lost state or lost release."
        )
        blocks: tuple[Block, ...] = (Paragraph(none), Paragraph(text, soft=True))
        return Section(heading, "incidents", blocks)
    rows = tuple(
        (one.name, words.when(one.at), str(one.entry), one.what) for one in report.incidents
    )
    shown, hidden = cut(rows, MOST_ROWS)
    grid = Grid(
        ("gateway", "when (UTC)", "entry", "what"), shown, widths=(2, 2, 1, 7), hidden=hidden
    )
    return Section(heading, "incidents", (Paragraph(text), grid))


def release_section(report: ComplianceReport) -> Section:
    """Models that were published, and what their making cost."""
    heading, anchor = "Published models", "releases"
    if not report.releases:
        return Section(heading, anchor, (Paragraph("The bundle names none."),))
    rows = tuple(
        (
            f"{one['family']} {one['counter']}",
            str(one["run_id"]),
            str(one["parent"] or "none"),
            str(one["choice"]),
            ", ".join(words.release_privacy(*item) for item in sorted(one["privacy"].items())),
            str(one["manifest_sha256"])[:16],
        )
        for one in report.releases
    )
    heads = (
        *("release", "made by", "parent", "adapter, and what chose it"),
        *("privacy, as its manifest says", "hash (start)"),
    )
    shown, hidden = cut(rows, MOST_ROWS)
    grid = Grid(heads, shown, widths=(2, 4, 1.2, 4, 4, 2), hidden=hidden)
    return Section(heading, anchor, (grid, *_studies(report)))


def _studies(report: ComplianceReport) -> tuple[Block, ...]:
    """A line for each study that chose an adapter."""
    found = {one["study"]["sha256"]: one["study"] for one in report.releases if one["study"]}
    return tuple(Paragraph(words.study(one), soft=True) for one in found.values())


def estimate_section(report: ComplianceReport) -> Section:
    """A tighter figure, labelled for what it is."""
    rows = tuple(
        (one.name, str(one.block), words.bound(one.epsilon), one.method) for one in report.estimates
    )
    text = (
        "An estimate, not a guarantee: another way of adding up the same charges (by privacy loss "
        "distributions, PLD), which is usually "
        "smaller. It enforces nothing, and it counts what was reserved by name, not monitoring's "
        "whole share. It is made for one block only: of all gateways' blocks the one with the "
        "largest epsilon spent, of several alike the first."
    )
    heads = ("gateway", "block", "epsilon (estimate)", "method")
    grid = Grid(heads, rows, widths=(2, 1, 2, 6))
    return Section("A tighter estimate", "estimate", (Paragraph(text), grid))
