"""Judged tables and streams as people read them in a terminal.

Names and texts come from files that anybody may have written: they are shown as they
are, without markup, and characters that steer a terminal become question marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from fedge.drift import Comparison, Replay, TableFinding

_MOST_COLUMNS = 60
_MOST_ALARMS = 40
_WIDTH_OF_FILES = 160


def plain(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def show_comparison(found: Comparison) -> None:
    """Verdict, columns by evidence, findings."""
    typer.echo(plain(found.headline))
    if found.cause is not None:
        typer.echo(f"cause: {found.cause} (confidence {found.confidence:.0%})")
    ranked = sorted(found.columns, key=lambda c: (c.state != "drift", _last(c.p_value)))
    rows = []
    for column in ranked[:_MOST_COLUMNS]:
        effects = {effect.name: effect.value for effect in column.effects}
        figures = (column.p_value, *(effects.get(n, math.nan) for n in ("psi", "wasserstein")))
        rows.append((column.name, column.kind, column.state, *map(_figure, figures), column.words))
    heads = ("column", "type", "verdict", "p", "PSI", "Wasserstein", "")
    _print(heads, rows, len(ranked) - len(rows))
    for moved in found.others:
        names = " and ".join(moved.statistic.columns)
        what = f"{moved.statistic.group} ({moved.statistic.name}) of {names}"
        typer.echo(plain(f"moved, too: {what}, by {moved.effect:+.2f} sd"))
    _show_notes(found.notes, found.findings)


def show_replay(found: Replay) -> None:
    """Alarms in words, columns and what they were taken for, how far the reference carries."""
    tested = sum(window.tested for window in found.windows)
    head = f"{found.rows} rows, {tested} of {len(found.windows)} windows of {found.window} tested"
    number = len(found.alarms)
    typer.echo(f"{head}: {number or 'no'} {'alarm' if number < 2 else 'alarms'}")
    if found.unlabelled_from is not None:
        typer.echo(f"concept drift: unknown from row {found.unlabelled_from} on, labels stop there")
    if found.alarms:
        rows = [
            (
                str(a.row),
                f"{a.confidence:.0%}",
                a.cause,
                _share(a.cause_confidence),
                ", ".join(a.features),
                a.sentence,
            )
            for a in found.alarms[:_MOST_ALARMS]
        ]
        _print(
            ("row", "sure", "cause", "cause sure", "columns", ""),
            rows,
            len(found.alarms) - len(rows),
        )
    kinds = [(c.name, c.kind, c.note) for c in found.columns[:_MOST_COLUMNS]]
    _print(("column", "type", ""), kinds, len(found.columns) - len(kinds))
    rate = found.reference.certified_false_alarms
    sure = f"{rate:.2g} false alarms in 720 windows" if math.isfinite(rate) else "nothing"
    typer.echo(f"reference of {found.reference.rows} rows: certifies {sure}")
    _show_notes(found.reference.notes, found.findings)


def _show_notes(notes: Sequence[str], findings: Sequence[TableFinding]) -> None:
    # Why columns are not watched stands beside them.
    odd = [_where(finding) for finding in findings if finding.kind != "not-watched"]
    for text in (*notes, *odd):
        typer.echo(plain(f"note: {text}"))


def _where(finding: TableFinding) -> str:
    if finding.row is None or finding.kind == "no-values":
        return finding.words
    return f"{finding.words}, first in row {finding.row}"


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]], more: int) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    console.print(_table(heads, rows))
    if more:
        typer.echo(f"and {more} more")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def _figure(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "-"


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf
