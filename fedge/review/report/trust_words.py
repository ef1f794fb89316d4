"""Who sees what, what a bound does not cover, what the terms mean: words that stay the same.

Where a ledger leaves something out of the bound, they change with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedge.records import PUBLIC_BY_DESIGN, PrivacyPolicy
from fedge.review.report.words import EXCLUDED, count_of, exclusions

NOT_SHOWN = (
    "One bound is about one unit in one block. Somebody who is present in several blocks is "
    "covered by a weaker bound, given below.",
    "What holds for many records at once (a fault of a machine type, a habit of a population) "
    "is what the model is meant to learn, and is not protected.",
    "Records on the gateway itself, and the answers it gives to its own callers, never pass "
    "through this accounting: they are protected by access control on the gateway.",
)

_OPERATOR = (
    "The gateway's operator",
    "All records, labels and un-noised statistics of this gateway",
    "None needed from this bound; access control and retention on the gateway",
)

_NOISED = (
    "Noised window reports, noised label counts, noised model updates, one noised comparison for "
    "each retraining, and public facts"
)

_AGAINST_THE_COORDINATOR = (
    "The bound holds against the coordinator itself. It is trusted to be available, not to keep "
    "secrets"
)

_LARGER_MODEL = (
    "The server of the larger model",
    "Single records, un-noised, as gateways send them on (escalation)",
    "None from this bound: these records are left out of it. Whatever agreement there is with "
    "whoever runs that server",
)

_OTHERS: tuple[tuple[str, str, str], ...] = (
    (
        "Other gateways",
        "Released models",
        "Computed from noised updates only: nothing is added to the charge",
    ),
    (
        "Callers of a gateway",
        "Answers of the released model",
        "Computed from noised updates only: nothing is added to the charge",
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
        "The coordinator's own key. It countersigns each ledger as it grows: a ledger that was "
        "changed, or cut below what was countersigned, no longer fits.",
    ),
)


def who_sees_what(excluded: Collection[str]) -> tuple[tuple[str, str, str], ...]:
    """Who, what they see, and what protects it from them; exclusions of ledgers among it."""
    sees, payloads = _NOISED, "Every payload is noised on the gateway before it leaves"
    if "sketches" in excluded:
        sees += f"; {EXCLUDED['sketches']}"
        payloads = "Every payload but these sketches is noised on the gateway before it leaves"
    if "escalation" in excluded:
        payloads = payloads.replace("payload", "payload to the coordinator", 1)
    coordinator = (
        "The coordinator (central server)",
        sees,
        f"{payloads}. {_AGAINST_THE_COORDINATOR}",
    )
    larger = (_LARGER_MODEL,) if "escalation" in excluded else ()
    return (_OPERATOR, coordinator, *larger, *_OTHERS)


def implementation(audits: int, passed: int) -> str:
    """What shows that noise was really drawn, given how many audits came with the bundle."""
    text = (
        "That noise was drawn and records were clipped as the ledger says cannot be read from a "
        "ledger. "
    )
    if not audits:
        return (
            f"{text}No audit evidence came with this bundle, so nothing in this report shows it: "
            "there is only the test suite of fedge itself."
        )
    if passed == audits:
        return (
            f"{text}The evidence for it is the test suite of fedge itself and the "
            f"{count_of(audits, 'audit')} below, passed by the exporter's word."
        )
    return f"{text}Of the {count_of(audits, 'audit')} below only {passed} passed."


def unprotected(
    policy: PrivacyPolicy, excluded: Mapping[str, int], evidence: str
) -> tuple[str, ...]:
    """What a bound under `policy` does not cover.

    Args:
        excluded: of each kind of exclusion, in how many blocks the ledger holds it.
        evidence: what shows that noise was really drawn; see `implementation`.
    """
    left_out = tuple(
        f"{text[:1].upper()}{text[1:]}: allowed by the task, named in the ledger."
        for text in exclusions(excluded)
    )
    public = tuple(f"Public by design: {text}." for text in PUBLIC_BY_DESIGN)
    own = tuple(f"Public by this policy: {text}." for text in policy.public)
    return (*left_out, *public, *own, evidence, *NOT_SHOWN)
