"""Which measures of an area are run: all, or those that the command line names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from benchmarks.figures import Figure


def measured(
    area: str, measures: Mapping[str, Callable[[], list[Figure]]], arguments: Sequence[str]
) -> list[Figure]:
    """Measure everything, or with `--only NAME ...` some of it; standard error tells how far it is.

    Args:
        area: its name in the usage text.
        measures: by name, in the order in which they are run.
    """
    parser = argparse.ArgumentParser(prog=area)
    parser.add_argument("--only", nargs="+", choices=list(measures), default=list(measures))
    options = parser.parse_args(arguments)
    figures = []
    for name in options.only:
        print(f"measuring {name}", file=sys.stderr)
        figures += measures[name]()
    return figures
