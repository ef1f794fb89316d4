"""The report of a replay: what moved, when, why, and what to do about it."""

from __future__ import annotations

import math

from fedge.drift.report import plots
from fedge.drift.report.advice import ADVICE, MEANING, SCOPE
from fedge.drift.report.page import Fact, Grid, Page, Section, State, picture, render
from fedge.drift.report.pictures import EvidenceMap, replay_evidence, replay_histograms, stream_name
from fedge.drift.report.sections import finding_section, listed, rate_words
from fedge.drift.tables.outcome import Alarm, Replay
from fedge.drift.tables.table import Table

EVIDENCE_WORDS = (
    "Evidence is how far the mean of a statistic lies from its baseline, in standard errors that "
    "allow for rows which resemble their neighbours, divided by the alarm threshold. The threshold "
    "follows from one setting, the false alarms allowed, shared over all that is tested."
)


def replay_html(replay: Replay, table: Table | None = None, *, source: str = "") -> str:
    """One self-contained HTML file about a replay.

    Args:
        table: the stream that was replayed; with it the page shows histograms. Only counts of it
            get in.
        source: what the stream is called, such as its file's name.
    """
    return render(replay_page(replay, table, source=source))


def replay_page(replay: Replay, table: Table | None = None, *, source: str = "") -> Page:
    """What `replay_html` writes."""
    state, headline = _replay_verdict(replay)
    evidence = replay_evidence(replay)
    sections = [_alarm_section(replay)] if replay.alarms else []
    if replay.windows:
        sections += _evidence_sections(evidence)
    if table is not None and replay.windows:
        sections.append(_histogram_section(replay, table))
    sections += [_column_section(replay, evidence), _reference_section(replay)]
    if replay.findings:
        sections.append(finding_section(replay.findings))
    return Page(
        title=source or "Replayed stream",
        kind="Drift replay",
        state=state,
        headline=headline,
        sentences=tuple(f"Row {a.row:,}: {a.sentence}" for a in replay.alarms[:3]),
        facts=_replay_facts(replay),
        sections=tuple(sections),
    )


def _replay_verdict(replay: Replay) -> tuple[State, str]:
    """Windows that could not be tested are said to be unknown, never fine."""
    count = len(replay.alarms)
    tested = sum(window.tested for window in replay.windows)
    if count:
        return "drift", f"Drift: {count} alarm{'s' * (count > 1)}"
    if tested == 0:
        return "unknown", "Unknown: no window could be tested"
    if tested < len(replay.windows):
        left = len(replay.windows) - tested
        return "unknown", f"No alarm in {tested} windows; {left} more could not be tested"
    if replay.unlabelled_from is not None:
        since = f"concept drift unknown from row {replay.unlabelled_from:,} on, where labels stop"
        return "stable", f"No drift in {tested} windows; {since}"
    return "stable", f"No drift in {tested} windows"


def _replay_facts(replay: Replay) -> tuple[Fact, ...]:
    tested = sum(window.tested for window in replay.windows)
    drifted = sum(window.drifted for window in replay.windows)
    return (
        Fact("rows", f"{replay.rows:,}"),
        Fact("reference rows", f"{replay.reference.rows:,}"),
        Fact("rows per window", f"{replay.window:,}"),
        Fact("windows tested", f"{tested:,} of {len(replay.windows):,}"),
        Fact("windows under an alarm", f"{drifted:,}"),
        Fact(
            "columns watched",
            f"{sum(c.kind not in ('excluded', 'time') for c in replay.columns):,}",
        ),
        Fact("certified false alarms", certified(replay.reference.certified_false_alarms)),
    )


def certified(rate: float) -> str:
    """A certified rate in words."""
    if not math.isfinite(rate):
        return "none can be certified"
    return f"{rate_words(rate)} in 720 windows"


def _alarm_section(replay: Replay) -> Section:
    causes = tuple(dict.fromkeys(alarm.cause for alarm in replay.alarms))
    words = tuple(f"{cause}: {MEANING[cause]}. {ADVICE[cause]}" for cause in causes)
    heads = ("at row", "since row", "cause", "where", "columns", "strongest", "confidence")
    rows = tuple(_alarm_row(alarm) for alarm in replay.alarms)
    return Section("What moved, and what to do", words, table=Grid(heads, rows))


def _alarm_row(alarm: Alarm) -> tuple[str, ...]:
    strongest = ""
    if alarm.moved:
        first = alarm.moved[0]
        name = f"{', '.join(first.statistic.columns[:2])} {first.statistic.name}"
        strongest = f"{name}: z {first.z:+.1f}, effect {first.effect:+.2g} sd"
    return (
        f"{alarm.row:,}",
        f"{alarm.onset_row:,}",
        alarm.cause,
        SCOPE[alarm.scope],
        listed(alarm.features),
        strongest,
        f"{100 * alarm.confidence:.0f} %",
    )


def _evidence_sections(evidence: EvidenceMap) -> list[Section]:
    line = picture(
        plots.timeline(evidence),
        alt="Line of the strongest evidence in each window against the alarm threshold.",
        caption="Black: the strongest evidence of any column in each window. Red area: from the "
        "likely onset to the alarm. Blue area: the reference, and rows that passed after an alarm "
        "until a new reference was taken from them.",
    )
    heat = picture(
        plots.heat_map([evidence]),
        alt="Map of evidence, columns by windows; darker is stronger.",
        caption="Pale is noise, orange the threshold, dark is far beyond it. Arrows name the "
        "columns behind an alarm.",
    )
    return [
        Section("Evidence over time", (EVIDENCE_WORDS,), picture=line),
        Section("Where the evidence lies", picture=heat),
    ]


def _histogram_section(replay: Replay, table: Table) -> Section:
    panels = replay_histograms(replay, table)
    now = "since onset" if replay.alarms else "later rows"
    drawn = picture(
        plots.histograms(panels, now=now),
        alt="Histograms of columns in the reference and now: "
        + listed([panel.name for panel in panels]),
        caption="Filled: the reference rows. Outline or hatched: "
        + (
            "rows from the first alarm's onset on, up to the next one's."
            if replay.alarms
            else "all rows after it."
        ),
    )
    return Section("Then and now", picture=drawn)


def _column_section(replay: Replay, evidence: EvidenceMap) -> Section:
    strength = dict(zip(evidence.streams, evidence.by_stream, strict=True))
    counts: dict[str, int] = {}
    for alarm in replay.alarms:
        for name in alarm.features:
            counts[name] = counts.get(name, 0) + 1
    rows = tuple(
        (
            column.name,
            column.kind,
            f"{strength[column.name]:.2f}" if column.name in strength else "",
            str(counts.get(column.name, 0)),
            column.note,
        )
        for column in replay.columns
    )
    heads = ("column", "type", "strongest evidence", "alarms", "note")
    others = ", ".join(
        f"{name} {value:.2f}"
        for name, value in strength.items()
        if name not in {column.name for column in replay.columns}
    )
    words = ["How each column was understood. Types are inferred unless a schema says otherwise."]
    if others:
        words.append(f"Watched beside the columns, with their strongest evidence: {others}.")
    return Section("Columns", tuple(words), table=Grid(heads, rows))


def _reference_section(replay: Replay) -> Section:
    facts = replay.reference
    words = (
        f"The first {facts.rows:,} rows are the reference. False alarms that it can vouch for: "
        f"{certified(facts.certified_false_alarms)}.",
        *facts.notes,
    )
    names = [f"{', '.join(s.columns[:2])} {s.name}" for s in replay.statistics]
    kinds = len({stream_name(statistic) for statistic in replay.statistics})
    watched = f"{len(names)} statistics of {kinds} streams share the false-alarm budget."
    return Section("How far to trust this", (*words, watched))
