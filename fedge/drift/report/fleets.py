"""The report of a fleet: which gateways drifted, in what, since when, and what follows.

Made from an assessment alone, that is from released statistics: nothing in it was not
already noised and charged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedge.drift.fleet.monitor import FleetAssessment, HeatMap
from fedge.drift.report import plots
from fedge.drift.report.page import Fact, Grid, Page, Section, State, picture, render
from fedge.drift.report.pictures import EvidenceMap, Mark
from fedge.drift.report.sections import listed, rate_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE = 6.0
"""Standard errors that stand for the threshold where an assessment does not tell it."""

UNIT = "alarm threshold"
MOST_GATEWAYS, MOST_STREAMS = 6, 20
"""Gateways, and streams of each, that are drawn one by one: those with most evidence."""

_FINGERPRINT = 12


def fleet_html(
    assessment: FleetAssessment, *, names: Mapping[str, str] | None = None, source: str = ""
) -> str:
    """One self-contained HTML file about a fleet.

    Args:
        names: what gateways are called, by fingerprint; others get the fingerprint's beginning.
    """
    return render(fleet_page(assessment, names=names, source=source))


def fleet_figure(assessment: FleetAssessment, *, names: Mapping[str, str] | None = None) -> Figure:
    """Evidence by gateway, stream and window, the gateways with most evidence first."""
    return plots.heat_map(_loudest(fleet_maps(assessment, names)), most_streams=MOST_STREAMS)


def fleet_page(
    assessment: FleetAssessment, *, names: Mapping[str, str] | None = None, source: str = ""
) -> Page:
    """What `fleet_html` writes."""
    state, headline = _verdict(assessment)
    drifted = [verdict for verdict in assessment.verdicts if verdict.state == "drift"]
    sentences = tuple(
        f"{_name(verdict.gateway, names)}: {verdict.sentence}" for verdict in drifted[:3]
    )
    sections = [_gateway_section(assessment, names)]
    maps = fleet_maps(assessment, names)
    if maps:
        sections += _map_sections(maps)
    if assessment.episodes:
        sections.append(_episode_section(assessment, names))
    return Page(
        title=source or "Fleet",
        kind="Drift of a fleet",
        state=state,
        headline=headline,
        sentences=sentences,
        facts=_facts(assessment),
        sections=tuple(sections),
    )


def fleet_maps(
    assessment: FleetAssessment, names: Mapping[str, str] | None = None
) -> tuple[EvidenceMap, ...]:
    """One evidence map per gateway, over all releases it served; alarms where episodes opened."""
    gateways: dict[str, list[HeatMap]] = {}
    for heat in assessment.heat:
        if heat.windows:
            gateways.setdefault(heat.gateway, []).append(heat)
    return tuple(
        _gateway_map(_name(gateway, names), own, _marks(assessment, gateway))
        for gateway, own in gateways.items()
    )


def overview(maps: Sequence[EvidenceMap]) -> EvidenceMap:
    """One map whose streams are the gateways: the strongest of each one's streams."""
    first = int(min(one.edges[0] for one in maps))
    last = int(max(one.edges[-1] for one in maps))
    strength = np.full((last - first, len(maps)), np.nan)
    for at, one in enumerate(maps):
        start = int(one.edges[0]) - first
        strength[start : start + len(one.strength), at] = one.strongest
    marks = [
        Mark(mark.at, mark.onset, mark.text, (one.title,)) for one in maps for mark in one.marks
    ]
    return EvidenceMap(
        title="Strongest evidence of each gateway",
        streams=tuple(one.title for one in maps),
        edges=np.arange(first, last + 1, dtype=np.float64),
        strength=strength,
        marks=tuple(sorted(marks, key=lambda mark: mark.at)),
        baselines=(),
        axis="window",
        unit=UNIT,
    )


def _gateway_map(title: str, heats: Sequence[HeatMap], marks: tuple[Mark, ...]) -> EvidenceMap:
    """Windows that were never reported stay NaN, as those that could not be tested."""
    streams = tuple(dict.fromkeys(stream for heat in heats for stream in heat.streams))
    first = min(min(heat.windows) for heat in heats)
    last = max(max(heat.windows) for heat in heats)
    strength = np.full((last + 1 - first, len(streams)), np.nan)
    for heat in heats:
        columns = np.array([streams.index(stream) for stream in heat.streams])
        rows = np.array(heat.windows) - first
        strength[np.ix_(rows, columns)] = np.array(heat.z, dtype=np.float64) / (heat.limit or SCALE)
    return EvidenceMap(
        title=title,
        streams=streams,
        edges=np.arange(first, last + 2, dtype=np.float64),
        strength=strength,
        marks=marks,
        baselines=(),
        axis="window",
        unit=UNIT,
    )


def _marks(assessment: FleetAssessment, gateway: str) -> tuple[Mark, ...]:
    causes = {verdict.gateway: verdict.cause for verdict in assessment.verdicts}
    return tuple(
        Mark(
            at=float(episode.opened_window + 1),
            onset=float(episode.first_window),
            # A verdict is about the present: what an episode that is over was caused by, it forgot.
            text=(causes.get(gateway) if episode.state != "closed" else None) or "drift",
            streams=episode.streams,
        )
        for episode in assessment.episodes
        if episode.gateway == gateway
    )


def _loudest(maps: Sequence[EvidenceMap]) -> tuple[EvidenceMap, ...]:
    ranked = sorted(maps, key=lambda one: (-len(one.marks), -float(one.by_stream.max(initial=0))))
    return tuple(ranked[:MOST_GATEWAYS])


def _verdict(assessment: FleetAssessment) -> tuple[State, str]:
    """Drift before unknown before stable, and a fleet without gateways is unknown."""
    states = [verdict.state for verdict in assessment.verdicts]
    drifted, unknown = states.count("drift"), states.count("unknown")
    if drifted:
        return "drift", f"Drift on {drifted} of {len(states)} gateways"
    if unknown or not states:
        return "unknown", f"Unknown for {unknown} of {len(states)} gateways, no drift on others"
    return "stable", f"No drift on {len(states)} gateways"


def _facts(assessment: FleetAssessment) -> tuple[Fact, ...]:
    states = [verdict.state for verdict in assessment.verdicts]
    rates = [verdict.certifiable_false_alarms_per_month for verdict in assessment.verdicts]
    known = [rate for rate in rates if rate is not None]
    return (
        Fact("gateways", f"{len(states)}"),
        Fact("drifted", f"{states.count('drift')}"),
        Fact("unknown", f"{states.count('unknown')}"),
        Fact("episodes", f"{len(assessment.episodes)}"),
        Fact("in the next retraining", f"{len(assessment.cohort or ())} gateways"),
        Fact(
            "certified false alarms",
            f"{rate_words(max(known))} a month over the fleet" if known else "not known yet",
        ),
    )


def _gateway_section(assessment: FleetAssessment, names: Mapping[str, str] | None) -> Section:
    heads = ("gateway", "release", "state", "cause", "where", "action", "in words")
    order = {"drift": 0, "unknown": 1, "stable": 2}
    rows = tuple(
        (
            _name(verdict.gateway, names),
            str(verdict.release),
            verdict.state,
            verdict.cause or "",
            verdict.scope or "",
            verdict.action,
            verdict.sentence,
        )
        for verdict in sorted(assessment.verdicts, key=lambda v: (order[v.state], v.gateway))
    )
    return Section("Gateways, and what to do", table=Grid(heads, rows))


def _map_sections(maps: tuple[EvidenceMap, ...]) -> list[Section]:
    loudest = _loudest(maps)
    left = len(maps) - len(loudest)
    whole = picture(
        plots.heat_map([overview(maps)]),
        alt="Map of evidence, gateways by windows; darker is stronger.",
        caption=f"The strongest stream of each gateway in each window, in units of the {UNIT}. "
        "Arrows point at the onset of an episode, lines show when it opened.",
    )
    single = picture(
        plots.heat_map(loudest, most_streams=MOST_STREAMS),
        alt="Maps of evidence of single gateways, streams by windows: "
        + listed([one.title for one in loudest]),
        caption="Each gateway against its own baseline."
        + (f" {left} gateways with less evidence are not drawn." if left > 0 else ""),
    )
    return [Section("Where and when", picture=whole), Section("In what", picture=single)]


def _episode_section(assessment: FleetAssessment, names: Mapping[str, str] | None) -> Section:
    heads = ("gateway", "release", "state", "opened in window", "since window", "streams")
    rows = tuple(
        (
            _name(episode.gateway, names),
            str(episode.release),
            episode.state,
            str(episode.opened_window),
            str(episode.first_window),
            listed(episode.streams),
        )
        for episode in assessment.episodes
    )
    return Section("Episodes", table=Grid(heads, rows))


def _name(gateway: str, names: Mapping[str, str] | None) -> str:
    return (names or {}).get(gateway, gateway[:_FINGERPRINT])
