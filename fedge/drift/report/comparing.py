"""The report of a comparison of two tables: which columns moved, how far, and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedge.drift.distances import Effect as TableEffect
from fedge.drift.report import plots
from fedge.drift.report.advice import ADVICE, MEANING
from fedge.drift.report.page import Fact, Grid, Page, Section, State, picture, render
from fedge.drift.report.pictures import Effect, Histogram, histogram, strongest_first
from fedge.drift.report.sections import finding_section, listed
from fedge.drift.tables.comparison import ColumnVerdict, Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_HISTOGRAMS = 9
MEASURE = "hellinger"
"""The effect size that is drawn: from 0 to 1 for numbers and categories alike."""

_STATES: dict[str, State] = {"drift": "drift", "no drift": "stable"}
_NAMES = {
    "psi": "PSI",
    "jensen_shannon": "Jensen-Shannon",
    "hellinger": "Hellinger",
    "wasserstein": "Wasserstein (sd)",
}


def comparison_figure(comparison: Comparison) -> Figure:
    """Histograms of the columns that moved most, reference against current."""
    return plots.histograms(comparison_histograms(comparison))


def comparison_html(comparison: Comparison, *, source: str = "") -> str:
    """One self-contained HTML file about a comparison.

    Args:
        source: what was compared, such as the names of two files.
    """
    return render(comparison_page(comparison, source=source))


def comparison_page(comparison: Comparison, *, source: str = "") -> Page:
    """What `comparison_html` writes."""
    return Page(
        title=source or "Two tables compared",
        kind="Drift comparison",
        state=_STATES.get(comparison.state, "unknown"),
        headline=_headline(comparison),
        sentences=(comparison.sentence, *comparison.unknown[:5]),
        facts=_facts(comparison),
        sections=tuple(_sections(comparison)),
    )


def ranked(comparison: Comparison) -> tuple[ColumnVerdict, ...]:
    """Columns that drifted first, in the order of their evidence; those not judged last."""
    order = {name: at for at, name in enumerate(comparison.features)}
    return tuple(
        sorted(
            comparison.columns,
            key=lambda c: (order.get(c.name, len(order)), _last(c.p_value), c.name),
        )
    )


def comparison_histograms(
    comparison: Comparison, most: int = MOST_HISTOGRAMS
) -> tuple[Histogram, ...]:
    """The columns that moved; where none did, the few with most evidence."""
    then = {column.name: column for column in comparison.reference.columns}
    now = {column.name: column for column in comparison.current.columns}
    shown = [
        column
        for column in ranked(comparison)
        if column.name in then and column.name in now and column.state != "not watched"
    ]
    moved = [column for column in shown if column.state == "drift"]
    return tuple(
        histogram(then[column.name], now[column.name], _note(column))
        for column in (moved or shown[:3])[:most]
    )


def comparison_effects(comparison: Comparison) -> tuple[Effect, ...]:
    """Every judged column's distance, strongest first, with what chance adds taken off."""
    effects = []
    for column in comparison.columns:
        drawn = next((e for e in column.effects if e.name == MEASURE), None)
        if drawn is not None and math.isfinite(drawn.value):
            size = _without_chance(drawn)
            moved = column.state == "drift"
            effects.append(Effect(column.name, size, drawn.low, drawn.high, moved))
    return strongest_first(effects)


def _without_chance(effect: TableEffect) -> float:
    """A distance whose square is what chance adds to."""
    return math.sqrt(max(0.0, effect.value**2 - effect.chance**2))


def _note(column: ColumnVerdict) -> str:
    shown = [e for e in column.effects if math.isfinite(e.value)][:1]
    return ", ".join(f"{_NAMES.get(e.name, e.name)} {e.value:.3g}" for e in shown)


def _headline(comparison: Comparison) -> str:
    moved = [column for column in comparison.columns if column.state == "drift"]
    judged = [column for column in comparison.columns if column.state in ("drift", "no drift")]
    if comparison.state == "drift":
        return f"Drift in {len(moved)} of {len(judged)} columns" if moved else "Drift"
    if comparison.state == "no drift":
        return f"No drift in {len(judged)} columns"
    return "Unknown: not everything could be judged"


def _facts(comparison: Comparison) -> tuple[Fact, ...]:
    return (
        Fact("reference rows", f"{comparison.reference.rows:,}"),
        Fact("current rows", f"{comparison.current.rows:,}"),
        Fact("columns", f"{len(comparison.columns):,}"),
        Fact("cause", comparison.cause or "none"),
        Fact("confidence", f"{100 * comparison.confidence:.0f} %" if comparison.cause else ""),
        Fact("false alarms allowed", f"{comparison.false_alarms:.3g} per comparison"),
        Fact("least effect", f"{comparison.min_effect:.3g} sd"),
        Fact("detectable everywhere", f"{_number(comparison.detectable)} sd"),
    )


def _sections(comparison: Comparison) -> list[Section]:
    sections = []
    if comparison.cause is not None:
        words = f"{comparison.cause}: {MEANING[comparison.cause]}. {ADVICE[comparison.cause]}"
        columns = listed(comparison.features, 20)
        what = (words, f"Columns that moved, strongest first: {columns}.") if columns else (words,)
        sections.append(Section("What moved, and what to do", what))
    panels = comparison_histograms(comparison)
    if panels:
        sections.append(_histogram_section(panels))
    effects = comparison_effects(comparison)
    if effects:
        sections.append(_effect_section(effects))
    sections.append(_column_section(comparison))
    if comparison.others:
        sections.append(_other_section(comparison))
    if comparison.findings:
        sections.append(finding_section(comparison.findings))
    if comparison.notes or comparison.unknown:
        notes = (*comparison.unknown, *comparison.notes)
        sections.append(Section("How far to trust this", notes))
    return sections


def _histogram_section(panels: tuple[Histogram, ...]) -> Section:
    drawn = picture(
        plots.histograms(panels),
        alt="Histograms of columns then and now: " + listed([panel.name for panel in panels]),
        caption="Filled: the reference. Outline or hatched: the current rows. Bins are fixed by "
        "the reference.",
    )
    return Section("Then and now", picture=drawn)


def _effect_section(effects: tuple[Effect, ...]) -> Section:
    drawn = picture(
        plots.effect_bars(effects, measure="Hellinger distance, 0 to 1, chance taken off"),
        alt="Effect size of each column with its 95 % interval.",
        caption="How big each change is; it decides nothing by itself. Intervals allow for rows "
        "that resemble their neighbours.",
    )
    return Section("How far each column moved", picture=drawn)


def _column_section(comparison: Comparison) -> Section:
    kinds = [k for k in _NAMES if any(e.name == k for c in comparison.columns for e in c.effects)]
    rows = []
    for column in ranked(comparison):
        effects = {effect.name: effect for effect in column.effects}
        cells = [_interval(effects[kind]) if kind in effects else "" for kind in kinds]
        rows.append(
            (
                column.name,
                column.kind,
                column.state,
                _number(column.p_value),
                *cells,
                column.words,
            )
        )
    heads = ("column", "type", "state", "p-value", *(_NAMES[kind] for kind in kinds), "in words")
    words = (
        "p-values hold for all tests of all columns together (Holm). Effect sizes stand with their "
        "95 % interval, from which what chance adds is taken off.",
    )
    return Section("Columns", words, table=Grid(heads, tuple(rows)))


def _other_section(comparison: Comparison) -> Section:
    rows = tuple(
        (
            moved.statistic.name,
            listed(moved.statistic.columns, 4),
            f"{moved.z:+.1f}",
            f"{moved.effect:+.2g} sd",
        )
        for moved in comparison.others
    )
    heads = ("statistic", "columns", "z", "effect")
    return Section("What moved between columns", table=Grid(heads, rows))


def _interval(effect: TableEffect) -> str:
    if not math.isfinite(effect.value):
        return ""
    if not (math.isfinite(effect.low) and math.isfinite(effect.high)):
        return f"{effect.value:.3g}"
    return f"{effect.value:.3g} ({effect.low:.2g} to {effect.high:.2g})"


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "none"


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf
