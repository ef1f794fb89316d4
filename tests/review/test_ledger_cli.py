"""`fedge ledger`: what it prints, and the exit status that cron and reviewers read."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.choices import choice_of, studied
from fakes.ledger_fleet import (
    CENTRE,
    REVIEWER,
    fleet_policy,
    gateway_key,
)

from fedge.config import ServerSettings
from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.source import BundleSource

Run = Callable[..., tuple[int, str, str]]


# --- verify -----------------------------------------------------------------------------


def test_an_honest_bundle_is_accepted(run: Run, bundle: Path) -> None:
    """Status 0, with all keys given nothing is left to remark."""
    keys = ["--witness-key", CENTRE.public_key.hex(), "--reviewer-key", REVIEWER.public_key.hex()]
    for number in range(3):
        keys += ["--gateway-key", gateway_key(number).public_key.hex()]
    status, out, _ = run("verify", bundle, *keys)

    assert status == 0
    assert out.startswith("proven") and ": 3 gateways, " in out.splitlines()[0]
    assert ", as of 2026-09-22 02:14:21 UTC: " in out.splitlines()[0]
    assert "not given" not in out


def test_the_bundles_own_word_is_said_to_be_that(run: Run, bundle: Path) -> None:
    """In the first line, also where some keys were given, and to programs in a field of its own."""
    keys = ["--witness-key", CENTRE.public_key.hex(), "--reviewer-key", REVIEWER.public_key.hex()]
    status, out, _ = run("verify", bundle)
    some, said, _ = run("verify", bundle, *keys)

    assert status == some == 0
    assert "proven, if the keys in it are the right ones" in out.splitlines()[0]
    assert "witness's key was not given" in out
    assert "proven, if the keys that were not given are the right" in said.splitlines()[0]
    assert json.loads(run("verify", bundle, *keys, "--json")[1])["pinned"] is False
    for number in range(3):
        keys += ["--gateway-key", gateway_key(number).public_key.hex()]
    assert json.loads(run("verify", bundle, *keys, "--json")[1])["pinned"] is True


def test_a_deviation_is_named_with_status_3(run: Run, source: BundleSource, tmp_path: Path) -> None:
    """The gateway, the number of the entry, and what is wrong with it."""
    ledger = source.gateways[0]
    entries = (*ledger.entries[:5], *ledger.entries[6:])
    wrong = replace(source, gateways=(replace(ledger, entries=entries), *source.gateways[1:]))
    write_bundle(tmp_path / "wrong.zip", wrong, CENTRE, 1.0)
    status, out, _ = run("verify", tmp_path / "wrong.zip")

    assert status == 3
    assert out.startswith("REJECTED") and ledger.gateway in out and "entry 5" in out


def test_verify_answers_json(run: Run, bundle: Path) -> None:
    """One object: the verdict, findings, and every block as the verifier computes it."""
    status, out, _ = run("verify", bundle, "--json")
    found = json.loads(out)

    assert status == 0 and found["accepted"] and found["proven"] and not found["pinned"]
    assert sum(len(one["blocks"]) for one in found["facts"]["gateways"]) == 9


def test_no_bundle_is_status_1_and_a_wrong_key_is_usage(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    status, out, err = run("verify", tmp_path / "none.zip")
    assert (status, out) == (1, "") and "none.zip" in err

    status, _, err = run("verify", bundle, "--witness-key", "f00")
    assert status == 2 and "64" in err
    assert run("verify")[0] == 2


def test_a_file_that_is_no_zip_is_rejected(run: Run, tmp_path: Path) -> None:
    """There is something, and it is not a bundle: that is a verdict, not a failure to read."""
    (tmp_path / "b.zip").write_bytes(b"not a zip at all")

    assert run("verify", tmp_path / "b.zip")[0] == 3


def test_a_key_of_another_gateway_is_a_deviation(run: Run, bundle: Path) -> None:
    """Whoever says which gateways there may be is not shown another one's ledger."""
    status, out, _ = run("verify", bundle, "--gateway-key", gateway_key(0).public_key.hex())

    assert status == 3 and "none that was named" in out


# --- report -----------------------------------------------------------------------------


def test_a_report_is_written_in_the_formats_asked_for(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    status, out, err = run("report", bundle, "--out", tmp_path / "r", "--format", "html,json")

    assert status == 0 and "proven" in err
    names = {"compliance.html", "compliance.json", "processing-record.json", "registry-entry.json"}
    assert {path.name for path in (tmp_path / "r").iterdir()} == names
    assert Path(out.splitlines()[0]).name == "compliance.html"


def test_a_rejected_bundle_gets_a_report_that_says_so(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    """Status 3, and nothing of what it claims is shown as a fact."""
    bundle.write_bytes(bundle.read_bytes().replace(b'"window":1', b'"window":2'))
    status, _, _ = run("report", bundle, "--out", tmp_path / "r", "--format", "html,json,csv")

    assert status == 3
    page = (tmp_path / "r" / "compliance.html").read_text()
    assert "REJECTED" in page and "What is guaranteed" not in page
    found = json.loads((tmp_path / "r" / "compliance.json").read_text())
    assert found["verdict"] == "rejected" and found["blocks"] == []


def test_a_wrong_format_is_usage_and_wrong_contacts_are_settings(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    for formats in ("docx", "html,docx", ","):
        status, _, err = run("report", bundle, "--out", tmp_path / "r", "--format", formats)
        assert status == 2 and formats in err and not (tmp_path / "r").exists()

    (tmp_path / "c.toml").write_text("contrler = 'x'")
    status, _, err = run(
        "report", bundle, "--out", tmp_path / "r", "--controller", tmp_path / "c.toml"
    )
    assert status == 1 and "contrler" in err


# --- a gateway --------------------------------------------------------------------------


def test_show_on_a_gateway(run: Run, gateway_folder: Path) -> None:
    """Each block with cap, spent and remaining, the worst first; the latest entries below."""
    status, out, _ = run("show", "--gateway", gateway_folder, "--json")
    found = json.loads(out)

    assert status == 0
    assert [block["block"] for block in found["blocks"]] == [0, 1]
    first = found["blocks"][0]
    assert first["spent_nano"] + first["remaining_nano"] == first["cap_nano"]
    assert found["ledgers"][0]["latest"][-1]["kind"] == "settled"
    status, out, _ = run("show", "--gateway", gateway_folder / "gateway.toml")
    assert status == 0 and "of 3" in out


def test_plan_prices_a_run_and_spends_nothing(run: Run, gateway_folder: Path) -> None:
    before = run("show", "--gateway", gateway_folder, "--json")[1]
    status, out, _ = run("plan", "--gateway", gateway_folder, "--json")
    found = json.loads(out)

    assert status == 0
    assert found["fits_fresh_block"] == 1 and found["smallest_detectable"] > 0
    by_block = {one["block"]: one for one in found["blocks"]}
    assert by_block[0]["fits"] == 0 and by_block[1]["fits"] == 1
    assert by_block[1]["cost_nano"] <= by_block[1]["remaining_nano"]
    assert run("show", "--gateway", gateway_folder, "--json")[1] == before
    assert run("plan", "--gateway", gateway_folder)[0] == 0


def test_export_beside_a_running_agent(run: Run, gateway_folder: Path, tmp_path: Path) -> None:
    """Another process holds the state file; the bundle is of one moment, and verifies."""
    target = tmp_path / "own.zip"
    status, out, _ = run("export", target, "--gateway", gateway_folder)

    assert status == 0 and str(target) in out
    found = read_bundle(target)
    assert found.source.made_by == "gateway"
    assert found.exporter_key == found.source.gateways[0].public_key
    status, out, _ = run("verify", target)
    assert status == 0 and "not confirmed by a witness" in out


def test_a_gateway_that_never_ran_has_no_ledger(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('state_dir = "state"\nruntime_dir = "run"\n')
    status, _, err = run("show", "--gateway", tmp_path)

    assert status == 1
    assert "fedge:" in err and "Traceback" not in err


# --- the coordinator --------------------------------------------------------------------


def test_a_lagging_gateway_is_named(run: Run, server: Path, tmp_path: Path) -> None:
    """Entries that the coordinator lacks are counted, and left out up to the gap."""
    status, out, err = run("export", tmp_path / "b.zip", "--server", server, "--json")
    found = json.loads(out)

    assert status == 0
    assert found["lagging"] == [gateway_key(1).fingerprint]
    assert "site-1" in err and "from number 3 on are not here yet" in err
    kept = {one.name: len(one.entries) for one in read_bundle(tmp_path / "b.zip").source.gateways}
    assert kept["site-1"] == 3
    assert run("verify", tmp_path / "b.zip")[0] == 0
    assert "site-1" in run("show", "--server", server)[1]


def test_one_place_at_a_time(run: Run, server: Path, tmp_path: Path) -> None:
    assert run("show", "--server", server, "--gateway", tmp_path)[0] == 2


def test_without_options_it_looks_here(
    run: Run, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settings file in this folder, or the server of the latest demo; else it says so."""
    monkeypatch.chdir(server)
    assert run("show")[0] == 0

    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    status, _, err = run("show")
    assert status == 1 and "--server" in err

    (empty / "runs" / "latest").mkdir(parents=True)
    (empty / "runs" / "latest" / "server").symlink_to(server)
    assert run("show")[0] == 0


def test_the_servers_settings_price_the_plan(run: Run, server: Path) -> None:
    status, out, _ = run("plan", "--server", server, "--json")
    own = ServerSettings.load(server / "server.toml").training

    assert status == 0
    assert json.loads(out)["plan"]["steps"] == own.steps


def test_the_plan_says_what_chose_the_adapter(run: Run, server: Path, gateway_folder: Path) -> None:
    """The recorded choice, whose rate it then plans; that there is none; or who would know."""
    policy = fleet_policy()
    choice = choice_of(policy, studied(policy, learning_rate=0.7))
    file = server / "server.toml"
    bare, _, _ = file.read_text().partition("[training]")
    (server / "choice.json").write_bytes(choice.to_bytes())
    file.write_text(bare + '\n[training]\nchoice = "choice.json"\n')

    told = json.loads(run("plan", "--server", server, "--json")[1])
    assert told["choice"] == choice.summary() and told["plan"]["learning_rate"] == 0.7
    assert choice.content_sha256[:16] in run("plan", "--server", server)[1]
    file.write_text(bare)
    assert json.loads(run("plan", "--server", server, "--json")[1])["choice"] is None
    assert "not recorded" in run("plan", "--server", server)[1]
    assert "the centre's settings say" in run("plan", "--gateway", gateway_folder)[1]


def test_asking_for_help_loads_nothing_heavy() -> None:
    """`fedge --help` stays fast."""
    program = (
        "import sys; import fedge.cli.main;"
        "print([m for m in ('mpmath', 'matplotlib', 'reportlab', 'sqlalchemy', 'jinja2', 'numpy',"
        " 'fedge.review.verifier') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_the_zip_holds_no_payload(bundle: Path) -> None:
    """Hashes of what was sent, and nothing of it."""
    with zipfile.ZipFile(bundle) as archive:
        assert not any("payload" in name or name.endswith(".bin") for name in archive.namelist())
