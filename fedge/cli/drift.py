"""`fedge drift compare` and `fedge drift replay`: drift in tables that you hold.

Any CSV, Parquet or Arrow file, no schema: what columns were taken for is shown. Exit
status of both: 0 no drift, 3 drift, 1 failed or not known (the reason is on stderr), 2 wrong
usage: an option that no file could make right.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fedge.cli.drift_tables import plain, show_comparison, show_replay
from fedge.cli.groups import Group
from fedge.errors import SettingError

if TYPE_CHECKING:
    from rich.progress import Progress

EXIT_NO_DRIFT, EXIT_UNKNOWN, EXIT_DRIFT = 0, 1, 3
_MOST_REASONS = 10

app = typer.Typer(cls=Group, help="Judge drift in tables.", no_args_is_help=True)


def _reference_rows(rows: int) -> int:
    from fedge.drift.tables.replay import LEAST_REFERENCE

    if rows < LEAST_REFERENCE:
        raise typer.BadParameter(f"{rows} rows do not tell what is normal; give {LEAST_REFERENCE}")
    return rows


def _positive(number: float | None) -> float | None:
    if number is not None and not 0 < number < math.inf:  # catches NaN too
        raise typer.BadParameter(f"{number} is no positive number")
    return number


def _chance(number: float) -> float:
    if not 0 < number < 1:  # catches NaN too
        raise typer.BadParameter(f"{number} is no chance between 0 and 1")
    return number


Label = Annotated[str | None, typer.Option("--label", help="Column with the truth.")]
Prediction = Annotated[
    str | None, typer.Option("--prediction", help="Column with a model's answers.")
]
Time = Annotated[str | None, typer.Option("--time", help="Column by which rows are ordered.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a report with pictures here.")]


@app.command("compare")
def compare(
    reference: Annotated[Path, typer.Argument(help="Rows that are normal.")],
    current: Annotated[Path, typer.Argument(help="Rows to judge.")],
    label: Label = None,
    prediction: Prediction = None,
    time: Time = None,
    false_alarms: Annotated[
        float,
        typer.Option(
            help="Chance of calling tables without drift drifted, in all.", callback=_chance
        ),
    ] = 0.05,
    as_json: AsJson = False,
    html: Html = None,
) -> None:
    """Is the current table drifted from the reference?

    REFERENCE holds rows that are normal, CURRENT those to judge, in order of time.

    Files are CSV (also gzipped), Parquet or Arrow.

    Exit status: 0 no drift; 3 drift; 1 failed, or it could not be judged.
    """
    from fedge.drift import compare as judge

    with _talking(as_json) as talk:
        found = judge(
            reference,
            current,
            label=label,
            prediction=prediction,
            time=time,
            false_alarms=false_alarms,
            say=talk.say,
        )
        _write_html(html, talk, lambda: found.to_html(source=f"{reference} and {current}"))
    _show_json(found.to_json()) if as_json else show_comparison(found)
    _leave(found.drifted, found.unknown)


@app.command("replay")
def replay(
    stream: Annotated[Path, typer.Argument(help="The whole stream, rows in order of time.")],
    reference_rows: Annotated[
        int, typer.Option(help="How many of its first rows are normal.", callback=_reference_rows)
    ],
    window: Annotated[int, typer.Option(help="Rows per window.", min=1)],
    label: Label = None,
    prediction: Prediction = None,
    time: Time = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Noise each window as a private report would be.", callback=_positive),
    ] = None,
    false_alarms: Annotated[
        float,
        typer.Option(
            help="False alarms allowed in 720 windows, over all columns.", callback=_positive
        ),
    ] = 0.5,
    as_json: AsJson = False,
    html: Html = None,
) -> None:
    """Judge a stream window by window, as a gateway's would be.

    STREAM holds all rows, normal ones first: a CSV (also gzipped), Parquet or Arrow file.

    Exit status: 0 no alarm; 3 alarms; 1 failed, or no window could be judged.
    """
    from dataclasses import replace

    from fedge.drift import read
    from fedge.drift.tables.replay import replay as judge

    with _talking(as_json) as talk:
        talk.say("reading")
        reading = read(stream, label=label, prediction=prediction, time=time)
        talk.say("replaying")
        found = judge(
            reading.table,
            reference_rows=reference_rows,
            window=window,
            epsilon=epsilon,
            false_alarms=false_alarms,
            progress=talk.count,
        )
        found = replace(found, findings=reading.findings)
        _write_html(html, talk, lambda: found.to_html(reading.table, source=str(stream)))
    _show_json(found.to_json()) if as_json else show_replay(found)
    _leave(found.drifted, (*found.unknown, *found.reference.notes))


class _Talk:
    """What is being done, and how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._task = progress, progress.add_task("starting", total=None)

    def say(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def count(self, done: int, windows: int) -> None:
        self._progress.update(self._task, completed=done, total=windows)


@contextmanager
def _talking(silent: bool) -> Iterator[_Talk]:
    """Talk on stderr where that is a terminal, unless it shall be silent."""
    from rich.console import Console
    from rich.progress import Progress

    hidden = silent or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as progress:
        yield _Talk(progress)


def _write_html(path: Path | None, talk: _Talk, page: Callable[[], str]) -> None:
    if path is None:
        return
    talk.say("drawing the report")
    text = page()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error.strerror}") from error


def _show_json(found: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(found, allow_nan=False))


def _leave(drifted: bool | None, reasons: Sequence[str]) -> NoReturn:
    if drifted is None:
        for reason in reasons[:_MOST_REASONS]:
            typer.echo(f"fedge: not known: {plain(reason)}", err=True)
        raise typer.Exit(EXIT_UNKNOWN)
    raise typer.Exit(EXIT_DRIFT if drifted else EXIT_NO_DRIFT)
