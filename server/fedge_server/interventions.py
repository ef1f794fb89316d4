"""The log of what was done about drift, and holds lifted by people.

Each action is stored once for an episode, so that whoever asks a second time, or
starts over after a kill, changes nothing. What an intervention means for verdicts is
`fedge.drift.fleet.interventions`; when one is due, `monitor` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from fedge.drift.fleet.interventions import MAX_REASON, Intervention, hold_of
from fedge.errors import SettingError, StateError
from fedge.records import Name
from fedge_server.database import Database
from fedge_server.tables import envelopes, gateways, interventions

_NAME: TypeAdapter[str] = TypeAdapter(Name)


class InterventionLog:
    """Reads and appends.

    Args:
        database: the coordinator's.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def all(self) -> tuple[Intervention, ...]:
        """Everything that was done, the oldest first."""
        query = select(interventions).order_by(interventions.c.number)
        with self._database.reading() as connection:
            return tuple(_read(row) for row in connection.execute(query))

    def unannounced(self) -> tuple[Intervention, ...]:
        """Those whose alert nobody has taken yet, the oldest first."""
        query = (
            select(interventions)
            .where(interventions.c.announced_at.is_(None))
            .order_by(interventions.c.number)
        )
        with self._database.reading() as connection:
            return tuple(_read(row) for row in connection.execute(query))

    def record(self, one: Intervention, *, announced: bool = False) -> bool:
        """Store an intervention. False if this action was stored for the episode before.

        Args:
            announced: whether there is nothing to be said about it to anybody.
        """
        row = one.model_dump() | {"announced_at": one.at if announced else None}
        same = (interventions.c.episode == one.episode) & (interventions.c.action == one.action)
        try:
            with self._database.writing() as connection:
                if connection.execute(select(interventions.c.number).where(same)).first():
                    return False
                connection.execute(insert(interventions).values(**row))
        except IntegrityError:  # another process was faster (Postgres only)
            return False
        return True

    def announced(self, one: Intervention) -> None:
        """Note that the alert of a stored intervention was taken."""
        same = (interventions.c.episode == one.episode) & (interventions.c.action == one.action)
        with self._database.writing() as connection:
            connection.execute(update(interventions).where(same).values(announced_at=self._clock()))

    def holds(self) -> tuple[Intervention, ...]:
        """What keeps gateways out of runs and comparisons now, by gateway."""
        stored = self.all()
        found = (hold_of(gateway, stored) for gateway in sorted({one.gateway for one in stored}))
        return tuple(hold for hold in found if hold is not None)

    def lift(self, gateway: str, *, by: str, reason: str) -> Intervention:
        """End a gateway's hold: its next window begins a new baseline.

        Args:
            gateway: its fingerprint, or its name where only one has it.
            by: who looked at it.
            reason: what was found, in words.

        Raises:
            SettingError: no such gateway is held, or `by` or `reason` is empty or too long.
        """
        who = self._fingerprint(gateway)
        hold = hold_of(who, self.all())
        if hold is None:
            raise SettingError(f"gateway {gateway} is not held; there is nothing to lift")
        if not reason or len(reason) > MAX_REASON:
            raise SettingError(f"say in 1 to {MAX_REASON} characters what was found")
        lifted = Intervention(
            episode=hold.episode,
            gateway=who,
            action="lift",
            window=max(hold.window, self._last_window(who)),
            at=self._clock(),
            by=_checked_name(by),
            reason=reason,
        )
        if not self.record(lifted, announced=True):
            raise SettingError(f"the hold of {gateway} was lifted before")
        return lifted

    def _fingerprint(self, gateway: str) -> str:
        query = select(gateways.c.fingerprint).where(
            (gateways.c.fingerprint == gateway) | (gateways.c.name == gateway)
        )
        with self._database.reading() as connection:
            found = [row.fingerprint for row in connection.execute(query)]
        if len(found) != 1:
            many = "several gateways are" if found else "no admitted gateway is"
            raise SettingError(f"{many} called {gateway!r}")
        return str(found[0])

    def _last_window(self, gateway: str) -> int:
        query = select(func.max(envelopes.c.report_window)).where(envelopes.c.gateway == gateway)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)


def _checked_name(name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        message = "who lifts a hold is named by 1 to 64 letters, digits, blanks and `_.-`"
        raise SettingError(f"{name!r}: {message}") from error


def _read(row: Row[Any]) -> Intervention:
    fields = {name: getattr(row, name) for name in Intervention.model_fields}
    try:
        return Intervention(**fields)
    except ValidationError as error:
        raise StateError(f"a stored intervention cannot be read: {error}") from error
