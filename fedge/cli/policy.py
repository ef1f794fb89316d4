"""`fedge policy`: the privacy policy that a gateway's owner sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedge.privacy.policy import label_event, new_policy, read_policy, write_policy
from fedge.privacy.rdp import cap_nano
from fedge.records import BlockLength, PrivacyPolicy, canonical

app = typer.Typer(help="Make and show privacy policies.", no_args_is_help=True)


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
) -> None:
    """Compute the order alpha* for a bound and write the policy."""
    block = (
        BlockLength(kind="windows", value=block_windows)
        if block_windows
        else BlockLength(kind="seconds", value=block_seconds)
    )
    policy = new_policy(
        epsilon=epsilon,
        delta=delta,
        block=block,
        telemetry_rho=telemetry_rho,
        label_rho=label_rho,
    )
    write_policy(policy, path)
    typer.echo(_describe(policy))


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A policy file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print a policy in words."""
    policy = read_policy(path)
    typer.echo(canonical(policy.model_dump(mode="json")).decode() if as_json else _describe(policy))


def _describe(policy: PrivacyPolicy) -> str:
    cap = cap_nano(policy)
    share = policy.alpha * policy.telemetry_rho * 1e9 / cap
    labels = label_event(policy)
    return (
        f"One {policy.unit}, one bound: everything ever released about a block of "
        f"{policy.block.value} {policy.block.kind} stays under epsilon {policy.epsilon:g} "
        f"at delta {policy.delta:g} ({policy.adjacency} adjacency).\n"
        f"Filter at RDP order {policy.alpha}, cap {cap / 1e9:.3f}; monitoring reserves "
        f"{share:.0%} of it, training may use the rest.\n"
        + (
            "Labelled errors are not reported."
            if labels is None
            else "Labelled errors of each window are reported, with noise of "
            f"{labels.sigma2**0.5:.0f} records in each count."
        )
    )
