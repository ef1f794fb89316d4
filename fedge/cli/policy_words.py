"""Policies and approvals in words, for whoever reads them in a terminal.

Names, reasons and declarations may come from anywhere: what steers a terminal is spelt out.
"""

from __future__ import annotations

from datetime import UTC, datetime

from fedge.privacy.policy import count_noise, label_event
from fedge.privacy.quotas import EVERY_TASK
from fedge.privacy.rdp import NANO, cap_nano, telemetry_nano
from fedge.records import PUBLIC_BY_DESIGN, PolicyApproval, PrivacyPolicy
from fedge.texts import escaped

RUNS_SHOWN = (1, 2, 4)


def describe(policy: PrivacyPolicy, approval: PolicyApproval | None) -> str:
    """Everything that a policy says, a line each, and who allowed it."""
    lines = [
        _bound(policy),
        _filter(policy),
        _noise(policy),
        *_labels(policy),
        *(
            f"At most {quota.share:.0%} of it go to {quota.purpose}"
            + ("." if quota.task == EVERY_TASK else f" of {quota.task}.")
            for quota in policy.quotas
        ),
        "Not protected: " + ", ".join((*PUBLIC_BY_DESIGN, *map(escaped, policy.public))) + ".",
        _signed(approval),
    ]
    return "\n".join(lines)


def _bound(policy: PrivacyPolicy) -> str:
    whose = "One record"
    if policy.unit == "subject":
        whose = f"One subject, of which {policy.max_records} records count in a block"
    return (
        f"{whose}, one bound: everything ever released about a block of {policy.block.value} "
        f"{policy.block.kind} stays under epsilon {policy.epsilon:g} at delta {policy.delta:g} "
        f"({policy.adjacency} adjacency)."
    )


def _filter(policy: PrivacyPolicy) -> str:
    cap, telemetry = cap_nano(policy), telemetry_nano(policy)
    if telemetry == cap:
        return (
            f"Filter at RDP order {policy.alpha}, cap {cap / NANO:.3f}; monitoring reserves all of "
            "it, no retraining fits."
        )
    fit = ", ".join(
        f"{runs} with {runs**0.5:.2g} times its noise" if runs > 1 else "1 at full strength"
        for runs in RUNS_SHOWN
    )
    return (
        f"Filter at RDP order {policy.alpha}, cap {cap / NANO:.3f}; monitoring reserves "
        f"{telemetry / cap:.0%} of it, training may use the rest.\n"
        f"Retrainings that may read one block: {fit} each."
    )


def _noise(policy: PrivacyPolicy) -> str:
    return (
        f"Noise in each count of a window's report: {count_noise(policy.window_rho):.3g} records, "
        "times the root of how many of its counts one record changes."
    )


def _labels(policy: PrivacyPolicy) -> list[str]:
    labels = label_event(policy)
    lines = ["Labelled errors are not reported."]
    if labels is not None:
        lines = [
            "Labelled errors of each window are reported, with noise of "
            f"{labels.sigma2**0.5:.0f} records in each count."
        ]
    if policy.max_records > 1:
        lines.append(
            f"Monitoring's noise is {policy.max_records} times as large as for one record."
        )
    return lines


def _signed(approval: PolicyApproval | None) -> str:
    if approval is None:
        return "Nobody signed it: a review will say so. Sign it with `fedge policy sign`."
    who, why = escaped(approval.reviewer), escaped(approval.reason)
    return f"Allowed by {who} on {day_of(approval)} ({why}), with the key {approval.public_key}."


def day_of(approval: PolicyApproval) -> str:
    """When it was signed, by the reviewer's clock; UTC."""
    try:
        return f"{datetime.fromtimestamp(approval.at, UTC).date()}"
    except (OverflowError, OSError, ValueError):
        return f"{approval.at:g} seconds after 1970 began"  # before year 1, or after 9999
