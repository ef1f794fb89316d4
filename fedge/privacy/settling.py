"""From a reservation to released bytes: granting its parts, and settling them.

A grant lets noise be drawn; only a settlement, in the transaction that keeps the noised
bytes, makes them count as released. What was granted and not settled when a process
ended, or whose noise is drawn and asked for again, is a gap: an entry says so, its charge
stands, and it is never drawn a second time.
"""

from __future__ import annotations

from fedge.errors import DrawLostError, ReservationError
from fedge.privacy.accounts import Accounts
from fedge.privacy.chain import Chain
from fedge.privacy.charges import fits, noise_of, takes_noise
from fedge.privacy.entries import Lost, Settled
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

    def write_off(self) -> None:
        """Note as lost what an earlier process granted and did not settle."""
        with self._state.transaction():
            for (number, key), event in self._reservations.open_parts().items():
                self._lose(number, key, event)

    def grant(self, reservation: Reservation, key: str, event: PrivacyEvent) -> Grant:
        """See `Ledger.grant`."""
        if self._state.in_transaction:
            raise RuntimeError("a grant inside a transaction: it might be undone after a draw")
        with self._state.transaction():
            parts = self._reservations.parts(reservation.id)
            mine = parts.pop(key, None)
            self._check_part(mine, key, event)
            held = [part.event for part in parts.values()]
            self._reservations.require(reservation)
            self._check_open(reservation)
            if not fits(reservation.events, [*held, event]):
                raise ReservationError(
                    f"reservation {reservation.id} does not hold what {key!r} asks for"
                )
            self._forget_settled()
            lost = self._end_earlier(reservation.id, key, event) and mine is not None
            if mine is None:
                self._reservations.add_part(reservation.id, key, event)
            if lost:
                self._lose(reservation.id, key, event)
            else:
                grant = Grant(reservation.id, key, event, simulated=self._simulated)
                self._live[reservation.id, key] = grant
        if lost:  # only now: an error inside would undo the entry that says so
            raise DrawLostError(key)
        return grant

    def settle(
        self, reservation: Reservation, key: str, artefact_sha256: str, noise_kind: str
    ) -> None:
        """See `Ledger.settle`."""
        with self._state.transaction():
            part = self._reservations.parts(reservation.id).get(key)
            if part is not None and part.artefact_sha256 is not None:
                if part.artefact_sha256 != artefact_sha256:
                    raise ReservationError(f"{key!r} is settled with other bytes")
                return
            self._check_open(reservation)
            if part is not None and part.lost:
                raise DrawLostError(key)
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

    def _check_part(self, part: Part | None, key: str, event: PrivacyEvent) -> None:
        if part is None:
            return
        if part.artefact_sha256 is not None:
            raise ReservationError(f"{key!r} is settled; resend the bytes that were stored")
        if part.lost:
            raise DrawLostError(key)
        if part.event != event:
            raise ReservationError(f"{key!r} was granted for another event")

    def _end_earlier(self, number: int, key: str, event: PrivacyEvent) -> bool:
        """Void an earlier grant; whether noise may have been drawn under one."""
        earlier = self._live.get((number, key))
        # One step: whoever holds it might draw between a look and the end of it.
        return earlier is None or earlier.void() < event.count

    def _lose(self, number: int, key: str, event: PrivacyEvent) -> None:
        self._chain.append(Lost, reservation=number, key=key, event=event)
        self._reservations.lose_part(number, key)

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
            if part is None or not part.open:
                del self._live[number, key]
