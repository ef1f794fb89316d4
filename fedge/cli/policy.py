"""`fedge policy`: the privacy policy that a gateway's owner sets, and who allowed it.

Exit status: 0 done, 1 refused (the message says why; nothing was written), 2 wrong usage.
"""

from __future__ import annotations

import getpass
import json
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from fedge.cli.groups import Group
from fedge.cli.policy_words import day_of, describe
from fedge.errors import RecordError, SettingError
from fedge.identity import Identity
from fedge.privacy.approval import (
    approval_path,
    approve,
    read_policy_and_approval,
    write_approval,
)
from fedge.privacy.policy import (
    LONGEST_BLOCK,
    new_policy,
    read_policy,
    write_policy,
)
from fedge.privacy.quotas import EVERY_TASK
from fedge.privacy.rdp import cap_nano, telemetry_nano
from fedge.records import (
    BlockLength,
    PolicyApproval,
    PrivacyPolicy,
    Quota,
)
from fedge.texts import escaped

app = typer.Typer(
    cls=Group,
    help="Make, sign and show privacy policies. To change a gateway's policy, make and sign a new "
    "one and put both files into the gateway's state folder before its next start: blocks "
    "that open later follow it, and what open blocks may spend can only fall.",
    no_args_is_help=True,
)

BLOCK_S = 86_400
"""Length of a block unless another one is given."""

PolicyFile = Annotated[
    Path, typer.Argument(help="A policy file (TOML).", dir_okay=False, readable=False)
]
Reviewer = Annotated[str, typer.Option(help="Who allows it; the login name if empty.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        help="The reviewer's private key; made where there is none (reviewer.pem).", readable=False
    ),
]


class Unit(Enum):
    """Whose bound it is."""

    RECORD = "record"
    SUBJECT = "subject"


@app.command("new")
def new(
    path: PolicyFile,
    epsilon: Annotated[float, typer.Option(help="Bound per block.")] = 3.0,
    delta: Annotated[float, typer.Option(help="Bound per block.")] = 1e-5,
    block_windows: Annotated[
        int | None,
        typer.Option(help="Block length in full windows.", min=1, max=LONGEST_BLOCK["windows"]),
    ] = None,
    block_seconds: Annotated[
        int | None,
        typer.Option(
            help=f"Block length in seconds; {BLOCK_S} where neither length is given.",
            min=1,
            max=LONGEST_BLOCK["seconds"],
        ),
    ] = None,
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace a policy and its approval that are there.")
    ] = False,
) -> None:
    """Compute the order alpha* for a bound, write the policy and sign it.

    Exit status 0 written and signed, 1 refused and nothing written, 2 wrong usage.
    """
    block = _block(block_windows, block_seconds)
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
    replaced = _in_the_way(path)
    if replaced and not force:
        raise SettingError(f"{' and '.join(replaced)} would be replaced: give --force")
    approval = _approved(policy, path, reviewer, reason, key)
    if replaced:
        typer.echo(f"fedge: replacing {' and '.join(replaced)}", err=True)
    write_policy(policy, path)
    write_approval(approval, path)
    typer.echo(describe(policy, approval))


@app.command("sign")
def sign(
    path: PolicyFile,
    reason: Annotated[str, typer.Option(help="Why it is allowed.")],
    reviewer: Reviewer = "",
    key: KeyFile = None,
) -> None:
    """Allow a policy as it stands: write the approval beside it, signed with your own key.

    Exit status 0 signed, 1 not, 2 wrong usage. An approval that is there is replaced, and named.
    """
    policy = read_policy(path)
    if (approval := approval_path(path)).exists():
        typer.echo(f"fedge: replacing {_signature_at(approval)}", err=True)
    written = write_approval(_approved(policy, path, reviewer, reason, key), path)
    typer.echo(f"signed: {written}")


@app.command("show")
def show(
    path: PolicyFile,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print a policy and its approval in words.

    Exit status 0 shown, 1 where it cannot be read or the approval does not fit, 2 wrong usage.
    """
    policy, approval = read_policy_and_approval(path)
    if not as_json:
        typer.echo(describe(policy, approval))
        return
    facts: dict[str, Any] = {
        **policy.model_dump(mode="json"),
        "sha256": policy.content_sha256,
        "cap_nano": cap_nano(policy),
        "telemetry_nano": telemetry_nano(policy),
        "approval": None if approval is None else approval.model_dump(mode="json"),
    }
    typer.echo(json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False))


# --- files ----------------------------------------------------------------------------


def _in_the_way(path: Path) -> list[str]:
    """What writing a new policy to `path` would replace, in words."""
    found, approval = [], approval_path(path)
    try:
        if path.exists():
            found.append(f"the policy {path}")
        if approval.exists():
            found.append(f"{_signature_at(approval)} (it would no longer fit)")
    except OSError as error:
        raise SettingError(f"cannot look at {path}: {error}") from error
    return found


def _signature_at(path: Path) -> str:
    """An approval in words, whatever lies there."""
    try:
        approval = PolicyApproval.from_bytes(path.read_bytes())
    except (OSError, RecordError):
        return f"{path} (no approval that can be read)"
    return f"the approval {path} by {escaped(approval.reviewer)} of {day_of(approval)}"


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


def _block(windows: int | None, seconds: int | None) -> BlockLength:
    if windows is not None and seconds is not None:
        raise typer.BadParameter("choose one of --block-windows and --block-seconds")
    if windows is not None:
        return BlockLength(kind="windows", value=windows)
    return BlockLength(kind="seconds", value=BLOCK_S if seconds is None else seconds)


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
