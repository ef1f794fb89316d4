"""Who reads a report learns what is left, whom to trust, and what to do about each finding."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.ledger_fleet import (
    CENTRE,
    fleet_policy,
    play_fleet,
    played_gateway,
    run_spec,
    training_plan,
)
from fakes.reports import report_of, report_of_file, section_of, texts
from hypothesis import given
from hypothesis import strategies as st

from fedge.errors import QuotaExceededError
from fedge.records import BlockLength, PrivacyPolicy, Quota
from fedge.review.budget import block_budgets
from fedge.review.bundle import write_bundle
from fedge.review.prices import price_run, runs_in_fresh_block
from fedge.review.report.advice import ADVICE, REJECTED, SIMULATED, UNKNOWN, what_to_do
from fedge.review.report.budget_sections import MOST_BLOCKS, budget_section
from fedge.review.report.differences import difference_words
from fedge.review.report.document import Document, Grid
from fedge.review.report.exports import processing_record, registry_entry
from fedge.review.report.headroom import fits_words, headroom_words
from fedge.review.report.layout import lay_out
from fedge.review.report.letters import drawable
from fedge.review.report.model import ClassAccuracy, ComplianceReport
from fedge.review.report.plots import budget_bars
from fedge.review.report.tables import csv_files
from fedge.review.report.trust_words import trusted, unprotected
from fedge.review.source import BundleSource

PURPOSES = ("training", "evaluation")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    return play_fleet(tmp_path_factory.mktemp("played"))


@pytest.fixture(scope="module")
def report(fleet: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> ComplianceReport:
    return report_of(tmp_path_factory.mktemp("bundle") / "b.zip", fleet)


@pytest.fixture(scope="module")
def document(report: ComplianceReport) -> Document:
    return lay_out(report)


# --- what to do -------------------------------------------------------------------------


def test_every_finding_says_what_to_do(tmp_path: Path) -> None:
    """In the table for people and in the spreadsheet; the verdict's box points there."""
    source = play_fleet(tmp_path, gateways=1, approved=False, unwitnessed=3)
    report = report_of(tmp_path / "b.zip", source)
    document = lay_out(report)
    kinds = {one.kind for one in report.remarks}
    table = csv_files(report)["compliance-findings.csv"].decode()
    rows = list(csv.DictReader(io.StringIO(table)))[1:]

    assert {"unwitnessed-entries", "unsigned-policy", "unpinned"} <= kinds <= set(ADVICE)
    told = section_of(document, "findings")
    assert all(ADVICE[kind] in told for kind in kinds)
    assert [row["what_to_do"] for row in rows] == [what_to_do(one) for one in report.remarks]
    assert any("also for what to do" in text for text in document.sentences)


def test_a_finding_of_a_kind_unknown_here_is_to_be_explained(report: ComplianceReport) -> None:
    assert what_to_do(replace(report.remarks[0], kind="quite-new")) == UNKNOWN


def test_a_rejected_bundle_says_where_and_what_to_do(fleet: BundleSource, tmp_path: Path) -> None:
    """The place, too, stands in the files for programs: half a sentence helps nobody."""
    first, *others = fleet.gateways
    *kept, last, lost = first.entries
    swapped = replace(first, entries=(*kept, lost, last))
    report = report_of(tmp_path / "b.zip", replace(fleet, gateways=(swapped, *others)))

    assert report.deviation is not None and report.deviation.entry is not None
    place = f"{report.deviation.name}, entry {report.deviation.entry}: "
    said = processing_record(report)["verification"]["deviation"]
    assert said == place + report.deviation.what
    assert REJECTED in texts(lay_out(report))


def test_a_staging_fleet_s_bundle_sends_to_the_production_s(
    fleet: BundleSource, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "b.zip", replace(fleet, simulated=True), CENTRE, 1_790_300_000.0)
    report = report_of_file(tmp_path / "b.zip")
    assert report.deviation is not None
    report = replace(report, deviation=replace(report.deviation, kind="simulated"))

    assert SIMULATED in texts(lay_out(report))


# --- what is left -----------------------------------------------------------------------


def quota_policy(share: float, task: str) -> PrivacyPolicy:
    quotas = (Quota(purpose="training", task=task, share=share),)
    return fleet_policy().model_copy(update={"quotas": quotas})


@pytest.mark.parametrize(("task", "counts"), [("digits", True), ("*", True), ("other", False)])
def test_no_more_retrainings_are_promised_than_quotas_allow(
    tmp_path: Path, task: str, counts: bool
) -> None:
    """As often as the price says the ledger takes it, and then no more."""
    plan = training_plan(noise_multiplier=64.0)
    policy = quota_policy(0.25, task)
    with played_gateway(tmp_path, policy=policy) as one:
        one.ledger.open_block(0)
        fresh = runs_in_fresh_block(policy, plan.events, PURPOSES, "digits")
        for number in range(2):
            one.run(run_spec(number + 1, (0,), plan), (0,))
        budgets = block_budgets(one.exported())
        (price,) = price_run(budgets, plan.events, PURPOSES, "digits")
        (unlimited,) = price_run(budgets, plan.events)
        assert price.fits == fresh - 2 and (price.fits < unlimited.fits) is counts
        if counts:
            for number in range(2, fresh):
                one.run(run_spec(number + 1, (0,), plan), (0,))
            with pytest.raises(QuotaExceededError):
                one.run(run_spec(fresh + 1, (0,), plan), (0,))


def test_the_report_counts_with_quotas_and_names_them(tmp_path: Path) -> None:
    with played_gateway(tmp_path, policy=quota_policy(0.4, "digits")) as one:
        one.ledger.open_block(0)
        one.window(0, 0)
        one.run(run_spec(1, (0,)), (0,))
        source = BundleSource(
            made_by="coordinator",
            simulated=False,
            witness_key=CENTRE.public_key.hex(),
            gateways=(one.exported(),),
        )
    report = report_of(tmp_path / "b.zip", source)
    (found,) = report.projections

    assert dict(found.fits) == {0: 0} and found.fresh == 1
    assert "quota of 40 % of the cap for training of digits" in section_of(
        lay_out(report), "policies"
    )


def test_the_verdict_s_box_says_how_many_retrainings_are_left(
    report: ComplianceReport, document: Document
) -> None:
    said = headroom_words(report)

    assert said.startswith("Left for retraining: of 9 blocks, 8 have room for another one")
    assert said in document.sentences


@given(st.dictionaries(st.integers(0, 60), st.integers(0, 4), min_size=1))
def test_no_block_is_left_out_of_what_still_fits(fits: dict[int, int]) -> None:
    """Neighbours with the same count stand together, early ones with their smallest count."""
    told = fits_words(fits)
    named = [part.partition(": ")[0].split()[-1] for part in told.split(", ")]

    assert named[-1] == str(max(fits)) and len(named) <= 7
    if told.startswith("of blocks"):
        last = int(named[0])
        early = [count for block, count in fits.items() if block <= last]
        assert f"of blocks {min(fits)} to {last}: {min(early)}" in told


def test_where_blocks_are_cut_every_gateway_still_has_a_row(
    report: ComplianceReport,
) -> None:
    """Its worst block, and how little is left of the one with least."""
    first, *others = report.blocks
    many = tuple(
        replace(first, budget=replace(first.budget, block=number))
        for number in range(MOST_BLOCKS + 5)
    )
    section = budget_section(replace(report, blocks=(*many, *others)))
    blocks, gateways = (one for one in section.blocks if isinstance(one, Grid))

    assert blocks.hidden == len(many) + len(others) - MOST_BLOCKS
    assert {row[0] for row in blocks.rows} == {first.budget.name}
    assert {row[0] for row in gateways.rows} == {one.name for one in report.integrity}
    own = next(row for row in gateways.rows if row[0] == first.budget.name)
    left = math.floor(10_000 * first.budget.remaining_nano / first.budget.cap_nano) / 100
    assert own[4] == f"{left:.2f} %"


def test_a_table_for_people_has_the_spreadsheet_s_numbers(
    report: ComplianceReport, document: Document
) -> None:
    """Parts of the cap, rounded the same way."""
    (section,) = (one for one in document.sections if one.anchor == "budget")
    (grid,) = (one for one in section.blocks if isinstance(one, Grid))
    rows = csv.DictReader(io.StringIO(csv_files(report)["compliance-blocks.csv"].decode()))

    for shown, row in zip(grid.rows, rows, strict=True):
        cells = dict(zip(grid.heads, shown, strict=True))
        assert cells["epsilon spent"] == row["epsilon_spent"]
        assert cells["verifier"] == row["epsilon_recomputed"]
        for head, column in (
            ("monitoring", "monitoring"),
            ("retraining", "training"),
            ("remaining", "remaining"),
        ):
            assert cells[head] == f"{row[f'{column}_percent_of_cap']} %"


# --- whom to trust, what is not covered -------------------------------------------------


def test_whom_to_trust_stands_in_the_report_and_in_the_registry(
    report: ComplianceReport, document: Document
) -> None:
    told = section_of(document, "trust")

    assert all(text in told for text in trusted(()))
    assert registry_entry(report)["deployment_model"]["trusted_parties"] == list(trusted(()))
    assert any("larger model" in text for text in trusted({"escalation"}))


def test_what_the_unit_does_not_cover_is_said() -> None:
    """Several records of a person under a bound on records; records that name no subject."""
    records = fleet_policy()
    subjects = records.model_copy(update={"unit": "subject", "max_records": 5})

    assert any("several records in a block" in text for text in unprotected(records, {}, ""))
    assert any("without a subject's id" in text for text in unprotected(subjects, {}, ""))
    for policy in (records, subjects):
        assert any("which gateways take part" in text for text in unprotected(policy, {}, ""))


def test_a_block_of_windows_is_said_as_that(tmp_path: Path) -> None:
    """With how many records of a subject count."""
    policy = fleet_policy().model_copy(
        update={"unit": "subject", "max_records": 5, "block": BlockLength(kind="windows", value=9)}
    )
    with played_gateway(tmp_path, policy=policy) as one:
        source = BundleSource(
            made_by="coordinator",
            simulated=False,
            witness_key=CENTRE.public_key.hex(),
            gateways=(one.exported(),),
        )
    report = report_of(tmp_path / "b.zip", source)
    document = lay_out(report)
    told = section_of(document, "policies")

    assert "subject (at most 5 records)" in told and "9 full windows" in told
    assert any("nothing yet that could be proven" in text for text in document.sentences)


# --- letters and digits -----------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_names_in_any_script_are_told_apart_in_pictures_and_on_paper(
    report: ComplianceReport,
) -> None:
    """The font there has no such letters: the same empty boxes would stand for all of them."""
    tokyo, osaka = "\u6771\u4eac\u5de5\u5834", "\u5927\u962a\u5de5\u5834"
    first, second = (
        replace(line, budget=replace(line.budget, name=name))
        for line, name in zip(report.blocks, (tokyo, osaka), strict=False)
    )

    assert drawable(tokyo).startswith("[U+6771]") and drawable(tokyo) != drawable(osaka)
    assert drawable("Werk \u00e9 \u03b5") == "Werk \u00e9 \u03b5"
    pictures = {budget_bars((one,), "").png for one in (first, second)}
    assert len(pictures) == 2


@pytest.mark.parametrize(
    ("private", "nonprivate", "rows", "words"),
    [
        (0.5, 0.5, 100, "+0.0 points"),
        (0.9431, 0.9686, 510, "-2.5 points (-5.2 to -0.002)"),
    ],
)
def test_a_range_that_ends_near_0_says_on_which_side(
    private: float, nonprivate: float, rows: int, words: str
) -> None:
    one = ClassAccuracy(label="7", rows=rows, stale=None, private=private, nonprivate=nonprivate)

    assert difference_words(one).startswith(words)
    assert "-0.0 " not in difference_words(one) and "-0.0)" not in difference_words(one)
