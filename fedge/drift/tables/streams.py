"""`replay` of whatever `read` takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedge.drift.tables import replay as engine
from fedge.drift.tables.episode import MIN_EFFECT
from fedge.drift.tables.journal import Progress
from fedge.drift.tables.outcome import Replay
from fedge.drift.tables.reading import read


def replay(
    source: Any,
    *,
    reference_rows: int,
    window: int,
    label: str | None = None,
    prediction: str | None = None,
    time: str | None = None,
    epsilon: float | None = None,
    false_alarms: float = 0.5,
    min_effect: float = MIN_EFFECT,
    seed: int = 0,
    progress: Progress = engine.silent,
) -> Replay:
    """Judge a stream window by window against its first rows.

    Args:
        source: what `read` takes: a path, a pandas, polars or Arrow table, a dict of columns.
        reference_rows: how many of the first rows are normal.
        window: rows per window.
        label, prediction, time: names of the columns that play these parts.
        epsilon: if given, what is judged of each window is noised as a report of a gateway is, at
            this epsilon and delta 1e-6.
        false_alarms: expected false-alarm episodes per 720 windows, over everything watched.
        min_effect: least shift, in reference standard deviations, that may alarm.
        seed: of the noise.
        progress: is told how many windows of how many are judged.

    Raises:
        TableError: the source cannot be read, lacks a named column, or has too few rows.
        SettingError: a setting is out of range.
    """
    reading = read(source, label=label, prediction=prediction, time=time)
    result = engine.replay(
        reading.table,
        reference_rows=reference_rows,
        window=window,
        epsilon=epsilon,
        false_alarms=false_alarms,
        min_effect=min_effect,
        seed=seed,
        progress=progress,
    )
    return replace(result, findings=reading.findings)
