"""Where `fedge ledger` reads from: a gateway's state, or the coordinator's copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from fedge.config import GatewaySettings, ServerSettings, TrainingSettings
from fedge.errors import SettingError
from fedge.identity import Identity
from fedge.learning.chosen import ChosenTraining, chosen_training
from fedge.learning.planning import plan_training
from fedge.privacy.approval import read_policy_and_approval
from fedge.records import AdapterChoice, PrivacyPolicy, TrainingPlan
from fedge.review.budget import block_budgets, worst_first
from fedge.review.prices import BlockPrice, price_run, runs_in_fresh_block
from fedge.review.source import BundleSource

if TYPE_CHECKING:
    from collections.abc import Sequence

GATEWAY_FILE, SERVER_FILE = "gateway.toml", "server.toml"
DEMO_SERVER = Path("runs/latest/server/server.toml")


class Lag(Protocol):
    """How far a copy of a ledger reaches; `fedge_server.review.LedgerLag`."""

    @property
    def gateway(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def lags(self) -> bool: ...
    def describe(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Ledgers:
    """What was found: ledgers, the key that may sign a bundle of them, and who lags."""

    source: BundleSource
    identity: Identity
    lags: Sequence[Lag]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """The next retraining: its plan, and its price on every block that is open, the worst first.

    Attributes:
        gateways: how many would evaluate it.
        fresh: how many such runs a block carries that opens now.
        chosen: what decided the adapter, in words.
        choice: the record that did; None where none is named, or only the centre knows.
    """

    plan: TrainingPlan
    policy: PrivacyPolicy
    prices: tuple[BlockPrice, ...]
    gateways: int
    fresh: int
    chosen: str
    choice: AdapterChoice | None


def open_ledgers(gateway: Path | None, server: Path | None) -> Ledgers:
    """The ledgers that the options name; without one, those of this folder or the latest demo.

    Raises:
        typer.BadParameter: both are named.
        SettingError: no settings are found, or they are wrong.
        StateError: there is no ledger yet, or what is stored cannot be read.
    """
    if gateway is not None and server is not None:
        raise typer.BadParameter("give --gateway or --server: each holds ledgers")
    if gateway is None and server is None:
        gateway, server = _here()
    if gateway is not None:
        return _of_gateway(_file(gateway, GATEWAY_FILE))
    return _of_server(_file(server or Path(), SERVER_FILE))


def open_plan(gateway: Path | None, server: Path | None) -> PlannedRun:
    """What the next run would cost; see `fedge ledger plan`.

    Raises:
        SettingError, StateError: as `open_ledgers`; or the settings leave nothing for training, or
            the policy is not the one that was approved.
        ChoiceError: the recorded choice of the adapter does not apply.
    """
    if gateway is None and server is None:
        gateway, server = _here()
    settings = None if server is None else ServerSettings.load(_file(server, SERVER_FILE))
    if gateway is not None:
        file = _file(gateway, GATEWAY_FILE)
        own = GatewaySettings.load(file)
        policy, _ = read_policy_and_approval(own.state_dir / "policy.toml", own.policy_reviewers)
        source = _of_gateway(file).source
    else:
        assert settings is not None
        policy, _ = read_policy_and_approval(settings.policy)
        source = _of_server(_file(server or Path(), SERVER_FILE)).source
    chosen = ChosenTraining(settings=TrainingSettings(), choice=None)
    if settings is not None:
        chosen = chosen_training(settings.training, policy, settings.task)
    # The length of the adapter's vector changes no charge.
    planned = plan_training(policy, chosen.settings, dimension=1)
    budgets = worst_first(b for one in source.gateways for b in block_budgets(one))
    purposes, task = ("training", "evaluation"), "" if settings is None else settings.task
    return PlannedRun(
        plan=planned,
        policy=policy,
        prices=price_run(budgets, planned.events, purposes, task),
        gateways=max(1, len(source.gateways)),
        fresh=runs_in_fresh_block(policy, planned.events, purposes, task),
        chosen="the centre's settings say" if settings is None else chosen.described,
        choice=chosen.choice,
    )


def _here() -> tuple[Path | None, Path | None]:
    """Settings in this folder, else the latest demo's."""
    if Path(GATEWAY_FILE).exists():
        return Path(GATEWAY_FILE), None
    for path in (Path(SERVER_FILE), Path("server") / SERVER_FILE, DEMO_SERVER):
        if path.exists():
            return None, path
    raise SettingError(
        f"no {GATEWAY_FILE} or {SERVER_FILE} here, and no {DEMO_SERVER}; give --gateway or --server"
    )


def _file(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path


def _of_gateway(path: Path) -> Ledgers:
    from fedge_client.ledger_export import collect_gateway

    found = collect_gateway(GatewaySettings.load(path))
    return Ledgers(found.source, found.identity, ())


def _of_server(path: Path) -> Ledgers:
    from fedge_server.database import Database
    from fedge_server.review import collect_fleet
    from fedge_server.witness import open_witness

    settings = ServerSettings.load(path)
    identity = open_witness(settings)
    with Database(settings.database) as database:
        found = collect_fleet(settings, database, identity)
    return Ledgers(found.source, identity, found.lags)
