"""The gateway's table: speed, tail, overhead, memory, start and soak, peers beside us."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.choosing import measured
from benchmarks.figures import Figure
from benchmarks.gateway import http, overhead, processes, profile, soak, tail

WORK = Path("runs/bench/work")
STUDY_S = 600.0

MEASURES: dict[str, Callable[[Path], list[Figure]]] = {
    "http": http.against_mlserver,
    "binary": http.binary,
    "overhead": lambda work: overhead.measure(),
    "tail": tail.measure,
    "profile": lambda work: profile.measure(),
    "memory": lambda work: [processes.memory(work), processes.memory(work, river=True)],
    "start": lambda work: [processes.start(work)],
    "soak": lambda work: [soak.measure(work)],
}


def measure(arguments: Sequence[str]) -> list[Figure]:
    """Measure everything, or with `--only NAME ...` some of it."""
    WORK.mkdir(parents=True, exist_ok=True)
    return measured(
        "gateway", {name: partial(run, WORK) for name, run in MEASURES.items()}, arguments
    )


def study(arguments: Sequence[str]) -> list[Figure]:
    """What takes too long for the table: memory after ten minutes of traffic."""
    argparse.ArgumentParser(prog="study").parse_args(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    return [processes.memory(WORK, seconds=STUDY_S, river=river) for river in (False, True)]
