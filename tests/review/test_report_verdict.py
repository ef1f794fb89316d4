"""What a report rests on is said with its verdict, in every file, and never left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.ledger_fleet import CENTRE, REVIEWER, gateway_key, play_fleet, played_gateway
from fakes.reports import ALL_KEYS, AT, report_of, report_of_file, section_of, texts

from fedge.records import AuditedCase, AuditEvidence
from fedge.review.bundle import write_bundle
from fedge.review.evidence import with_evidence
from fedge.review.report.exports import NOT_AFFIRMED, processing_record, registry_entry
from fedge.review.report.files import report_json, write_report
from fedge.review.report.html import render_html
from fedge.review.report.layout import lay_out
from fedge.review.report.model import ComplianceReport
from fedge.review.report.trust_words import who_sees_what
from fedge.review.report.verdict_words import tone, verdict_words
from fedge.review.source import BundleSource

CONDITION = "proven, if the keys in the bundle are the right ones"
Damage = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    return play_fleet(tmp_path_factory.mktemp("played"))


@pytest.fixture
def escalated(tmp_path: Path) -> BundleSource:
    """One gateway; records of its first block may be sent on, columns of its second sketched."""
    with played_gateway(tmp_path) as one:
        for block in range(2):
            one.ledger.open_block(block)
            one.window(block, block)
        one.ledger.exclude(0, "escalation")
        one.ledger.exclude(1, "sketches")
        key = CENTRE.public_key.hex()
        return BundleSource(
            made_by="coordinator", simulated=False, witness_key=key, gateways=(one.exported(),)
        )


def written(report: ComplianceReport, folder: Path) -> dict[str, str]:
    """Every file of a report that is text."""
    paths = write_report(report, folder, ["html", "json", "csv"])
    return {path.name: path.read_text() for path in paths}


def strict(text: str) -> Any:
    """JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- keys -------------------------------------------------------------------------------


def test_without_keys_from_outside_every_file_says_what_the_verdict_hangs_on(
    fleet: BundleSource, tmp_path: Path
) -> None:
    """The first line, another colour, a field for programs, the register, the spreadsheet."""
    report = report_of(tmp_path / "b.zip", fleet)
    document, found = lay_out(report), written(report, tmp_path / "r")

    assert document.tone == "warn"
    assert document.headline.endswith("if the keys in the bundle are the right ones")
    whole = strict(found["compliance.json"])
    assert whole["verdict"] == CONDITION and whole["pinned"] is False
    entry = strict(found["registry-entry.json"])["implementation"]["verification"]
    assert entry["verdict"] == CONDITION and entry["pinned"] is False
    record = strict(found["processing-record.json"])
    assert record["verification"]["verdict"] == CONDITION
    assert all(CONDITION in text for text in record["bounds_by_the_ledgers"])
    assert CONDITION in found["compliance-blocks.csv"]
    assert CONDITION in found["compliance-findings.csv"]
    assert not any("The ledgers prove" in text for text in found.values())


def test_the_keys_stand_in_the_report_to_be_compared(fleet: BundleSource, tmp_path: Path) -> None:
    """In full, each with its fingerprint and whose it is said to be."""
    report = report_of(tmp_path / "b.zip", fleet)
    told = section_of(lay_out(report), "keys")

    for key in (CENTRE, REVIEWER, *map(gateway_key, range(3))):
        assert key.public_key.hex() in told and key.fingerprint in told
    assert "A. Officer" in told and "NO: compare it" in told
    page = render_html(lay_out(report)).replace("<wbr>", "")
    assert gateway_key(2).public_key.hex() in page
    assert {one["public_key"] for one in report_json(report)["keys"]} == {
        key.public_key.hex() for key in (CENTRE, REVIEWER, *map(gateway_key, range(3)))
    }


def test_only_the_missing_kinds_are_named(fleet: BundleSource, tmp_path: Path) -> None:
    keys = {name: ALL_KEYS[name] for name in ("witness_key", "gateway_keys")}
    report = report_of(tmp_path / "b.zip", fleet, keys)

    assert verdict_words(report) == (
        "proven, if the reviewers' keys in the bundle are the right ones"
    )
    assert {one.kind: one.given for one in report.keys} == {
        "witness": True,
        "reviewer": False,
        "gateway": True,
    }


def test_with_all_keys_it_is_green_and_unconditional(fleet: BundleSource, tmp_path: Path) -> None:
    report = report_of(tmp_path / "b.zip", fleet, ALL_KEYS)

    assert report.remarks == () and tone(report) == "good"
    assert verdict_words(report) == "proven" and report_json(report)["pinned"] is True
    assert "NO: compare it" not in section_of(lay_out(report), "keys")


# --- as of when -------------------------------------------------------------------------


def test_the_headline_says_as_of_when_it_holds(fleet: BundleSource, tmp_path: Path) -> None:
    """Of the last confirmed state; of several ledgers the one that has waited longest."""
    report = report_of(tmp_path / "b.zip", fleet, ALL_KEYS)
    earliest = min(
        max(min(one.at, one.head.at) for one in ledger.witnessed) for ledger in fleet.gateways
    )

    assert report.as_of == earliest
    assert lay_out(report).headline == "The ledgers prove the guarantee as of 2026-09-22 02:14 UTC"
    assert report_json(report)["as_of_utc"].startswith("2026-09-22T02:14:")
    assert "2026-09-22 02:14" in texts(lay_out(report_of(tmp_path / "b.zip", fleet)))


def test_integrity_says_what_is_caught_and_what_is_not(fleet: BundleSource, tmp_path: Path) -> None:
    told = section_of(lay_out(report_of(tmp_path / "b.zip", fleet)), "integrity")

    assert "in this same bundle" in told and "What nothing in a bundle can show" in told
    assert "ask for a newer bundle" in told


def standing(source: BundleSource, **lag: Any) -> dict[str, Any]:
    """What a coordinator says of each ledger; of the first with `lag`."""
    lines = [
        {
            "gateway": one.gateway,
            "name": one.name,
            "entries": len(one.entries),
            "beyond_gap": 0,
            "announced": None,
            "witnessed": len(one.entries),
            "missing": 0,
            "lag": "",
        }
        for one in source.gateways
    ]
    return {"standing": {"gateways": [{**lines[0], **lag}, *lines[1:]]}}


def test_a_ledger_that_lags_is_never_green(fleet: BundleSource, tmp_path: Path) -> None:
    """By the exporter's own words, its numbers, or because it sent nothing at all."""
    path = tmp_path / "b.zip"
    complete = report_of(path, replace(fleet, evidence=standing(fleet)), ALL_KEYS)
    assert tone(complete) == "good" and {one.lag for one in complete.integrity} == {""}

    known = len(fleet.gateways[0].entries)
    silent = standing(fleet)
    silent["standing"]["gateways"].append(
        {**silent["standing"]["gateways"][0], "gateway": "f" * 32, "name": "site-9"}
        | {"entries": 0, "witnessed": 0, "lag": "no ledger entry is stored"}
    )
    for evidence, words in (
        (standing(fleet, lag="3 entries from number 5 on are not here yet"), "from number 5 on"),
        (standing(fleet, announced=known + 7), "7"),
        (silent, "site-9: its ledger lags: no ledger entry is stored"),
    ):
        report = report_of(path, replace(fleet, evidence=evidence), ALL_KEYS)
        document = lay_out(report)
        assert document.tone == "warn" and verdict_words(report) != "proven"
        assert words in document.sentences[0]
        own = fleet.gateways[0].gateway
        (lag,) = (one.lag for one in report.integrity if one.gateway == own)
        assert bool(lag) == (evidence is not silent)


def test_an_account_that_lacks_its_words_is_a_reservation(
    fleet: BundleSource, tmp_path: Path
) -> None:
    """What cannot be read is not taken for nothing missing."""
    evidence = standing(fleet)
    del evidence["standing"]["gateways"][0]["lag"]
    report = report_of(tmp_path / "b.zip", replace(fleet, evidence=evidence), ALL_KEYS)

    assert tone(report) == "warn" and "cannot be read" in lay_out(report).sentences[0]
    assert "cannot be read" in section_of(lay_out(report), "integrity")


def test_an_exporter_that_says_nothing_about_lags_is_not_taken_for_nothing_missing(
    fleet: BundleSource, tmp_path: Path
) -> None:
    report = report_of(tmp_path / "b.zip", fleet)

    assert {one.lag for one in report.integrity} == {None}
    assert "not said" in section_of(lay_out(report), "integrity")


def test_a_remark_of_a_kind_unknown_here_keeps_the_report_from_being_green(
    fleet: BundleSource, tmp_path: Path
) -> None:
    report = report_of(tmp_path / "b.zip", fleet, ALL_KEYS)
    remark = replace(report_of(tmp_path / "b.zip", fleet).remarks[0], kind="quite-new", what="odd")
    report = replace(report, remarks=(remark,))

    assert tone(report) == "warn" and verdict_words(report) == "proven, with reservations"
    assert lay_out(report).sentences[0] == (
        "With reservations: odd. See Findings, also for what to do."
    )


# --- rejected and unproven --------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"no zip at all", id="no zip"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: data.replace(b'"window":1', b'"window":2'), id="changed byte"),
    ],
)
def test_a_rejected_bundle_affirms_nothing_in_any_file(
    fleet: BundleSource, tmp_path: Path, damage: Damage
) -> None:
    """And names the file's own hash, which can always be computed."""
    path = tmp_path / "b.zip"
    write_bundle(path, fleet, CENTRE, AT)
    path.write_bytes(damage(path.read_bytes()))
    report = report_of_file(path)
    found = written(report, tmp_path / "r")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    record, entry = (strict(found[f"{n}.json"]) for n in ("processing-record", "registry-entry"))
    for one in (record, entry["implementation"]):
        assert one["verification"]["verdict"] == "rejected"
        assert one["verification"]["bundle_sha256"] == sha256
    assert record["security_measures"] == record["purposes"] == NOT_AFFIRMED
    assert record["bounds_by_the_ledgers"] == NOT_AFFIRMED
    assert entry["privacy_loss"] == entry["accounting"] == NOT_AFFIRMED
    assert entry["implementation"]["security"] == entry["deployment_model"] == NOT_AFFIRMED
    assert strict(found["compliance.json"])["bundle_sha256"] == sha256
    page = found["compliance.html"].replace("<wbr>", "")
    assert sha256 in page and "not readable" in page
    for text in found.values():
        assert "second nan" not in text
        assert "noise is drawn" not in text and "epsilon at most" not in text


def test_a_ledger_that_deviates_affirms_nothing_either(fleet: BundleSource, tmp_path: Path) -> None:
    """Though the bundle's index could be read."""
    ledger = fleet.gateways[0]
    cut = replace(ledger, entries=ledger.entries[:-1])
    report = report_of(tmp_path / "b.zip", replace(fleet, gateways=(cut, *fleet.gateways[1:])))
    record = processing_record(report)

    assert record["security_measures"] == NOT_AFFIRMED
    assert record["verification"]["verdict"] == "rejected" and record["verification"]["deviation"]
    assert registry_entry(report)["privacy_unit"] == NOT_AFFIRMED
    assert report.as_of is None and "as of" not in lay_out(report).headline


def test_an_unproven_bound_is_called_that_where_it_is_repeated(tmp_path: Path) -> None:
    report = report_of(tmp_path / "b.zip", play_fleet(tmp_path, gateways=1, unwitnessed=3))
    record = processing_record(report)
    bounds = record["bounds_by_the_ledgers"]

    assert bounds and all(text.startswith("claimed and NOT proven") for text in bounds)
    assert record["verification"]["verdict"] == "unproven"
    assert registry_entry(report)["implementation"]["verification"]["verdict"] == "unproven"


def test_numbers_that_json_does_not_have_never_get_into_a_file(
    fleet: BundleSource, tmp_path: Path
) -> None:
    report = report_of(tmp_path / "b.zip", fleet)
    odd = float("nan")
    report = replace(
        report,
        made_at=float("inf"),
        exposure={1: float("inf"), 2: odd},
        releases=({**report.releases[0], "privacy": {"epsilon": odd}},),
    )
    for name, text in written(report, tmp_path / "r").items():
        if name.endswith(".json"):
            strict(text)


def test_a_file_that_is_gone_has_no_hash(tmp_path: Path, fleet: BundleSource) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(b"x")
    report = report_of_file(path, file=tmp_path / "gone.zip")

    assert report.bundle_sha256 == "" and "not readable" in texts(lay_out(report))


def test_the_command_says_it_too(
    fleet: BundleSource, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    """On stderr for people, as a field for programs."""
    path = tmp_path / "b.zip"
    write_bundle(path, fleet, CENTRE, AT)
    status, _, err = run("report", path, "--out", tmp_path / "r", "--format", "csv")
    assert status == 0 and err.splitlines()[-1] == f"fedge: {CONDITION}"

    _, out, _ = run("report", path, "--out", tmp_path / "r", "--format", "csv", "--json")
    said = json.loads(out)
    assert said["verdict"] == CONDITION and said["pinned"] is False and said["as_of"] > 0


# --- what ledgers leave out -------------------------------------------------------------


def test_what_a_ledger_leaves_out_is_said_wherever_protection_is(
    escalated: BundleSource, tmp_path: Path
) -> None:
    """In the verdict's box, in who sees what, and in both exports; they name the same things."""
    report = report_of(tmp_path / "b.zip", escalated)
    document, found = lay_out(report), written(report, tmp_path / "r")

    assert report.excluded == {"escalation": 1, "sketches": 1}
    assert document.tone == "warn" and "with reservations" in document.headline
    assert any("un-noised, to a larger model's server" in text for text in document.sentences)
    trust = section_of(document, "trust")
    assert "The server of the larger model" in trust and "exact sketches" in trust
    record, entry = (strict(found[f"{n}.json"]) for n in ("processing-record", "registry-entry"))
    assert any("single records, un-noised" in text for text in record["recipients"])
    actors = {one["who"] for one in entry["deployment_model"]["actors"]}
    assert "The server of the larger model" in actors
    for said in (entry["deployment_model"]["model"], *entry["unprotected_quantities"][-2:]):
        assert "un-noised" in said or "sketches" in said
    kept = [text for text in record["security_measures"] if "records stay on the gateway" in text]
    assert kept and all("un-noised" in text for text in kept)
    assert entry["implementation"]["security"] == record["security_measures"]


def test_nothing_says_that_all_is_noised_where_it_is_not(
    escalated: BundleSource, fleet: BundleSource, tmp_path: Path
) -> None:
    claims = ("every payload is noised", "before anything leaves it")
    with_it = written(report_of(tmp_path / "b.zip", escalated), tmp_path / "a")
    without = written(report_of(tmp_path / "b.zip", fleet), tmp_path / "b")

    for claim in claims:
        assert not any(claim in text.lower() for text in with_it.values())
        assert any(claim in text.lower() for text in without.values())


def test_of_records_that_are_sent_on_the_coordinator_s_row_says_no_more_than_is_true() -> None:
    """With escalation alone it speaks of payloads to the coordinator, and names who else sees."""
    rows = {who: protection for who, _, protection in who_sees_what({"escalation"})}

    assert rows["The coordinator (central server)"].startswith(
        "Every payload to the coordinator is"
    )
    assert rows["The server of the larger model"].startswith("None from this bound")
    assert len(who_sees_what(())) == len(rows) - 1


# --- audits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "words"),
    [(None, "No audit evidence came"), (5.0, "the 1 audit below, passed"), (9.0, "only 0 passed")],
)
def test_what_shows_that_noise_was_drawn_is_what_came_with_the_bundle(
    fleet: BundleSource, tmp_path: Path, bound: float | None, words: str
) -> None:
    audits = []
    if bound is not None:
        case = AuditedCase(name="as it is", seeded_bug=False, counted_epsilon=bound)
        audits.append(
            AuditEvidence(
                kind="one-run",
                at=AT,
                versions={},
                task="toy",
                runs=1,
                canaries=100,
                claimed_epsilon=8.0,
                delta=1e-5,
                confidence=0.95,
                cases=(case,),
            )
        )
    report = report_of(tmp_path / "b.zip", with_evidence(fleet, audits=audits))

    assert words in section_of(lay_out(report), "guarantee")
