"""A disk that kills or refuses at a chosen write of a real process, and tells what was written.

It is a small library in C, put before libc in the process under test, because SQLite and
Arrow do not write through Python. It counts each call that changes a file below one folder:
open for a new file, write, truncate, sync, rename, link, unlink, mkdir. Stores to mapped
memory (the ring's rows) are no calls and are not counted.
"""

from __future__ import annotations

import enum
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "faults" / "faulty_disk.c"


class How(enum.IntEnum):
    """What becomes of a chosen call; the values are those of `faulty_disk.c`."""

    NOTHING = 0
    KILL_BEFORE = 1
    """SIGKILL before it does anything."""
    KILL_WITHIN = 2
    """SIGKILL after half of what it writes; right after it where it writes nothing."""
    FULL = 3
    """ENOSPC, where it would take space."""
    BROKEN = 4
    """EIO."""
    READ_ONLY = 5
    """EROFS, also when a file is opened for writing."""
    SHORT = 6
    """Half of what it writes is written, and it says so."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, or a row of them.

    Attributes:
        first: number of the first call concerned, from 0.
        calls: so many calls; 0: all from the first on.
        while_exists: the fault holds only while this file exists; None: always.
    """

    how: How = How.NOTHING
    first: int = 0
    calls: int = 1
    while_exists: Path | None = None


@dataclass(frozen=True, slots=True)
class FaultyDisk:
    """The library, compiled; see `compiled`."""

    library: Path

    def environment(
        self, below: Path, log: Path, fault: Fault, *, children: bool = False
    ) -> dict[str, str]:
        """What a program that is started with a fault needs in its environment.

        Args:
            children: the fault also holds in every process that it starts.
        """
        held = "-" if fault.while_exists is None else str(fault.while_exists)
        parts = (str(below), str(log), held, *map(str, (int(fault.how), fault.first, fault.calls)))
        found = {"LD_PRELOAD": str(self.library), "FAULTY_DISK": "|".join(parts)}
        return {**found, "FAULTY_DISK_CHILDREN": "1"} if children else found


def compiler() -> str | None:
    """A C compiler of this machine."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def compiled(folder: Path) -> FaultyDisk:
    """The library, made in `folder`."""
    found = compiler()
    assert found is not None, "no C compiler"
    library = folder / "faulty_disk.so"
    command = [found, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True, timeout=60)
    return FaultyDisk(library)


def calls(log: Path) -> list[str]:
    """What the process did, in order, e.g. `rename blocks/0/x.parquet`."""
    if not log.exists():
        return []
    return [line.partition(" ")[2] for line in log.read_text().splitlines()]
