"""Drift that one can act on: what moved, since when, of which kind, and how sure that is.

For tables in a notebook or a shell: `compare` two of them, or `replay` a stream, window by
window. Both take files (CSV, Parquet, Arrow), pandas, polars and Arrow tables, and give
objects with `to_frame()`, `plot()`, `to_json()` and a face of their own in Jupyter. Fleets of
gateways are judged by `fleet`, from released statistics alone; `local` watches on one of them.

Names are loaded when they are asked for: whoever judges reports loads no pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedge.drift.distances import Effect as Effect
    from fedge.drift.effects import Histograms as Histograms
    from fedge.drift.tables.compare import compare as compare
    from fedge.drift.tables.comparison import ColumnVerdict as ColumnVerdict
    from fedge.drift.tables.comparison import Comparison as Comparison
    from fedge.drift.tables.findings import TableFinding as TableFinding
    from fedge.drift.tables.outcome import Alarm as Alarm
    from fedge.drift.tables.outcome import Replay as Replay
    from fedge.drift.tables.reading import Reading as Reading
    from fedge.drift.tables.reading import read as read
    from fedge.drift.tables.reading import read_table as read_table
    from fedge.drift.tables.streams import replay as replay
    from fedge.drift.tables.table import Table as Table

_HOMES = {
    "Alarm": "tables.outcome",
    "ColumnVerdict": "tables.comparison",
    "Comparison": "tables.comparison",
    "Effect": "distances",
    "Histograms": "effects",
    "Reading": "tables.reading",
    "Replay": "tables.outcome",
    "Table": "tables.table",
    "TableFinding": "tables.findings",
    "compare": "tables.compare",
    "read": "tables.reading",
    "read_table": "tables.reading",
    "replay": "tables.streams",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
