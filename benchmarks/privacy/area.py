"""The privacy table: what is recovered under a bound, what it costs, and how it is checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks.figures import Figure
from benchmarks.privacy import audits, ledger, recovery, speed, verify

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "ledger": ledger.measure,
    "verify": verify.measure,
    "speed": speed.measure,
    "recovery": recovery.measure,
    "audit": audits.measure,
}


def measure(arguments: Sequence[str]) -> list[Figure]:
    """Measure everything, or with `--only NAME ...` some of it."""
    parser = argparse.ArgumentParser(prog="privacy")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    options = parser.parse_args(arguments)
    figures = []
    for name in options.only:
        print(f"measuring {name}", file=sys.stderr)
        figures += MEASURES[name]()
    return figures
