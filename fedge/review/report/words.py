"""How a report says things: in words that a person without a background in statistics can use.

Nothing here decides anything. The word that a released model or report would be free of any
tie to persons is never used: that is for a lawyer to say, case by case.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedge.privacy.rdp import NANO
from fedge.records import PrivacyPolicy
from fedge.review.report.model import KeyKind

PURPOSES: Mapping[str, str] = {
    "features": "monitoring: statistics of a window's inputs and outputs",
    "labels": "monitoring: right and wrong answers of a window",
    "training": "retraining: gradients or adapter updates",
    "evaluation": "retraining: comparison of the new model with the present one",
}

WORTHLESS = 7.0
"""Beyond this epsilon (a factor of about 1,000) a bound is called hardly a protection."""

WHOSE_KEYS: Mapping[KeyKind, str] = {
    "witness": "the witness's key",
    "reviewer": "the reviewers' keys",
    "gateway": "the gateways' keys",
}

EXCLUDED: Mapping[str, str] = {
    "escalation": "records that may be sent on, un-noised, to a larger model's server",
    "sketches": "exact sketches of columns that the task declares to be machine data",
}


def moment(at: float | None) -> str:
    """A time to the minute, in UTC; one of a clock that is beyond any calendar is said as that."""
    if at is None:
        return "never"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return f"no calendar date (second {at:g})"


def iso(at: float | None) -> str:
    """A time in UTC as ISO 8601, to the second; empty where there is none."""
    if at is None:
        return ""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return "no calendar date"


def when(at: float | None) -> str:
    """The same for a table whose head says UTC."""
    return moment(at).removesuffix(" UTC")


def count_of(count: int, one: str, many: str = "") -> str:
    """A number and its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def place(name: str, entry: int | None) -> str:
    """Where something was found, as the beginning of a sentence; empty where that is not known."""
    at = "" if entry is None else f", entry {entry}"
    return f"{name}{at}: " if name or at else ""


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas; beyond `most` only how many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def number(value: float | None) -> str:
    """With as many digits as mean something; unknown is said."""
    if value is None:
        return "not known"
    if not math.isfinite(value):
        return "unbounded"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def bound(value: float | None) -> str:
    """An epsilon, rounded up at the third digit after the point, so that it is never too small."""
    if value is None:
        return "not known"
    return f"{rounded_up(value):.3f}" if math.isfinite(value) else "unbounded"


def rounded_up(epsilon: float) -> float:
    """The same as a number; what is too large for a digit after the point stays as it is."""
    return math.ceil(epsilon * 1000 - 1e-6) / 1000 if abs(epsilon) < 1e9 else epsilon


def release_privacy(name: str, value: object) -> str:
    """One of a manifest's words about privacy; an epsilon is rounded up, as everywhere."""
    said = "none" if value is None else str(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9:
        said = {"epsilon": bound, "delta": small}.get(name, number)(value)
    return f"{name.replace('_', ' ')} {said}"


def small(value: float) -> str:
    """A small probability without an exponent."""
    return f"{value:.12f}".rstrip("0") if value >= 1e-9 else f"{value:g}"


def delta_words(delta: float) -> str:
    """A small probability as people say it."""
    return f"{small(delta)} (one in {1 / delta:,.0f})"


def rdp(nano: int | None) -> str:
    """An amount of the ledger's unit."""
    return "not known" if nano is None else f"{nano / NANO:.4f}"


def percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.1f} %"


def taken(nano: int, cap: int) -> str:
    """A part of a cap in percent, rounded up, so that nothing spent looks like nothing."""
    return f"{math.ceil(nano * 10_000 / cap) / 100:.2f}" if cap else "no cap"


def left(nano: int, cap: int) -> str:
    """The same, rounded down, so that nothing that is gone looks as if it were left."""
    return f"{nano * 10_000 // cap / 100:.2f}" if cap else "no cap"


def odds(epsilon: float) -> str:
    """The factor e^epsilon as a plain number, rounded up, so that it is never too small."""
    factor = math.exp(min(epsilon, 50.0))
    return f"{math.ceil(factor * 100) / 100:.2f}" if factor < 10 else f"{math.ceil(factor):,}"


def strength(epsilon: float) -> str:
    """What a bound is worth."""
    if not epsilon <= WORTHLESS:  # what is no number, too
        return "hardly a protection any more"
    return f"conclusions at most {odds(epsilon)} times more often"


def unit_words(policy: PrivacyPolicy) -> str:
    """Whose bound it is."""
    if policy.unit == "record":
        return "any single record"
    return (
        f"any single person or other subject, with all records that belong to it in a block "
        f"(at most {policy.max_records} of them count)"
    )


def block_words(policy: PrivacyPolicy) -> str:
    """How long a block is."""
    value = policy.block.value
    if policy.block.kind == "windows":
        return f"{count_of(value, 'full window')} of data"
    if value % 86_400 == 0:
        return f"{count_of(value // 86_400, 'day')} of data"
    return f"{value:,} seconds of data"


def policy_words(policy: PrivacyPolicy) -> str:
    """All that a policy says, but for what it declares as public, in one cell."""
    unit = (
        "record" if policy.unit == "record" else f"subject (at most {policy.max_records} records)"
    )
    quotas = "".join(
        f"; quota of {100 * one.share:g} % of the cap for {one.purpose} of "
        f"{'any task' if one.task == '*' else one.task}"
        for one in policy.quotas
    )
    return (
        f"epsilon {policy.epsilon:g}, delta {small(policy.delta)}, order {policy.alpha}, per "
        f"{unit}, block of {block_words(policy)}{quotas}"
    )


def study(summary: Mapping[str, Any]) -> str:
    """What a study that chose an adapter measured, as its record sums it up."""
    beside = ""
    if summary["next_adapter"] is not None:
        share = percent(summary["next_accuracy"])
        beside = f"; the next best adapter, {summary['next_adapter']}, reached {share}"
    made_by = ", ".join(f"{name} {one}" for name, one in sorted(summary["versions"].items()))
    at = "at a time not recorded" if summary["at"] is None else moment(summary["at"])
    return (
        f"Study {summary['sha256'][:16]} chose {summary['adapter']} among {summary['candidates']} "
        f"candidates, on public data alone and at epsilon {summary['epsilon']:g}: "
        f"{percent(summary['accuracy'])} of answers were right after private training, "
        f"{percent(summary['stale'])} before{beside}. Made {at} with {made_by}."
    )


def left_out(excluded: Collection[str]) -> str:
    """Kinds of exclusion as a phrase."""
    return " and ".join(EXCLUDED.get(kind, kind) for kind in sorted(excluded))


def guarantee(policy: PrivacyPolicy, excluded: Collection[str] = ()) -> str:
    """The bound in one sentence; `excluded`: kinds that ledgers leave out of it."""
    but = f", but not {left_out(excluded)}," if excluded else ","
    return (
        f"For {unit_words(policy)} in a block of {block_words(policy)} at one gateway, everything "
        f"ever released about that block, all monitoring reports, retrainings and evaluations "
        f"together{but} is differentially private with epsilon at most {policy.epsilon:g} and "
        f"delta at most {small(policy.delta)} ({policy.adjacency} adjacency, accounted at order "
        f"{policy.alpha})."
    )


def plainly(policy: PrivacyPolicy, epsilon: float, excluded: Collection[str] = ()) -> str:
    """What the bound that was spent means for one unit; `excluded`: what ledgers leave out."""
    but = f" (but for {left_out(excluded)})" if excluded else ""
    who = "the record" if policy.unit == "record" else "that subject's records"
    return (
        f"In plain words: whoever sees everything that left the gateway{but}, whatever else they "
        f"know, reaches any given conclusion at most {odds(epsilon)} times more (or less) often "
        f"than if {who} had been blank, except with probability {delta_words(policy.delta)}."
    )


def exclusions(excluded: Mapping[str, int]) -> tuple[str, ...]:
    """What ledgers leave out, each with the number of blocks."""
    return tuple(
        f"{EXCLUDED.get(what, what)} ({count_of(count, 'block')})"
        for what, count in sorted(excluded.items())
    )
