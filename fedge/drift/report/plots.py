"""Drawing pictures: matplotlib figures for notebooks and reports.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers, and a
perceptually even map for evidence; nothing is said by colour alone. Figures are made
without pyplot: they belong to whoever asked for them, and no display is needed.
matplotlib is loaded when something is drawn.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import numpy as np

from fedge.drift.report.pictures import Effect, EvidenceMap, Histogram, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
EVIDENCE_TOP = 3.0
"""Evidence of this many thresholds and more has the darkest colour."""

_EVIDENCE_COLOURS = (
    (0.0, "#fcfcf8"),
    (0.3, "#f0e3c0"),
    (1 / EVIDENCE_TOP, "#f2b134"),
    (0.66, "#a03a10"),
    (1.0, "#2a0a12"),
)
"""Ever darker, and with colour only from the threshold on: noise stays pale."""

MOST_WINDOWS = 180
"""Windows drawn side by side in a heat map; more share one cell, which shows the strongest."""

WIDTH = 9.0
"""Inches of every figure: a page's width, and a notebook's."""

LARGEST_TIMELINE = 30.0
"""Evidence drawn at most, in thresholds; what is above stands at the top."""

_NAME_LENGTH = 28
_Params = ParamSpec("_Params")


@contextmanager
def _style() -> Iterator[None]:
    """Texts are column names and must be drawn as they are: no mathematics in dollar signs, and no
    warning for a character that the font lacks."""
    import matplotlib

    settings: Any = {
        "text.parse_math": False,
        "text.usetex": False,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _styled(draw: Callable[_Params, Figure]) -> Callable[_Params, Figure]:
    @wraps(draw)
    def styled(*args: _Params.args, **kwargs: _Params.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return styled


def short(name: str, length: int = _NAME_LENGTH) -> str:
    """A column's name as it can be drawn: on one line, printable, and not too long."""
    printable = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter)[0] == "C" else letter
        for letter in name
    )
    widths = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in printable]
    if sum(widths) <= length:
        return printable
    return printable[: bisect(list(accumulate(widths)), length - 1)] + "\N{HORIZONTAL ELLIPSIS}"


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


@_styled
def heat_map(maps: Sequence[EvidenceMap], *, most_streams: int = 60) -> Figure:
    """Evidence per stream and window, one panel per map, alarms marked.

    Args:
        maps: at least one; those of a fleet share one scale of colour.
        most_streams: of each map at most, those with most evidence.
    """
    shown = [one.top(most_streams).coarse(MOST_WINDOWS) for one in maps]
    heights = [0.6 + 0.17 * max(3, len(one.streams)) for one in shown]
    figure = _figure(sum(heights) + 0.5)
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[
        :, 0
    ]
    for axis, one, all_of_it in zip(axes, shown, maps, strict=True):
        mesh = _heat_panel(axis, one)
        hidden = len(all_of_it.streams) - len(one.streams)
        title = short(one.title, 60) or "Evidence by column"
        axis.set_title(f"{title} ({hidden} quieter ones not shown)" if hidden else title)
    axes[-1].set_xlabel(f"{shown[-1].axis} (grey: not tested; blue: alarm)")
    bar = figure.colorbar(mesh, ax=list(axes), extend="max", fraction=0.03, pad=0.015)
    bar.set_label(f"evidence\n(1 = {shown[0].unit})")
    bar.ax.axhline(1.0, color=BLUE, linewidth=2)
    return figure


def _heat_panel(axis: Axes, one: EvidenceMap) -> QuadMesh:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.transforms import offset_copy

    clear = (1.0, 1.0, 1.0, 0.0)
    colours = LinearSegmentedColormap.from_list("evidence", _EVIDENCE_COLOURS)
    rows = np.arange(len(one.streams) + 1)
    mesh = axis.pcolormesh(
        one.edges,
        rows,
        np.ma.masked_invalid(one.strength.T),
        cmap=colours.with_extremes(bad=clear),
        vmin=0.0,
        vmax=EVIDENCE_TOP,
        rasterized=True,
    )
    axis.set_facecolor("#d9d9d9")
    axis.set_yticks(rows[:-1] + 0.5, [short(name) for name in one.streams], fontsize=7)
    axis.set_ylim(len(one.streams), 0)
    axis.tick_params(axis="y", length=0)
    figure = cast("Figure", axis.figure)
    places = {name: at + 0.5 for at, name in enumerate(one.streams)}
    for mark in one.marks:
        axis.axvline(mark.at, color=BLUE, linewidth=1.4)
        moved = [places[name] for name in mark.streams if name in places]
        beside = offset_copy(axis.transData, figure, x=-4, units="points")
        axis.plot([mark.onset] * len(moved), moved, ">", color=BLUE, ms=4, transform=beside)
    return mesh


@_styled
def timeline(one: EvidenceMap, *, most_streams: int = 3) -> Figure:
    """The strongest evidence of each window against the threshold, alarms with their causes.

    Args:
        most_streams: how many streams that crossed the threshold get a line of their own.
    """
    figure = _figure(3.4)
    axis = figure.subplots()
    middle = (one.edges[:-1] + one.edges[1:]) / 2
    for start, end in one.baselines:
        axis.axvspan(start, end, color=BLUE, alpha=0.10, linewidth=0)
    single = one.top(most_streams)
    styles = zip(single.streams, (ORANGE, GREEN, "#CC79A7"), ("--", ":", "-."), strict=False)
    for at, (stream, colour, dash) in enumerate(styles):
        if single.by_stream[at] < 1.0:
            continue
        values = np.minimum(single.strength[:, at], LARGEST_TIMELINE)
        axis.plot(middle, values, dash, color=colour, linewidth=1.2, label=short(stream))
    top = np.minimum(one.strongest, LARGEST_TIMELINE)
    axis.plot(middle, top, "-", color="black", linewidth=1.3, label="strongest of all")
    axis.axhline(1.0, color=RED, linewidth=1.2, label=one.unit)
    largest = float(np.nanmax(top, initial=1.0))
    axis.set_ylim(0, 1.35 * max(largest, 1.2))
    axis.set_xlim(min([one.edges[0], *(s for s, _ in one.baselines)]), one.edges[-1])
    _name_marks(axis, one.marks)
    axis.set_xlabel(f"{one.axis} (blue: reference, not tested)")
    axis.set_ylabel(f"evidence (1 = {one.unit})")
    axis.set_title(short(one.title, 60) or "Evidence of drift over time")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    return figure


def _name_marks(axis: Axes, marks: Sequence[Mark], most: int = 12) -> None:
    """Alarms as lines with what they say; beyond `most` only lines."""
    start, end = axis.get_xlim()
    for number, mark in enumerate(marks):
        axis.axvspan(mark.onset, mark.at, color=RED, alpha=0.12, linewidth=0)
        axis.axvline(mark.at, color=RED, linewidth=1.0)
        if number >= most:
            continue
        late = mark.at > start + 0.75 * (end - start)
        axis.annotate(
            short(mark.text),
            (mark.at, 0.99 - 0.075 * (number % 3)),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if late else 2, 0),
            textcoords="offset points",
            fontsize=7.5,
            color="#7a2e00",
            va="top",
            ha="right" if late else "left",
        )


@_styled
def histograms(panels: Sequence[Histogram], *, now: str = "current") -> Figure:
    """Columns against their reference: outlines for numbers, bars for categories.

    Args:
        now: what the rows that are compared with the reference are called.
    """
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = _figure(0.5 + 2.1 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        (_bars if panel.labels else _outlines)(axis, panel, now)
        title = short(panel.name)
        axis.set_title(f"{title}\n{panel.note}" if panel.note else title, fontsize=9)
    if panels:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    return figure


def _outlines(axis: Axes, panel: Histogram, now: str) -> None:
    axis.stairs(panel.reference, panel.edges, fill=True, color=BLUE, alpha=0.45, label="reference")
    axis.stairs(panel.current, panel.edges, color=RED, linewidth=1.6, label=now)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("share of rows")
    axis.set_xlabel(_below(panel, "value; outer bars hold the rest" if panel.beyond else "value"))


def _bars(axis: Axes, panel: Histogram, now: str) -> None:
    places = np.arange(len(panel.labels))
    axis.barh(places - 0.2, panel.reference, 0.4, color=BLUE, alpha=0.55, label="reference")
    axis.barh(places + 0.2, panel.current, 0.4, color=RED, hatch="////", alpha=0.7, label=now)
    axis.set_yticks(places, [short(label, 16) for label in panel.labels], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel(_below(panel, "share of rows"))


def _below(panel: Histogram, text: str) -> str:
    if max(panel.missing) == 0:
        return text
    then, now = (f"{100 * share:.3g} %" for share in panel.missing)
    return f"{text}\nmissing: {then} before, {now} now"


@_styled
def effect_bars(effects: Sequence[Effect], *, measure: str, most: int = 60) -> Figure:
    """Effect sizes with their intervals, the largest on top; those that moved filled.

    Args:
        effects: strongest first.
        measure: name and unit of the effect.
    """
    shown = effects[:most]
    figure = _figure(0.9 + 0.19 * max(3, len(shown)))
    axis = figure.subplots()
    for place, effect in enumerate(shown):
        colour = RED if effect.moved else GREY
        if math.isfinite(effect.low) and math.isfinite(effect.high):
            axis.plot([effect.low, effect.high], [place, place], color=colour, linewidth=2)
        fill = colour if effect.moved else "white"
        axis.plot(effect.value, place, "o", color=colour, markerfacecolor=fill, markersize=5)
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(shown)), [short(effect.name) for effect in shown], fontsize=7)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xlabel(f"{measure} (filled: moved; bars: 95 % interval)")
    hidden = len(effects) - len(shown)
    axis.set_title(
        f"Effect by column ({hidden} smaller ones not shown)" if hidden else "Effect by column"
    )
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    return figure
