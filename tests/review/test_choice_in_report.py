"""What a reviewer is told about how the adapter of each release was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.choices import choice_of, tried
from fakes.honest_bundle import (
    CENTRE,
    OTHER,
    OWN,
    RUN,
    lived,
    policy_of,
    site,
    source_of,
)

from fedge.config import ServerSettings
from fedge.errors import StateError
from fedge.privacy.policy import write_policy
from fedge.records import AdapterChoice, canonical
from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.evidence import CHOICE
from fedge.review.report.build import build_report
from fedge.review.report.document import Grid, Paragraph
from fedge.review.report.exports import registry_entry
from fedge.review.report.files import report_json, write_report
from fedge.review.report.layout import lay_out
from fedge.review.report.model import ComplianceReport
from fedge.review.report.words import percent
from fedge.review.source import BundleSource
from fedge.review.verifier import verify_bundle
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.objects import ObjectStore
from fedge_server.review import collect_fleet

AT = 1_700_001_000.0
CHOSEN = choice_of(policy_of(3.0), tried(RUN.plan, 0.7, 0.9))
MakeReport = Callable[[BundleSource], ComplianceReport]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    """Two gateways, one run; nothing says what chose its adapter."""
    folder = tmp_path_factory.mktemp("sites")
    sites = [site(folder, who) for who in (OWN, OTHER)]
    source = source_of(sites, [lived(one) for one in sites])
    for one in sites:
        one.state.close()
    return source


@pytest.fixture
def make(tmp_path: Path) -> MakeReport:
    def make(source: BundleSource) -> ComplianceReport:
        path = tmp_path / "bundle.zip"
        write_bundle(path, source, CENTRE, AT)
        verdict = verify_bundle(path)
        assert verdict.accepted, verdict.deviations
        return build_report(read_bundle(path), verdict, verified_at=AT, estimate=False)

    return make


def named(source: BundleSource, sha256: str, *studies: AdapterChoice) -> BundleSource:
    """The same, where the run names this choice and the exporter adds these studies."""
    runs = tuple(
        replace(run, spec=run.spec.model_copy(update={"choice_sha256": sha256}))
        for run in source.runs
    )
    found = {f"{CHOICE}{one.content_sha256[:16]}": one.model_dump(mode="json") for one in studies}
    return replace(source, runs=runs, evidence={**source.evidence, **found})


def told(report: ComplianceReport) -> tuple[list[str], list[str]]:
    """What the section on releases says of each, and below."""
    (section,) = (one for one in lay_out(report).sections if one.anchor == "releases")
    (grid,) = (block for block in section.blocks if isinstance(block, Grid))
    column = grid.heads.index("adapter, and what chose it")
    below = [block.text for block in section.blocks if isinstance(block, Paragraph)]
    return [row[column] for row in grid.rows], below


def test_a_release_whose_choice_nobody_recorded_says_so(
    make: MakeReport, honest: BundleSource
) -> None:
    """Of bundles of earlier versions, too; the first release trained no adapter."""
    report = make(honest)
    cells, below = told(report)

    assert cells == ["none was trained", "input, choice not recorded"]
    assert below == []
    said = registry_entry(report)["accounting"]["hyperparameters"]
    assert said == ["digits 2: input, choice not recorded"]


def test_the_study_is_named_with_its_figures(make: MakeReport, honest: BundleSource) -> None:
    """By the hash that the run named before it trained, with yardstick, budget and versions."""
    report = make(named(honest, CHOSEN.content_sha256, CHOSEN))
    cells, below = told(report)

    assert cells[1] == f"input, study {CHOSEN.content_sha256[:16]}"
    (sentence,) = below
    shares = percent(0.8), percent(0.3)
    for part in (CHOSEN.content_sha256[:16], *shares, "epsilon 3", "fedge 0.1.0", "2026"):
        assert part in sentence
    assert report_json(report)["releases"][1]["study"] == CHOSEN.summary()
    assert report.verdict == "proven"
    (said,) = registry_entry(report)["accounting"]["hyperparameters"]
    assert said == f"digits 2: {cells[1]}, made on public data alone"


def test_another_study_than_the_named_one_is_not_believed(
    make: MakeReport, honest: BundleSource
) -> None:
    """What an exporter puts under the name of a study must have its hash."""
    other = choice_of(policy_of(3.0), tried(RUN.plan, 0.99, 0.99))
    source = named(honest, CHOSEN.content_sha256, other)
    evidence: dict[str, Any] = {
        **source.evidence,
        f"{CHOICE}{CHOSEN.content_sha256[:16]}": other.model_dump(mode="json"),
        f"{CHOICE}0": {"no": "study"},
    }
    cells, below = told(make(replace(source, evidence=evidence)))

    assert cells[1].endswith("which is not in the bundle")
    assert below == []


def test_a_study_that_chose_something_else_is_pointed_out(
    make: MakeReport, honest: BundleSource
) -> None:
    wrong = choice_of(
        policy_of(3.0), tried(RUN.plan, 0.7, 0.9).model_copy(update={"adapter": "head"})
    )
    cells, _ = told(make(named(honest, wrong.content_sha256, wrong)))

    assert "DOES NOT FIT" in cells[1] and "adapter is input, the study chose head" in cells[1]


@pytest.mark.parametrize("sha256", ["", "zz" * 32, "AB" * 32, "ab" * 31], ids=str)
def test_what_is_no_hash_is_rejected(honest: BundleSource, tmp_path: Path, sha256: str) -> None:
    """The second implementation takes a named choice in one form only."""
    path = tmp_path / "bundle.zip"
    write_bundle(path, named(honest, sha256), CENTRE, AT)
    verdict = verify_bundle(path)

    assert not verdict.accepted and "spec is out of range" in verdict.deviations[0].what


def test_every_format_holds_it(make: MakeReport, honest: BundleSource, tmp_path: Path) -> None:
    report = make(named(honest, CHOSEN.content_sha256, CHOSEN))
    write_report(report, tmp_path / "report")

    for name in ("compliance.html", "compliance.json"):
        assert CHOSEN.content_sha256[:16] in (tmp_path / "report" / name).read_text()
    assert (tmp_path / "report" / "compliance.pdf").stat().st_size > 0


# --- what the centre puts in ------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    write_policy(policy_of(3.0), tmp_path / "policy.toml")
    settings = init_server(tmp_path / "host", policy=tmp_path / "policy.toml")
    with Database(settings.database) as database:
        Facts(database, lambda: 1.0).create_run(
            RUN.model_copy(update={"choice_sha256": CHOSEN.content_sha256})
        )
        yield database


def exported(tmp_path: Path, database: Database) -> BundleSource:
    settings = ServerSettings.load(tmp_path / "host" / "server.toml")
    return collect_fleet(settings, database, CENTRE).source


def test_the_centre_adds_the_studies_that_its_runs_name(tmp_path: Path, database: Database) -> None:
    """As they are stored, so that the hash holds; one that is gone is left out."""
    assert not any(name.startswith(CHOICE) for name in exported(tmp_path, database).evidence)

    objects = ObjectStore(tmp_path / "host" / "data" / "objects")
    objects.put(f"choices/{CHOSEN.content_sha256}.json", CHOSEN.to_bytes())
    source = exported(tmp_path, database)

    assert source.runs[0].spec.choice_sha256 == CHOSEN.content_sha256
    found = source.evidence[f"{CHOICE}{CHOSEN.content_sha256[:16]}"]
    assert canonical(found) == CHOSEN.to_bytes()


def test_a_stored_study_that_was_changed_is_an_error(tmp_path: Path, database: Database) -> None:
    objects = ObjectStore(tmp_path / "host" / "data" / "objects")
    objects.put(f"choices/{CHOSEN.content_sha256}.json", CHOSEN.to_bytes() + b" ")

    with pytest.raises(StateError, match="other bytes"):
        exported(tmp_path, database)
