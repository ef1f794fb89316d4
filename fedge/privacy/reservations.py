"""Reservations of the ledger, their charges and their parts, as rows of a state file.

Rows in, rows out: every rule about what may be charged or settled is the ledger's.
Charges are kept per reservation and block and totals are always summed from them, so
that no stored total can disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from fedge.errors import ReservationError
from fedge.privacy.quotas import Use
from fedge.records import PrivacyEvent, canonical
from fedge.statefile import StateFile

ReservationKind = Literal["window", "run"]
_EVENT: TypeAdapter[PrivacyEvent] = TypeAdapter(PrivacyEvent)

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS ledger_reservations (id INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
    " subject TEXT NOT NULL, content BLOB NOT NULL, UNIQUE (kind, subject))",
    "CREATE TABLE IF NOT EXISTS ledger_charges ("
    " reservation INTEGER NOT NULL REFERENCES ledger_reservations,"
    " block INTEGER NOT NULL REFERENCES ledger_blocks,"
    " window INTEGER, nano INTEGER NOT NULL, PRIMARY KEY (reservation, block))",
    "CREATE INDEX IF NOT EXISTS ledger_charges_by_window ON ledger_charges (window)",
    "CREATE INDEX IF NOT EXISTS ledger_charges_of_runs ON ledger_charges (block)"
    " WHERE window IS NULL",
    "CREATE TABLE IF NOT EXISTS ledger_parts ("
    " reservation INTEGER NOT NULL REFERENCES ledger_reservations, key TEXT NOT NULL,"
    " event BLOB NOT NULL, artefact TEXT, PRIMARY KEY (reservation, key))",
    "CREATE TABLE IF NOT EXISTS ledger_uses ("
    " reservation INTEGER NOT NULL REFERENCES ledger_reservations,"
    " block INTEGER NOT NULL REFERENCES ledger_blocks,"
    " purpose TEXT NOT NULL, task TEXT NOT NULL, nano INTEGER NOT NULL,"
    " PRIMARY KEY (reservation, block, purpose, task)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS ledger_uses_of_blocks ON ledger_uses (block)",
    # Runs that an earlier build reserved named no purpose: all of it was training.
    "INSERT INTO ledger_uses SELECT reservation, block, 'training', '', nano FROM ledger_charges"
    " WHERE window IS NULL AND reservation NOT IN (SELECT reservation FROM ledger_uses)",
)
_LOST = "lost"
"""Stands for the artefact of a part that will never have one."""
_TABLES = ("parts", "uses", "charges", "reservations")


@dataclass(frozen=True, slots=True)
class Reservation:
    """Charged events that may be noised once each.

    Attributes:
        id: its number in this ledger: 0, 1, 2, ...
        kind: a window's releases, or a run's.
        blocks: the data blocks that were charged.
        events: what was charged, together, to each of them.
    """

    id: int
    kind: ReservationKind
    blocks: tuple[int, ...]
    events: tuple[PrivacyEvent, ...]

    @property
    def content(self) -> bytes:
        """What makes two reservations the same, as one byte string."""
        events = [event.model_dump(mode="json") for event in self.events]
        return canonical({"blocks": list(self.blocks), "events": events})


@dataclass(frozen=True, slots=True)
class Part:
    """A granted part of a reservation.

    Attributes:
        artefact_sha256: None until it is settled.
        lost: whether what was noised under it is lost; it is never settled then.
    """

    event: PrivacyEvent
    artefact_sha256: str | None
    lost: bool = False

    @property
    def open(self) -> bool:
        """Whether it is neither settled nor lost."""
        return self.artefact_sha256 is None and not self.lost


class Reservations:
    """Reads and writes reservations; writes join the caller's transaction."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        state.ensure(*_SCHEMA)

    def clear(self) -> None:
        """Forget everything."""
        with self._state.transaction() as db:
            for table in _TABLES:
                db.execute(f"DELETE FROM ledger_{table}")

    def find(
        self,
        kind: ReservationKind,
        subject: str,
        blocks: tuple[int, ...],
        events: Sequence[PrivacyEvent],
    ) -> Reservation | None:
        """What was reserved under this name before; None if nothing was.

        Raises:
            ReservationError: no block or event is named, or other ones were reserved.
        """
        if not blocks or not events:
            raise ReservationError(f"{kind} {subject}: no block or no event is named")
        rows = self._state.rows(
            "SELECT id, content FROM ledger_reservations WHERE kind = ? AND subject = ?",
            kind,
            subject,
        )
        if not rows:
            return None
        found = Reservation(int(rows[0][0]), kind, blocks, tuple(events))
        if found.content != rows[0][1]:
            raise ReservationError(f"{kind} {subject} was reserved with other blocks or events")
        return found

    def next_id(self) -> int:
        """The number of the next reservation."""
        ((number,),) = self._state.rows("SELECT COALESCE(MAX(id), -1) + 1 FROM ledger_reservations")
        return int(number)

    def add(
        self,
        reservation: Reservation,
        subject: str,
        charges: Mapping[int, int],
        *,
        window: int | None = None,
        uses: Mapping[int, Sequence[Use]] | None = None,
    ) -> None:
        """Keep a reservation and its charges in nano-RDP by block.

        Args:
            window: which the reservation is about, if it is about one.
            uses: a run's charges again, apart by purpose; one for each purpose at most.
        """
        with self._state.transaction() as db:
            db.execute(
                "INSERT INTO ledger_reservations VALUES (?, ?, ?, ?)",
                (reservation.id, reservation.kind, subject, reservation.content),
            )
            db.executemany(
                "INSERT INTO ledger_charges VALUES (?, ?, ?, ?)",
                [(reservation.id, block, window, nano) for block, nano in charges.items()],
            )
            db.executemany(
                "INSERT INTO ledger_uses VALUES (?, ?, ?, ?, ?)",
                [
                    (reservation.id, block, use.purpose, use.task, use.nano)
                    for block, parts in (uses or {}).items()
                    for use in parts
                ],
            )

    def require(self, reservation: Reservation) -> None:
        """Refuse a reservation that this ledger did not make, or not like this.

        Raises:
            ReservationError: as said.
        """
        rows = self._state.rows(
            "SELECT content FROM ledger_reservations WHERE id = ?", reservation.id
        )
        if not rows or rows[0][0] != reservation.content:
            raise ReservationError(f"reservation {reservation.id} is not one of this ledger")

    # --- charges ----------------------------------------------------------------------

    def training_nano(self, block: int) -> int:
        """What runs charged to `block`."""
        ((nano,),) = self._state.rows(
            "SELECT COALESCE(SUM(nano), 0) FROM ledger_charges WHERE block = ? AND window IS NULL",
            block,
        )
        return int(nano)

    def training_totals(self) -> dict[int, int]:
        """What runs charged to each open block, in the order of blocks."""
        rows = self._state.rows(
            "SELECT b.block, COALESCE(SUM(c.nano), 0) FROM ledger_blocks b LEFT JOIN"
            " ledger_charges c ON c.block = b.block AND c.window IS NULL"
            " GROUP BY b.block ORDER BY b.block"
        )
        return {int(block): int(nano) for block, nano in rows}

    def uses(self, block: int) -> list[Use]:
        """What runs took of `block`, apart by purpose and task."""
        rows = self._state.rows(
            "SELECT purpose, task, SUM(nano) FROM ledger_uses WHERE block = ?"
            " GROUP BY purpose, task",
            block,
        )
        return [Use(str(purpose), str(task), int(nano)) for purpose, task, nano in rows]

    def window_nano(self, window: int) -> int:
        """What is reserved about `window`."""
        ((nano,),) = self._state.rows(
            "SELECT COALESCE(SUM(nano), 0) FROM ledger_charges WHERE window = ?", window
        )
        return int(nano)

    def window_totals(self) -> dict[int, int]:
        """What is reserved about each window."""
        rows = self._state.rows(
            "SELECT window, SUM(nano) FROM ledger_charges WHERE window IS NOT NULL GROUP BY window"
        )
        return {int(window): int(nano) for window, nano in rows}

    def block_of_window(self, window: int) -> int | None:
        """The block that releases about `window` were charged to."""
        rows = self._state.rows("SELECT block FROM ledger_charges WHERE window = ? LIMIT 1", window)
        return int(rows[0][0]) if rows else None

    # --- parts ------------------------------------------------------------------------

    def parts(self, number: int) -> dict[str, Part]:
        """The granted parts of a reservation by key."""
        rows = self._state.rows(
            "SELECT key, event, artefact FROM ledger_parts WHERE reservation = ?", number
        )
        return {key: _part(event, artefact) for key, event, artefact in rows}

    def open_parts(self) -> dict[tuple[int, str], PrivacyEvent]:
        """The events of all parts that are neither settled nor lost, by reservation and key."""
        rows = self._state.rows(
            "SELECT reservation, key, event FROM ledger_parts WHERE artefact IS NULL"
            " ORDER BY reservation, key"
        )
        return {(int(number), str(key)): _EVENT.validate_json(event) for number, key, event in rows}

    def settled_parts(self) -> dict[tuple[int, str], str]:
        """Artefact hashes of all settled parts, by reservation and key."""
        rows = self._state.rows(
            "SELECT reservation, key, artefact FROM ledger_parts WHERE artefact <> ?", _LOST
        )
        return {(int(number), str(key)): str(artefact) for number, key, artefact in rows}

    def lost_parts(self) -> set[tuple[int, str]]:
        """All lost parts, by reservation and key."""
        rows = self._state.rows(
            "SELECT reservation, key FROM ledger_parts WHERE artefact = ?", _LOST
        )
        return {(int(number), str(key)) for number, key in rows}

    def add_part(self, number: int, key: str, event: PrivacyEvent) -> None:
        """Keep a granted part."""
        with self._state.transaction() as db:
            db.execute(
                "INSERT INTO ledger_parts VALUES (?, ?, ?, NULL)", (number, key, event.to_bytes())
            )

    def settle_part(self, number: int, key: str, artefact_sha256: str) -> None:
        """Give a granted part its artefact."""
        with self._state.transaction() as db:
            db.execute(
                "UPDATE ledger_parts SET artefact = ? WHERE reservation = ? AND key = ?",
                (artefact_sha256, number, key),
            )

    def lose_part(self, number: int, key: str) -> None:
        """Note that a granted part will never have an artefact."""
        self.settle_part(number, key, _LOST)


def _part(event: bytes, artefact: str | None) -> Part:
    lost = artefact == _LOST
    return Part(_EVENT.validate_json(event), None if lost else artefact, lost)
