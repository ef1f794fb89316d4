"""Reading the data part of a task."""

from __future__ import annotations

from pathlib import Path

from fedge.errors import RecordError, TaskError
from fedge.records import TaskSchema


def read_task(path: Path) -> TaskSchema:
    """Read a `task.json`.

    Raises:
        TaskError: it cannot be read or is not a valid task; names the field.
    """
    try:
        return TaskSchema.from_bytes(path.read_bytes())
    except (OSError, RecordError) as error:
        raise TaskError(f"{path}: {error}") from error
