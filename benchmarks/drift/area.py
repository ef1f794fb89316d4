"""The drift table: size, false alarms, power, causes, streams, and what reports cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from benchmarks.choosing import measured
from benchmarks.drift import causes, contest, fleet, real, report, reports
from benchmarks.figures import Figure

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "size": fleet.size,
    "fleet": fleet.false_alarms_and_power,
    "cause": causes.measure,
    "streams": contest.measure,
    "real": real.measure,
    "report": report.measure,
    "merge": reports.merge,
    "wire": reports.wire,
}


def measure(arguments: Sequence[str]) -> list[Figure]:
    """Measure everything, or with `--only NAME ...` some of it."""
    return measured("drift", MEASURES, arguments)


def study(arguments: Sequence[str]) -> list[Figure]:
    """What takes too long for the table: the streams with thirty seeds."""
    argparse.ArgumentParser(prog="study").parse_args(arguments)
    return contest.measure(contest.STUDY_SEEDS)
