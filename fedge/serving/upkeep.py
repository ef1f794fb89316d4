"""What a worker could not have at its start, or lost since: tried again now and then.

A disk that is full or read-only, or a file that is damaged, must not keep a model from
answering. The worker begins with what it can have; the rest is looked after here, off the
path of requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from fedge.data.subjects import SubjectKey
from fedge.errors import RequestError, StateError
from fedge.serving.ring_keeper import LOOK_S, RingKeeper

log = logging.getLogger(__name__)


class Subjects:
    """The pseudonyms of subjects, once their key can be had.

    Requests that name a subject are refused until then; all others are served.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._key: SubjectKey | None = None
        self._said = ""
        self.look()

    def look(self) -> None:
        """Open the key if that is still to do; may wait for the disk."""
        if self._key is not None:
            return
        try:
            self._key = SubjectKey.open(self._state_dir)
        except StateError as error:
            if str(error) != self._said:
                log.error("requests that name a subject are refused: %s", error)
            self._said = str(error)

    def pseudonym(self, text: str) -> bytes:
        """See `SubjectKey.pseudonym`.

        Raises:
            RequestError: there is no key now (503).
        """
        if self._key is None:
            message = "no subject can be named now: their key cannot be read or made here"
            raise RequestError(503, "parameters.fedge_subject", message)
        return self._key.pseudonym(text)


class Upkeep:
    """Looks after a worker's ring and key.

    Args:
        keeper: of the ring; None where nothing is monitored.
        tell: told whether rows are observed, whenever that may have changed.
    """

    def __init__(
        self, keeper: RingKeeper | None, subjects: Subjects, tell: Callable[[bool], None]
    ) -> None:
        self._keeper, self._subjects, self._tell = keeper, subjects, tell
        tell(self._observed)

    async def run(self) -> None:
        """Look every `LOOK_S` seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # whatever it is, the next look may go well
                log.exception("looking after the ring failed")

    async def look(self) -> None:
        """One look; the event loop does not wait for the disk."""
        if self._keeper is not None:
            ring = await asyncio.to_thread(self._keeper.look)
            if ring is not None:
                # Here, where requests are served: no append is under way.
                self._keeper.take(ring)
        await asyncio.to_thread(self._subjects.look)
        self._tell(self._observed)

    @property
    def _observed(self) -> bool:
        return self._keeper is not None and self._keeper.ring is not None
