"""Two further shapes of the same facts: for a controller's records, and for a public registry.

The first follows the list of Regulation (EU) 2016/679, Article 30(1); the second the most
detailed tier of public registries of deployments of differential privacy: what is
protected, with which parameters, what is not, how charges compose, who built it how. What
fedge cannot know is marked for the controller to fill in, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedge.records import PUBLIC_BY_DESIGN, PrivacyPolicy
from fedge.review.report import words
from fedge.review.report.model import ComplianceReport

TO_FILL_IN = "to be filled in by the controller"

SECURITY = (
    "noise is drawn on the gateway from the operating system's entropy, before anything leaves it",
    "records stay on the gateway; files of keys and records are readable by their owner alone",
    "everything that leaves is signed by the gateway's own Ed25519 key",
    "the ledger is a hash chain with signed heads, countersigned by the coordinator",
    "releases are signed by two keys and verified on the gateway before they are installed",
)

_RECIPIENTS = (
    "the coordinator: noised statistics, updates and evaluations, and public facts",
    "gateways of the fleet: released models",
)


def processing_record(report: ComplianceReport) -> dict[str, Any]:
    """What Article 30(1) asks a controller to record, as far as the ledgers tell."""
    own = report.controller
    purposes = sorted({m.purpose for charge in report.charges for m in charge.mechanisms})
    recipients = list(_RECIPIENTS)
    if any("escalation" in line.budget.excluded for line in report.blocks):
        recipients.append("the server of the larger model: single records, un-noised")
    return {
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
            "erasures_in_the_ledger": sum(i.kind == "erased" for i in report.incidents),
        },
        "security_measures": [*SECURITY, *_bounds(report)],
        "note": "Made from the ledger; the controller completes and answers for it.",
    }


def _contact(own: Mapping[str, Any], name: str) -> str | Mapping[str, Any]:
    value = own.get(name, TO_FILL_IN)
    return value if isinstance(value, str | Mapping) else str(value)


def _bounds(report: ComplianceReport) -> list[str]:
    return [words.guarantee(policy) for policy in report.present_policies]


def registry_entry(report: ComplianceReport) -> dict[str, Any]:
    """An entry for a public registry of deployments of differential privacy."""
    worst = report.worst
    return {
        "schema": "dp-deployment-tier-3",
        "deployment": {
            "name": report.controller.get("deployment", TO_FILL_IN),
            "data_curator": _contact(report.controller, "controller"),
            "intended_use": "drift monitoring and retraining of models on edge gateways",
            "published": report.made_at,
            "gateways": len(report.integrity),
        },
        "flavour": "approximate differential privacy, (epsilon, delta), accounted as Renyi "
        "differential privacy at one order fixed in advance",
        "privacy_unit": _units(report),
        "privacy_loss": {
            "per_block": [_parameters(policy) for policy in report.present_policies],
            "largest_spent_epsilon": None if worst is None else worst.budget.epsilon,
            "across_blocks": {str(count): value for count, value in report.exposure.items()},
        },
        "deployment_model": {
            "model": "local to each gateway: noise is added before anything leaves it",
            "trusted_parties": ["each gateway, for its own records"],
            "actors": [
                {"who": who, "sees": sees, "protection": protection}
                for who, sees, protection in words.WHO_SEES_WHAT
            ],
        },
        "data_domain": {
            "description": report.controller.get("data_domain", TO_FILL_IN),
            "block": [words.block_words(policy) for policy in report.present_policies],
        },
        "unprotected_quantities": [
            *PUBLIC_BY_DESIGN,
            *(text for policy in report.present_policies for text in policy.public),
            *sorted({what for line in report.blocks for what in line.budget.excluded}),
        ],
        "accounting": {
            "composition": "sum over retrainings and evaluations of a block, plus monitoring's "
            "share, which bounds every single window; fully adaptive, by a filter at one order",
            "post_processing": "releases are computed from noised updates only",
            "hyperparameters": "chosen on public data",
            "enforced_by": "a ledger on the gateway: reserve, then run, then settle",
            "mechanisms": _mechanisms(report),
        },
        "implementation": {
            "software": f"fedge {report.fedge}",
            "noise": sorted({kind for charge in report.charges for kind in charge.noise}),
            "security": list(SECURITY),
            "verification": {
                "verdict": report.verdict,
                "bundle_sha256": report.bundle_sha256,
                "findings": [remark.what for remark in report.remarks],
            },
            "audits": [audit.name for audit in report.audits] or "no audit evidence",
        },
    }


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
