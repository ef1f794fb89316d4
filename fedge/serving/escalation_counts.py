"""How often requests were escalated, and why not: for this host's eyes alone.

The numbers depend on what requests held. They lie in a small file of their own, apart from
the worker's public counters, that a process on this host maps and the loopback status
shows; no exported metric and nothing that leaves the gateway reads it. Standard library
alone.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from fedge.errors import StateError

OUTCOMES = ("escalated", "not-granted", "budget", "deadline", "failed")
"""In the order of the file; each is an unsigned 64-bit number behind the magic one."""

MAGIC = int.from_bytes(b"FEDGEEC1", "little")
_BYTES = 8 * (1 + len(OUTCOMES))


def counts_path(runtime_dir: Path, family: str, slot: str) -> Path:
    """Where the worker of a slot counts its escalations."""
    return runtime_dir / f"escalations-{family}-{slot}.bin"


class EscalationCounts:
    """The worker's end: starts from zero, in place of the file of the worker before.

    Args:
        path: usually `counts_path(...)`; None counts in memory alone.

    Raises:
        StateError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._values = memoryview(bytearray(_BYTES) if path is None else _mapped(path)).cast("Q")

    def count(self, outcome: str) -> None:
        """One more request came to one of `OUTCOMES`."""
        self._values[1 + OUTCOMES.index(outcome)] += 1

    def read(self) -> dict[str, int]:
        """How many there were of each."""
        return dict(zip(OUTCOMES, self._values[1:].tolist(), strict=True))


def read_counts(path: Path) -> dict[str, int]:
    """What a worker counted since it started; its process may be gone.

    Raises:
        StateError: there is no such file, or it holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error}") from error
    if len(data) != _BYTES or int.from_bytes(data[:8], "little") != MAGIC:
        raise StateError(f"{path} holds no counts of escalations")
    return dict(zip(OUTCOMES, memoryview(data).cast("Q")[1:].tolist(), strict=True))


def _mapped(path: Path) -> mmap.mmap:
    part = path.with_suffix(".part")
    try:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Allocated now: a store into a hole of a full disk would end the process.
            os.posix_fallocate(handle, 0, _BYTES)
            mapped = mmap.mmap(handle, _BYTES)
        finally:
            os.close(handle)
        mapped[:8] = MAGIC.to_bytes(8, "little")
        part.replace(path)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error}") from error
    return mapped
