"""Who sees what, what a bound does not cover, what the terms mean: words that stay the same.

Where a ledger leaves something out of the bound, they change with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedge.records import PUBLIC_BY_DESIGN, PrivacyPolicy
from fedge.review.report.words import EXCLUDED, count_of, exclusions

_EXPLAINED: Mapping[str, str] = {
    "schema, bins and reference": "the names and kinds of columns, the ranges in which values are "
    "counted, and the distribution that they are compared with",
    "participation in runs": "which gateways take part in a retraining, and when",
}
"""What people ask about `PUBLIC_BY_DESIGN`."""

_BY_UNIT: Mapping[str, str] = {
    "record": "The bound is about one record. A person with several records in a block is covered "
    "by a weaker one, for which this report has no figure; a policy whose unit is the subject "
    "covers them together.",
    "subject": "A record without a subject's id counts as a subject of its own: several such "
    "records of one person are not covered together.",
}

NOT_SHOWN = (
    "One bound is about one unit in one block. Somebody who is present in several blocks, of one "
    "gateway or of several, is covered by a weaker bound, given below.",
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

_TRUSTED = (
    "Each gateway and its operator, with the gateway's own records; and that its program clips "
    "records and draws noise as the ledger says, for which audits are evidence.",
    "The coordinator, with no secret; but to give a gateway that lost its state the whole history "
    "back, and to be there when ledgers are to be confirmed.",
    "Reviewers, to choose a bound that is small enough: whether epsilon and delta are is a "
    "decision, and nothing here proves it.",
    "Owners of the keys under Keys to compare, that nobody else holds them.",
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "gateway, coordinator",
        "A gateway is the machine that holds records and answers with the model. The coordinator "
        "is the central server: it gets noised reports and updates, and makes new models of them.",
    ),
    (
        "record, subject",
        "A record is one request to a gateway with its answer and label; a subject is the person "
        "or thing that records belong to. The policy says which of them the bound is about: its "
        "unit.",
    ),
    (
        "window, retraining (run)",
        "A window is a small number of records on which one monitoring report is made. A "
        "retraining, or run, improves the model with records of one or more blocks; the small "
        "part of the model that it changes is called the adapter.",
    ),
    (
        "epsilon (ε)",
        "The bound. With ε, whatever anyone concludes from all releases becomes at most e^ε times "
        "more or less likely through one unit's presence. Smaller is stronger.",
    ),
    (
        "delta (δ)",
        "The chance, at most, with which the bound may fail to hold. 0.00001 is one in 100,000.",
    ),
    ("block", "A span of one gateway's data with a budget of its own; the cap is all of it."),
    (
        "noise, sensitivities",
        "Random numbers that are added so that one unit does not show. The sensitivity is the most "
        "that one unit can change the result; noise of 10 sensitivities is ten times as wide. "
        "Discrete and sampled Gaussian are two kinds of it; a Poisson sample takes each record by "
        "chance.",
    ),
    (
        "escalation, sketches",
        "What a task may let out of the bound: records sent on un-noised to a larger model, and "
        "exact summaries of columns that it declares to be machine data.",
    ),
    (
        "reserved / spent",
        "A charge is taken before noise is drawn. What is reserved counts as spent, released or "
        "not, and is never paid back, not even by erasing the record.",
    ),
    (
        "order, RDP",
        "The unit in which the ledger adds up: Rényi differential privacy at one order that the "
        "policy fixed before any data was seen. It converts to (ε, δ). Nano-RDP, in files for "
        "programs, is a billionth of it.",
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
    (
        "entry, head, root, hash",
        "An entry is one line of a ledger. A hash (SHA-256) is a fingerprint of some bytes that no "
        "other bytes have. The root is the hash of all entries so far; a head is a root with its "
        "number of entries and a signature.",
    ),
    (
        "bundle, verifier",
        "A bundle is the file that holds all ledgers of this report. The verifier is a second "
        "program that checks it, and shares no code with the one that wrote the ledgers.",
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
    public = tuple(f"Public by design: {_explained(text)}." for text in PUBLIC_BY_DESIGN)
    own = tuple(f"Public by this policy: {text}." for text in policy.public)
    return (*left_out, *public, *own, evidence, _BY_UNIT[policy.unit], *NOT_SHOWN)


def _explained(text: str) -> str:
    return f"{text} ({_EXPLAINED[text]})" if text in _EXPLAINED else text


def trusted(excluded: Collection[str]) -> tuple[str, ...]:
    """Who has to be trusted with what, though all signatures are right."""
    larger = (
        "The server of the larger model, and whoever runs it, with the records that are sent on to "
        "it.",
    )
    return (*_TRUSTED, *(larger if "escalation" in excluded else ()))
