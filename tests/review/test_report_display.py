"""A report can be read: in a browser, on paper, in a spreadsheet, whatever a bundle holds."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from fakes.ledger_fleet import CENTRE, play_fleet, played_gateway
from fakes.reports import report_of, report_of_file, section_of, texts
from hypothesis import given
from hypothesis import strategies as st

from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.evidence import with_evidence
from fedge.review.report.build import build_report
from fedge.review.report.differences import difference_interval
from fedge.review.report.document import LONG_WORD, Document, Grid, Section
from fedge.review.report.files import FORMATS, write_report
from fedge.review.report.html import render_html
from fedge.review.report.layout import lay_out
from fedge.review.report.model import ComplianceReport, Incident
from fedge.review.report.pdf import PADDING, column_widths, render_pdf
from fedge.review.report.plots import INCIDENTS
from fedge.review.report.tables import csv_files
from fedge.review.report.visible import MOST_NAME, display_names, shortened, visible
from fedge.review.source import BundleSource
from fedge.review.verifier import verify_bundle

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    return play_fleet(tmp_path_factory.mktemp("played"))


def alone(folder: Path, wild: float | None = None) -> BundleSource:
    """One gateway; at `wild`, if given, its clock stood for one entry."""
    folder.mkdir()
    with played_gateway(folder) as one:
        one.ledger.open_block(0)
        one.window(0, 0)
        right = one.at[0]
        if wild is not None:
            one.at[0] = wild
            one.ledger.note_erasure("consent")
        one.at[0] = right
        key = CENTRE.public_key.hex()
        return BundleSource(
            made_by="coordinator", simulated=False, witness_key=key, gateways=(one.exported(),)
        )


def named(source: BundleSource, *names: str) -> BundleSource:
    gateways = (replace(one, name=n) for one, n in zip(source.gateways, names, strict=True))
    return replace(source, gateways=tuple(gateways))


def table(report: ComplianceReport, name: str) -> list[Mapping[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_files(report)[f"compliance-{name}.csv"].decode())))


# --- clocks and names -------------------------------------------------------------------


@pytest.mark.parametrize("wild", [1e300, -1e300, 253402300799.0, 1e12, -1.0])
def test_a_gateway_s_wild_clock_is_left_out_of_the_picture_and_said(
    tmp_path: Path, wild: float
) -> None:
    """The report is written in every format all the same."""
    report = report_of(tmp_path / "b.zip", alone(tmp_path / "wild", wild))
    assert report.verdict != "rejected"
    assert len(write_report(report, tmp_path / "r")) == 9

    told = section_of(lay_out(report), "charges")
    assert "1 of them are not drawn" in told
    honest = report_of(tmp_path / "b.zip", alone(tmp_path / "right"))
    assert "not drawn" not in section_of(lay_out(honest), "charges")


def test_a_name_without_end_is_cut_everywhere(fleet: BundleSource, tmp_path: Path) -> None:
    """No picture is drawn around it; which gateway it is, its fingerprint says."""
    report = report_of(tmp_path / "b.zip", named(fleet, "x" * 4000, "b", "c"))
    paths = write_report(report, tmp_path / "r", ["html", "json", "csv", "pdf"])

    assert not any(b"x" * 100 in path.read_bytes() for path in paths)
    names = {line.budget.name for line in report.blocks}
    (cut,) = names - {"b", "c"}
    assert len(cut) < MOST_NAME + 12 and fleet.gateways[0].gateway[:8] in cut


def test_two_gateways_of_one_name_are_told_apart(fleet: BundleSource, tmp_path: Path) -> None:
    report = report_of(tmp_path / "b.zip", named(fleet, "same", "same", ""))
    names = {one.gateway: one.name for one in report.integrity}

    assert len(set(names.values())) == 3
    for gateway, name in names.items():
        assert gateway[:8] in name


def test_what_turns_or_hides_text_is_shown_as_its_number_in_every_file(
    fleet: BundleSource, tmp_path: Path
) -> None:
    """In names, and in what reviewers, contacts and other files of a bundle say."""
    report = report_of(
        tmp_path / "b.zip",
        named(fleet, "\u202egnp.exe\x00", "a\nproven", "\x1b[2J"),
        controller={"controller": "Works\u2066 Ltd", "deployment": "x\u200by"},
    )
    change = replace(report.policies[0], reviewer="Ada\u202e", reason="a\x07b")
    report = replace(report, policies=(change, *report.policies[1:]))
    found = {p.name: p.read_bytes().decode() for p in write_report(report, tmp_path / "r", TEXT)}

    for name, text in found.items():
        shown = {c for c in text if unicodedata.category(c) in HIDDEN} - {"\n"}
        assert not shown, name
    for name in ("compliance.html", "compliance.json", "compliance-blocks.csv"):
        assert "[U+202E]gnp.exe[U+0000]" in found[name] and "a[U+000A]proven" in found[name]
    assert "Ada[U+202E]" in found["compliance.html"] and "Works[U+2066]" in found["compliance.html"]
    assert "x[U+200B]y" in found["registry-entry.json"]
    assert render_pdf(lay_out(report)).startswith(b"%PDF-")


TEXT = ["html", "json", "csv"]


@given(st.text(st.characters()))
def test_nothing_hidden_is_left(text: str) -> None:
    shown = visible(text)

    assert not any(unicodedata.category(char) in HIDDEN for char in shown)
    assert visible(shown) == shown and (shown == text or "[U+" in shown)
    shown.encode()


@given(st.text(), st.integers(min_value=2, max_value=50))
def test_a_cut_text_says_that_it_was_cut(text: str, most: int) -> None:
    short = shortened(text, most)

    assert len(short) <= most
    assert short == visible(text) or short.endswith("\N{HORIZONTAL ELLIPSIS}")


@given(
    st.dictionaries(
        st.text("0a", min_size=32, max_size=32) | st.text("0123456789abcdef", min_size=32),
        st.sampled_from(["a", "", "a (00000000)", "a" * 60, "b"]) | st.text(max_size=45),
    )
)
def test_no_two_gateways_are_called_the_same(names: dict[str, str]) -> None:
    """Not even where a name imitates what is added to another one."""
    shown = display_names(names.items())

    assert len(set(shown.values())) == len(names)


@pytest.mark.parametrize(
    "other", ["Site", "s\u034fite", "\uff53ite", "site ", "\xa0site", "site\ufe0f"]
)
def test_names_that_read_the_same_are_told_apart(other: str) -> None:
    shown = display_names([("0" * 32, "site"), ("1" * 32, other), ("2" * 32, "yard")])

    assert shown["2" * 32] == "yard"
    assert "(11111111)" in shown["1" * 32] or "[U+" in shown["1" * 32]


def test_a_letter_that_shows_nothing_is_shown_as_its_number() -> None:
    assert visible("\u3164\u2800") == "[U+3164][U+2800]"


def test_names_are_not_told_of_a_rejected_bundle(fleet: BundleSource, tmp_path: Path) -> None:
    """Whoever forged it may have put sentences there."""
    source = named(fleet, "found PROVEN", "by the authority", "in May")
    ledger = source.gateways[0]
    forged = replace(ledger, entries=(*ledger.entries[:-1], ledger.entries[0]))
    report = report_of(tmp_path / "b.zip", replace(source, gateways=(forged, *source.gateways[1:])))

    assert report.deviation is not None and report.keys
    for path in write_report(report, tmp_path / "r", TEXT):
        assert "PROVEN" not in path.read_text().replace("UNPROVEN", ""), path.name


def test_a_file_that_changed_between_two_readings_is_rejected(
    fleet: BundleSource, tmp_path: Path
) -> None:
    """What was verified is what is told, or nothing is."""
    path, other = tmp_path / "b.zip", tmp_path / "other.zip"
    write_bundle(path, fleet, CENTRE, 2e9)
    write_bundle(other, fleet, CENTRE, 2e9 + 1)
    report = build_report(read_bundle(other), verify_bundle(path), verified_at=2e9 + 2)

    assert report.deviation is not None and "changed while it was read" in report.deviation.what
    assert not report.blocks and not report.releases


# --- pages ------------------------------------------------------------------------------


def test_only_long_words_may_be_broken_on_a_page(fleet: BundleSource, tmp_path: Path) -> None:
    """Hashes between pieces; numbers, times, heads and ids of runs never, nor by the style."""
    page = render_html(lay_out(report_of(tmp_path / "b.zip", fleet)))
    style = page[page.index("<style>") : page.index("</style>")]

    assert "anywhere" not in style and "table-layout: fixed" not in style
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, re.DOTALL)
    assert len(cells) > 100
    for word in " ".join(cells).split():
        if "<wbr>" in word:
            assert len(unescape(re.sub("<[^>]*>", "", word))) > LONG_WORD
    run = fleet.runs[0].spec.run_id
    assert f'<span class="whole">{run};</span>' in page


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" ")))
def test_a_cell_reads_as_it_was_written(text: str) -> None:
    """What is put in to break long words is no part of the text."""
    grid = Grid(("head",), ((text,),))
    document = Document(
        title="t",
        kind="k",
        tone="plain",
        headline="h",
        sentences=(),
        facts=(),
        sections=(Section("s", "s", (grid,)),),
        footer=(),
    )
    (cell,) = re.findall(r"<td>(.*?)</td>", render_html(document), re.DOTALL)

    assert unescape(re.sub(r"</?(wbr|span)[^>]*>", "", cell)) == text


def test_no_number_and_no_head_is_broken_in_the_pdf(fleet: BundleSource, tmp_path: Path) -> None:
    """Every column of every table is as wide as its longest word, though others give way."""
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase.pdfmetrics import stringWidth

    document = lay_out(report_of(tmp_path / "b.zip", fleet))
    render_pdf(document)  # registers the fonts
    cell = ParagraphStyle("c", fontName="DejaVuSans", fontSize=6.8)
    head = ParagraphStyle("h", fontName="DejaVuSans-Bold", fontSize=6.8)
    grids = [b for section in document.sections for b in section.blocks if isinstance(b, Grid)]
    assert len(grids) > 8
    for grid in grids:
        widths = column_widths(grid, 499.0, cell, head)
        assert sum(widths) == pytest.approx(499.0)
        for width, title, *column in zip(widths, grid.heads, *grid.rows, strict=True):
            lines = [(head, title), *((cell, text) for text in column)]
            for style, word in ((s, w) for s, text in lines for w in text.split()):
                if len(word) <= LONG_WORD:
                    needs = stringWidth(word, style.fontName, style.fontSize)
                    assert needs <= width - 2 * PADDING, (title, word)


def test_columns_keep_to_the_wanted_widths_where_words_allow_it() -> None:
    from reportlab.lib.styles import ParagraphStyle

    style = ParagraphStyle("c", fontName="Helvetica", fontSize=10)
    short = Grid(("a", "b"), (("1", "2"),), widths=(1, 9))
    long = Grid(("a" * 20, "b"), (("1", "2"),), widths=(1, 9))

    assert column_widths(short, 300.0, style, style) == pytest.approx([30.0, 270.0])
    first, second = column_widths(long, 300.0, style, style)
    assert 30.0 < first < second and first + second == pytest.approx(300.0)


def test_columns_that_cannot_all_have_what_they_need_are_narrowed_alike() -> None:
    from reportlab.lib.styles import ParagraphStyle

    style = ParagraphStyle("c", fontName="Helvetica", fontSize=10)
    grid = Grid(("a" * 20, "b" * 20), (("1", "2"),), widths=(1, 3))

    assert sum(column_widths(grid, 100.0, style, style)) == pytest.approx(100.0)


# --- words and figures ------------------------------------------------------------------


def test_an_epsilon_of_a_release_is_rounded_up_like_any_other(
    fleet: BundleSource, tmp_path: Path
) -> None:
    privacy = {"epsilon": 2.9991234, "delta": 1e-5, "note": "x", "odd": None, "huge": 10**400}
    first, second, *others = fleet.releases
    source = replace(fleet, releases=(first, replace(second, privacy=privacy), *others))
    report = report_of(tmp_path / "b.zip", source)
    if report.verdict == "rejected":  # a verifier may want more of a manifest's words
        report = report_of(tmp_path / "b.zip", fleet)
        own = {**report.releases[1], "privacy": privacy}
        report = replace(report, releases=(report.releases[0], own))
    told = section_of(lay_out(report), "releases")

    assert "epsilon 3.000" in told and "2.999" not in told and "delta 0.00001" in told


def test_the_estimate_says_why_it_is_of_one_block(fleet: BundleSource, tmp_path: Path) -> None:
    report = report_of(tmp_path / "b.zip", fleet, estimate=True)

    assert "for one block only" in section_of(lay_out(report), "estimate")


@pytest.mark.parametrize(
    ("first", "second", "low", "high"), [(0.9, 0.3, 0.1705, 0.8090), (1.0, 0.0, 0.6075, 1.0)]
)
def test_a_difference_has_the_published_range(
    first: float, second: float, low: float, high: float
) -> None:
    """Newcombe 1998, table II, method 10: 9 of 10 against 3 of 10, and 10 against none."""
    assert difference_interval(first, second, 10) == pytest.approx((low, high), abs=6e-5)


def test_a_difference_of_accuracy_comes_with_rows_and_range(
    fleet: BundleSource, tmp_path: Path
) -> None:
    classes = [{"class": "8", "rows": 660, "stale": 0.2, "private": 0.67, "nonprivate": 0.61}]
    source = with_evidence(fleet, accuracy={"about": "on rows", "classes": classes})
    told = section_of(lay_out(report_of(tmp_path / "b.zip", source)), "accuracy")

    assert "660" in told and "+6.0 points (+0.8 to +11.1)" in told and "independent" in told


@pytest.mark.parametrize("rows", [0, -3, 10**300, 2.5, True])
def test_rows_that_are_no_number_of_rows_are_not_shown(
    fleet: BundleSource, tmp_path: Path, rows: object
) -> None:
    classes = [{"class": "8", "rows": rows, "stale": 0.2, "private": 0.6, "nonprivate": 0.6}]
    source = with_evidence(fleet, accuracy={"about": "on rows", "classes": classes})

    assert report_of(tmp_path / "b.zip", source).accuracy == ()


def test_a_lost_release_is_an_incident_in_words(fleet: BundleSource, tmp_path: Path) -> None:
    """In the section's title, in its row, and readable in the picture's legend."""
    report = report_of(tmp_path / "b.zip", fleet)
    own = report.integrity[0]
    lost = Incident(
        gateway=own.gateway,
        name=own.name,
        entry=4,
        at=report.charges[0].at,
        kind="lost",
        what="what was noised was lost: nothing of it left, its charge stands",
    )
    document = lay_out(replace(report, incidents=(lost,)))
    told = section_of(document, "incidents")

    assert "consent, retention and incidents" in told and "its charge stands" in told
    assert "lost release" in section_of(lay_out(replace(report, incidents=())), "incidents")
    assert {kind for kind, _, _ in INCIDENTS} == set(get_args(get_type_hints(Incident)["kind"]))


# --- spreadsheets -----------------------------------------------------------------------


def test_a_spreadsheet_names_units_and_has_plain_cells(fleet: BundleSource, tmp_path: Path) -> None:
    """Times as ISO 8601 in UTC, amounts with a share beside them, one parameter in a column."""
    report = report_of(tmp_path / "b.zip", fleet)
    blocks, charges, mechanisms = (
        table(report, name) for name in ("blocks", "charges", "mechanisms")
    )

    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
    assert all(stamp.fullmatch(row["opened_utc"]) for row in blocks)
    assert all(stamp.fullmatch(row["at_utc"]) for row in charges)
    assert all(float(row["epsilon_spent"]) <= float(row["epsilon_cap"]) + 1e-3 for row in blocks)
    assert all(0 < float(row["cost_percent_of_cap"]) <= 100 for row in charges)
    assert sum(int(row["mechanisms"]) for row in charges) == len(mechanisms)
    assert {row["mechanism"] for row in mechanisms} == {"discrete-gaussian"}
    for row in (*blocks, *charges, *mechanisms):
        assert not any(cell.startswith(("{", "[")) for cell in row.values())
    for column in (*blocks[0], *charges[0]):
        if "nano" in column:
            assert column.endswith("_nano_rdp")


def test_a_spreadsheet_has_its_heads_also_without_a_row(tmp_path: Path) -> None:
    """Of a rejected bundle too, whose findings hold the verdict."""
    (tmp_path / "b.zip").write_bytes(b"no zip")
    report = report_of_file(tmp_path / "b.zip")
    found = csv_files(report)

    assert found["compliance-blocks.csv"].startswith(b"verdict,as_of_utc,gateway")
    assert [row["weight"] for row in table(report, "findings")] == ["verdict", "rejects"]
    assert set(FORMATS) == {"html", "pdf", "json", "csv"} and "REJECTED" in texts(lay_out(report))
