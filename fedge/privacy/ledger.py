"""The ledger of a gateway: what each block of its data may still release.

A charge is taken when it is reserved, before any noise is drawn; a crash after that
leaves it standing. Settling records that the noised bytes were kept, in the same
transaction that keeps them. Nothing is ever paid back. The tables live in the
gateway's state file; every change also adds an entry to a hash chain. Drawing noise
and sending bytes belong to others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedge.errors import ReservationError, StateError
from fedge.privacy.adoption import check_adoptable, check_goes_on
from fedge.privacy.chain import Chain
from fedge.privacy.entries import (
    Adopted,
    Created,
    Erased,
    ErasureReason,
    Excluded,
    Exclusion,
    Opened,
    Recovered,
    RecoveryReason,
    RunPurpose,
    RunReserved,
    WindowReserved,
    all_training,
)
from fedge.privacy.grants import Grant
from fedge.privacy.reading import LedgerReader
from fedge.privacy.recovery import begins_with, check_chain_of, rebuild
from fedge.privacy.reservations import Reservation
from fedge.privacy.settling import Settling
from fedge.records import (
    PolicyApproval,
    PrivacyEvent,
    PrivacyPolicy,
    WitnessedHead,
)
from fedge.statefile import StateFile

__all__ = ["FEATURES", "LABELS", "Ledger", "Reservation"]

FEATURES = "features"
"""The purpose of a window's feature report."""
LABELS = "labels"
"""The purpose of a window's label report."""


class Ledger(LedgerReader):
    """Reserve, grant, settle: the only way to release anything content-derived.

    Args:
        state: the gateway's one file of truth.
        policy: holds for blocks opened from now on; a block keeps the one it opened under, and
            its cap falls where this one's epsilon is smaller.
        clock: seconds since the epoch, for the entries.
        simulated: fixed when the ledger is created; a real one settles real noise only.
        gateway, public_key: whose ledger it is: fingerprint and key in hex, for its first entry.
        approval: who allowed the policy.

    Raises:
        StateError: the file holds a ledger of the other sort, of another gateway, or of a later
            build.
        SettingError: the policy could never release anything, the approval is not its own, or
            under its length of blocks no new one would come.
    """

    def __init__(
        self,
        state: StateFile,
        policy: PrivacyPolicy,
        *,
        clock: Callable[[], float],
        simulated: bool = False,
        gateway: str | None = None,
        public_key: str | None = None,
        approval: PolicyApproval | None = None,
    ) -> None:
        check_adoptable(policy, approval)
        self.policy, self.approval, self.simulated = policy, approval, simulated
        self._gateway = gateway
        with state.transaction():
            super().__init__(state, Chain(state, clock, simulated=simulated))
            self._settling = Settling(
                state, self._chain, self._accounts, self._reservations, simulated=simulated
            )
            if not self._chain.size:
                self._chain.append(Created, gateway=gateway, public_key=public_key)
            self._check_owner()
            self._settling.write_off()
            self._check_goes_on(clock)
            self._adopt()

    # --- blocks and charges -----------------------------------------------------------

    def open_block(self, block: int) -> None:
        """Open a block under the present policy, reserving monitoring's share; idempotent.

        A block that is open already keeps the policy under which it was opened.

        Raises:
            RecoveredBlockError: it was never opened, and lies before a recovery.
        """
        with self._state.transaction():
            if self._tables.policy(block) is None:
                self._accounts.check_open(block)
                self._chain.append(Opened, block=block, policy=self.policy)
                self._tables.add_block(block, self.policy)

    def reserve_window(
        self,
        window: int,
        block: int,
        events: Sequence[PrivacyEvent],
        *,
        purpose: str = FEATURES,
    ) -> Reservation:
        """Reserve releases about one window out of its block's monitoring share.

        Asked again for the same window and purpose, it answers the same reservation.

        Raises:
            BudgetExhaustedError: all releases about this window together would exceed the
                block's monitoring share, or the block lost its budget.
            QuotaExceededError: the policy gives this purpose less.
            ReservationError: the block was never opened, the window belongs to another block,
                or this purpose was reserved with other events.
            UnknownEventError: an event has no price.
        """
        subject = f"{window}/{purpose}"
        with self._state.transaction():
            self._accounts.check_open(block)
            known = self._reservations.find("window", subject, (block,), events)
            if known is not None:
                return known
            nano = self._accounts.window_charge(window, block, events, purpose)
            made = Reservation(self._reservations.next_id(), "window", (block,), tuple(events))
            self._chain.append(
                WindowReserved,
                reservation=made.id,
                window=window,
                block=block,
                purpose=purpose,
                events=made.events,
            )
            self._reservations.add(made, subject, {block: nano}, window=window)
            return made

    def reserve_run(
        self,
        run_id: str,
        blocks: Sequence[int],
        events: Sequence[PrivacyEvent],
        *,
        purposes: Sequence[RunPurpose] = (),
        task: str = "",
        base_release: int | None = None,
        base_sha256: str | None = None,
    ) -> Reservation:
        """Reserve all rounds of a retraining, charged in full to every block that it reads.

        All or nothing. Asked again with the same content, it answers the same reservation.

        Args:
            purposes: what each event is for; all are training unless given.
            task: whose quotas count, besides those for every task.
            base_release, base_sha256: the release that the run starts from.

        Raises:
            BudgetExhaustedError: a block has too little left, or lost its budget; none was
                charged.
            QuotaExceededError: a block's policy gives a purpose less.
            ReservationError: no block is named, one was never opened, the run id was used with
                other blocks or events, or the purposes are not one for each event.
            UnknownEventError: an event has no price.
        """
        distinct = tuple(sorted(set(blocks)))
        named = tuple(purposes) or all_training(events)
        with self._state.transaction():
            for block in distinct:
                self._accounts.check_open(block)
            known = self._reservations.find("run", run_id, distinct, events)
            if known is not None:
                return known
            if len(named) != len(events):
                raise ReservationError(f"run {run_id}: {len(named)} purposes of {len(events)}")
            uses = {
                block: self._accounts.run_uses(block, events, named, task) for block in distinct
            }
            made = Reservation(self._reservations.next_id(), "run", distinct, tuple(events))
            self._chain.append(
                RunReserved,
                reservation=made.id,
                run_id=run_id,
                blocks=distinct,
                events=made.events,
                purposes=named,
                task=task,
                base_release=base_release,
                base_sha256=base_sha256,
            )
            charges = {block: sum(use.nano for use in parts) for block, parts in uses.items()}
            self._reservations.add(made, run_id, charges, uses=uses)
            return made

    # --- grants and settlements -------------------------------------------------------

    def grant(self, reservation: Reservation, key: str, event: PrivacyEvent) -> Grant:
        """The right to noise `event`, a part of the reservation, under the name `key`.

        Granted again while no noise was drawn; the earlier grant is void. Where some may have been
        drawn and nothing was settled, as after a crash, an entry notes the gap: never drawn again.

        Raises:
            DrawLostError: what was noised under `key` is lost.
            ReservationError: `key` is settled (resend the stored bytes), was granted for
                another event, or the reservation's other keys hold what is asked for.
            RecoveredBlockError: the state was lost since it was reserved: what was noised under
                it then may have been released.
            RuntimeError: inside a transaction, which may be undone when noise was drawn already.
        """
        return self._settling.grant(reservation, key, event)

    def settle(
        self, reservation: Reservation, key: str, artefact_sha256: str, noise_kind: str
    ) -> None:
        """Record that the bytes noised under `key` are kept; joins the caller's transaction.

        The same call again changes nothing.

        Raises:
            ReservationError: `key` was not granted by this process, no noise was drawn under
                it, it is settled with other bytes, or the noise is not of the event's kind, or
                not the system's in a real ledger.
            RecoveredBlockError: the state was lost since it was reserved.
        """
        self._settling.settle(reservation, key, artefact_sha256, noise_kind)

    # --- what changes no charge -------------------------------------------------------

    def exclude(self, block: int, what: Exclusion) -> None:
        """Record that the guarantee leaves out `what` of `block`; on disk when it returns.

        Only then may the first of it leave. Idempotent; the block need not be open yet.
        """
        with self._state.transaction():
            if self._tables.add_exclusion(block, what):
                self._chain.append(Excluded, block=block, what=what)

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
        self._chain.append(Erased, records=asked, reason=reason)

    # --- a lost state -----------------------------------------------------------------

    def recover(
        self,
        entries: Sequence[bytes],
        witnessed: WitnessedHead,
        present_block: int,
        reason: RecoveryReason,
    ) -> bool:
        """Take up the chain that a witness kept, and let no known block spend any more.

        All or nothing, and nothing the second time. What this ledger holds beyond the common
        beginning is dropped; what its blocks had left, too.

        Args:
            entries: of this gateway, from the first one, at least as many as the head's.
            witnessed: the head up to which the witness confirmed them. Its signatures are the
                caller's to check.
            present_block: the block in which records now arrive; it may be cut through, too.

        Returns:
            whether anything changed: not where this ledger goes on from these entries.

        Raises:
            StateError: the entries are no chain, not this gateway's, or not the head's.
        """
        with self._state.transaction():
            check_chain_of(entries, witnessed.head, gateway=self._gateway, simulated=self.simulated)
            if begins_with(self._chain, entries):
                return False
            known = self._tables.blocks()
            rebuild(entries, self._chain, self._tables, self._reservations)
            through = max((present_block, self.recovered_through, *known, *self._tables.blocks()))
            self._chain.append(
                Recovered,
                through_block=through,
                witnessed_size=witnessed.head.size,
                witnessed_root=witnessed.head.root,
                reason=reason,
            )
            self._tables.recover(through)
            self._settling.void()
            self._adopt()
            return True

    def _check_owner(self) -> None:
        first = self._chain.entry(0)
        # Entries of a later build stand at the end, as versions never fall.
        self._chain.entry(-1)
        if not isinstance(first, Created):
            raise StateError(f"{self._state.path} holds a ledger without a beginning")
        if first.simulated != self.simulated:
            raise StateError(
                f"{self._state.path} holds a {'simulated' if first.simulated else 'real'} "
                "ledger; a ledger is one or the other from its creation"
            )
        if self._gateway is not None and first.gateway not in (None, self._gateway):
            raise StateError(f"{self._state.path} holds the ledger of gateway {first.gateway}")

    def _check_goes_on(self, clock: Callable[[], float]) -> None:
        before, _ = self._tables.adopted()
        if before is not None and before.block != self.policy.block:
            check_goes_on(
                before.block,
                self.policy.block,
                newest_block=max(self._tables.blocks(), default=-1),
                now=clock(),
                next_window=self.next_window,
            )

    def _adopt(self) -> None:
        """Enter the policy where it, or who allowed it, is not what was adopted last."""
        policy, approval = self._tables.adopted()
        if policy == self.policy and self.approval in (None, approval):
            return
        self._chain.append(Adopted, policy=self.policy, approval=self.approval)
        self._tables.adopt(self.policy, self.approval)
