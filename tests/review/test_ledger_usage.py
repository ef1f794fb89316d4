"""`fedge ledger` where it is used wrongly, where what it reads is damaged, and what it quotes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
import typer
from fakes.ledger_fleet import (
    CENTRE,
    REVIEWER,
    fleet_policy,
    gateway_key,
    played_gateway,
)

from fedge.audit.evidence import (
    AuditedCase,
    AuditEvidence,
    installed_versions,
    write_evidence,
)
from fedge.cli import ledger as commands
from fedge.cli import policy as policy_commands
from fedge.cli.ledger_sources import open_ledgers, open_plan
from fedge.cli.ledger_tables import show_budgets, show_plan, show_verdict
from fedge.config import GatewaySettings, ServerSettings
from fedge.identity import Identity
from fedge.privacy.approval import approve, write_approval
from fedge.privacy.policy import write_policy
from fedge.review.budget import block_budgets
from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.prices import price_run
from fedge.review.source import BundleSource
from fedge.review.verifier import Deviation, Finding, Verdict, verify_bundle
from fedge_client.ledger_export import collect_gateway

Run = Callable[..., tuple[int, str, str]]
EVIL = "\x1b[2J[red]site\u202e\x9b1m\nproven: all is well"
SHOWN = r"\x1b[2J[red]site\u202e\x9b1m\nproven: all is well"


def leaves(app: typer.Typer) -> Iterator[click.Command]:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    yield from group.commands.values()


COMMANDS = [*leaves(commands.app), *leaves(policy_commands.app)]


class TestWrongUsage:
    @pytest.mark.parametrize("target", [".", "/", "..", "folder"])
    def test_a_bundle_is_written_to_a_file(
        self,
        run: Run,
        gateway_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        target: str,
    ) -> None:
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path)
        status, out, err = run("export", target, "--gateway", gateway_folder)

        assert (status, out) == (2, "") and "directory" in err
        assert list((tmp_path / "folder").iterdir()) == []

    def test_evidence_that_was_named_is_not_left_out(
        self, run: Run, gateway_folder: Path, tmp_path: Path
    ) -> None:
        """No such folder and a file are wrong usage; of an empty folder it is said."""
        target, file, empty = (tmp_path / name for name in ("b.zip", "file.json", "empty"))
        file.write_text("{}")
        empty.mkdir()
        export = ("export", target, "--gateway", gateway_folder, "--audits")
        for audits in (tmp_path / "none", file):
            status, _, err = run(*export, audits)
            assert status == 2 and "--audits" in err and not target.exists()
        status, _, err = run(*export, empty)
        assert status == 0 and "no audit evidence" in err

        case = AuditedCase(
            name="the code", seeded_bug=False, counted_epsilon=1.4, gaussian_epsilon=7.2
        )
        audit = AuditEvidence(
            kind="multi-run",
            at=12.5,
            versions=installed_versions(),
            task="audit-toy",
            runs=2000,
            canaries=1,
            claimed_epsilon=8.0,
            delta=1e-5,
            confidence=0.95,
            cases=(case,),
        )
        write_evidence(audit, empty)
        assert run(*export, empty)[::2] == (0, "")
        assert list(read_bundle(target).source.evidence) == ["audit-multi-run"]

    def test_without_the_option_evidence_may_be_missing(
        self,
        run: Run,
        gateway_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run("export", "b.zip", "--gateway", gateway_folder)[0] == 0
        assert read_bundle(tmp_path / "b.zip").source.evidence == {}

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda one: str(one.callback.__module__))
    def test_what_cannot_be_read_is_no_wrong_usage(self, command: click.Command) -> None:
        """The command itself opens each file, and says so with status 1."""
        paths = [one.type for one in command.params if isinstance(one.type, click.Path)]

        assert paths and all(not path.readable for path in paths)

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda one: str(one.callback.__module__))
    def test_every_command_names_its_exit_status(self, command: click.Command) -> None:
        assert command.help is not None
        words = " ".join(command.help.split())
        said = words.partition("Exit status ")[2]
        assert said.startswith("0 ") and ", 1 " in said and "2 wrong usage" in said


class TestDamage:
    @pytest.mark.parametrize("command", ["show", "export", "plan"])
    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE ledger_entries SET body = CAST(body AS TEXT) WHERE seq = 2",
            "UPDATE ledger_entries SET body = 7 WHERE seq = 2",
            "UPDATE ledger_entries SET body = x'ff00' WHERE seq = 0",
            "UPDATE ledger_entries SET body = x'ff00' WHERE seq = 2",
            "UPDATE ledger_entries SET body = x'' WHERE seq = 2",
            "DELETE FROM ledger_entries WHERE seq = 2",
            "DELETE FROM ledger_entries",
            "INSERT INTO ledger_witnessed VALUES (1, 'text')",
            "INSERT INTO ledger_witnessed VALUES (1, x'ff')",
            "DROP TABLE ledger_entries",
        ],
    )
    def test_of_a_state_file_is_said(
        self, run: Run, gateway_folder: Path, tmp_path: Path, command: str, damage: str
    ) -> None:
        """Status 1, a sentence, nothing written: no head is signed over what is damaged."""
        with sqlite3.connect(gateway_folder / "state" / "state.sqlite") as db:
            db.execute("CREATE TABLE ledger_witnessed (size INTEGER PRIMARY KEY, body BLOB)")
            db.execute(damage)
        target = [tmp_path / "b.zip"] if command == "export" else []
        status, out, err = run(command, *target, "--gateway", gateway_folder)

        assert (status, out) == (1, "")
        assert "fedge: " in err and not (tmp_path / "b.zip").exists()
        if "AS TEXT" in damage or "= 7" in damage:
            assert "ledger entry 2 is no string of bytes" in err


class TestPlan:
    def test_a_policy_that_nobody_approved_like_that_is_refused(
        self, run: Run, gateway_folder: Path
    ) -> None:
        """As by `policy show` and by the gateway itself."""
        path = gateway_folder / "state" / "policy.toml"
        approval = approve(fleet_policy(), REVIEWER, reviewer="Ada", reason="why", at=1.0)
        write_approval(approval, path)
        assert run("plan", "--gateway", gateway_folder)[0] == 0
        path.write_text(path.read_text().replace("epsilon = 3.0", "epsilon = 9.0"))
        status, out, err = run("plan", "--gateway", gateway_folder)

        assert (status, out) == (1, "") and "another policy" in err

    def test_the_centres_too(self, run: Run, server: Path) -> None:
        path = ServerSettings.load(server / "server.toml").policy
        forged = approve(fleet_policy(5.0), REVIEWER, reviewer="Ada", reason="why", at=1.0)
        write_approval(forged, path)

        assert run("plan", "--server", server)[0] == 1

    def test_the_gateways_reviewers_are_asked_for(self, run: Run, gateway_folder: Path) -> None:
        config = gateway_folder / "gateway.toml"
        config.write_text(config.read_text() + f'policy_reviewers = ["{"0" * 64}"]\n')
        status, _, err = run("plan", "--gateway", gateway_folder)

        assert status == 1 and "not signed" in err


class TestNothingYet:
    """Where no block was opened nothing is bounded: that is said, and is no proof."""

    def test_a_centre_without_ledgers_exports_nothing(
        self, run: Run, server: Path, tmp_path: Path
    ) -> None:
        with sqlite3.connect(server / "data" / "fedge.sqlite") as database:
            database.execute("DELETE FROM envelopes")
        status, out, err = run("export", tmp_path / "b.zip", "--server", server, "--json")

        assert (status, out) == (1, "") and "no gateway sent a ledger entry" in err
        assert not (tmp_path / "b.zip").exists()

    def test_a_ledger_without_blocks_proves_nothing(
        self, run: Run, source: BundleSource, tmp_path: Path
    ) -> None:
        with played_gateway(tmp_path) as young:
            begun = replace(source, gateways=(young.exported(),), runs=(), releases=(), evidence={})
        write_bundle(tmp_path / "b.zip", begun, CENTRE, young.at[0] + 1.0)
        status, out, _ = run("verify", tmp_path / "b.zip")

        assert status == 0
        assert out.startswith("accepted, but nothing is proven: no block was opened yet")
        assert out.splitlines()[0].endswith("2 entries, no block")


class TestKeys:
    def test_a_script_may_insist(self, run: Run, bundle: Path) -> None:
        """Status 0 and 3 differ; what is printed about the bundle does not."""
        keys = ["--witness-key", CENTRE.public_key.hex()]
        keys += ["--reviewer-key", REVIEWER.public_key.hex()]
        status, out, err = run("verify", bundle, *keys, "--require-keys")
        assert status == 3 and "--require-keys" in err
        assert out == run("verify", bundle, *keys)[1]
        status, out, _ = run("verify", bundle, *keys, "--require-keys", "--json")
        assert status == 3
        assert [json.loads(out)[name] for name in ("accepted", "pinned")] == [True, False]

        for number in range(3):
            keys += ["--gateway-key", gateway_key(number).public_key.hex()]
        status, out, err = run("verify", bundle, *keys, "--require-keys")
        assert (status, err) == (0, "") and out.startswith("proven")


class TestNames:
    def test_one_is_one(self, run: Run, gateway_folder: Path, tmp_path: Path) -> None:
        target = tmp_path / "own.zip"
        _, out, _ = run("export", target, "--gateway", gateway_folder)
        assert "1 gateway," in out
        assert ": 1 gateway, " in run("verify", target)[1].splitlines()[0]

    def test_a_gateway_has_a_name_of_its_own(self, gateway_folder: Path) -> None:
        """Not its model's, which all gateways of a fleet share: the first digits of its key."""
        config = gateway_folder / "gateway.toml"
        (one,) = collect_gateway(GatewaySettings.load(config)).source.gateways
        assert one.name == one.gateway[:8]

        config.write_text(
            config.read_text() + '[[models]]\nfamily = "pump"\ntask = "pump"\ntask_version = 1\n'
        )
        folder = gateway_folder / "state" / "models" / "pump"
        folder.mkdir(parents=True)
        own = Identity.create(folder / "identity.pem")
        with played_gateway(folder, identity=own, file="state.sqlite") as played:
            played.ledger.open_block(0)
        found = collect_gateway(GatewaySettings.load(config)).source.gateways
        assert [g.name.split() for g in found] == [
            [found[0].gateway[:8], "digits"],
            [own.fingerprint[:8], "pump"],
        ]

    def test_a_name_steers_no_terminal(
        self, server: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever a source calls a gateway is spelt out, and is no markup."""
        monkeypatch.setenv("COLUMNS", "300")
        found = open_ledgers(None, server)
        named = [replace(one, name=EVIL) for one in found.source.gateways]
        found = replace(found, source=replace(found.source, gateways=tuple(named)))
        budgets = [budget for one in named for budget in block_budgets(one)]
        planned = open_plan(None, server)
        priced = replace(planned, prices=price_run(budgets, planned.plan.events))
        for show in (lambda: show_budgets(found, budgets, 3), lambda: show_plan(priced)):
            show()
            out = capsys.readouterr().out
            assert SHOWN in out and all(line.isprintable() for line in out.splitlines())

    def test_a_moment_beyond_the_calendar_is_shown(
        self, run: Run, gateway_folder: Path, tmp_path: Path
    ) -> None:
        """Some gateway's clock said so."""
        folder = tmp_path / "late" / "state"
        folder.mkdir(parents=True)
        config = (gateway_folder / "gateway.toml").read_text()
        (tmp_path / "late" / "gateway.toml").write_text(config)
        own = Identity.create(folder / "identity.pem")
        with played_gateway(folder, identity=own, file="state.sqlite") as one:
            one.at[0] = 1e300
            one.ledger.open_block(0)
            assert "at 1e+300 s" in run("show", "--gateway", tmp_path / "late")[1]

    def test_a_verdicts_words_are_quoted_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A deviation names what stands in the bundle."""
        wrong = Deviation(kind="form", what=EVIL, gateway="0" * 32)
        finding = Finding(kind="note", what=EVIL)
        show_verdict(Verdict(deviations=(wrong,), findings=(finding,), facts=None))

        out = capsys.readouterr().out
        assert out.startswith("REJECTED: ") and SHOWN in out
        assert all(line.isprintable() for line in out.splitlines())

    def test_an_errors_words_are_quoted_too(self, run: Run, tmp_path: Path) -> None:
        """The name of a file that is not there, for one."""
        status, _, err = run("verify", tmp_path / "\x1b[2Jb.zip")

        assert status == 1 and "\x1b" not in err and r"\x1b[2Jb.zip" in err


def test_an_unsigned_policy_is_priced(run: Run, gateway_folder: Path) -> None:
    """Nobody is an answer; a reviewer will see it."""
    write_policy(fleet_policy(), gateway_folder / "state" / "policy.toml")
    assert run("plan", "--gateway", gateway_folder)[0] == 0


@pytest.mark.parametrize("kind", ["exclusion", "recovered"])
def test_a_verdict_is_not_said_without_its_reservations(
    bundle: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """In the report's words; what takes nothing from the bound is only a note."""
    whole = verify_bundle(bundle)
    assert whole.proven and whole.reservations == ()
    noted = replace(whole, findings=(Finding(kind=kind, what="block 0 leaves something out"),))
    show_verdict(noted)
    first = capsys.readouterr().out.splitlines()[0]

    reserved = kind == "exclusion"
    assert first.startswith("proven, with reservations, as of") == reserved
    assert bool(noted.to_json()["reservations"]) == reserved
