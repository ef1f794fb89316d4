"""Two further shapes of the same facts: for a controller's records, and for a public registry.

The first follows the list of Regulation (EU) 2016/679, Article 30(1); the second the most
detailed tier of public registries of deployments of differential privacy: what is
protected, with which parameters, what is not, how charges compose, who built it how. What
fedge cannot know is marked for the controller to fill in, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedge.records import PUBLIC_BY_DESIGN, PrivacyPolicy
from fedge.review.report import trust_words, words
from fedge.review.report.model import ComplianceReport
from fedge.review.report.verdict_words import UNREADABLE, as_of_words, verdict_facts, verdict_words

TO_FILL_IN = "to be filled in by the controller"
NOT_AFFIRMED = "not affirmed: the bundle was rejected, and nothing that it says is relied on"

_SECURITY = (
    "files of keys and records are readable by their owner alone",
    "everything that leaves is signed by the gateway's own Ed25519 key",
    "the ledger is a hash chain with signed heads, countersigned by the coordinator",
    "releases are signed by two keys and verified on the gateway before they are installed",
)

_RECIPIENTS = (
    "the coordinator: noised statistics, updates and evaluations, and public facts",
    "gateways of the fleet: released models",
)
_TO_RECIPIENTS = {
    "escalation": "the server of the larger model: single records, un-noised",
    "sketches": f"the coordinator: {words.EXCLUDED['sketches']}",
}
_FROM_THE_BUNDLE = (
    *("purposes", "recipients", "security_measures", "bounds_by_the_ledgers"),
    *("flavour", "privacy_unit", "privacy_loss", "deployment_model", "data_domain"),
    *("unprotected_quantities", "accounting"),
)
"""Items of either file that are told from a bundle, and of a rejected one are not."""


def security_measures(report: ComplianceReport) -> list[str]:
    """How fedge protects records, as it is built; what ledgers leave out is said with it."""
    noised = "noise is drawn on the gateway from the operating system's entropy, before anything"
    kept = "records stay on the gateway"
    if report.excluded:
        noised = noised.removesuffix("anything") + "what this bound covers"
        kept += f", but not {words.left_out(report.excluded)}"
    return [f"{noised} leaves it", kept, *_SECURITY]


def processing_record(report: ComplianceReport) -> dict[str, Any]:
    """What Article 30(1) asks a controller to record, as far as the ledgers tell."""
    own = report.controller
    purposes = sorted({m.purpose for charge in report.charges for m in charge.mechanisms})
    recipients = [*_RECIPIENTS, *(_TO_RECIPIENTS.get(kind, kind) for kind in report.excluded)]
    found = {
        "schema": "gdpr-article-30-1",
        "title": "Record of processing activities (draft from a privacy ledger)",
        "controller": _contact(own, "controller"),
        "joint_controller": _contact(own, "joint_controller"),
        "representative": _contact(own, "representative"),
        "data_protection_officer": _contact(own, "data_protection_officer"),
        "purposes": [words.PURPOSES.get(name, name) for name in purposes] or ["none recorded yet"],
        "categories_of_data_subjects": own.get("categories_of_data_subjects", TO_FILL_IN),
        "categories_of_personal_data": own.get("categories_of_personal_data", TO_FILL_IN),
        "recipients": recipients,
        "transfers_to_third_countries": own.get("transfers_to_third_countries", TO_FILL_IN),
        "time_limits_for_erasure": {
            "records": own.get("time_limits_for_erasure", TO_FILL_IN),
            "ledger": "entries are kept as long as a release that they account for is in use",
            "erasures_in_the_ledger": NOT_AFFIRMED
            if report.verdict == "rejected"
            else sum(i.kind == "erased" for i in report.incidents),
        },
        "security_measures": security_measures(report),
        "basis_of_security_measures": "how fedge is built; a ledger shows none of them",
        "bounds_by_the_ledgers": _bounds(report) or "none: no block of data was opened",
        "verification": verdict_facts(report),
        "note": "Made from the ledger; the controller completes and answers for it.",
    }
    return _without_claims(found) if report.verdict == "rejected" else found


def _without_claims(found: dict[str, Any]) -> dict[str, Any]:
    """The same, where nothing that a rejected bundle says of itself is repeated."""
    return {name: NOT_AFFIRMED if name in _FROM_THE_BUNDLE else found[name] for name in found}


def _contact(own: Mapping[str, Any], name: str) -> str | Mapping[str, Any]:
    value = own.get(name, TO_FILL_IN)
    return value if isinstance(value, str | Mapping) else str(value)


def _bounds(report: ComplianceReport) -> list[str]:
    """What the ledgers show, each under the verdict."""
    verdict = f"{verdict_words(report)}, {as_of_words(report)}"
    if report.verdict == "unproven":
        verdict = f"claimed and NOT proven, {as_of_words(report)}"
    return [
        f"{verdict}: {words.guarantee(policy, report.excluded)}"
        for policy in report.present_policies
    ]


def registry_entry(report: ComplianceReport) -> dict[str, Any]:
    """An entry for a public registry of deployments of differential privacy."""
    worst = report.worst
    found = {
        "schema": "dp-deployment-tier-3",
        "deployment": {
            "name": report.controller.get("deployment", TO_FILL_IN),
            "data_curator": _contact(report.controller, "controller"),
            "intended_use": "drift monitoring and retraining of models on edge gateways",
            "published": UNREADABLE if report.made_at is None else words.iso(report.made_at),
            "gateways": len(report.integrity) or "not known",
        },
        "flavour": "approximate differential privacy, (epsilon, delta), accounted as Renyi "
        "differential privacy at one order fixed in advance",
        "privacy_unit": _units(report),
        "privacy_loss": {
            "per_block": [_parameters(policy) for policy in report.present_policies],
            "largest_spent_epsilon": None if worst is None else _epsilon(worst.budget.epsilon),
            "across_blocks": {str(n): _epsilon(value) for n, value in report.exposure.items()},
        },
        "deployment_model": _deployment_model(report),
        "data_domain": {
            "description": report.controller.get("data_domain", TO_FILL_IN),
            "block": [words.block_words(policy) for policy in report.present_policies],
        },
        "unprotected_quantities": [
            *PUBLIC_BY_DESIGN,
            *(text for policy in report.present_policies for text in policy.public),
            *words.exclusions(report.excluded),
        ],
        "accounting": {
            "composition": "sum over retrainings and evaluations of a block, plus monitoring's "
            "share, which bounds every single window; fully adaptive, by a filter at one order",
            "post_processing": "releases are computed from noised updates only",
            "hyperparameters": _hyperparameters(report),
            "enforced_by": "a ledger on the gateway: reserve, then run, then settle",
            "mechanisms": _mechanisms(report),
        },
        "implementation": _implementation(report),
    }
    return _without_claims(found) if report.verdict == "rejected" else found


def _epsilon(value: float) -> float | str:
    """Rounded up, so that it is never too small; no number where there is no bound."""
    return words.rounded_up(value) if math.isfinite(value) else "unbounded"


def _deployment_model(report: ComplianceReport) -> dict[str, Any]:
    model = "local to each gateway: noise is added before anything leaves it"
    if report.excluded:
        model = "local to each gateway: noise is added before what this bound covers leaves it; "
        model += f"not covered: {words.left_out(report.excluded)}"
    return {
        "model": model,
        "trusted_parties": list(trust_words.trusted(report.excluded)),
        "actors": [
            {"who": who, "sees": sees, "protection": protection}
            for who, sees, protection in trust_words.who_sees_what(report.excluded)
        ],
    }


def _implementation(report: ComplianceReport) -> dict[str, Any]:
    rejected = report.verdict == "rejected"
    findings = [remark.what for remark in report.remarks]
    return {
        "software": f"fedge {report.fedge or UNREADABLE}",
        "noise": sorted({kind for charge in report.charges for kind in charge.noise}),
        "security": NOT_AFFIRMED if rejected else security_measures(report),
        "verification": {**verdict_facts(report), "findings": findings},
        "audits": [audit.name for audit in report.audits] or "no audit evidence",
    }


def _hyperparameters(report: ComplianceReport) -> list[str] | str:
    """What chose the adapter and its settings, of each release that a run made."""
    trained = [one for one in report.releases if one["adapter"] is not None]
    return [
        f"{one['family']} {one['counter']}: {one['choice']}"
        + (", made on public data alone" if one["study"] else "")
        for one in trained
    ] or "not known: no release was made by a run of this bundle"


def _units(report: ComplianceReport) -> list[str]:
    return [
        f"{words.unit_words(policy)}, in a block of {words.block_words(policy)} of one gateway"
        for policy in report.present_policies
    ]


def _parameters(policy: PrivacyPolicy) -> dict[str, Any]:
    return {
        "epsilon": policy.epsilon,
        "delta": policy.delta,
        "order": policy.alpha,
        "adjacency": policy.adjacency,
        "monitoring_rho": policy.telemetry_rho,
    }


def _mechanisms(report: ComplianceReport) -> list[dict[str, Any]]:
    """Every mechanism that was charged, each once."""
    found = dict.fromkeys(m for charge in report.charges for m in charge.mechanisms)
    return [
        {
            "purpose": one.purpose,
            "mechanism": one.kind,
            "sampling": one.sampling,
            "rate": one.rate,
            "noise_multiplier": one.noise_multiplier,
            "releases": one.count,
            "values": one.dimension,
        }
        for one in found
    ]
