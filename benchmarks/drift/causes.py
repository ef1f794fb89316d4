"""dr-cause: are cause and scope of a fleet's drift named correctly?

`python -m benchmarks.drift.causes` prints the table of what was named instead.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.drift.worlds import (
    AFTER,
    BASELINE,
    CLASSES,
    FEATURES,
    KINDS,
    Kind,
    Site,
    World,
)
from benchmarks.figures import Figure
from fedge.config import DriftSettings
from fedge.drift.fleet.labelled import LabelledWindow
from fedge.drift.fleet.monitor import FleetAssessment, StoredFacts, assess
from fedge.drift.tables.table import Column, Roles, Table
from fedge.records import WindowReport

GATEWAYS, SEEDS = 8, 3
GOAL = 0.9
REFERENCE_ROWS, ONSET_ROW, ROWS_AFTER = 1500, 2400, 1200
SETTINGS = DriftSettings(baseline_windows=BASELINE - 4, max_fleet=GATEWAYS)

Past = dict[int, list[tuple[WindowReport, LabelledWindow]]]


@dataclass(frozen=True)
class Named:
    """What was said about one drifted gateway; `unnoticed` where no alarm came."""

    kind: Kind
    truth: tuple[str, str]
    said: tuple[str, str]

    @property
    def right(self) -> bool:
        return self.truth == self.said


def play(kind: Kind, world: World, past: Past, everywhere: bool) -> FleetAssessment:
    """Judge a fleet that drifted in one way, at gateway 0 or at every one.

    Args:
        past: each site's windows before the onset; they are played once for a world.
    """
    trouble = kind.make(world, np.random.default_rng([world.seed, 2]))
    reports, labels = {}, {}
    for number, before in past.items():
        site = Site(world, number)
        # Another part of the same site's stream: its place is the same, its chance is not.
        site.rng = np.random.default_rng([world.seed, 3, number, KINDS.index(kind), everywhere])
        own = trouble if everywhere or number == 0 else None
        windows = before + site.windows(BASELINE, AFTER, own)
        reports[site.gateway] = [report for report, _ in windows]
        labels[site.gateway] = [labelled for _, labelled in windows]
    references = {world.sha256: world.reference}
    return assess(reports, references, SETTINGS, (), StoredFacts(labels=labels))


def named(kind: Kind, assessment: FleetAssessment, everywhere: bool) -> Iterator[Named]:
    """What was said about each gateway that drifted."""
    truth = (kind.cause, "fleet" if everywhere else "gateway")
    for verdict in assessment.verdicts[: None if everywhere else 1]:
        said = ("unnoticed", "")
        if verdict.state == "drift":
            said = (verdict.cause or "", verdict.scope or "")
        yield Named(kind, truth, said)


def suite(seeds: Iterable[int]) -> list[Named]:
    """Every kind, local and everywhere, in a new world for each seed."""
    found: list[Named] = []
    for seed in seeds:
        world = World(seed)
        past = {number: Site(world, number).windows(0, BASELINE) for number in range(GATEWAYS)}
        for kind in KINDS:
            for everywhere in (False, True):
                found += named(kind, play(kind, world, past, everywhere), everywhere)
    return found


def share(found: Iterable[Named]) -> float:
    """Share named correctly, each kind and scope with the same weight."""
    groups: dict[tuple[str, str], list[bool]] = {}
    for one in found:
        groups.setdefault((one.kind.name, one.truth[1]), []).append(one.right)
    return float(np.mean([np.mean(group) for group in groups.values()]))


def table(found: Iterable[Named]) -> str:
    """What was said, by kind and scope, the most frequent first."""
    lines, groups = [], dict[tuple[str, str, str], Counter[str]]()
    for one in found:
        key = (one.kind.name, *one.truth)
        groups.setdefault(key, Counter())[" ".join(one.said).strip()] += 1
    for (name, cause, scope), said in groups.items():
        counts = ", ".join(f"{words} {count}" for words, count in said.most_common())
        lines.append(f"{name:28} {cause:9} {scope:7} -> {counts}")
    return "\n".join(lines)


def rows_suite(seeds: Iterable[int]) -> list[Named]:
    """Every kind that rows can show, as one labelled stream through `replay`: the cause alone."""
    from fedge.drift.tables.replay import replay

    found = []
    for seed in seeds:
        world = World(seed)
        for kind in KINDS:
            if kind.cause == "ood":  # a table has no OOD score of a model
                continue
            alarms = replay(_stream(kind, world), reference_rows=REFERENCE_ROWS, window=100).alarms
            after = [alarm for alarm in alarms if alarm.row >= ONSET_ROW]
            said = after[0].cause if after else "unnoticed"
            found.append(Named(kind, (kind.cause, ""), (said, "")))
    return found


def _stream(kind: Kind, world: World) -> Table:
    """One site's rows with predictions and labels; the trouble begins at `ONSET_ROW`."""
    rng = np.random.default_rng([world.seed, 4, KINDS.index(kind)])
    site = Site(world, 0, wander=0.0)
    place = site.offset
    before = world.draw(rng, ONSET_ROW, site.mix, place)
    trouble = kind.make(world, np.random.default_rng([world.seed, 2]))
    after = trouble(site, rng, world.draw(rng, ROWS_AFTER, site.mix, place))
    values = np.concatenate([before.values, after.values])
    classes = tuple(f"c{index}" for index in range(CLASSES))
    columns = [Column(f"x{i}", "number", values[:, i]) for i in range(FEATURES)]
    for name in ("label", "prediction"):
        field = "labels" if name == "label" else "predicted"
        indices = np.concatenate([getattr(before, field), getattr(after, field)])
        columns.append(Column(name, "category", indices.astype(np.float64), classes))
    return Table(tuple(columns), Roles(label="label", prediction="prediction"))


def measure() -> list[Figure]:
    """The figures `dr-cause` and `dr-cause-rows`; the tables go to stderr."""
    fleets, rows = suite(range(SEEDS)), rows_suite(range(SEEDS))
    print(f"{table(fleets)}\n{table(rows)}", file=sys.stderr)
    kinds = len(KINDS)
    return [
        _figure("dr-cause", f"cause and scope named, {kinds} kinds x 2 scopes", share(fleets)),
        _figure("dr-cause-rows", f"cause named by replay, {kinds - 1} kinds", share(rows)),
    ]


def _figure(name: str, what: str, ours: float) -> Figure:
    return Figure(
        id=name,
        what=f"{what} x {SEEDS} seeds",
        ours=ours,
        peer=None,
        peer_name="",
        unit="share",
        goal=f">= {GOAL}",
        holds=ours >= GOAL,
    )


if __name__ == "__main__":
    for figure in measure():
        print(figure.line())
