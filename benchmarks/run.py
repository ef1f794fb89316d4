"""`python -m benchmarks.run --area AREA`: run one area, print its table, write its JSON."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import loop
from benchmarks.drift import area as drift
from benchmarks.figures import Figure
from benchmarks.gateway import area as gateway
from benchmarks.privacy import area as privacy
from fedge.models.hardware import hardware_class

AREAS: dict[str, Callable[[Sequence[str]], list[Figure]]] = {
    "loop": loop.measure,
    "gateway": gateway.measure,
    "drift": drift.measure,
    "privacy": privacy.measure,
    "study": lambda arguments: [
        *gateway.study(arguments),
        *drift.study(arguments),
        *privacy.study(arguments),
    ],
}
PRINTED = (
    *("flwr", "prefect", "torch", "onnxruntime", "opendp", "pyarrow", "numpy"),
    *("datasketches", "httptools", "uvloop", "orjson", "scipy", "scikit-learn", "river"),
    *("opacus", "dp-accounting", "mpmath"),
)


def write_figures(target: Path, figures: Sequence[Figure]) -> None:
    """Write figures; those of an earlier run that were not measured again stay."""
    fresh = {figure.id: figure.to_json() for figure in figures}
    kept = json.loads(target.read_text()) if target.exists() else []
    known = {entry["id"]: fresh.pop(entry["id"], entry) for entry in kept}
    entries = [*known.values(), *fresh.values()]
    target.write_text(json.dumps(entries, indent=2) + "\n")


def main() -> int:
    """Exit status 0 where every goal holds, 3 where one does not, 2 for a wrong area."""
    parser = argparse.ArgumentParser(prog="benchmarks.run")
    parser.add_argument("--area", choices=sorted(AREAS), required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options, rest = parser.parse_known_args()
    figures = AREAS[options.area](rest)
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"{options.area}.json"
    write_figures(target, figures)
    for figure in figures:
        print(figure.line())
    versions = ", ".join(f"{name} {version(name)}" for name in PRINTED)
    print(f"\n{versions}\n{hardware_class()}, {platform.processor() or platform.machine()}")
    print(f"written to {target}")
    return 0 if all(figure.holds for figure in figures) else 3


if __name__ == "__main__":
    sys.exit(main())
