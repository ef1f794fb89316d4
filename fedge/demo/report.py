"""`report.html`: one self-contained page that shows what a run did.

Plots are inline SVG; the page loads nothing. All numbers come from the summary
and from the facts given here; nothing is computed for the page alone.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

INK, ACCENT, FAULT, GOOD = "#1d2733", "#2f6fb0", "#c0492f", "#3c8d5a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """Something that happened: seconds since the run began, and what, where."""

    at_s: float
    what: str
    gateway: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heat:
    """Evidence of one gateway: largest absolute score per window and stream.

    `scores` is float64, windows x streams, NaN where there is no verdict yet.
    """

    windows: Sequence[int]
    streams: Sequence[str]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        accuracy: per gateway, share of right answers in each `window_slots` rows of the play.
        onset: per gateway, the row-window of the first faulty request, None where there is none.
        threshold: score above which a stream alarms, for the heat map's scale.
        spent: per gateway, (telemetry, training, cap) of its worst block, in RDP.
    """

    summary: Mapping[str, Any]
    accuracy: Mapping[str, Sequence[float]]
    onset: Mapping[str, int | None]
    committed: Mapping[str, int | None]
    heat: Mapping[str, Heat]
    threshold: float
    spent: Mapping[str, tuple[float, float, float]]
    timeline: Sequence[Moment]
    versions: Mapping[str, str]


def render(data: ReportData) -> str:
    """The whole page as HTML."""
    sections = [
        ("Accuracy over time", _accuracy(data), _ACCURACY_TEXT),
        ("Where drift was seen", _heat(data), _HEAT_TEXT),
        ("Privacy budget", _budget(data), _BUDGET_TEXT),
        ("Timeline of the loop", _timeline(data), _TIMELINE_TEXT),
    ]
    body = "".join(
        f"<section><h2>{html.escape(title)}</h2><p>{text}</p>{svg}</section>"
        for title, svg, text in sections
    )
    versions = ", ".join(f"{name} {version}" for name, version in data.versions.items())
    return _PAGE.format(
        headline=_headline(data.summary),
        facts=_facts(data.summary),
        body=body,
        versions=html.escape(versions),
    )


_ACCURACY_TEXT = (
    "Share of right answers in each window's worth of real requests. The dotted line marks the "
    "first faulty request, the dashed one the first window of the committed release."
)
_HEAT_TEXT = (
    "Largest score of each watched stream and window, from noised counts alone, against the "
    "gateway&rsquo;s own baseline on the release that it served."
)
_BUDGET_TEXT = (
    "What each gateway's fullest block has been charged, at the policy's order, against its cap. "
    "Monitoring reserves its share when a block opens; one run may take the rest."
)
_TIMELINE_TEXT = "From the first request to the last window watched, in seconds of the run."


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(rows: int, height: float) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(rows, 1, figsize=(9, height), squeeze=False, sharex=True)
    for axis in axes[:, 0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes[:, 0]


def _accuracy(data: ReportData) -> str:
    figure, axes = _axes(len(data.accuracy), 1.15 * len(data.accuracy) + 0.6)
    for axis, (gateway, shares) in zip(axes, data.accuracy.items(), strict=True):
        axis.plot(range(len(shares)), shares, color=ACCENT, linewidth=1.2)
        onset, committed = data.onset[gateway], data.committed[gateway]
        if onset is not None:
            axis.axvline(onset, color=FAULT, linestyle=":", linewidth=1.2)
        if committed is not None:
            axis.axvline(committed, color=GOOD, linestyle="--", linewidth=1.2)
        axis.set_ylim(0, 1.02)
        axis.set_ylabel(gateway, fontsize=9, rotation=0, ha="right", va="center")
    axes[-1].set_xlabel("window of the play", fontsize=9)
    return _svg(figure)


def _heat(data: ReportData) -> str:
    figure, axes = _axes(len(data.heat), 1.5 * len(data.heat) + 0.8)
    image = None
    for axis, (gateway, heat) in zip(axes, data.heat.items(), strict=True):
        extent = (-0.5, max(len(heat.windows), 1) - 0.5, len(heat.streams) - 0.5, -0.5)
        image = axis.imshow(
            heat.scores.T,
            aspect="auto",
            cmap="OrRd",
            vmin=0,
            vmax=2 * data.threshold,
            extent=extent,
            interpolation="nearest",
        )
        axis.set_yticks(range(len(heat.streams)), heat.streams, fontsize=6)
        axis.set_ylabel(gateway, fontsize=9, rotation=0, ha="right", va="center", labelpad=36)
    axes[-1].set_xlabel("window", fontsize=9)
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes), fraction=0.02, pad=0.02)
        bar.ax.axhline(data.threshold, color=INK, linewidth=1.5)
        bar.set_label("score (line: alarm)", fontsize=8)
    return _svg(figure)


def _budget(data: ReportData) -> str:
    figure, (axis,) = _axes(1, 0.45 * len(data.spent) + 0.9)
    names = list(data.spent)
    telemetry = np.array([data.spent[name][0] for name in names])
    training = np.array([data.spent[name][1] for name in names])
    cap = max(data.spent[name][2] for name in names)
    axis.barh(names, telemetry, color=ACCENT, label="monitoring (reserved)")
    axis.barh(names, training, left=telemetry, color=GOOD, label="training and evaluation")
    axis.axvline(cap, color=FAULT, linewidth=1.5, label="cap")
    axis.invert_yaxis()
    axis.set_xlabel("RDP at the policy's order", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _svg(figure)


def _timeline(data: ReportData) -> str:
    lanes = ["", *data.accuracy]
    figure, (axis,) = _axes(1, 0.5 * len(lanes) + 1.6)
    for number, moment in enumerate(data.timeline):
        lane = lanes.index(moment.gateway) if moment.gateway in lanes else 0
        axis.plot(moment.at_s, lane, "o", color=ACCENT if lane else INK, markersize=4)
        # Labels of neighbours would overlap on one height.
        offset = (7, -12)[number % 2]
        axis.annotate(
            moment.what,
            (moment.at_s, lane),
            xytext=(2, offset),
            fontsize=6,
            textcoords="offset points",
            color=INK,
        )
    axis.set_yticks(range(len(lanes)), ["centre", *data.accuracy], fontsize=8)
    axis.set_ylim(len(lanes) - 0.4, -0.8)
    axis.set_xlabel("seconds", fontsize=9)
    return _svg(figure)


def _headline(summary: Mapping[str, Any]) -> str:
    accuracy, privacy = summary["accuracy"], summary["privacy"]
    return (
        f"Accuracy fell from {accuracy['before']:.1%} to {accuracy['stale']:.1%} and came back to "
        f"{accuracy['after']:.1%}, every record under epsilon {privacy['budget']:g} "
        f"at delta {privacy['delta']:g}."
    )


def _facts(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, value in flatten(summary):
        shown = "unknown" if value is None else value
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(shown))}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested objects as dotted names, in order; floats with four digits, for reading."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.extend(flatten(value, f"{prefix}{name}."))
        else:
            flat.append(
                (prefix + name, float(f"{value:.4g}") if isinstance(value, float) else value)
            )
    return flat


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedge: a run of the closed loop</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: .3rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.lead {{ font-size: 1.1rem; }} svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #e3e8ee;
  font-weight: normal; overflow-wrap: anywhere; }} th {{ color: #57646f; white-space: nowrap; }}
footer {{ color: #57646f; font-size: .8rem; margin: 2rem 0; }}
</style></head><body>
<h1>A fleet that drifted and recovered</h1><p class="lead">{headline}</p>
{body}
<section><h2>All figures</h2>{facts}</section>
<footer>{versions}</footer>
</body></html>
"""
