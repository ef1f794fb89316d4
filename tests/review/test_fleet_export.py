"""The coordinator's copy of all ledgers: complete as far as it goes, and who lags is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.centre import status
from fakes.ledger_fleet import (
    fleet_policy,
    gateway_key,
    played_gateway,
    push_ledger,
    run_spec,
)

from fedge.config import ServerSettings
from fedge.errors import StateError
from fedge.identity import Artefact, Envelope
from fedge.privacy.policy import write_policy
from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.verifier import verify_bundle
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.ledgers import Ledgers
from fedge_server.objects import ObjectStore
from fedge_server.review import FleetExport, LedgerLag, collect_fleet
from fedge_server.witness import KEY_FILE, open_witness


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    write_policy(fleet_policy(), tmp_path / "policy.toml")
    return init_server(tmp_path / "host", policy=tmp_path / "policy.toml")


@pytest.fixture
def database(settings: ServerSettings) -> Iterator[Database]:
    with Database(settings.database) as database:
        yield database


def export(settings: ServerSettings, database: Database) -> FleetExport:
    return collect_fleet(settings, database, open_witness(settings))


def push_status(
    settings: ServerSettings, database: Database, number: int, entries: int | None
) -> None:
    """Say how many entries a gateway's ledger has."""
    told = status(ledger_entries=entries)
    envelope = Envelope.seal(gateway_key(number), "status", 50_000, told.to_bytes())
    witness = open_witness(settings)
    Ingest(database, lambda: 6.0, witness, max_payload_bytes=2**20).accept(envelope.to_bytes())


def test_what_is_exported_verifies(
    settings: ServerSettings, database: Database, tmp_path: Path
) -> None:
    """Entries byte for byte, under heads that gateway and coordinator signed."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        one.window(0, 0)
        push_ledger(database, settings, one)
        own = one.ledger.entries()
    found = export(settings, database)
    path = tmp_path / "b.zip"
    write_bundle(path, found.source, open_witness(settings), 1.0)
    verdict = verify_bundle(path)

    assert verdict.proven, (verdict.deviations, verdict.findings)
    assert read_bundle(path).source.gateways[0].entries == own
    assert [lag.describe() for lag in found.lags] == [""]


def test_under_a_new_witness_key_the_whole_copy_is_confirmed(
    settings: ServerSettings, database: Database, tmp_path: Path
) -> None:
    """Also what an earlier key had confirmed: its owner vouches for what it took over."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        one.window(0, 0)
        push_ledger(database, settings, one)
        first = len(one.ledger.entries())
        (settings.data_dir / KEY_FILE).unlink()
        one.window(1, 0)
        push_ledger(database, settings, one, first=first)
    found, key = export(settings, database), open_witness(settings)
    path = tmp_path / "b.zip"
    write_bundle(path, found.source, key, 1.0)
    verdict = verify_bundle(path, witness_key=key.public_key.hex())

    assert (
        len({one.witness for one in Ledgers(database).witnessed(gateway_key(0).fingerprint)}) == 2
    )
    assert verdict.proven, (verdict.deviations, verdict.findings)


def test_what_arrives_meanwhile_is_no_forgery(
    settings: ServerSettings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway charges, settles and sends its next report between any two looks at the database:
    whatever of it is in the bundle, its entries are, too."""
    read_entries = Ledgers.entries
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)

        def arrives() -> None:
            first, number = len(one.ledger.entries()), len(one.artefacts)
            one.window(number, 0)
            push_ledger(database, settings, one, first=first if number else 0)

        def entries(reader: Ledgers, gateway: str, first: int = 0) -> Iterator[bytes]:
            arrives()
            return read_entries(reader, gateway, first)

        def artefacts(*_: object) -> tuple[Artefact, ...]:
            arrives()
            return tuple(one.artefacts)

        arrives()
        monkeypatch.setattr(Ledgers, "entries", entries)
        monkeypatch.setattr(Ledgers, "artefacts", artefacts)
        found = export(settings, database)
    path = tmp_path / "b.zip"
    write_bundle(path, found.source, open_witness(settings), 1.0)

    assert len(found.source.gateways[0].artefacts) == 2
    assert verify_bundle(path).deviations == ()


def test_a_gateway_that_says_it_has_more_lags(
    settings: ServerSettings, database: Database, tmp_path: Path
) -> None:
    """Its own count, in its latest status, is what its ledger is measured by."""
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        push_ledger(database, settings, one)
        stored = len(one.ledger.entries())
    push_status(settings, database, 0, stored + 4)
    (lag,) = export(settings, database).lags

    assert (lag.entries, lag.announced, lag.missing, lag.lags) == (stored, stored + 4, 4, True)
    assert lag.describe() == f"4 entries from number {stored} on are not here yet"


def test_a_status_of_an_earlier_version_says_nothing(
    settings: ServerSettings, database: Database, tmp_path: Path
) -> None:
    """Not known is not "nothing missing" by the status; what is stored is all there is to go by."""
    with played_gateway(tmp_path) as one:
        push_ledger(database, settings, one)
    push_status(settings, database, 0, None)
    (lag,) = export(settings, database).lags

    assert lag.announced is None and lag.missing == 0


def test_entries_after_a_gap_wait(
    settings: ServerSettings, database: Database, tmp_path: Path
) -> None:
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        one.window(0, 0)
        push_ledger(database, settings, one, until=2)
        push_ledger(database, settings, one, first=3, signed=False)
        every = one.ledger.entries()
    found = export(settings, database)

    assert found.source.gateways[0].entries == every[:2]
    assert found.lags[0].missing == len(every) - 2
    standing = found.source.evidence["standing"]["gateways"]
    assert "not here yet" in standing[0]["lag"]


def test_entries_without_a_head_are_not_countersigned(
    settings: ServerSettings, database: Database, tmp_path: Path
) -> None:
    with played_gateway(tmp_path) as one:
        push_ledger(database, settings, one, signed=False)
    (lag,) = export(settings, database).lags

    assert lag.unwitnessed == lag.entries > 0 and "not countersigned" in lag.describe()


def test_a_gateway_without_a_ledger_is_named_and_left_out(
    settings: ServerSettings, database: Database
) -> None:
    Fleet(database, lambda: 0.0).admit(gateway_key(3).public_key.hex(), "silent")
    found = export(settings, database)

    assert found.source.gateways == ()
    assert found.lags[0].lags and found.lags[0].describe() == "no ledger entry is stored"


def test_runs_come_with_the_hashes_of_what_came_back(
    settings: ServerSettings, database: Database
) -> None:
    """Also a run without a result, and a result of an earlier version, which names fewer."""
    facts, objects = Facts(database, lambda: 1.0), ObjectStore(settings.objects_dir)
    for number in (1, 2, 3):
        facts.create_run(run_spec(number, (0,)))
    hashes = {"adapter_sha256": "aa" * 32, "update_sha256": ["bb" * 32], "counts_sha256": []}
    objects.put("runs/run-1/result.json", json.dumps(hashes).encode())
    objects.put("runs/run-2/result.json", json.dumps({"adapter_sha256": "cc" * 32}).encode())
    facts.record_release("run-1", 2)
    runs = {run.spec.run_id: run for run in export(settings, database).source.runs}

    assert runs["run-1"].update_sha256 == ("bb" * 32,) and runs["run-1"].release == 2
    assert runs["run-2"].adapter_sha256 == "cc" * 32 and runs["run-2"].update_sha256 == ()
    assert runs["run-3"].adapter_sha256 is None and runs["run-3"].release is None


def test_a_damaged_result_is_no_missing_one(settings: ServerSettings, database: Database) -> None:
    Facts(database, lambda: 1.0).create_run(run_spec(1, (0,)))
    ObjectStore(settings.objects_dir).put("runs/run-1/result.json", b"{half")

    with pytest.raises(StateError, match="run-1"):
        export(settings, database)


def test_exporting_changes_nothing(
    settings: ServerSettings, database: Database, tmp_path: Path
) -> None:
    """The same again, byte for byte."""
    with played_gateway(tmp_path) as one:
        push_ledger(database, settings, one)

    assert export(settings, database) == export(settings, database)


@pytest.mark.parametrize(
    ("entries", "beyond_gap", "announced", "witnessed", "missing"),
    [(5, 0, None, 5, 0), (5, 9, 7, 5, 4), (5, 0, 3, 5, 0), (0, 0, 2, 0, 2)],
)
def test_the_larger_of_both_counts_is_missing(
    entries: int, beyond_gap: int, announced: int | None, witnessed: int, missing: int
) -> None:
    """A status may be older than the entries; it never makes less of them."""
    lag = LedgerLag(
        gateway="a" * 32,
        name="g",
        entries=entries,
        beyond_gap=beyond_gap,
        announced=announced,
        witnessed=witnessed,
        status_at=None,
    )

    assert lag.missing == missing
    assert lag.lags == bool(missing or not entries)
