"""`fedge demo`: the closed loop on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    gateways: Annotated[int, typer.Option(help="How many gateways.")] = 5,
    faulty: Annotated[
        int | None, typer.Option(help="How many of them drift; all by default.")
    ] = None,
    fault: Annotated[str, typer.Option(help="lens (shift, contrast loss) or dirt.")] = "lens",
    seed: Annotated[int, typer.Option(help="Fixes streams, onsets and evaluation sets.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter watch at the end; every phase runs.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Where the run's folder goes.")] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print summary.json instead of a summary.")
    ] = False,
) -> None:
    """Play a fleet that drifts, notices, retrains under differential privacy and recovers.

    Exit status: 0 the loop closed; 1 it did not (the message names the phase and the logs).
    """
    from fedge.demo.plan import make_plan
    from fedge.demo.run import run_demo  # heavy: only this command pays for it

    plan = make_plan(seed=seed, gateways=gateways, faulty=faulty, fault=fault, quick=quick)
    run_demo(plan, runs, as_json=as_json)
