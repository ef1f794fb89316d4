"""How many requests may be escalated: so many in any minute, so many in any 24 hours.

The moments of the latest escalations are kept in a small file that all workers of one
model share, so that neither a restart nor two workers during a swap get more. A moment
is on the file before its request is sent and is never taken back. The kernel keeps what
was written when a process is killed; after a power cut the last seconds may be missing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fedge.durable import write_file

log = logging.getLogger(__name__)

BUDGET_FILE = "escalation.budget"
"""In the state folder of a served model."""

MINUTE_S, DAY_S = 60.0, 86_400.0
MAGIC = b"fedgeEB1"

_HEADER = struct.Struct("<8sQQddI")
_MOMENT = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class _Log:
    """Head of the file; behind it lie `places` moments, that of escalation n at n % places.

    Attributes:
        total: escalations ever.
        lead_s: what is added to the clock, so that time never goes back.
        latest: the last moment that was seen, clock and lead together.
    """

    places: int
    total: int = 0
    lead_s: float = 0.0
    latest: float = 0.0

    def to_bytes(self) -> bytes:
        head = _HEADER.pack(MAGIC, self.places, self.total, self.lead_s, self.latest, 0)
        return head[:-4] + struct.pack("<I", zlib.crc32(head[:-4]))

    @classmethod
    def read(cls, handle: int) -> _Log | None:
        """None where the file does not hold one."""
        data = os.pread(handle, _HEADER.size, 0)
        if len(data) < _HEADER.size or data[:8] != MAGIC:
            return None
        _, places, total, lead_s, latest, checksum = _HEADER.unpack(data)
        whole = os.fstat(handle).st_size == _HEADER.size + places * _MOMENT.size
        if not whole or checksum != zlib.crc32(data[:-4]):
            return None
        return cls(places, total, lead_s, latest)

    def place(self, number: int) -> int:
        """Where in the file the moment of an escalation lies."""
        return _HEADER.size + number % self.places * _MOMENT.size

    def moment(self, handle: int, number: int) -> float:
        data = os.pread(handle, _MOMENT.size, self.place(number))
        return float(_MOMENT.unpack(data)[0])


class EscalationBudget:
    """Counts escalations of one model, across its workers.

    Args:
        path: the file; made when it is not there. A damaged one counts as spent.
        per_minute, per_day: at most so many in any 60 s and in any 24 h.
        clock: seconds since the epoch. Where it goes back, time stands still until it goes on.

    Raises:
        OSError: of every method, where the file cannot be used; nothing may be sent then.
    """

    def __init__(
        self, path: Path, *, per_minute: int, per_day: int, clock: Callable[[], float]
    ) -> None:
        self._path, self._clock = path, clock
        self._limits = ((per_minute, MINUTE_S), (per_day, DAY_S))
        # One more than is ever looked at: the place that is written is not looked at, so a
        # process that is killed between moment and head has changed nothing.
        self._places = max(per_minute, per_day) + 1

    def left(self) -> bool:
        """Whether `take` would say yes now."""
        with self._locked() as handle:
            _, allowed = self._look(handle)
            return allowed

    def take(self) -> bool:
        """Spend one escalation; false: there is none left, and nothing changed."""
        with self._locked() as handle:
            known, allowed = self._look(handle)
            if allowed:
                os.pwrite(handle, _MOMENT.pack(known.latest), known.place(known.total))
                os.pwrite(handle, replace(known, total=known.total + 1).to_bytes(), 0)
            return allowed

    def _look(self, handle: int) -> tuple[_Log, bool]:
        known = self._at_present(handle)
        return known, all(
            known.total < limit
            or known.latest - known.moment(handle, known.total - limit) >= span_s
            for limit, span_s in self._limits
            if limit > 0
        ) and all(limit > 0 for limit, _ in self._limits)

    def _at_present(self, handle: int) -> _Log:
        known = _Log.read(handle)
        if known is None:
            raise RuntimeError("the file is looked at while it is locked")
        clock = self._clock()
        if clock + known.lead_s >= known.latest:
            return replace(known, latest=clock + known.lead_s)
        # The clock went back. What it showed is kept, and from now on it runs ahead by as
        # much: else time would stand still until the clock came by there again.
        known = replace(known, lead_s=known.latest - clock)
        os.pwrite(handle, known.to_bytes(), 0)
        return known

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, ours alone and with enough places."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            handle = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                # Another worker may have replaced it while we waited.
                if not os.path.samestat(os.fstat(handle), self._path.stat()):
                    continue
                known = _Log.read(handle)
                if known is None or known.places < self._places:
                    write_file(self._path, self._remade(handle, known), mode=0o600)
                    continue
                yield handle
                return
            finally:
                os.close(handle)

    def _remade(self, handle: int, known: _Log | None) -> bytes:
        """The file with more places, or a new one."""
        places = self._places
        if known is None and os.fstat(handle).st_size == 0:
            return _Log(places, latest=self._clock()).to_bytes() + bytes(places * _MOMENT.size)
        if known is None:
            log.error("%s is damaged: nothing is escalated for a day", self._path)
            moments = [self._clock()] * places
            head = _Log(places, total=places, latest=moments[0])
        else:
            moments = [0.0] * places
            for number in range(max(0, known.total - known.places), known.total):
                moments[number % places] = known.moment(handle, number)
            head = replace(known, places=places)
        return head.to_bytes() + b"".join(map(_MOMENT.pack, moments))
