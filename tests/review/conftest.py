"""What the commands of `fedge ledger` are tried on: a bundle, a gateway, a coordinator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.ledger_fleet import (
    CENTRE,
    fleet_policy,
    play_fleet,
    played_gateway,
    push_ledger,
    run_spec,
)

from fedge.cli.main import main
from fedge.identity import Identity
from fedge.privacy.policy import write_policy
from fedge.review.bundle import write_bundle
from fedge.review.source import BundleSource
from fedge_server.admin import init_server
from fedge_server.database import Database

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    """Three gateways' ledgers, runs and a release; nothing changes it."""
    return play_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def bundle(source: BundleSource, tmp_path: Path) -> Path:
    """An honest bundle of it, in a file of one's own."""
    path = tmp_path / "ledger-bundle.zip"
    write_bundle(path, source, CENTRE, 1_790_300_000.0)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command as the console script runs it: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedge", "ledger", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def gateway_folder(tmp_path: Path) -> Iterator[Path]:
    """A gateway's folder, whose state file an agent (here: this process) holds open."""
    state = tmp_path / "gw" / "state"
    state.mkdir(parents=True)
    (tmp_path / "gw" / "gateway.toml").write_text('state_dir = "state"\nruntime_dir = "run"\n')
    write_policy(fleet_policy(), state / "policy.toml")
    own = Identity.create(state / "identity.pem")
    with played_gateway(state, identity=own, file="state.sqlite") as one:
        for block in range(2):
            one.ledger.open_block(block)
            one.window(block, block)
        one.run(run_spec(1, (0,)), (0,))
        yield tmp_path / "gw"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A coordinator's folder; one gateway's ledger is complete, the other's lags."""
    policy = tmp_path / "policy.toml"
    write_policy(fleet_policy(), policy)
    settings = init_server(tmp_path / "host", policy=policy)
    with Database(settings.database) as database:
        for number in range(2):
            with played_gateway(tmp_path, number) as one:
                one.ledger.open_block(0)
                one.window(0, 0)
                push_ledger(database, settings, one, until=None if number == 0 else 3)
                if number == 1:  # an entry is missing before the last ones
                    push_ledger(database, settings, one, first=4, signed=False)
    return tmp_path / "host"
