"""`fedge policy`: the privacy policy that a gateway's owner sets, and who allowed it."""

from __future__ import annotations

import getpass
import time
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from fedge.errors import SettingError
from fedge.identity import Identity
from fedge.privacy.approval import approve, read_policy_and_approval, write_approval
from fedge.privacy.policy import label_event, new_policy, read_policy, write_policy
from fedge.privacy.quotas import EVERY_TASK
from fedge.privacy.rdp import NANO, cap_nano, telemetry_nano
from fedge.records import (
    PUBLIC_BY_DESIGN,
    BlockLength,
    PolicyApproval,
    PrivacyPolicy,
    Quota,
    canonical,
)

app = typer.Typer(
    help="Make, sign and show privacy policies. To change a gateway's policy, make and sign a new "
    "one and put both files into the gateway's state folder before its next start: blocks "
    "that open later follow it, and what open blocks may spend can only fall.",
    no_args_is_help=True,
)

RUNS_SHOWN = (1, 2, 4)

Reviewer = Annotated[str, typer.Option(help="Who allows it; the login name if empty.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="The reviewer's private key; made where there is none [reviewer.pem]."),
]


class Unit(Enum):
    """Whose bound it is."""

    RECORD = "record"
    SUBJECT = "subject"


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="The policy file to write (TOML).")],
    epsilon: Annotated[float, typer.Option(help="Bound per block.")] = 3.0,
    delta: Annotated[float, typer.Option(help="Bound per block.")] = 1e-5,
    block_windows: Annotated[int, typer.Option(help="Block length in full windows.")] = 0,
    block_seconds: Annotated[int, typer.Option(help="Block length in seconds.")] = 86_400,
    telemetry_rho: Annotated[
        float | None, typer.Option(help="zCDP share that monitoring reserves; computed if unset.")
    ] = None,
    label_rho: Annotated[
        float, typer.Option(help="Part of it for labelled errors of each window; 0 sends none.")
    ] = 0.0,
    unit: Annotated[Unit, typer.Option(help="Whose bound it is.")] = Unit.RECORD,
    max_records: Annotated[
        int, typer.Option(help="Records of one subject that count in a block.")
    ] = 1,
    quota: Annotated[
        list[str] | None,
        typer.Option(help="PURPOSE[:TASK]=SHARE of a block's budget at most; may be repeated."),
    ] = None,
    public: Annotated[
        list[str] | None,
        typer.Option(help="What is declared as not protected; may be repeated."),
    ] = None,
    reviewer: Reviewer = "",
    reason: Annotated[str, typer.Option(help="Why it is allowed.")] = "first policy",
    key: KeyFile = None,
) -> None:
    """Compute the order alpha* for a bound, write the policy and sign it."""
    block = (
        BlockLength(kind="windows", value=block_windows)
        if block_windows > 0
        else _seconds(block_seconds)
    )
    policy = new_policy(
        epsilon=epsilon,
        delta=delta,
        block=block,
        telemetry_rho=telemetry_rho,
        label_rho=label_rho,
        unit=unit.value,
        max_records=max_records,
        quotas=[_quota(text) for text in quota or ()],
        public=public or (),
    )
    approval = _approved(policy, path, reviewer, reason, key)
    write_policy(policy, path)
    write_approval(approval, path)
    typer.echo(_describe(policy, approval))


@app.command("sign")
def sign(
    path: Annotated[Path, typer.Argument(help="A policy file.")],
    reason: Annotated[str, typer.Option(help="Why it is allowed.")],
    reviewer: Reviewer = "",
    key: KeyFile = None,
) -> None:
    """Allow a policy as it stands: write the approval beside it, signed with your own key."""
    policy = read_policy(path)
    written = write_approval(_approved(policy, path, reviewer, reason, key), path)
    typer.echo(f"signed: {written}")


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A policy file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print a policy and its approval in words. Exit status 1 where the approval does not fit."""
    policy, approval = read_policy_and_approval(path)
    if not as_json:
        typer.echo(_describe(policy, approval))
        return
    facts: dict[str, Any] = {
        **policy.model_dump(mode="json"),
        "sha256": policy.content_sha256,
        "cap_nano": cap_nano(policy),
        "telemetry_nano": telemetry_nano(policy),
        "approval": None if approval is None else approval.model_dump(mode="json"),
    }
    typer.echo(canonical(facts).decode())


# --- signing --------------------------------------------------------------------------


def _approved(
    policy: PrivacyPolicy, path: Path, reviewer: str, reason: str, key: Path | None
) -> PolicyApproval:
    file = key or path.with_name("reviewer.pem")
    name = reviewer or _login()
    if file.exists():
        identity = Identity.load(file)
    else:
        identity = Identity.create(file)
        typer.echo(
            f"made the key {file}: keep it away from the gateways, and list its public half in "
            f"their `policy_reviewers`: {identity.public_key.hex()}",
            err=True,
        )
    return approve(policy, identity, reviewer=name, reason=reason, at=time.time())


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise SettingError("nobody is logged in here; name the reviewer with --reviewer") from error


def _seconds(value: int) -> BlockLength:
    if value <= 0:
        raise SettingError(f"a block of {value} seconds holds nothing")
    return BlockLength(kind="seconds", value=value)


def _quota(text: str) -> Quota:
    """Read `PURPOSE[:TASK]=SHARE`."""
    name, _, share = text.partition("=")
    purpose, _, task = name.partition(":")
    try:
        return Quota.model_validate(
            {"purpose": purpose, "task": task or EVERY_TASK, "share": float(share)}
        )
    except ValueError as error:
        raise SettingError(
            f"{text!r} is no quota; write PURPOSE[:TASK]=SHARE, such as training:digits=0.5, with "
            "the purpose training, evaluation, features or labels and a share above 0, at most 1"
        ) from error


# --- words ----------------------------------------------------------------------------


def _describe(policy: PrivacyPolicy, approval: PolicyApproval | None) -> str:
    lines = [
        _bound(policy),
        _filter(policy),
        *_labels(policy),
        *(
            f"At most {quota.share:.0%} of it go to {quota.purpose}"
            + ("." if quota.task == EVERY_TASK else f" of {quota.task}.")
            for quota in policy.quotas
        ),
        "Not protected: " + ", ".join((*PUBLIC_BY_DESIGN, *policy.public)) + ".",
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
    day = datetime.fromtimestamp(approval.at, UTC).date()
    return (
        f"Allowed by {approval.reviewer} on {day} ({approval.reason}), with the key "
        f"{approval.public_key}."
    )
