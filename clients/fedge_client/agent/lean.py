"""What the agent's process does to itself first, to stay small and out of the worker's way.

Called before anything large is imported: the memory pool of Arrow is chosen at its
import, and glibc's arenas are made with the first threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's mallopt(3)."""

KEPT_BYTES = 32 * 2**20
"""Free memory that the allocator keeps at most; a window of 1,000 rows needs little of it."""

NICENESS = 10
GROUP_NICENESS = 19
AUTOGROUP = Path("/proc/self/autogroup")

ABSENT = (
    *("pandas", "cloudpickle"),
    *("pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs"),
)
"""What pyarrow imports where it is installed and does without where it is not: type checks,
pickles, and the object stores of four clouds. Nothing here uses them, and they would stay in memory
for months."""


class Without(importlib.abc.MetaPathFinder):
    """Makes libraries look absent in this process."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"{fullname} is not loaded here", name=fullname)
        return None


def become_lean() -> None:
    """Fewer and smaller pools of memory; no library that is only in the way."""
    sys.meta_path.insert(0, Without(ABSENT))
    # Arrow's own allocators keep what was freed; a window's table is all that it ever holds.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        # One arena for each of a dozen threads that sleep would keep what each once needed.
        mallopt(M_ARENA_MAX, 2)
        # A large window's buffers come and go: mapping each anew would double what it costs.
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_way() -> None:
    """Let this process, its threads and children run only where the worker leaves room."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    with contextlib.suppress(OSError, AttributeError):
        # Long slices, and no preemption of a worker that wakes up for a request.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if os.getsid(0) == os.getpid():
        # Where sessions are scheduled as groups, niceness counts within a session only: the one
        # that this process leads must give way, too (sched(7), "The autogroup feature").
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(GROUP_NICENESS))
