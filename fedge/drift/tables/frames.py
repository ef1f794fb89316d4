"""The faces of results in a notebook: pandas tables, pictures, and what Jupyter shows.

Mixed into result records; pandas and matplotlib are loaded when a face is asked for.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedge.drift.tables.comparison import Comparison
    from fedge.drift.tables.outcome import Replay
    from fedge.drift.tables.table import Table

MOST_ROWS = 30
"""Rows of a table that a notebook shows by itself."""


class ComparisonFaces:
    """`Comparison` for people."""

    __slots__ = ()

    def to_frame(self: Comparison) -> Any:  # type: ignore[misc]
        """A pandas DataFrame, a row a column of the tables: state, evidence, effect sizes."""
        import pandas as pd

        rows = []
        for column in self.columns:
            row: dict[str, object] = {
                "column": column.name,
                "type": column.kind,
                "state": column.state,
                "drifted": column.drifted,
                "statistic": column.strongest.statistic.name if column.strongest else None,
                "z": column.strongest.z if column.strongest else math.nan,
                "p_value": column.p_value,
                "rank": column.rank,
                "detectable": column.detectable,
            }
            for effect in column.effects:
                row[effect.name] = effect.value
                row[f"{effect.name}_low"] = effect.low
                row[f"{effect.name}_high"] = effect.high
            rows.append({**row, "words": column.words})
        return pd.DataFrame(rows)

    def plot(self: Comparison) -> Figure:  # type: ignore[misc]
        """Histograms of the columns that moved most, reference against current."""
        from fedge.drift.report import comparing

        return comparing.comparison_figure(self)

    def to_html(self: Comparison, *, source: str = "") -> str:  # type: ignore[misc]
        """One self-contained HTML file."""
        from fedge.drift.report import comparing

        return comparing.comparison_html(self, source=source)

    def _repr_html_(self: Comparison) -> str:  # type: ignore[misc]
        ranked = sorted(self.columns, key=lambda c: (c.state != "drift", _last(c.p_value)))
        rows = [
            (c.name, c.kind, c.state, _number(c.p_value), _effect(c.effects), c.words)
            for c in ranked
        ]
        heads = ("column", "type", "state", "p-value", "effect", "")
        return table_html(self.headline, heads, rows)


class ReplayFaces:
    """`Replay` for people."""

    __slots__ = ()

    def to_frame(self: Replay) -> Any:  # type: ignore[misc]
        """A pandas DataFrame, a row a window: rows, verdict, cause, strongest statistic."""
        import numpy as np
        import pandas as pd

        rows = []
        for index, window in enumerate(self.windows):
            strength = self.strength[index]
            known = np.isfinite(strength).any()
            best = int(np.nanargmax(strength)) if known else -1
            rows.append(
                {
                    "start_row": window.start_row,
                    "end_row": window.end_row,
                    "drifted": window.drifted if window.tested or window.drifted else None,
                    "tested": window.tested,
                    "concept_tested": window.concept_tested,
                    "cause": window.cause,
                    "features": ", ".join(window.features),
                    "strongest": statistic_name(self, best) if known else None,
                    "z": float(self.z[index, best]) if known else math.nan,
                    "effect": float(self.effect[index, best]) if known else math.nan,
                    "strength": float(strength[best]) if known else math.nan,
                }
            )
        return pd.DataFrame(rows)

    def plot(self: Replay) -> Figure:  # type: ignore[misc]
        """The evidence over time, strongest columns first."""
        from fedge.drift.report import pictures, plots

        return plots.timeline(pictures.replay_evidence(self))

    def to_html(self: Replay, table: Table | None = None, *, source: str = "") -> str:  # type: ignore[misc]
        """One self-contained HTML file; with histograms if the table that was replayed is given."""
        from fedge.drift.report import replaying

        return replaying.replay_html(self, table, source=source)

    def _repr_html_(self: Replay) -> str:  # type: ignore[misc]
        rows = [
            (str(a.row), a.cause, ", ".join(a.features), _number(a.confidence), a.sentence)
            for a in self.alarms
        ]
        tested = sum(window.tested for window in self.windows)
        title = f"{len(self.alarms)} alarms in {tested} tested windows of {len(self.windows)}"
        return table_html(title, ("row", "cause", "columns", "confidence", ""), rows)


def statistic_name(replay: Replay, index: int) -> str:
    """How a person calls a statistic of a replay."""
    statistic = replay.statistics[index]
    return f"{', '.join(statistic.columns)}: {statistic.name}"


def table_html(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small HTML table, everything escaped: names of columns may be anything."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(text))}</td>" for text in row) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    return (
        f"<p><b>{html.escape(title)}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else ""


def _effect(effects: Sequence[Any]) -> str:
    return ", ".join(f"{e.name} {_number(e.value)}" for e in effects[:2])


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf
