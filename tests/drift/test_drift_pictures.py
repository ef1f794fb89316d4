"""Pictures and pages of drift: what they show, and what must never get in."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from fakes.drifting_sites import REFERENCE, SHA, Site, gateway
from matplotlib.figure import Figure
from matplotlib.image import imread

from fedge.config import DriftSettings
from fedge.drift.fleet.monitor import FleetAssessment, assess
from fedge.drift.report import fleets, plots
from fedge.drift.report.comparing import (
    comparison_effects,
    comparison_figure,
    comparison_html,
    comparison_page,
)
from fedge.drift.report.page import MOST_ROWS, Grid
from fedge.drift.report.pictures import (
    MAX_CATEGORIES,
    EvidenceMap,
    Mark,
    histogram,
    replay_evidence,
    replay_histograms,
)
from fedge.drift.report.replaying import replay_html, replay_page
from fedge.drift.tables.compare import compare
from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.outcome import (
    Alarm,
    JudgedWindow,
    Moved,
    ReferenceFacts,
    Replay,
    WatchedColumn,
)
from fedge.drift.tables.table import Column, Table

HOSTILE = "<script>alert('x')</script>"
DOLLARS = "$\\frac{1$ and\na new line"
CANARY = 987654.321
REFERENCE_ROWS, WINDOW, WINDOWS, ONSET = 500, 100, 12, 8


def numbers(name: str, values: np.ndarray) -> Column:
    return Column(name, "number", np.asarray(values, dtype=np.float64))


@lru_cache(maxsize=1)
def fleet() -> FleetAssessment:
    """Five gateways, the first of which drifts in window 20."""
    reports = {
        gateway(index): Site(index).stream(30, onset=20 if index == 0 else None)
        for index in range(5)
    }
    return assess(reports, {SHA: REFERENCE}, DriftSettings(baseline_windows=12), ())


def a_table(names: list[str]) -> Table:
    """Rows in which the first column jumps at the onset, and one row holds the canary."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(REFERENCE_ROWS + WINDOW * WINDOWS, len(names)))
    values[REFERENCE_ROWS + WINDOW * ONSET :, 0] += 3.0
    values[700, 0] = CANARY
    return Table(tuple(numbers(name, values[:, at]) for at, name in enumerate(names)))


def a_replay(names: list[str], *, alarm: bool = True) -> Replay:
    """A replay of `a_table`: the window after the onset alarms, the next two stand."""
    statistics = (
        *(RowStatistic((name,), kind, "feature") for name in names for kind in ("mean", "spread")),
        RowStatistic(tuple(names), "Q", "structure"),
        RowStatistic((names[-1],), "error", "error"),
    )
    strength = np.full((WINDOWS, len(statistics)), 0.3)
    cause = "sensor" if alarm else None
    standing = range(ONSET, ONSET + 3) if alarm else range(0)
    if alarm:
        strength[ONSET, 0] = 2.5
        strength[ONSET + 1 : ONSET + 3] = np.nan
    windows = tuple(
        JudgedWindow(
            start_row=REFERENCE_ROWS + at * WINDOW,
            end_row=REFERENCE_ROWS + (at + 1) * WINDOW,
            drifted=at in standing,
            cause=cause if at in standing else None,
            features=(names[0],) if at in standing else (),
            tested=not np.isnan(strength[at, 0]),
        )
        for at in range(WINDOWS)
    )
    fired = Alarm(
        row=windows[ONSET].end_row - 1,
        onset_row=windows[ONSET].start_row,
        cause="sensor",
        scope="unknown",
        features=(names[0],),
        confidence=0.9,
        sentence=f"{names[0]} jumped.",
        moved=(Moved(statistics[0], 12.0, 3.0, 1, 2.5),),
    )
    return Replay(
        rows=REFERENCE_ROWS + WINDOW * WINDOWS,
        window=WINDOW,
        columns=tuple(WatchedColumn(name, "number", "") for name in names),
        reference=ReferenceFacts(REFERENCE_ROWS, 7.3, ("the reference is short",)),
        windows=windows,
        alarms=(fired,) if alarm else (),
        statistics=statistics,
        z=5 * strength,
        strength=strength,
        effect=strength,
    )


def text_of(html: str) -> str:
    """The page without its pictures."""
    return re.sub(r"data:image/png;base64,[^\"]*", "", html)


def pictures_of(html: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,([^\"]*)", html)
    return [imread(io.BytesIO(base64.b64decode(png)), format="png") for png in found]


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))]


class TestEvidence:
    def test_a_column_has_one_row_with_its_strongest_statistic(self) -> None:
        evidence = replay_evidence(a_replay(["a", "b"]))

        assert evidence.streams == ("a", "b", "columns together", "errors")
        assert evidence.strength[ONSET].tolist() == [2.5, 0.3, 0.3, 0.3]
        assert evidence.edges[0] == REFERENCE_ROWS and evidence.edges[-1] == 1700

    def test_what_was_not_tested_is_not_calm(self) -> None:
        """Windows without a test stay unknown, however a picture gathers them."""
        evidence = replay_evidence(a_replay(["a"]))

        assert np.isnan(evidence.strength[ONSET + 1]).all()
        assert np.isnan(evidence.strongest[ONSET + 1])
        assert evidence.baselines == ((0.0, 500.0), (1400.0, 1600.0))

    def test_gathering_windows_keeps_the_strongest(self) -> None:
        evidence = replay_evidence(a_replay(["a"])).coarse(5)

        assert len(evidence.strength) == 4 and evidence.strength[:, 0].max() == 2.5
        assert evidence.edges.tolist() == [500.0, 800.0, 1100.0, 1400.0, 1700.0]

    def test_leaving_streams_out_keeps_those_that_alarmed(self) -> None:
        strength = np.array([[0.1, 0.9, 0.5]])
        marks = (Mark(1.0, 0.0, "sensor", ("quiet",)),)
        edges = np.array([0.0, 1.0])
        whole = EvidenceMap("", ("quiet", "loud", "other"), edges, strength, marks, (), "row")

        assert whole.top(2).streams == ("quiet", "loud")


class TestHistogram:
    def test_shares_and_missing_ones_are_all_rows(self) -> None:
        """Nothing is lost: what lies beyond the bins stands in the outer ones."""
        rng = np.random.default_rng(1)
        then = numbers("a", rng.normal(size=1000))
        now = numbers("a", np.concatenate([rng.normal(3, 1, 800), [np.inf, -1e9], [np.nan] * 198]))

        drawn = histogram(then, now)

        assert drawn.beyond and drawn.missing == (0.0, 0.198)
        assert drawn.reference.sum() == pytest.approx(1.0)
        assert drawn.current.sum() == pytest.approx(1 - 0.198)

    @pytest.mark.parametrize(
        "values",
        [
            [],
            [np.nan] * 5,
            [np.inf, np.inf],
            [7.0] * 9,
            [1e300, -1e300],
            [0.0, 5e-324],
            [-1.7e308, 1.7e308],
        ],
    )
    def test_any_column_can_be_drawn(self, values: list[float]) -> None:
        """Empty, without numbers, constant, huge or tiny: edges are finite and increase."""
        column = numbers("a", np.array(values))

        for then, now in ((column, column), (column, numbers("a", np.arange(9.0)))):
            drawn = histogram(then, now)

            assert np.isfinite(drawn.edges).all() and (np.diff(drawn.edges) > 0).all()

    def test_new_and_rare_categories_are_shown(self) -> None:
        """A category that the reference never saw gets a bar; beyond a few, they share one."""
        many = tuple(f"c{at:02}" for at in range(30))
        then = Column("wd", "category", np.arange(30.0), many)
        now = Column("wd", "category", np.zeros(10), ("unseen",))

        drawn = histogram(then, now)

        assert drawn.labels[0] == "unseen" and drawn.labels[-1] == "23 others"
        assert len(drawn.labels) == MAX_CATEGORIES + 1
        assert drawn.reference.sum() == pytest.approx(1) and drawn.current[0] == 1.0

    def test_a_replay_shows_what_moved_before_and_since(self) -> None:
        names = ["a", "b", "c"]

        first, *_ = replay_histograms(a_replay(names), a_table(names), count=2)

        middle = (first.edges[:-1] + first.edges[1:]) / 2
        assert first.name == "a"
        assert first.current @ middle - first.reference @ middle > 2


class TestPlots:
    def test_axes_say_what_they_show(self) -> None:
        replay, table = a_replay(["a", "b"]), a_table(["a", "b"])
        evidence = replay_evidence(replay)
        drawn = {
            "heat": (plots.heat_map([evidence]), ["row", "alarm threshold", "not tested"]),
            "time": (plots.timeline(evidence), ["row", "alarm threshold", "sensor: a"]),
            "then": (plots.histograms(replay_histograms(replay, table)), ["share of rows"]),
        }

        for figure, wanted in drawn.values():
            shown = "\n".join(texts(figure))
            assert all(words in shown for words in wanted), shown

    def test_names_are_drawn_as_they_are(self) -> None:
        """No name is taken for mathematics, and a control character is made visible."""
        figure = plots.timeline(replay_evidence(a_replay([DOLLARS, HOSTILE])))

        shown = texts(figure)

        assert any("$\\frac{1$ and\N{REPLACEMENT CHARACTER}" in text for text in shown)

    def test_sixty_columns_are_readable(self) -> None:
        """Every name has its own line, and the figure grows with them."""
        names = [f"column number {at}" for at in range(60)]

        figure = plots.heat_map([replay_evidence(a_replay(names))], most_streams=62)

        ticks = figure.axes[0].get_yticklabels()
        figure.draw_without_rendering()
        tops = sorted(label.get_window_extent().y0 for label in ticks)
        assert [label.get_text() for label in ticks][:60] == names
        assert min(np.diff(tops)) >= 0.9 * ticks[0].get_window_extent().height

    def test_no_global_state_is_touched(self) -> None:
        """The caller's settings stay, and no figure is kept by pyplot."""
        import matplotlib

        before = dict(matplotlib.rcParams)
        plots.timeline(replay_evidence(a_replay(["a"])))

        assert dict(matplotlib.rcParams) == before

    def test_names_are_cut_by_the_room_they_take(self) -> None:
        assert plots.short("x" * 28) == "x" * 28
        assert plots.short("x" * 29) == "x" * 27 + "\N{HORIZONTAL ELLIPSIS}"
        assert plots.short("\N{HANGUL SYLLABLE GA}" * 20) == "\N{HANGUL SYLLABLE GA}" * 13 + "…"


class TestReplayPage:
    def test_it_is_one_file_and_runs_nothing(self) -> None:
        """A column's name is text wherever it stands; nothing is loaded from anywhere."""
        names = [HOSTILE, DOLLARS, "c"]

        html = replay_html(a_replay(names), a_table(names), source=f"{HOSTILE}.csv")

        assert "<script" not in html and "&lt;script&gt;alert" in html
        assert not re.search(r"(src|href|url)\s*=?\s*[(\"']?\s*(https?:|//|file:)", text_of(html))
        assert "default-src 'none'" in html
        assert all(drawn.std() > 0 for drawn in pictures_of(html))

    def test_no_row_gets_in(self) -> None:
        """A value that one row holds is nowhere in the file."""
        html = replay_html(a_replay(["a", "b"]), a_table(["a", "b"]))

        assert "987654" not in html and "9.87" not in text_of(html)

    def test_it_says_what_moved_and_what_to_do(self) -> None:
        shown = text_of(replay_html(a_replay(["a", "b"]), source="pump.csv"))

        for words in (
            "pump.csv",
            "Drift: 1 alarm",
            "a jumped.",
            "Check the sensor",
            "1,399",
            "90 %",
        ):
            assert words in shown
        for words in ("7.3 in 720 windows", "the reference is short", "Made with fedge"):
            assert words in shown

    def test_sixty_columns_fit_into_three_megabytes(self) -> None:
        names = [f"column {at}" for at in range(60)]

        assert len(replay_html(a_replay(names), a_table(names))) < 3_000_000

    def test_what_could_not_be_tested_is_never_called_fine(self) -> None:
        calm = a_replay(["a"], alarm=False)
        left = tuple(replace(w, tested=at > 0) for at, w in enumerate(calm.windows))
        none = tuple(replace(w, tested=False) for w in calm.windows)

        assert replay_page(calm).state == "stable"
        assert replay_page(replace(calm, windows=left)).state == "unknown"
        assert replay_page(replace(calm, windows=none)).headline.startswith("Unknown")

    def test_long_tables_say_what_they_leave_out(self) -> None:
        grid = Grid(("a",), tuple((str(at),) for at in range(MOST_ROWS + 7))).cut()

        assert len(grid.rows) == MOST_ROWS and grid.hidden == 7


class TestComparisonPage:
    @staticmethod
    def tables(shift: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        rng = np.random.default_rng(4)
        then = {HOSTILE: rng.normal(size=600), "calm": rng.normal(size=600)}
        now = {HOSTILE: rng.normal(shift, 1, 600), "calm": rng.normal(size=600)}
        now["calm"][5] = CANARY
        return then, now

    def test_it_names_what_moved_first(self) -> None:
        comparison = compare(*self.tables(2.0))
        page = comparison_page(comparison)
        first, *_ = comparison_effects(comparison)

        assert page.state == "drift" and page.headline == "Drift in 1 of 2 columns"
        assert first.name == HOSTILE and first.moved and first.low > 0.2
        html = comparison_html(comparison, source="then and now")
        assert "<script" not in html and "987654" not in html and "then and now" in html
        assert len(pictures_of(html)) == 2

    def test_without_drift_the_closest_columns_are_drawn(self) -> None:
        comparison = compare(*self.tables(0.0))

        assert comparison_page(comparison).state != "drift"
        assert "reference" in texts(comparison_figure(comparison))


class TestFleetPage:
    def test_drifted_gateways_come_first_with_their_verdict(self) -> None:
        names = {gateway(index): f"site {index} <b>" for index in range(5)}

        html = fleets.fleet_html(fleet(), names=names)

        assert "Drift on 1 of 5 gateways" in html and "<b>" not in html
        table = html[html.index("Gateways, and what to do") :]
        assert table.index("site 0 &lt;b&gt;") < table.index("site 1 &lt;b&gt;")
        assert len(pictures_of(html)) == 2

    def test_a_gateway_is_a_row_of_the_overview(self) -> None:
        maps = fleets.fleet_maps(fleet())
        whole = fleets.overview(maps)

        assert whole.strength.shape == (30, 5)
        assert whole.strength[25:, 0].min() > 1 > whole.strength[:, 1:].max()
        assert [mark.streams for mark in whole.marks] == [(maps[0].title,)]

    def test_a_window_that_never_came_is_unknown(self) -> None:
        reports = {gateway(1): [r for r in Site(1).stream(16) if r.window != 7]}
        assessment = assess(reports, {SHA: REFERENCE}, DriftSettings(baseline_windows=12), ())

        (one,) = fleets.fleet_maps(assessment)

        assert np.isnan(one.strength[7]).all() and len(one.strength) == 16

    def test_a_fleet_without_gateways_is_unknown(self) -> None:
        nobody = assess({}, {}, DriftSettings(), ())

        assert fleets.fleet_page(nobody).state == "unknown"
