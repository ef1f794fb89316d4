"""The ledger of a gateway: what each block of its data may still release.

A charge is taken when it is reserved, before any noise is drawn; a crash after that
leaves it standing. Settling records that the noised bytes were kept, in the same
transaction that keeps them. Nothing is ever paid back. The tables live in the
gateway's state file; every change also adds an entry to a hash chain. Drawing noise
and sending bytes belong to others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fedge.errors import (
    BudgetExhaustedError,
    NonFiniteValueError,
    ReservationError,
    StateError,
)
from fedge.privacy.entries import (
    Created,
    Erased,
    ErasureReason,
    Excluded,
    Exclusion,
    Opened,
    RunReserved,
    Settled,
    WindowReserved,
    events_nano,
    fits,
    replay,
)
from fedge.privacy.grants import Grant
from fedge.privacy.policy import check_policy
from fedge.privacy.rdp import cap_nano, epsilon_of, telemetry_nano
from fedge.privacy.reservations import Reservation, Reservations
from fedge.privacy.tables import LedgerTables
from fedge.records import BlockSpending, DiscreteGaussianEvent, PrivacyPolicy
from fedge.statefile import StateFile

__all__ = ["FEATURES", "LABELS", "Ledger", "Reservation"]

FEATURES = "features"
"""The purpose of a window's feature report."""
LABELS = "labels"
"""The purpose of a window's label report."""


class Ledger:
    """Reserve, grant, settle: the only way to release anything content-derived.

    Args:
        state: the gateway's one file of truth.
        policy: holds for blocks opened from now on; a block keeps the one it opened under.
        clock: seconds since the epoch, for the entries.
        simulated: fixed when the ledger is created; a real one settles real noise only.

    Raises:
        StateError: the file holds a ledger of the other sort.
        SettingError: the policy could never release anything.
    """

    def __init__(
        self,
        state: StateFile,
        policy: PrivacyPolicy,
        *,
        clock: Callable[[], float],
        simulated: bool = False,
    ) -> None:
        check_policy(policy)
        self.policy, self.simulated = policy, simulated
        self._state, self._clock = state, clock
        self._tables, self._reservations = LedgerTables(state), Reservations(state)
        # What this process granted and has not settled; a crash forgets it, and may: nothing
        # that was noised under it was released.
        self._live: dict[tuple[int, str], Grant] = {}
        with state.transaction():
            first = self._tables.entry(0)
            if first is None:
                self._tables.append(Created, self._now(), simulated)
            elif first.simulated != simulated:
                raise StateError(
                    f"{state.path} holds a {'simulated' if first.simulated else 'real'} ledger; "
                    "a ledger is one or the other from its creation"
                )

    def open_block(self, block: int) -> None:
        """Open a block under the present policy, reserving monitoring's share; idempotent.

        A block that is open already keeps the policy under which it was opened.
        """
        with self._state.transaction():
            if self._tables.policy(block) is None:
                self._tables.append(
                    Opened, self._now(), self.simulated, block=block, policy=self.policy
                )
                self._tables.add_block(block, self.policy)

    def policy_of(self, block: int) -> PrivacyPolicy:
        """The policy under which `block` was opened.

        Raises:
            ReservationError: it was never opened.
        """
        policy = self._tables.policy(block)
        if policy is None:
            raise ReservationError(f"block {block} was never opened in this ledger")
        return policy

    def reserve_window(
        self,
        window: int,
        block: int,
        events: Sequence[DiscreteGaussianEvent],
        *,
        purpose: str = FEATURES,
    ) -> Reservation:
        """Reserve releases about one window out of its block's monitoring share.

        Asked again for the same window and purpose, it answers the same reservation.

        Raises:
            BudgetExhaustedError: all releases about this window together would exceed the
                block's monitoring share.
            ReservationError: the block was never opened, the window belongs to another block,
                or this purpose was reserved with other events.
            UnknownEventError: an event has no price.
        """
        subject = f"{window}/{purpose}"
        with self._state.transaction():
            known = self._reservations.find("window", subject, (block,), events)
            if known is not None:
                return known
            policy = self.policy_of(block)
            nano = events_nano(events, policy.alpha)
            if self._reservations.block_of_window(window) not in (None, block):
                raise ReservationError(f"window {window} belongs to another block than {block}")
            left = telemetry_nano(policy) - self._reservations.window_nano(window)
            if nano > left:
                raise BudgetExhaustedError(block, nano, left)
            made = Reservation(self._reservations.next_id(), "window", (block,), tuple(events))
            self._tables.append(
                WindowReserved,
                self._now(),
                self.simulated,
                reservation=made.id,
                window=window,
                block=block,
                purpose=purpose,
                events=made.events,
            )
            self._reservations.add(made, subject, {block: nano}, window)
            return made

    def reserve_run(
        self, run_id: str, blocks: Sequence[int], events: Sequence[DiscreteGaussianEvent]
    ) -> Reservation:
        """Reserve all rounds of a retraining, charged in full to every block that it reads.

        All or nothing. Asked again with the same content, it answers the same reservation.

        Raises:
            BudgetExhaustedError: a block has too little left; none was charged.
            ReservationError: no block is named, one was never opened, or the run id was used
                with other blocks or events.
            UnknownEventError: an event has no price.
        """
        distinct = tuple(sorted(set(blocks)))
        with self._state.transaction():
            known = self._reservations.find("run", run_id, distinct, events)
            if known is not None:
                return known
            charges: dict[int, int] = {}
            for block in distinct:
                policy = self.policy_of(block)
                charges[block] = events_nano(events, policy.alpha)
                spent = self._reservations.training_nano(block) + telemetry_nano(policy)
                left = cap_nano(policy) - spent
                if charges[block] > left:
                    raise BudgetExhaustedError(block, charges[block], left)
            made = Reservation(self._reservations.next_id(), "run", distinct, tuple(events))
            self._tables.append(
                RunReserved,
                self._now(),
                self.simulated,
                reservation=made.id,
                run_id=run_id,
                blocks=distinct,
                events=made.events,
            )
            self._reservations.add(made, run_id, charges, None)
            return made

    def grant(self, reservation: Reservation, key: str, event: DiscreteGaussianEvent) -> Grant:
        """The right to noise `event`, a part of the reservation, under the name `key`.

        Granted again while `key` is not settled, as after a crash, because nothing noised under
        the earlier grant was released; the earlier one is void.

        Raises:
            ReservationError: `key` is settled (resend the stored bytes), was granted for
                another event, or the reservation's other keys hold what is asked for.
        """
        with self._state.transaction():
            parts = self._reservations.parts(reservation.id)
            mine = parts.pop(key, None)
            if mine is not None and mine.artefact_sha256 is not None:
                raise ReservationError(f"{key!r} is settled; resend the bytes that were stored")
            if mine is not None and mine.event != event:
                raise ReservationError(f"{key!r} was granted for another event")
            held = [part.event for part in parts.values()]
            self._reservations.require(reservation)
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
            grant = Grant(reservation.id, key, event, simulated=self.simulated)
            self._live[reservation.id, key] = grant
            return grant

    def settle(
        self,
        reservation: Reservation,
        key: str,
        artefact_sha256: str,
        noise_kind: str,
    ) -> None:
        """Record that the bytes noised under `key` are kept; joins the caller's transaction.

        The same call again changes nothing.

        Raises:
            ReservationError: `key` was not granted by this process, no noise was drawn under
                it, it is settled with other bytes, or the noise is not the system's in a real
                ledger.
        """
        if noise_kind not in ("os", "seeded") or (noise_kind != "os" and not self.simulated):
            raise ReservationError(f"a real ledger does not settle {noise_kind!r} noise")
        with self._state.transaction():
            part = self._reservations.parts(reservation.id).get(key)
            if part is not None and part.artefact_sha256 is not None:
                if part.artefact_sha256 != artefact_sha256:
                    raise ReservationError(f"{key!r} is settled with other bytes")
                return
            grant = self._live.get((reservation.id, key))
            if part is None or grant is None:
                raise ReservationError(f"{key!r} was not granted; nothing may be released under it")
            if grant.remaining == part.event.count:
                raise ReservationError(f"no noise was drawn under {key!r}")
            self._tables.append(
                Settled,
                self._now(),
                self.simulated,
                reservation=reservation.id,
                key=key,
                event=part.event,
                artefact_sha256=artefact_sha256,
                noise=noise_kind,
            )
            self._reservations.settle_part(reservation.id, key, artefact_sha256)
            grant.void()

    def settled(self, reservation: Reservation, key: str) -> str | None:
        """SHA-256 of the bytes settled under `key`, or None while they are not."""
        part = self._reservations.parts(reservation.id).get(key)
        return None if part is None else part.artefact_sha256

    def exclude(self, block: int, what: Exclusion) -> None:
        """Record that the guarantee leaves out `what` of `block`; on disk when it returns.

        Only then may the first of it leave. Idempotent; the block need not be open yet.
        """
        with self._state.transaction():
            if self._tables.add_exclusion(block, what):
                self._tables.append(Excluded, self._now(), self.simulated, block=block, what=what)

    def note_erasure(self, reason: ErasureReason, *, asked: int = 0) -> None:
        """Record that records were deleted; joins the caller's transaction, changes no charge.

        Args:
            asked: how many record ids an erasure was asked for; 0 where a subject or a rule
                decided. How many records were found depends on consent and subject, and is
                written nowhere.

        Raises:
            ValueError: a number with a reason that names no ids.
        """
        if asked and reason != "erasure":
            raise ValueError(f"{reason} names no record ids")
        self._tables.append(Erased, self._now(), self.simulated, records=asked, reason=reason)

    def spending(self, block: int) -> BlockSpending:
        """What is charged to one block, settled or not.

        Raises:
            ReservationError: it was never opened.
        """
        self.policy_of(block)
        return self._spending(block, self._reservations.training_nano(block))

    def spendings(self) -> tuple[BlockSpending, ...]:
        """What is charged to each block, in the order of blocks."""
        with self._state.transaction():
            totals = self._reservations.training_totals()
            return tuple(self._spending(block, nano) for block, nano in totals.items())

    def entries(self) -> tuple[bytes, ...]:
        """All entries, oldest first: canonical JSON, each holding the hash of the one before."""
        return tuple(self._tables.bodies())

    def check_chain(self) -> None:
        """Replay all entries and compare them with the tables.

        Raises:
            StateError: an entry or a table was changed, removed or added by other hands.
        """
        with self._state.transaction():
            totals = replay(self._tables.bodies())
            if (
                totals.simulated != self.simulated
                or totals.training_nano != self._reservations.training_totals()
                or totals.window_nano != self._reservations.window_totals()
                or totals.settled != self._reservations.settled_parts()
                or totals.excluded != self._tables.exclusions()
                or any(self.policy_of(block) != p for block, p in totals.policies.items())
            ):
                raise StateError(f"the tables of {self._state.path} disagree with the ledger")

    def _spending(self, block: int, training: int) -> BlockSpending:
        policy = self.policy_of(block)
        telemetry = telemetry_nano(policy)
        return BlockSpending(
            block=block,
            cap_nano=cap_nano(policy),
            telemetry_nano=telemetry,
            training_nano=training,
            epsilon=epsilon_of(telemetry + training, policy),
        )

    def _forget_settled(self) -> None:
        for number, key in list(self._live):
            part = self._reservations.parts(number).get(key)
            if part is None or part.artefact_sha256 is not None:
                del self._live[number, key]

    def _now(self) -> float:
        now = self._clock()
        if not math.isfinite(now):
            raise NonFiniteValueError(f"the clock says {now}")
        return float(now)
