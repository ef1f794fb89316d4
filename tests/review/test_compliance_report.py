"""The report: figures are the verifier's, weaknesses stand at the top, nothing is overstated."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fakes.ledger_fleet import CENTRE, play_fleet, played_gateway
from fakes.reports import AT, MakeReport, report_of, section_of, texts

from fedge.errors import SettingError, StateError
from fedge.records import AuditedCase, AuditEvidence
from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.evidence import with_evidence
from fedge.review.report.build import build_report
from fedge.review.report.exports import TO_FILL_IN, processing_record, registry_entry
from fedge.review.report.files import FORMATS, report_json, write_report
from fedge.review.report.html import render_html
from fedge.review.report.layout import lay_out
from fedge.review.report.model import ComplianceReport
from fedge.review.report.pdf import render_pdf
from fedge.review.report.tables import csv_files
from fedge.review.source import BundleSource
from fedge.review.verifier import Verdict, verify_bundle


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    return play_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def make(tmp_path: Path) -> MakeReport:
    """The report of a source, by way of a file and the verifier."""

    def make(source: BundleSource, **more: Any) -> ComplianceReport:
        return report_of(tmp_path / "bundle.zip", source, **more)

    return make


# --- figures ----------------------------------------------------------------------------


def test_every_block_is_shown_with_both_calculations(
    make: MakeReport, source: BundleSource
) -> None:
    report = make(source)

    assert report.verdict == "proven"
    assert len(report.blocks) == 9
    assert all(line.verified_nano == line.budget.spent_nano for line in report.blocks)
    assert all(
        line.verified_epsilon == pytest.approx(line.budget.epsilon) for line in report.blocks
    )
    spent = [line.budget.epsilon for line in report.blocks]
    assert spent == sorted(spent, reverse=True)
    assert all(charge.verified_nano == charge.ledger_nano for charge in report.charges)
    assert {charge.about for charge in report.charges if charge.kind == "run"} == {"run-1", "run-2"}


def test_a_disagreement_of_the_two_calculations_rejects(
    make: MakeReport, source: BundleSource, tmp_path: Path
) -> None:
    """Neither number is believed: the report shows none of them as a fact."""
    make(source)
    path = tmp_path / "bundle.zip"
    verdict = verify_bundle(path)
    assert verdict.facts is not None
    first, *others = verdict.facts.gateways
    blocks = (
        replace(first.blocks[0], spent_nano=first.blocks[0].spent_nano - 1),
        *first.blocks[1:],
    )
    facts = replace(verdict.facts, gateways=(replace(first, blocks=blocks), *others))
    report = build_report(
        read_bundle(path), replace(verdict, facts=facts), verified_at=AT, estimate=False
    )

    assert report.verdict == "rejected" and report.blocks == ()
    assert report.deviation is not None and "calculated apart" in report.deviation.what


def test_what_still_fits_is_projected_from_the_latest_run(
    make: MakeReport, source: BundleSource
) -> None:
    by_name = {one.name: one for one in make(source).projections}

    assert by_name["site-0"].run_id == "run-2"
    assert dict(by_name["site-0"].fits) == {0: 1, 1: 0, 2: 2}
    assert dict(by_name["site-1"].fits) == {0: 1, 1: 1, 2: 2}


def test_presence_in_several_blocks_is_a_second_number(
    make: MakeReport, source: BundleSource
) -> None:
    report = make(source)
    bounds = list(report.exposure.values())

    assert report.worst is not None and bounds[0] == report.worst.budget.epsilon
    assert bounds == sorted(bounds) and set(report.exposure) == {1, 2, 5, 10, 30}
    assert "5 blocks" in section_of(lay_out(report), "guarantee")


def test_the_estimate_is_labelled_as_one(make: MakeReport, source: BundleSource) -> None:
    report = make(source, estimate=True)
    (estimate,) = report.estimates

    assert report.worst is not None
    assert 0 < estimate.epsilon < report.worst.budget.epsilon
    assert "An estimate, not a guarantee" in section_of(lay_out(report), "estimate")


# --- the verdict ------------------------------------------------------------------------


def test_entries_that_nobody_countersigned_make_it_unproven(
    make: MakeReport, tmp_path: Path
) -> None:
    """Said in the first words, with the reason, and marked where integrity is told."""
    report = make(play_fleet(tmp_path, gateways=1, unwitnessed=3))
    document = lay_out(report)

    assert report.verdict == "unproven" and document.tone == "warn"
    assert "UNPROVEN" in document.headline
    assert "not confirmed by a witness" in document.sentences[0]
    assert "claimed and not proven" in section_of(document, "guarantee")
    (integrity,) = report.integrity
    assert integrity.entries - integrity.witnessed == 3


def test_a_policy_that_nobody_signed_is_a_finding(make: MakeReport, tmp_path: Path) -> None:
    report = make(play_fleet(tmp_path, gateways=1, approved=False))

    assert any("nobody signed" in remark.what for remark in report.remarks)
    assert "nobody signed" in section_of(lay_out(report), "policies")


def test_a_rejected_bundle_shows_why_and_nothing_else(
    make: MakeReport, source: BundleSource
) -> None:
    ledger = source.gateways[0]
    cut = replace(ledger, entries=ledger.entries[:-1])
    report = make(replace(source, gateways=(cut, *source.gateways[1:])))
    document = lay_out(report)

    assert report.verdict == "rejected" and document.tone == "bad"
    assert [section.anchor for section in document.sections] == ["findings"]
    assert "confirmed head" in document.sentences[0]


def test_a_simulation_proves_nothing(make: MakeReport, source: BundleSource) -> None:
    report = make(replace(source, simulated=True))

    assert report.verdict == "rejected"
    assert report.deviation is not None and "simulation" in report.deviation.what


def test_an_accepted_bundle_must_be_handed_over(source: BundleSource, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b.zip", source, CENTRE, AT)

    with pytest.raises(ValueError, match="can be read"):
        build_report(None, verify_bundle(tmp_path / "b.zip"), verified_at=AT)


def test_a_bundle_that_cannot_be_taken_apart_still_gets_a_report() -> None:
    """Nothing is known, and the report says that instead of zero."""
    verdict = Verdict(deviations=(), findings=(), facts=None)
    report = build_report(None, verdict, verified_at=AT)

    assert report.verdict == "rejected"
    assert json.loads(json.dumps(report_json(report), allow_nan=False))["made_at"] is None
    assert "REJECTED" in render_html(lay_out(report))


# --- what is told besides ---------------------------------------------------------------


def test_incidents_are_told_and_refund_nothing(make: MakeReport, tmp_path: Path) -> None:
    with played_gateway(tmp_path) as one:
        one.ledger.open_block(0)
        one.ledger.note_erasure("erasure", asked=2)
        one.ledger.note_erasure("consent")
        one.ledger.exclude(0, "escalation")
        exported = one.exported()
    report = make(
        BundleSource(
            made_by="coordinator",
            simulated=False,
            witness_key=CENTRE.public_key.hex(),
            gateways=(exported,),
        )
    )
    told = section_of(lay_out(report), "incidents")

    assert [incident.kind for incident in report.incidents] == ["erased", "erased", "excluded"]
    assert "2 record ids" in told and "consent was withdrawn" in told and "never gives" in told
    assert "larger model" in section_of(lay_out(report), "guarantee")
    assert any("larger model" in text for text in processing_record(report)["recipients"])


def evidence(bound: float, flagged: float) -> AuditEvidence:
    return AuditEvidence(
        kind="multi-run",
        at=AT,
        versions={"fedge": "0"},
        task="toy",
        runs=100,
        canaries=1,
        claimed_epsilon=8.0,
        delta=1e-5,
        confidence=0.95,
        cases=(
            AuditedCase(name="as it is", seeded_bug=False, counted_epsilon=bound),
            AuditedCase(name="half the noise", seeded_bug=True, counted_epsilon=flagged),
        ),
    )


@pytest.mark.parametrize(
    ("bound", "flagged", "word"),
    [(5.0, 12.0, "passed"), (9.0, 12.0, "FAILED"), (5.0, 6.0, "FAILED")],
)
def test_an_audit_is_shown_with_its_outcome(
    make: MakeReport, source: BundleSource, bound: float, flagged: float, word: str
) -> None:
    """A bound above the claim fails, and so does an audit that misses its own planted bug."""
    report = make(with_evidence(source, audits=[evidence(bound, flagged)]))

    assert word in section_of(lay_out(report), "audits")
    assert report.verdict == "proven"  # the exporter's word decides nothing


def test_an_audit_that_cannot_be_read_never_passed(make: MakeReport, source: BundleSource) -> None:
    report = make(replace(source, evidence={"audit-multi-run": {"passed": True}}))

    assert report.audits[0].passed is None
    assert "not known" in section_of(lay_out(report), "audits")


def test_without_evidence_that_is_said(make: MakeReport, source: BundleSource) -> None:
    document = lay_out(make(source))

    assert "No audit evidence" in section_of(document, "audits")
    assert "Not measured" in section_of(document, "accuracy")


def test_accuracy_by_class_worst_first(make: MakeReport, source: BundleSource) -> None:
    """A class that was not measured is not shown as zero."""
    classes = [
        {"class": "eight", "rows": 40, "stale": 0.2, "private": 0.7, "nonprivate": 0.9},
        {"class": "one", "rows": 60, "stale": 0.9, "private": 0.95, "nonprivate": 0.96},
        {"class": "odd", "rows": 3, "stale": None, "private": None, "nonprivate": None},
    ]
    report = make(with_evidence(source, accuracy={"about": "on made-up rows", "classes": classes}))
    told = section_of(lay_out(report), "accuracy")

    assert [one.label for one in report.accuracy] == ["eight", "one", "odd"]
    assert "on made-up rows" in told and "-20.0 points" in told and "not measured" in told


@pytest.mark.parametrize(
    "nonsense",
    [
        {"accuracy": {"classes": [{"class": "1"}]}},
        {"accuracy": {"classes": [dict.fromkeys(("class", "rows", "stale"), 1)]}},
        {"accuracy": {"classes": 3}},
        {"controller": {"controller": [1, {"a": None}]}},
        {"audit-x": {"kind": []}},
    ],
)
def test_words_of_an_exporter_that_make_no_sense_decide_nothing(
    make: MakeReport, source: BundleSource, nonsense: dict[str, Any], tmp_path: Path
) -> None:
    """The ledgers stand by themselves; the report is written, and nothing is made up."""
    report = make(replace(source, evidence=nonsense))

    assert report.verdict == "proven" and report.accuracy == ()
    assert write_report(report, tmp_path / "r", ["html", "json", "csv"])


def test_the_record_of_processing_has_every_item_of_the_article(
    make: MakeReport, source: BundleSource
) -> None:
    """Article 30(1), letters a to g; what only the controller knows is left to the controller."""
    contacts = {"controller": {"name": "Works Ltd", "contact": "privacy@works.example"}}
    found = processing_record(make(source, controller=contacts))

    assert set(found) >= {
        *("controller", "joint_controller", "representative", "data_protection_officer"),
        *("purposes", "categories_of_data_subjects", "categories_of_personal_data"),
        *("recipients", "transfers_to_third_countries", "time_limits_for_erasure"),
        "security_measures",
    }
    assert found["controller"] == contacts["controller"]
    assert found["categories_of_data_subjects"] == TO_FILL_IN
    assert len(found["purposes"]) == 3


def test_the_registry_entry_names_what_is_not_protected(
    make: MakeReport, source: BundleSource
) -> None:
    found = registry_entry(make(source))

    assert found["privacy_loss"]["per_block"][0]["epsilon"] == 3.0
    assert "participation in runs" in found["unprotected_quantities"]
    verified = found["implementation"]["verification"]
    assert verified["verdict"] == "proven, if the keys in the bundle are the right ones"
    assert {one["purpose"] for one in found["accounting"]["mechanisms"]} == {
        *("features", "training", "evaluation")
    }


# --- files ------------------------------------------------------------------------------


def test_the_same_report_gives_the_same_files(
    make: MakeReport, source: BundleSource, tmp_path: Path
) -> None:
    report = make(source)
    first, second = (
        {path.name: path.read_bytes() for path in write_report(report, tmp_path / name)}
        for name in ("a", "b")
    )

    assert first == second
    assert {Path(name).suffix[1:] for name in first} == set(FORMATS)


def test_a_word_that_is_not_ours_to_use_appears_nowhere(
    make: MakeReport, source: BundleSource
) -> None:
    """Whether data are free of any tie to persons is a legal question, and not answered here."""
    report = make(source)
    written = [texts(lay_out(report)), json.dumps(report_json(report))]
    written += [json.dumps(processing_record(report)), json.dumps(registry_entry(report))]
    written += [data.decode() for data in csv_files(report).values()]

    assert not any(re.search("anonym", text, re.IGNORECASE) for text in written)


def test_the_page_is_complete_in_itself_and_escapes_what_it_shows(
    make: MakeReport, source: BundleSource
) -> None:
    """Names and reasons come from elsewhere; the page loads nothing and runs nothing."""
    report = make(source)
    change = replace(report.policies[0], reason="<script>alert(1)</script> & more")
    page = render_html(lay_out(replace(report, policies=(change, *report.policies[1:]))))

    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page.replace("<wbr>", "")
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)


def test_the_pdf_takes_any_text(make: MakeReport, source: BundleSource) -> None:
    """Markup in a reason is text there, too; long words are broken."""
    report = make(source)
    change = replace(report.policies[0], reason="<b>&" + "x" * 500)
    data = render_pdf(lay_out(replace(report, policies=(change,))))

    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF")


def test_a_spreadsheet_takes_no_text_for_a_formula(make: MakeReport, source: BundleSource) -> None:
    report = make(source)
    remark = replace(report.remarks[0], what="=HYPERLINK(1)")
    data = csv_files(replace(report, remarks=(remark,)))["compliance-findings.csv"].decode()

    found = [row["what"] for row in csv.DictReader(io.StringIO(data)) if row["weight"] != "verdict"]
    assert found == ["'=HYPERLINK(1)"]
    assert asdict(remark)["what"] == "=HYPERLINK(1)"


def test_every_charge_is_in_the_spreadsheet(make: MakeReport, source: BundleSource) -> None:
    """On the page alike ones share a row; here each stands by itself."""
    report = make(source)
    rows = list(csv.DictReader(io.StringIO(csv_files(report)["compliance-charges.csv"].decode())))

    assert len(rows) == len(report.charges) == 40
    assert all(row["cost_nano_rdp"] == row["recomputed_nano_rdp"] for row in rows)


def test_wrong_formats_and_full_disks_are_typed(
    make: MakeReport, source: BundleSource, tmp_path: Path
) -> None:
    report = make(source)
    with pytest.raises(SettingError, match="odt"):
        write_report(report, tmp_path, ["odt"])
    with pytest.raises(SettingError):
        write_report(report, tmp_path, [])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError):
        write_report(report, tmp_path / "file" / "deeper", ["json"])
