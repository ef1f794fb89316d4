"""`fedge gateway`: one gateway host."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedge.config import GatewaySettings

app = typer.Typer(help="Set up and run a gateway.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The gateway's settings file.")]
CONFIG = Path("gateway.toml")


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder for settings and state.")],
    policy: Annotated[Path, typer.Option(help="The privacy policy (fedge policy new).")],
    root: Annotated[Path, typer.Option(help="The release repository's trusted root.json.")],
    coordinator: Annotated[str, typer.Option(help="URL of the coordinator.")],
    superlink: Annotated[str, typer.Option(help="host:port of the SuperLink; empty: none.")] = "",
    port: Annotated[int, typer.Option(help="Inference port; 0 takes a free one.")] = 8080,
) -> None:
    """Make the key that is this gateway's identity, and its settings. Prints the public key."""
    from fedge_client.setup import init_gateway

    identity = init_gateway(
        folder, policy=policy, root=root, coordinator=coordinator, superlink=superlink, port=port
    )
    typer.echo(f"gateway {identity.fingerprint}", err=True)
    typer.echo(identity.public_key.hex())


@app.command("run")
def run(config: Config = CONFIG) -> None:
    """Run the supervisor: it owns the inference port and keeps worker, agent, SuperNode alive."""
    GatewaySettings.load(config)  # says what is wrong before the supervisor replaces this process
    os.execv(sys.executable, [sys.executable, "-m", "fedge_client.supervisor", str(config)])


@app.command("status")
def status(
    config: Config = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print what the supervisor knows. Exit status 1 where it does not run."""
    from fedge_client.control import SupervisorClient

    settings = GatewaySettings.load(config)
    facts = SupervisorClient(settings.runtime_dir / "supervisor.sock").status()
    if as_json:
        typer.echo(json.dumps(facts, sort_keys=True))
        return
    for name, value in facts.items():
        typer.echo(f"{name}: {value if isinstance(value, str | int) else json.dumps(value)}")
