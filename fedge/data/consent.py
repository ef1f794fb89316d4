"""The file that tells workers who withdrew what.

The agent writes it, whole and atomically, whenever a subject withdraws; each worker looks
at it before it marks a row. A worker cannot open the state file, which has one owner. A
file that cannot be understood permits nothing: until it is readable again, rows that are
about somebody are served and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedge.data.subjects import NO_SUBJECT, PSEUDONYM_BYTES
from fedge.durable import write_file
from fedge.errors import StateError
from fedge.records.purposes import ESCALATION, MONITORING, TRAINING

WITHDRAWALS_FILE = "withdrawals.bin"
"""Its name in the state directory."""

WITHDRAWABLE = MONITORING | TRAINING | ESCALATION
"""Being answered cannot be withdrawn: a caller who wants no answer does not ask."""

_MAGIC = b"FEDGWDR1"
_ENTRY = PSEUDONYM_BYTES + 1
_LOOK_INTERVAL_S = 1.0


class Withdrawals:
    """A worker's view of the file; it follows changes within a second.

    Args:
        path: need not exist: nobody has withdrawn anything then.
        clock: steady seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._bits: dict[bytes, int] | None = {}
        self._seen: tuple[int, int, int] | None = None
        self._next_look = -float("inf")

    def withdrawn(self, pseudonym: bytes) -> int:
        """The purposes (bits, as in `fedge.records.purposes`) that a subject withdrew."""
        if pseudonym == NO_SUBJECT:
            return 0
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + _LOOK_INTERVAL_S
            self._look()
        return WITHDRAWABLE if self._bits is None else self._bits.get(pseudonym, 0)

    def _look(self) -> None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return  # nobody withdrew yet; and what was withdrawn is not granted by a lost file
        except OSError:
            self._bits, self._seen = None, None
            return
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen == self._seen:
            return
        try:
            self._bits, self._seen = _decode(self._path.read_bytes()), seen
        except (OSError, StateError):
            self._bits, self._seen = None, None


def write_withdrawals(path: Path, withdrawn: Mapping[bytes, int]) -> None:
    """Replace the file, all or nothing; on disk when it returns.

    Args:
        withdrawn: purpose bits by pseudonym.

    Raises:
        StateError: the disk refused; the old file stays.
    """
    data = _MAGIC + b"".join(who + bytes([bits]) for who, bits in sorted(withdrawn.items()))
    try:
        write_file(path, data, mode=0o600)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error}") from error


def _decode(data: bytes) -> dict[bytes, int]:
    entries = data[len(_MAGIC) :]
    if data[: len(_MAGIC)] != _MAGIC or len(entries) % _ENTRY:
        raise StateError("this is no file of withdrawals")
    return {
        entries[at : at + PSEUDONYM_BYTES]: entries[at + PSEUDONYM_BYTES]
        for at in range(0, len(entries), _ENTRY)
    }
