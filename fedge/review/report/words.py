"""How a report says things: in words that a person without a background in statistics can use.

Nothing here decides anything. The word that a released model or report would be free of any
tie to persons is never used: that is for a lawyer to say, case by case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from fedge.privacy.rdp import NANO
from fedge.records import PUBLIC_BY_DESIGN, PrivacyPolicy

PURPOSES: Mapping[str, str] = {
    "features": "monitoring: statistics of a window's inputs and outputs",
    "labels": "monitoring: right and wrong answers of a window",
    "training": "retraining: gradients or adapter updates",
    "evaluation": "retraining: comparison of the new model with the present one",
}

WORTHLESS = 7.0
"""Beyond this epsilon (a factor of about 1,000) a bound is called hardly a protection."""

NOT_SHOWN = (
    "That noise was drawn and records were clipped as the ledger says cannot be read from a "
    "ledger. The test suite and the audits below are the evidence for it.",
    "One bound is about one unit in one block. Somebody who is present in several blocks is "
    "covered by a weaker bound, given below.",
    "What holds for many records at once (a fault of a machine type, a habit of a population) "
    "is what the model is meant to learn, and is not protected.",
    "Records on the gateway itself, and the answers it gives to its own callers, never pass "
    "through this accounting: they are protected by access control on the gateway.",
)

WHO_SEES_WHAT: tuple[tuple[str, str, str], ...] = (
    (
        "The gateway's operator",
        "All records, labels and un-noised statistics of this gateway",
        "None needed from this bound; access control and retention on the gateway",
    ),
    (
        "The coordinator (central server)",
        "Noised window reports, noised label counts, noised model updates, one noised comparison "
        "for each retraining, and public facts",
        "Every payload is noised on the gateway before it leaves: the bound holds against the "
        "coordinator itself. It is trusted to be available, not to keep secrets",
    ),
    (
        "Other gateways",
        "Released models",
        "Computed from noised updates only: nothing is added to the charge",
    ),
    (
        "Callers of a gateway",
        "Answers of the released model",
        "The same",
    ),
    (
        "Whoever reads this report or its bundle",
        "Parameters, times, hashes and signatures",
        "No payload, no record, no seed of any noise is in the bundle",
    ),
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "epsilon (ε)",
        "The bound. With ε, whatever anyone concludes from all releases becomes at most e^ε times "
        "more or less likely through one record's presence. Smaller is stronger.",
    ),
    (
        "delta (δ)",
        "The chance, at most, with which the bound may fail to hold. 0.00001 is one in 100,000.",
    ),
    ("block", "A span of one gateway's data with a budget of its own."),
    (
        "reserved / spent",
        "A charge is taken before noise is drawn. What is reserved counts as spent, released or "
        "not, and is never paid back, not even by erasing the record.",
    ),
    (
        "order, RDP",
        "The unit in which the ledger adds up: Rényi differential privacy at one order that the "
        "policy fixed before any data was seen. It converts to (ε, δ).",
    ),
    (
        "zero-out adjacency",
        "What is compared: the data as it is, and the same data with one unit's content blanked.",
    ),
    (
        "witness",
        "The coordinator's own key. It countersigns each ledger as it grows, so that a ledger "
        "that was cut short or replaced is noticed.",
    ),
)


def moment(at: float | None) -> str:
    """A time to the minute, in UTC."""
    if at is None:
        return "never"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return f"second {at:g}"


def when(at: float | None) -> str:
    """The same for a table whose head says UTC."""
    return moment(at).removesuffix(" UTC")


def count_of(count: int, one: str, many: str = "") -> str:
    """A number and its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


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
    return f"{math.ceil(value * 1000 - 1e-6) / 1000:.3f}" if math.isfinite(value) else "unbounded"


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


def odds(epsilon: float) -> str:
    """The factor e^epsilon as a plain number, rounded up, so that it is never too small."""
    factor = math.exp(min(epsilon, 50.0))
    return f"{math.ceil(factor * 100) / 100:.2f}" if factor < 10 else f"{math.ceil(factor):,}"


def strength(epsilon: float) -> str:
    """What a bound is worth."""
    if epsilon > WORTHLESS:
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


def guarantee(policy: PrivacyPolicy) -> str:
    """The bound in one sentence."""
    return (
        f"For {unit_words(policy)} in a block of {block_words(policy)} at one gateway, everything "
        f"ever released about that block, all monitoring reports, retrainings and evaluations "
        f"together, is differentially private with epsilon at most {policy.epsilon:g} and delta "
        f"at most {small(policy.delta)} ({policy.adjacency} adjacency, accounted at order "
        f"{policy.alpha})."
    )


def plainly(policy: PrivacyPolicy, epsilon: float) -> str:
    """What the bound that was spent means for one unit."""
    who = "the record" if policy.unit == "record" else "that subject's records"
    return (
        f"In plain words: whoever sees everything that left the gateway, whatever else they know, "
        f"reaches any given conclusion at most {odds(epsilon)} times more (or less) often than if "
        f"{who} had been blank, except with probability {delta_words(policy.delta)}."
    )


def unprotected(policy: PrivacyPolicy, excluded: Mapping[str, int]) -> tuple[str, ...]:
    """What a bound under `policy` does not cover.

    Args:
        excluded: of each kind of exclusion, in how many blocks the ledger holds it.
    """
    words = {
        "escalation": "Records that were sent on, un-noised, to a larger model elsewhere: "
        "allowed by the task, named in the ledger",
        "sketches": "Exact sketches of columns that the task declares to be machine data",
    }
    left_out = tuple(
        f"{words.get(what, what)} ({count_of(count, 'block')})."
        for what, count in sorted(excluded.items())
    )
    public = tuple(f"Public by design: {text}." for text in PUBLIC_BY_DESIGN)
    own = tuple(f"Public by this policy: {text}." for text in policy.public)
    return (*left_out, *public, *own, *NOT_SHOWN)
