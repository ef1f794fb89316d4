"""`fedge gateway doctor | export-state | units`: for whoever operates a gateway."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedge.config import GatewaySettings
from fedge.texts import escaped

Config = Annotated[Path, typer.Option("--config", help="The gateway's settings file.")]
CONFIG = Path("gateway.toml")
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "unknown": "magenta"}


def doctor(
    config: Config = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="A list of findings.")] = False,
) -> None:
    """Look at clock, disk, permissions, processor and reachability, and say what to do.

    Exit status 0 where nothing failed (warnings may remain), 3 where something did.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fedge_client.doctor import examine

    findings = examine(GatewaySettings.load(config))
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for finding in findings:
            colour = COLOURS[finding.level]
            # Details quote files and approvals: no markup is taken from there.
            detail, todo = Text(escaped(finding.detail)), Text(escaped(f"-> {finding.todo}"))
            table.add_row(f"[{colour}]{finding.level}[/]", finding.check, detail)
            if finding.todo:
                table.add_row("", "", todo)
        Console().print(table)
        counts = Counter(str(finding.level) for finding in findings)
        typer.echo(", ".join(f"{counts[level]} {level}" for level in COLOURS if counts[level]))
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(3)


def export_state(
    target: Annotated[
        Path | None, typer.Argument(help="The zip file; named after the moment unless given.")
    ] = None,
    config: Config = CONFIG,
) -> None:
    """Write what support needs into one zip file: no records, no keys, no tokens."""
    from fedge_client import export

    path = target or Path(f"fedge-export-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip")
    names = export.export_state(GatewaySettings.load(config), config, path)
    typer.echo(f"{len(names)} files, {path.stat().st_size} bytes", err=True)
    typer.echo(str(path))


def units(
    folder: Annotated[Path | None, typer.Argument(help="Where the unit files go.")] = None,
    config: Config = Path("/etc/fedge/gateway.toml"),
    address: Annotated[str, typer.Option(help="What the inference port listens on.")] = "8080",
    settings: Annotated[
        bool, typer.Option("--settings", help="Only print a sample gateway.toml for them.")
    ] = False,
) -> None:
    """Write the systemd units of a gateway into a folder: hardened, socket-activated, watched."""
    from fedge_client.unit_files import sample_settings, write_units

    if settings:
        typer.echo(sample_settings(), nl=False)
        return
    if folder is None:
        raise typer.BadParameter("name the folder for the units, or give --settings")
    for path in write_units(folder, config, address):
        typer.echo(str(path))
