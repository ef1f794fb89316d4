"""`fedge drift compare` and `fedge drift replay`: drift in tables that you hold.

Any CSV, Parquet or Arrow file, no schema: what columns were taken for is shown. Exit
status of both: 0 no drift, 3 drift, 1 failed or not known (the reason is on stderr), 2 wrong
usage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fedge.cli.drift_tables import plain, show_comparison, show_replay
from fedge.errors import SettingError

if TYPE_CHECKING:
    from rich.status import Status

EXIT_NO_DRIFT, EXIT_UNKNOWN, EXIT_DRIFT = 0, 1, 3
_MOST_REASONS = 10

app = typer.Typer(help="Judge drift in tables.", no_args_is_help=True)

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
        float, typer.Option(help="Chance of calling tables without drift drifted, in all.")
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

    with _progress() as status:
        found = judge(
            reference,
            current,
            label=label,
            prediction=prediction,
            time=time,
            false_alarms=false_alarms,
            say=status.update,
        )
        _write_html(html, status, lambda: found.to_html(source=f"{reference} and {current}"))
    _show_json(found.to_json()) if as_json else show_comparison(found)
    _leave(found.drifted, found.unknown)


@app.command("replay")
def replay(
    stream: Annotated[Path, typer.Argument(help="The whole stream, rows in order of time.")],
    reference_rows: Annotated[int, typer.Option(help="How many of its first rows are normal.")],
    window: Annotated[int, typer.Option(help="Rows per window.")],
    label: Label = None,
    prediction: Prediction = None,
    time: Time = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Noise each window as a private report would be.")
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="False alarms allowed in 720 windows, over all columns.")
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

    with _progress() as status:
        status.update("reading")
        reading = read(stream, label=label, prediction=prediction, time=time)
        status.update("replaying")
        found = judge(
            reading.table,
            reference_rows=reference_rows,
            window=window,
            epsilon=epsilon,
            false_alarms=false_alarms,
        )
        found = replace(found, findings=reading.findings)
        _write_html(html, status, lambda: found.to_html(reading.table, source=str(stream)))
    _show_json(found.to_json()) if as_json else show_replay(found)
    untested = sum(not window.tested for window in found.windows)
    reason = f"{untested} of {len(found.windows)} windows could not be tested"
    drifted = True if found.alarms else None if untested else False
    _leave(drifted, (reason, *found.reference.notes))


@contextmanager
def _progress() -> Iterator[Status]:
    """What is being done, on stderr where that is a terminal."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status


def _write_html(path: Path | None, status: Status, page: Callable[[], str]) -> None:
    if path is None:
        return
    status.update("drawing the report")
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
