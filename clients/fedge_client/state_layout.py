"""The layout of a state directory has a number; this build reads one and brings older ones to it.

| layout | what changed |
|---|---|
| 1 | no `layout.json`; the ring held predictions, no purposes and no subjects |
| 2 | the ring holds purposes, subject and logits; rows that waited in an old one are dropped |

Tables of the state file are brought up to date by the modules that own them. A newer
layout than this build's is refused: an older program must not write into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from fedge.durable import write_file
from fedge.errors import StateError
from fedge.records import TaskSchema

LAYOUT = 2
FILE = "layout.json"

RING_MAGIC = b"FEDGRING"
_RING_HEAD = struct.Struct("<8sI")
_GENERATION, _STATES = 64, 192


def read_layout(state_dir: Path) -> int | None:
    """The layout of a state directory; None where nothing was ever stored in it.

    Raises:
        StateError: its number cannot be read.
    """
    try:
        layout = json.loads((state_dir / FILE).read_bytes())["layout"]
    except FileNotFoundError:
        used = any((state_dir / name).exists() for name in ("state.sqlite", "ring.bin"))
        return 1 if used else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"cannot read {state_dir / FILE}: {error}") from error
    if type(layout) is not int or layout < 1:
        raise StateError(f"{state_dir / FILE} holds no layout number")
    return layout


def bring_up_to_date(state_dir: Path) -> list[str]:
    """Migrate a state directory to this build's layout, step by step; says what was done.

    No process of the gateway may run. Interrupted, it goes on where it was when called again.

    Raises:
        StateError: the directory is of a newer layout, or a step failed.
    """
    layout = read_layout(state_dir)
    if layout is not None and layout > LAYOUT:
        raise StateError(
            f"{state_dir} has layout {layout}, this fedge reads up to {LAYOUT}: "
            "install the fedge that wrote it, or a newer one"
        )
    done: list[str] = []
    try:
        for number in range(layout or LAYOUT, LAYOUT):
            done.append(_STEPS[number](state_dir))
            _write_layout(state_dir, number + 1)
        if layout is None:
            _write_layout(state_dir, LAYOUT)
    except OSError as error:
        raise StateError(f"cannot migrate {state_dir}: {error}") from error
    return done


@contextlib.contextmanager
def nobody_runs(state_dir: Path) -> Iterator[None]:
    """Keep supervisors out meanwhile.

    Raises:
        StateError: one runs on this state directory, or it cannot be used.
    """
    try:
        with (state_dir / "supervisor.lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StateError(f"another supervisor runs on {state_dir}") from error
            yield
    except OSError as error:
        raise StateError(f"cannot use {state_dir}: {error}") from error


def _write_layout(state_dir: Path, layout: int) -> None:
    write_file(state_dir / FILE, json.dumps({"layout": layout}).encode() + b"\n")


def _ring_with_purposes(state_dir: Path) -> str:
    """1 -> 2: start an empty ring whose slots go on where the old one's stopped."""
    path = state_dir / "ring.bin"
    if not path.exists():
        return "layout 2: there was no ring yet"
    found = _old_ring(path)
    if found is None:
        return "layout 2: the ring is a new one already"
    next_slot, waiting = found
    task = _task_in_slots(state_dir)
    if task is not None:
        _start_ring(path, task, next_slot)
    else:
        path.unlink()
    return f"layout 2: new ring from slot {next_slot}; {waiting} waiting rows were dropped"


def _old_ring(path: Path) -> tuple[int, int] | None:
    """Next slot and waiting records of a version 1 ring; None for another version."""
    data = path.read_bytes()[:4096]
    if len(data) < 4096:
        raise StateError(f"{path} is damaged: remove it to go on without what it still held")
    magic, version = _RING_HEAD.unpack_from(data)
    if magic != RING_MAGIC:
        raise StateError(f"{path} is no ring: remove it to go on without what it still held")
    if version != 1:
        return None
    (generation,) = struct.unpack_from("<Q", data, _GENERATION)
    (tail,) = struct.unpack_from("<Q", data, 128)
    head, next_slot, _, _ = struct.unpack_from("<4Q", data, _STATES + 32 * (generation % 2))
    return next_slot, head - tail


def _task_in_slots(state_dir: Path) -> TaskSchema | None:
    for slot in ("A", "B"):
        path = state_dir / "slots" / slot / "task.json"
        if path.exists():
            return TaskSchema.from_bytes(path.read_bytes())
    return None


def _start_ring(path: Path, task: TaskSchema, next_slot: int) -> None:
    from fedge.serving.ring_file import RowLayout, create_ring
    from fedge.serving.ring_reader import RingReader

    fresh = path.with_name("ring.bin.new")
    fresh.unlink(missing_ok=True)
    create_ring(fresh, RowLayout.of(task), capacity=8192)
    reader = RingReader(fresh)
    reader.never_below(next_slot)
    reader.close()
    # The old ring held records: it goes for good.
    fresh.replace(path)


_STEPS: dict[int, Callable[[Path], str]] = {1: _ring_with_purposes}
"""From a layout to the next one."""
