"""Counters of one worker, in a file that others read while it is written.

The file is mapped into memory: counting is a store, costs no system call, and what was
counted before a kill -9 stays readable. Each value is an unsigned 64-bit integer at an
address of which 8 is a divisor, so that a reader sees the old or the new one, never half
of each; values of one reading may differ by what happens in between. Nothing here depends
on what a request held. Standard library alone: the supervisor reads it.
"""

from __future__ import annotations

import mmap
import os
import time
from bisect import bisect_left
from pathlib import Path

from fedge.errors import StateError

MAGIC = int.from_bytes(b"FEDGEST2", "little")
LATENCY_BOUNDS_S = tuple(1e-5 * 2 ** (step / 2) for step in range(41))
"""Upper bounds of the latency buckets, 10 us to 10 s; one more bucket holds what is slower."""
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
REFUSALS = ("token", "rate", "concurrency", "connections")
"""Why a request did not reach the app, or a connection none."""

_FACTS = (
    "magic",
    "pid",
    "started_ms",
    "release",
    "ready",
    "observed",
    "inflight",
    "rows",
    "latency_ns",
)
_NAMES = (*_FACTS, *STATUS_CLASSES, *REFUSALS)
_PLACE = {name: index for index, name in enumerate(_NAMES)}
_BUCKETS = len(_NAMES)
_VALUES = _BUCKETS + len(LATENCY_BOUNDS_S) + 1
_BYTES = 8 * _VALUES
_PID, _READY, _INFLIGHT, _ROWS = (_PLACE[n] for n in ("pid", "ready", "inflight", "rows"))
_LATENCY, _STATUSES = _PLACE["latency_ns"], _PLACE[STATUS_CLASSES[0]]


class WorkerStats:
    """The worker's end: starts from zero, in place of the file of the worker before.

    Args:
        path: usually `stats_path(...)`.
        release: the counter of what is served.

    Raises:
        StateError: the file cannot be written.
    """

    def __init__(self, path: Path, *, release: int = 0) -> None:
        part = path.with_suffix(".part")
        try:
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
            try:
                # Allocated now: a store into a hole of a full disk would end the process.
                os.posix_fallocate(handle, 0, _BYTES)
                self._map = mmap.mmap(handle, _BYTES)
            finally:
                os.close(handle)
            self._values = memoryview(self._map).cast("Q")
            self._values[_PID] = os.getpid()
            self._values[_PLACE["started_ms"]] = int(1000 * time.time())
            self._values[_PLACE["release"]] = release
            self._values[0] = MAGIC
            part.replace(path)
        except OSError as error:
            raise StateError(f"cannot write {path}: {error}") from error

    def ready(self, ready: bool) -> None:
        """Whether the worker takes requests."""
        self._values[_READY] = ready

    def observed(self, observed: bool) -> None:
        """Whether rows are handed over to the agent: false without monitoring or a ring."""
        self._values[_PLACE["observed"]] = observed

    def begun(self) -> None:
        """A request is being served."""
        self._values[_INFLIGHT] += 1

    def answered(self, status: int, seconds: float) -> None:
        """A request that begun was answered; status 0 where its caller had gone."""
        values = self._values
        values[_INFLIGHT] -= 1
        if status:
            values[_STATUSES + status // 100 - 1] += 1
            values[_LATENCY] += int(1e9 * seconds)
            values[_BUCKETS + bisect_left(LATENCY_BOUNDS_S, seconds)] += 1

    def served(self, rows: int) -> None:
        """So many rows were scored."""
        self._values[_ROWS] += rows

    def refused(self, why: str) -> None:
        """A limit held: one of `REFUSALS`."""
        self._values[_PLACE[why]] += 1

    def close(self) -> None:
        """Stop writing; the file stays as it is."""
        self._values.release()
        self._map.close()


def stats_path(runtime_dir: Path, family: str, slot: str) -> Path:
    """Where the worker of a slot counts."""
    return runtime_dir / f"stats-{family}-{slot}.bin"


def read_stats(path: Path) -> dict[str, object]:
    """What a worker counted so far; its process may be gone, see `pid`.

    Returns:
        `pid`, `started` (seconds since the epoch), `release`, `ready`, `observed`, `inflight`,
        `rows`, `requests` by status class, `refused` by reason, and `latency_s`: `count`, `sum`
        in seconds, `bounds` and `counts` of its buckets (one more count than bounds).

    Raises:
        StateError: there is no such file, or it holds something else.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), _BYTES, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # the latter where it is too short
        raise StateError(f"cannot read {path}: {error}") from error
    with mapped, memoryview(mapped) as view, view.cast("Q") as values:
        counted = list(values)
    if counted[0] != MAGIC:
        raise StateError(f"{path} holds no counters of a worker of this version")
    facts = dict(zip(_NAMES, counted, strict=False))
    buckets = counted[_BUCKETS:]
    return {
        "pid": facts["pid"],
        "started": facts["started_ms"] / 1000,
        "release": facts["release"],
        "ready": bool(facts["ready"]),
        "observed": bool(facts["observed"]),
        "inflight": facts["inflight"],
        "rows": facts["rows"],
        "requests": {name: facts[name] for name in STATUS_CLASSES},
        "refused": {name: facts[name] for name in REFUSALS},
        "latency_s": {
            "count": sum(buckets),
            "sum": facts["latency_ns"] / 1e9,
            "bounds": list(LATENCY_BOUNDS_S),
            "counts": buckets,
        },
    }
