"""A grant: the one-shot right to draw the noise of one reserved event.

The ledger gives it out; the noise takes from it. It can be handed to another process
once, as bytes, and is then used up here. It proves nothing about the process that
holds it: what counts as released is decided when the ledger settles.
"""

from __future__ import annotations

import secrets
import threading

from pydantic import Field

from fedge.errors import ReservationError
from fedge.privacy.charges import parameters
from fedge.records import Count, PrivacyEvent, Record


class GrantRecord(Record):
    """A grant on its way to another process."""

    reservation: Count
    key: str = Field(min_length=1, max_length=256)
    event: PrivacyEvent
    simulated: bool
    remaining: int = Field(ge=1)
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")


_taken_over: set[str] = set()
"""Nonces of the grants that this process took over, so that it takes none over twice."""


class Grant:
    """Draws of one event that may still be taken: `event.count` of them at first.

    Args:
        reservation, key: the part of the ledger that this grant belongs to.
        event: the exact parameters that were charged.
        simulated: whether the ledger is a simulation's; a real grant takes real noise only.
    """

    def __init__(self, reservation: int, key: str, event: PrivacyEvent, *, simulated: bool) -> None:
        self.reservation, self.key = reservation, key
        self.event, self.simulated = event, simulated
        self._remaining = event.count
        self._lock = threading.Lock()

    @property
    def remaining(self) -> int:
        """Releases that may still be drawn."""
        return self._remaining

    def take(
        self, sensitivity2: int, sigma2: int, dimension: int, rate_ppm: int | None = None
    ) -> None:
        """Use up one release, before its noise is drawn.

        Args:
            rate_ppm: of the Poisson sample that the release sums; None where it sums all, and
                its noise is discrete.

        Raises:
            ReservationError: none is left, or the parameters are not those that were charged.
                Nothing was used up.
        """
        kind = "discrete-gaussian" if rate_ppm is None else "poisson-gaussian"
        asked = (kind, rate_ppm or 0, sensitivity2, sigma2, dimension)
        charged = parameters(self.event)
        if asked != charged:
            raise ReservationError(
                f"noise asked for (kind, rate_ppm, sensitivity2, sigma2, dimension) = {asked}, "
                f"but {charged} was charged under {self.key!r}"
            )
        with self._lock:
            if self._remaining == 0:
                raise ReservationError(
                    f"all {self.event.count} releases granted under {self.key!r} are used up"
                )
            self._remaining -= 1

    def void(self) -> int:
        """Use up whatever is left; answers how many releases that were."""
        with self._lock:
            left, self._remaining = self._remaining, 0
            return left

    def to_bytes(self) -> bytes:
        """Hand the grant over: what is left goes into the bytes and is used up here.

        Raises:
            ReservationError: nothing is left.
        """
        remaining = self.void()
        if remaining == 0:
            raise ReservationError(f"nothing is left to hand over of the grant {self.key!r}")
        return GrantRecord(
            reservation=self.reservation,
            key=self.key,
            event=self.event,
            simulated=self.simulated,
            remaining=remaining,
            nonce=secrets.token_hex(16),
        ).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Grant:
        """Take over a grant that `to_bytes` handed over.

        Raises:
            RecordError: the bytes hold no grant.
            ReservationError: this process took it over before, or it claims more releases than
                its event has.
        """
        record = GrantRecord.from_bytes(data)
        if record.remaining > record.event.count:
            raise ReservationError(
                f"the grant {record.key!r} claims {record.remaining} releases of "
                f"{record.event.count}"
            )
        if record.nonce in _taken_over:
            raise ReservationError(f"the grant {record.key!r} was taken over before")
        _taken_over.add(record.nonce)
        grant = cls(record.reservation, record.key, record.event, simulated=record.simulated)
        grant._remaining = record.remaining
        return grant
