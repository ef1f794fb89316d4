"""`fedge ledger`: what a privacy budget was spent on, and proof of it for a reviewer.

Exit status of `verify` and `report`: 0 accepted, 3 rejected (the first deviation is named), 1 there
is no readable bundle, 2 wrong usage; `verify --require-keys` also answers 3 where a key was not
given. The other commands: 0 done, 1 what they read is missing or damaged, 2 wrong usage.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedge.cli.groups import Group
from fedge.errors import BundleError, SettingError, StateError
from fedge.texts import escaped

if TYPE_CHECKING:
    from fedge.review.verifier import Verdict

EXIT_REJECTED = 3

app = typer.Typer(
    cls=Group, help="Show, price, export and verify privacy ledgers.", no_args_is_help=True
)

Gateway = Annotated[
    Path | None,
    typer.Option("--gateway", help="A gateway's folder, or its gateway.toml.", readable=False),
]
Server = Annotated[
    Path | None,
    typer.Option("--server", help="The centre's folder, or its server.toml.", readable=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")]
# Whether a file can be read is not for the parser to say: that is no wrong usage.
BundleFile = Annotated[Path, typer.Argument(help="A bundle (fedge ledger export).", readable=False)]
WitnessKey = Annotated[
    str | None, typer.Option("--witness-key", help="Public key of the coordinator's witness.")
]
ReviewerKeys = Annotated[
    list[str] | None, typer.Option("--reviewer-key", help="Who may approve policies; repeatable.")
]
GatewayKeys = Annotated[
    list[str] | None, typer.Option("--gateway-key", help="Gateways that may appear; repeatable.")
]
Controller = Annotated[
    Path | None,
    typer.Option("--controller", help="TOML with the controller's contacts.", readable=False),
]


@app.command("show")
def show(
    gateway: Gateway = None,
    server: Server = None,
    entries: Annotated[int, typer.Option(help="Latest entries of each ledger.", min=0)] = 3,
    as_json: AsJson = False,
) -> None:
    """What each block may release, has released, and has left; the worst block first.

    Without an option: gateway.toml or server.toml in this folder, else the latest demo's server.
    Exit status 0 shown, 1 there is no ledger that can be read, 2 wrong usage.
    """
    from fedge.cli.ledger_sources import open_ledgers
    from fedge.cli.ledger_tables import budget_json, show_budgets
    from fedge.review.budget import block_budgets, worst_first

    found = open_ledgers(gateway, server)
    budgets = worst_first(b for one in found.source.gateways for b in block_budgets(one))
    if as_json:
        typer.echo(json.dumps(budget_json(found, budgets, entries), allow_nan=False))
    else:
        show_budgets(found, budgets, entries)


@app.command("plan")
def plan(gateway: Gateway = None, server: Server = None, as_json: AsJson = False) -> None:
    """What the next retraining will cost each block, without spending anything.

    With both options the gateway's ledger is priced by the server's training settings; a
    gateway alone is priced by the defaults. The policy must be as it was approved.
    Exit status 0 priced, 1 settings, policy or ledger cannot be used, 2 wrong usage.
    """
    from fedge.cli.ledger_sources import open_plan
    from fedge.cli.ledger_tables import plan_json, show_plan

    found = open_plan(gateway, server)
    if as_json:
        typer.echo(json.dumps(plan_json(found), allow_nan=False))
    else:
        show_plan(found)


@app.command("verify")
def verify(
    bundle: BundleFile,
    witness_key: WitnessKey = None,
    reviewer_key: ReviewerKeys = None,
    gateway_key: GatewayKeys = None,
    require_keys: Annotated[
        bool, typer.Option("--require-keys", help="Exit status 3 unless all kinds were given.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle offline, with a second implementation: signatures, chains, every charge.

    Exit status 0 accepted, 3 rejected, 1 no readable bundle, 2 wrong usage. Give the keys that you
    hold from elsewhere: without them the bundle's own word is taken for whose it is. The first line
    says so, and --json has "pinned": false unless all three kinds were given.
    """
    from fedge.cli.ledger_tables import show_verdict

    verdict = _verified(bundle, witness_key, reviewer_key, gateway_key)
    if as_json:
        typer.echo(json.dumps(verdict.to_json(), default=str))
    else:
        show_verdict(verdict)
    if verdict.accepted and require_keys and not verdict.pinned:
        typer.echo("fedge: not every kind of key was given, as --require-keys asks", err=True)
    if not verdict.accepted or (require_keys and not verdict.pinned):
        raise typer.Exit(EXIT_REJECTED)


@app.command("export")
def export(
    out: Annotated[
        Path,
        typer.Argument(help="The bundle to write (zip).", dir_okay=False, readable=False),
    ],
    gateway: Gateway = None,
    server: Server = None,
    audits: Annotated[
        Path | None,
        typer.Option(
            "--audits",
            help="Folder with audit evidence to put in; runs/audit if there is one.",
            exists=True,
            file_okay=False,
            readable=False,
        ),
    ] = None,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Write one file that a reviewer can verify without access to data or to a gateway.

    Exit status 0 written, 1 there is no ledger that can be read, or nothing could be written,
    2 wrong usage.
    """
    from fedge.audit.evidence import FOLDER, evidence_files
    from fedge.cli.ledger_sources import open_ledgers
    from fedge.cli.ledger_tables import counted
    from fedge.review.bundle import write_bundle
    from fedge.review.evidence import read_controller, with_evidence

    found = open_ledgers(gateway, server)
    if not found.source.gateways:
        raise StateError("no gateway sent a ledger entry yet: there is nothing to export")
    evidence = evidence_files(audits or FOLDER)
    if audits is not None and not evidence:
        typer.echo(f"fedge: {audits} holds no audit evidence (*.json): none is put in", err=True)
    source = with_evidence(found.source, audits=evidence, controller=read_controller(controller))
    sha256 = write_bundle(out, source, found.identity, time.time())
    for lag in found.lags:
        if lag.lags:
            lagging = escaped(f"{lag.name} ({lag.gateway}): {lag.describe()}")
            typer.echo(f"fedge: {lagging}", err=True)
    gateways, entries = len(source.gateways), sum(len(one.entries) for one in source.gateways)
    facts = {
        "bundle": str(out),
        "sha256": sha256,
        "gateways": gateways,
        "entries": entries,
        "lagging": [lag.gateway for lag in found.lags if lag.lags],
    }
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"{out}: {counted(gateways, 'gateway')}, {counted(entries, 'entry', 'entries')}")
        typer.echo(f"SHA-256 {sha256}")


@app.command("report")
def report(
    bundle: BundleFile,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder for the report's files.", file_okay=False, readable=False
        ),
    ],
    formats: Annotated[
        str, typer.Option("--format", help="Of html, pdf, json, csv; with commas.")
    ] = "html,pdf,json,csv",
    witness_key: WitnessKey = None,
    reviewer_key: ReviewerKeys = None,
    gateway_key: GatewayKeys = None,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Verify a bundle and write the compliance report about it.

    Exit status 0 accepted, 3 rejected (the report says so), 1 no readable bundle or nothing could
    be written, 2 wrong usage.
    """
    from fedge.review.bundle import read_bundle
    from fedge.review.evidence import read_controller
    from fedge.review.report.build import build_report
    from fedge.review.report.files import FORMATS, write_report
    from fedge.review.report.verdict_words import verdict_facts, verdict_words

    names = [name.strip() for name in formats.split(",") if name.strip()]
    if not names or not set(names) <= set(FORMATS):
        raise typer.BadParameter(f"formats are {', '.join(FORMATS)}, not {formats!r}")
    verdict = _verified(bundle, witness_key, reviewer_key, gateway_key)
    made = build_report(
        read_bundle(bundle) if verdict.accepted else None,
        verdict,
        verified_at=time.time(),
        file=bundle,
        controller=read_controller(controller),
    )
    paths = write_report(made, out, names)
    if as_json:
        answer: dict[str, Any] = {**verdict_facts(made), "files": [str(path) for path in paths]}
        typer.echo(json.dumps(answer, allow_nan=False))
    else:
        for path in paths:
            typer.echo(str(path))
        typer.echo(f"fedge: {verdict_words(made)}", err=True)
    if made.verdict == "rejected":
        raise typer.Exit(EXIT_REJECTED)


def _verified(
    bundle: Path,
    witness_key: str | None,
    reviewer_keys: list[str] | None,
    gateway_keys: list[str] | None,
) -> Verdict:
    """The verdict.

    Raises:
        BundleError: there is no such bundle, or none that could be one.
        SettingError: the verifier's libraries are not installed.
        typer.BadParameter: a key is none.
    """
    given = [*(reviewer_keys or ()), *(gateway_keys or ())]
    if witness_key is not None:
        given.append(witness_key)
    for key in given:
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise typer.BadParameter(f"a public key is 64 lower-case hex digits, not {key!r}")
    try:
        from fedge.review.verifier import UnreadableBundleError, verify_bundle
    except ModuleNotFoundError as error:
        raise SettingError(f"verifying needs {error.name}: pip install fedge[review]") from error
    try:
        return verify_bundle(
            bundle,
            witness_key=witness_key,
            reviewer_keys=reviewer_keys or (),
            gateway_keys=gateway_keys or (),
        )
    except UnreadableBundleError as error:
        raise BundleError(str(error)) from error
