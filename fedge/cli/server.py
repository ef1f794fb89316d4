"""`fedge server`: the central host."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedge.cli.groups import Group
from fedge.config import ServerSettings

app = typer.Typer(cls=Group, help="Set up and run the centre.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The server's settings file.")]
CONFIG = Path("server.toml")
EXIT_DRIFT = EXIT_DEVIATION = 3


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder for settings, keys and data.")],
    policy: Annotated[Path, typer.Option(help="The fleet's privacy policy (fedge policy new).")],
    offline_keys: Annotated[
        Path | None, typer.Option(help="Where the offline keys go; carry them away.")
    ] = None,
) -> None:
    """Make settings, keys, database and an empty release repository."""
    from fedge_server.admin import init_server

    settings = init_server(folder, policy=policy, offline_keys=offline_keys)
    typer.echo(f"server in {folder}, data in {settings.data_dir}", err=True)
    if settings.training.choice is None:
        typer.echo(
            "fedge: what chose the adapter is not recorded; python -m fedge.learning.choice "
            "makes a record, [training] choice names it",
            err=True,
        )


@app.command("admit")
def admit(
    public_key: Annotated[str, typer.Argument(help="64 hex digits, from fedge gateway init.")],
    name: Annotated[str, typer.Option(help="A name for people.")],
    config: Config = CONFIG,
) -> None:
    """Accept a gateway's key from now on."""
    from fedge_server.admin import admit as admit_gateway

    gateway = admit_gateway(ServerSettings.load(config), public_key, name)
    typer.echo(f"{gateway.name} {gateway.fingerprint}")


@app.command("run")
def run(config: Config = CONFIG) -> None:
    """Run the coordinator: ingest, fleet state, release files."""
    _become(config, "fedge_server.main")


@app.command("evaluator")
def evaluator(config: Config = Path("evaluator.toml")) -> None:
    """Run the evaluator, which judges candidates again and holds the second key."""
    _become(config, "fedge_server.evaluator")


@app.command("superlink")
def superlink(config: Config = CONFIG) -> None:
    """Run Flower's SuperLink, on loopback only: its control API has no authentication."""
    _become(config, "fedge_server.superlink")


@app.command("status")
def status(
    config: Config = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print the fleet as the coordinator's log shows it; on stderr, what is wrong with alerts."""
    from fedge_server.admin import fleet_state, troubles

    settings = ServerSettings.load(config)
    fleet = fleet_state(settings)
    for trouble in troubles(settings):
        typer.echo(f"fedge: {trouble}", err=True)
    if as_json:
        typer.echo(fleet.to_bytes().decode())
        return
    for gateway in fleet.gateways:
        typer.echo(gateway.describe())


@app.command("verdicts")
def verdicts(
    config: Config = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print how each gateway stands, as judged last. Exit status 3 if one has drifted."""
    from fedge_server.admin import standing

    found = standing(ServerSettings.load(config))
    if as_json:
        typer.echo(found.to_bytes().decode())
    else:
        for gateway in found.gateways:
            typer.echo(f"{gateway.name}: {gateway.sentence}")
    if found.drifted:
        raise typer.Exit(EXIT_DRIFT)


@app.command("ledgers")
def ledgers(
    config: Config = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print each gateway's privacy ledger as it is stored here. Exit status 3 on a deviation."""
    from fedge_server.admin import ledgers as ledgers_of

    state = ledgers_of(ServerSettings.load(config))
    if as_json:
        typer.echo(state.to_bytes().decode())
    else:
        typer.echo(f"witness {state.witness}")
        for ledger in state.gateways:
            typer.echo(ledger.describe())
        for ledger in state.simulated:
            typer.echo(f"simulated, proves nothing: {ledger.describe()}")
    if any(ledger.in_conflict or ledger.fault for ledger in state.gateways):
        raise typer.Exit(EXIT_DEVIATION)


@app.command("witness")
def witness(config: Config = CONFIG) -> None:
    """Print the public key with which ledgers are confirmed here, for gateways and reviewers.

    Made at the first call or start where the settings name none.
    """
    from fedge_server.witness import open_witness

    typer.echo(open_witness(ServerSettings.load(config)).public_key.hex())


@app.command("releases")
def releases(
    config: Config = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Print the published releases: where each comes from, its privacy, what chose its adapter."""
    from fedge_server.published import releases as releases_of

    found = releases_of(ServerSettings.load(config))
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found]))
        return
    for one in found:
        typer.echo(one.describe())


@app.command("holds")
def holds(config: Config = CONFIG) -> None:
    """Print the gateways that are kept out of runs and comparisons, and why."""
    from fedge_server.admin import standing

    for hold in standing(ServerSettings.load(config)).holds:
        typer.echo(f"{hold.gateway} {hold.action} after window {hold.window}: {hold.reason}")


@app.command("lift")
def lift(
    gateway: Annotated[str, typer.Argument(help="Its name or fingerprint.")],
    by: Annotated[str, typer.Option(help="Who looked at it.")],
    reason: Annotated[str, typer.Option(help="What was found, in words.")],
    config: Config = CONFIG,
) -> None:
    """End a gateway's hold; its next window begins a new baseline."""
    from fedge_server.admin import lift_hold

    lifted = lift_hold(ServerSettings.load(config), gateway, by=by, reason=reason)
    typer.echo(f"{lifted.gateway} is no longer held; a new baseline begins after {lifted.window}")


def _become(config: Path, module: str) -> None:
    ServerSettings.load(config)  # says what is wrong before this process is replaced
    os.execv(sys.executable, [sys.executable, "-m", module, "--config", str(config)])
