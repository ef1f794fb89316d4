"""The report's pictures: budgets as stacked bars, and when what was charged.

Colours are those of Okabe and Ito (2008); every part is told apart by hatching or shape,
too, so that a grey print can be read. matplotlib is loaded when something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fedge.review.report.document import Picture
from fedge.review.report.letters import drawable
from fedge.review.report.model import BlockLine, Charge, Incident, PolicyChange
from fedge.review.report.visible import shortened
from fedge.review.report.words import bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
WIDTH, DOTS_PER_INCH = 9.0, 160
FIRST_DRAWN, LAST_DRAWN = 0.0, 7_258_118_400.0
"""The years 1970 to 2199: a clock that says anything else is out of order, and one such mark would
press all others together."""
INCIDENTS = (
    ("erased", "erasure or deletion", "x"),
    ("excluded", "exclusion from the bound", "s"),
    ("recovered", "lost state", "*"),
    ("lost", "lost release", "1"),
)
"""Kinds of incident, what the legend calls them, and their marks."""
MOST_BARS, MOST_LANES, MOST_LABEL = 24, 20, 48


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    settings: Any = {
        "text.parse_math": False,  # names of gateways are drawn as they are
        "text.usetex": False,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "hatch.linewidth": 0.6,
        "svg.hashsalt": "fedge",
    }
    with matplotlib.rc_context(settings):
        yield


def budget_bars(lines: Sequence[BlockLine], caption: str) -> Picture:
    """How much of each block's cap is taken, and by what; the worst on top."""
    from matplotlib.figure import Figure

    shown = lines[:MOST_BARS]
    with _style():
        figure = Figure(figsize=(WIDTH, 1.1 + 0.34 * len(shown)), layout="constrained")
        axis = figure.subplots()
        for place, line in enumerate(shown):
            _bar(axis, place, line)
        axis.axvline(100.0, color=RED, linewidth=1.6, label="cap")
        called = _labels(line.budget.name for line in shown)
        names = [f"{called[line.budget.name]}, block {line.budget.block}" for line in shown]
        axis.set_yticks(range(len(shown)), names)
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(0, 118)
        axis.set_xlabel("part of the block's cap, in percent")
        handles, labels = axis.get_legend_handles_labels()
        first = dict(zip(labels, handles, strict=True))
        figure.legend(
            first.values(), first.keys(), loc="outside upper center", ncols=5, frameon=False
        )
        return _picture(figure, "Budget of each block as a stacked bar", caption)


def _labels(names: Iterable[str]) -> dict[str, str]:
    """What each gateway is called in a picture: in letters that its font has, and no two alike."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        label = shortened(drawable(name), MOST_LABEL)
        found[name] = f"{label} #{len(found) + 1}" if label in found.values() else label
    return found


def _bar(axis: Axes, place: int, line: BlockLine) -> None:
    budget = line.budget
    cap = max(1, budget.cap_nano)
    parts: list[tuple[str, int, dict[str, Any]]] = [
        ("reserved for monitoring", budget.telemetry_nano, {"color": BLUE, "hatch": "////"}),
        ("retraining, released", budget.released_nano, {"color": ORANGE}),
        (
            "retraining, reserved only",
            budget.training_nano - budget.released_nano,
            {"color": "#f6dfa9", "hatch": "....", "edgecolor": ORANGE},
        ),
        (
            "withdrawn after a lost state",
            budget.spent_nano - budget.telemetry_nano - budget.training_nano,
            {"color": GREY, "hatch": "xxxx"},
        ),
        ("remaining", budget.remaining_nano, {"color": "#eef1f3", "edgecolor": "#c8cfd6"}),
    ]
    left = 0.0
    for label, nano, look in parts:
        width = 100.0 * nano / cap
        if nano > 0:
            style = {"edgecolor": "white", "linewidth": 0.5, **look}
            axis.barh(place, width, left=left, height=0.66, label=label, **style)
        left += width
    text = f"ε {bound(budget.epsilon)} of {budget.epsilon_cap:g}"
    axis.text(101.5, place, text, va="center", fontsize=8)


def charge_timeline(
    charges: Sequence[Charge],
    policies: Sequence[PolicyChange],
    incidents: Sequence[Incident],
    names: Sequence[str],
    caption: str,
) -> Picture:
    """When each gateway reserved something, adopted a policy, erased or recovered.

    What cannot be drawn is counted in the caption: marks of a clock out of order, and gateways
    beyond `MOST_LANES`.
    """
    from matplotlib.figure import Figure

    lanes = {name: place for place, name in enumerate(names[:MOST_LANES])}
    windows = [(c.at, c.name) for c in charges if c.kind == "window"]
    runs = [(c.at, c.name) for c in charges if c.kind == "run"]
    marks: list[tuple[str, list[tuple[float, str]], dict[str, Any]]] = [
        ("window report", windows, {"marker": "|", "color": BLUE, "markersize": 9}),
        ("retraining", runs, {"marker": "o", "color": ORANGE, "markersize": 9}),
        (
            "policy",
            [(p.at, p.name) for p in policies],
            {"marker": "^", "color": GREEN, "markersize": 8},
        ),
    ]
    for kind, label, marker in INCIDENTS:
        found = [(i.at, i.name) for i in incidents if i.kind == kind]
        marks.append((label, found, {"marker": marker, "color": RED, "markersize": 7}))
    every = [at for _, points, _ in marks for at, _ in points]
    caption = " ".join([caption, *_not_drawn(sum(not _drawn(at) for at in every), len(names))])
    with _style():
        figure = Figure(figsize=(WIDTH, 1.3 + 0.36 * len(lanes)), layout="constrained")
        axis = figure.subplots()
        for label, points, look in marks:
            own = [
                (datetime.fromtimestamp(at, UTC), lanes[name])
                for at, name in points
                if name in lanes and _drawn(at)
            ]
            if own:
                times, places = zip(*own, strict=True)
                axis.plot(times, places, linestyle="none", label=label, **look)
        called = _labels(lanes)
        axis.set_yticks(range(len(lanes)), [called[name] for name in lanes])
        axis.set_ylim(len(lanes) - 0.4, -0.6)
        _date(axis)
        axis.set_xlabel("time (UTC, by each gateway's own clock)")
        axis.grid(axis="y", color="#e3e8ee", linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        return _picture(figure, "When each gateway charged its blocks", caption)


def _date(axis: Axes) -> None:
    import matplotlib.dates as dates

    locator: Any = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    formatter: Any = dates.ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(formatter)


def _drawn(at: float) -> bool:
    return FIRST_DRAWN <= at < LAST_DRAWN


def _not_drawn(wild: int, lanes: int) -> Iterator[str]:
    if wild:
        yield (
            f"{wild} of them are not drawn: the gateway's clock named a time before 1970 or after "
            "2199."
        )
    if lanes > MOST_LANES:
        yield f"The first {MOST_LANES} of {lanes} gateways are drawn."


def _picture(figure: Figure, alt: str, caption: str) -> Picture:
    stream = io.BytesIO()
    # Nothing but the picture: the same report gives the same bytes.
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    width, height = figure.get_size_inches()
    return Picture(stream.getvalue(), alt, caption, float(width), float(height))
