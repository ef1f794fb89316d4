"""From a reservation to released bytes: granting its parts, and settling them.

A grant lets noise be drawn; only a settlement, in the transaction that keeps the noised
bytes, makes them count as released. What a process granted and did not settle is
forgotten with it, and may be: nothing noised under it was released.
"""

from __future__ import annotations

from fedge.errors import ReservationError
from fedge.privacy.accounts import Accounts
from fedge.privacy.chain import Chain
from fedge.privacy.charges import fits, noise_of, takes_noise
from fedge.privacy.entries import Settled
from fedge.privacy.grants import Grant
from fedge.privacy.reservations import Part, Reservation, Reservations
from fedge.records import PrivacyEvent
from fedge.statefile import StateFile


class Settling:
    """Grants parts of reservations and settles them; see `Ledger.grant` and `Ledger.settle`."""

    def __init__(
        self,
        state: StateFile,
        chain: Chain,
        accounts: Accounts,
        reservations: Reservations,
        *,
        simulated: bool,
    ) -> None:
        self._state, self._chain, self._accounts = state, chain, accounts
        self._reservations, self._simulated = reservations, simulated
        self._live: dict[tuple[int, str], Grant] = {}

    def grant(self, reservation: Reservation, key: str, event: PrivacyEvent) -> Grant:
        with self._state.transaction():
            parts = self._reservations.parts(reservation.id)
            mine = parts.pop(key, None)
            if mine is not None and mine.artefact_sha256 is not None:
                raise ReservationError(f"{key!r} is settled; resend the bytes that were stored")
            if mine is not None and mine.event != event:
                raise ReservationError(f"{key!r} was granted for another event")
            held = [part.event for part in parts.values()]
            self._reservations.require(reservation)
            self._check_open(reservation)
            if not fits(reservation.events, [*held, event]):
                raise ReservationError(
                    f"reservation {reservation.id} does not hold what {key!r} asks for"
                )
            if mine is None:
                self._reservations.add_part(reservation.id, key, event)
            self._forget_settled()
            earlier = self._live.get((reservation.id, key))
            if earlier is not None:
                earlier.void()
            grant = Grant(reservation.id, key, event, simulated=self._simulated)
            self._live[reservation.id, key] = grant
            return grant

    def settle(
        self, reservation: Reservation, key: str, artefact_sha256: str, noise_kind: str
    ) -> None:
        with self._state.transaction():
            part = self._reservations.parts(reservation.id).get(key)
            if part is not None and part.artefact_sha256 is not None:
                if part.artefact_sha256 != artefact_sha256:
                    raise ReservationError(f"{key!r} is settled with other bytes")
                return
            self._check_open(reservation)
            part, grant = self._drawn(reservation, key, part)
            noise = noise_of(part.event, noise_kind)
            if not takes_noise(part.event, noise, simulated=self._simulated):
                raise ReservationError(
                    f"a {'simulated' if self._simulated else 'real'} ledger does not settle "
                    f"{noise_kind!r} noise for a {part.event.kind} event"
                )
            self._chain.append(
                Settled,
                reservation=reservation.id,
                key=key,
                event=part.event,
                artefact_sha256=artefact_sha256,
                noise=noise,
            )
            self._reservations.settle_part(reservation.id, key, artefact_sha256)
            grant.void()

    def void(self) -> None:
        """Use up all that was granted and not settled."""
        for grant in self._live.values():
            grant.void()
        self._live.clear()

    def _drawn(self, reservation: Reservation, key: str, part: Part | None) -> tuple[Part, Grant]:
        """What was granted under `key` by this process, and noised at least once."""
        grant = self._live.get((reservation.id, key))
        if part is None or grant is None:
            raise ReservationError(f"{key!r} was not granted; nothing may be released under it")
        if grant.remaining == part.event.count:
            raise ReservationError(f"no noise was drawn under {key!r}")
        return part, grant

    def _check_open(self, reservation: Reservation) -> None:
        for block in reservation.blocks:
            self._accounts.check_open(block)

    def _forget_settled(self) -> None:
        for number, key in list(self._live):
            part = self._reservations.parts(number).get(key)
            if part is None or part.artefact_sha256 is not None:
                del self._live[number, key]
