"""`fedge gateway`: one gateway host."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedge.cli import erase, operate
from fedge.cli.groups import Group
from fedge.config import GatewaySettings

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(cls=Group, help="Set up and run a gateway.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The gateway's settings file.")]
CONFIG = Path("gateway.toml")


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder for settings and state.")],
    policy: Annotated[Path, typer.Option(help="The privacy policy (fedge policy new).")],
    root: Annotated[Path, typer.Option(help="The release repository's trusted root.json.")],
    coordinator: Annotated[str, typer.Option(help="URL of the coordinator.")],
    witness_key: Annotated[
        str | None, typer.Option(help="The coordinator's key (fedge server witness).")
    ] = None,
    superlink: Annotated[str, typer.Option(help="host:port of the SuperLink; empty: none.")] = "",
    port: Annotated[int, typer.Option(help="Inference port; 0 takes a free one.")] = 8080,
    task: Annotated[str, typer.Option(help="The task whose models are served.")] = "digits",
    family: Annotated[str, typer.Option(help="The model family; the task's name if empty.")] = "",
) -> None:
    """Make the key that is this gateway's identity, and its settings. Prints the public key."""
    from fedge_client.setup import init_gateway

    identity = init_gateway(
        folder,
        policy=policy,
        root=root,
        coordinator=coordinator,
        witness_key=witness_key,
        superlink=superlink,
        port=port,
        settings={"task": task, "family": family or task},
    )
    typer.echo(f"gateway {identity.fingerprint}", err=True)
    typer.echo(identity.public_key.hex())


@app.command("add-model")
def add_model(
    folder: Annotated[Path, typer.Argument(help="The gateway's folder, with gateway.toml.")],
    family: Annotated[str, typer.Option(help="The model family to serve too.")],
    task: Annotated[str, typer.Option(help="Its task.")],
    root: Annotated[Path, typer.Option(help="The trusted root.json of its release repository.")],
    policy: Annotated[Path, typer.Option(help="The privacy policy for its records.")],
    task_version: Annotated[int, typer.Option(help="The task's version.", min=1)] = 1,
) -> None:
    """Serve a further model from the next start on: a gateway of its own to the centre.

    Makes its key and its state folder, and appends it to gateway.toml. Prints the public key,
    which the coordinator must admit.
    """
    from fedge_client.setup import add_model as add

    identity = add(
        folder, family=family, task=task, task_version=task_version, root=root, policy=policy
    )
    typer.echo(f"gateway {identity.fingerprint} serves {family} from its next start on", err=True)
    typer.echo(identity.public_key.hex())


@app.command("run")
def run(config: Config = CONFIG) -> None:
    """Run the supervisor: it owns the inference port and keeps workers, agent, SuperNode alive."""
    from fedge_client.state_layout import LAYOUT, bring_up_to_date, nobody_runs, read_layout

    # Says what is wrong, and takes up an older state, before the supervisor replaces this process.
    settings = GatewaySettings.load(config)
    for served in settings.served:
        if read_layout(served.state_dir) != LAYOUT:
            with nobody_runs(settings.state_dir):
                for step in bring_up_to_date(served.state_dir):
                    typer.echo(f"{served.family}: {step}", err=True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "fedge_client.supervisor", str(config)])


@app.command("status")
def status(
    config: Config = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, all facts.")] = False,
) -> None:
    """Show how supervisor, workers and agent are. Exit status 1 where the gateway does not run."""
    from rich.console import Console

    from fedge_client.control import SupervisorClient

    settings = GatewaySettings.load(config)
    facts = SupervisorClient(settings.runtime_dir / "supervisor.sock").facts()
    if as_json:
        typer.echo(json.dumps(facts, sort_keys=True))
        return
    console = Console()
    console.print(_headline(facts["supervisor"]), highlight=False)
    console.print(_models(facts["models"]))
    console.print(_processes(facts["processes"]))


def _headline(supervisor: Mapping[str, Any]) -> str:
    hours = (time.time() - supervisor["started_at"]) / 3600
    ops = supervisor["ops_port"]
    listener = f"operations port {ops}" if ops >= 0 else "no operations port"
    return f"up {hours:.1f} h, inference port {supervisor['port']}, {listener}"


def _models(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """A column a model; a dash where something is not known."""
    table = _table(("model", *models))
    rows = [_rows(model) for model in models.values()]
    for name in rows[0]:
        cells = [row[name] for row in rows]
        table.add_row(name, *("-" if cell is None else str(cell) for cell in cells))
    return table


def _rows(model: Mapping[str, Any]) -> dict[str, object]:
    worker, agent = model["worker"] or {}, model["agent"] or {}
    answered, refused = worker.get("requests") or {}, worker.get("refused") or {}
    return {
        "slot": model["slot"],
        "on trial": model["trial"],
        "falls back to": model["fallback"],
        "release": worker.get("release"),
        "refused last": agent.get("refused_reason") or None,
        "worker": _running(worker.get("pid")),
        "restarts": model["worker_restarts"],
        "requests": sum(answered.values()) if answered else None,
        "answered with 4xx": answered.get("4xx"),
        "answered with 5xx": answered.get("5xx"),
        "refused by a limit": sum(refused.values()) if refused else None,
        "agent": "answers" if model["agent"] is not None else "silent",
        "windows closed": agent.get("windows"),
        "observations dropped": agent.get("dropped_observations"),
        "waiting to be sent": agent.get("spool_depth"),
        "ledger": _ledger(agent),
        "local alarms": _alarms((agent.get("local") or {}).get("local_drift")),
    }


def _ledger(agent: Mapping[str, Any]) -> str | None:
    """Whether the coordinator confirmed the ledger, and why not; None where nobody answers."""
    standing = agent.get("ledger_standing")
    if standing is None or standing == "in-step":
        return standing
    return f"{standing}: {agent['local']['ledger_standing']}"


def _alarms(local: Mapping[str, Any] | None) -> str | None:
    """How many local alarms are kept, and the latest; None where nothing watches for them."""
    if local is None:
        return None
    if not local["latest"]:
        warming = any(s["state"] == "warming-up" for s in local["signals"].values())
        return "none yet, taking a baseline" if warming else "none"
    last = local["latest"][0]
    ago_h = (time.time() - last["at"]) / 3600
    moved = f"{last['signal']} {last['before']} -> {last['after']}"
    return f"{local['alarms']}, the last {ago_h:.1f} h ago: {moved}"


def _processes(processes: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table(("process", "state", "restarts", "memory"))
    for name, process in processes.items():
        memory = f"{process['memory_bytes'] / 2**20:.0f} MiB"
        table.add_row(name, _running(process["pid"]), str(process["restarts"]), memory)
    return table


def _running(pid: int | None) -> str:
    return f"pid {pid}" if pid is not None else "not running"


def _table(columns: tuple[str, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


app.command("erase")(erase.erase)
app.command("withdraw")(erase.withdraw)
app.command("doctor")(operate.doctor)
app.command("export-state")(operate.export_state)
app.command("units")(operate.units)
