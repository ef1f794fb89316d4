"""The privacy table: what is recovered under a bound, what it costs, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.choosing import measured
from benchmarks.figures import Figure
from benchmarks.privacy import audits, choice, ledger, recovery, speed, verify

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "ledger": ledger.measure,
    "verify": verify.measure,
    "speed": speed.measure,
    "recovery": recovery.measure,
    "audit": audits.measure,
}


def measure(arguments: Sequence[str]) -> list[Figure]:
    """Measure everything, or with `--only NAME ...` some of it."""
    return measured("privacy", MEASURES, arguments)


def study(arguments: Sequence[str]) -> list[Figure]:
    """What takes too long for the table: the study that chose the adapter, run again."""
    return measured("privacy study", {"choice": choice.measure}, arguments)
