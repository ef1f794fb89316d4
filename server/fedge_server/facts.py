"""The stored facts that flows decide from, and the decisions that they store.

Reports are read from the envelope log; a run is decided once and then only moves
on. Which states a run goes through, and why, belongs to the flows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from fedge.errors import RecordError, StateError
from fedge.records import LabelReport, Record, RunSpec, WindowReport
from fedge_server.database import Database
from fedge_server.fleet import (
    Fleet,
    Gateway,
    read_stored_audit,
    read_stored_labels,
    read_stored_report,
)
from fedge_server.interventions import InterventionLog
from fedge_server.tables import envelopes, run_states, runs

CREATED = "created"
"""The state of a run that nobody has worked on."""


class RunState(Record):
    """A state that a run reached. `detail` is why, in words; `at` in seconds since the epoch."""

    state: str
    detail: str
    at: float


class Run(Record):
    """A stored run: what was decided, how far it is, and the release it led to, if any."""

    spec: RunSpec
    state: str
    detail: str
    created_at: float
    updated_at: float
    release: int | None


class Facts:
    """What flows read and write.

    Args:
        database: the coordinator's.
        clock: seconds since the epoch.

    Attributes:
        interventions: what was done about drift besides retraining.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock
        self._fleet = Fleet(database, clock)
        self.interventions = InterventionLog(database, clock)

    def gateways(self) -> tuple[Gateway, ...]:
        """All admitted gateways, by name."""
        return self._fleet.admitted()

    def reports(self, gateway: str | None = None) -> dict[str, tuple[WindowReport, ...]]:
        """Stored reports of each gateway in window order, whatever order they arrived in.

        Args:
            gateway: only this one's. A gateway without a report is absent.

        Raises:
            StateError: a stored report is damaged.
        """
        query = (
            select(envelopes.c.gateway, envelopes.c.envelope)
            .where(envelopes.c.kind == "report")
            .order_by(envelopes.c.gateway, envelopes.c.report_window)
        )
        if gateway is not None:
            query = query.where(envelopes.c.gateway == gateway)
        found: dict[str, list[WindowReport]] = {}
        with self._database.reading() as connection:
            for who, data in connection.execute(query):
                found.setdefault(who, []).append(read_stored_report(data))
        return {who: tuple(reports) for who, reports in found.items()}

    def labels(self) -> dict[str, tuple[LabelReport, ...]]:
        """Stored label reports of each gateway that sent any, in window order.

        Raises:
            StateError: a stored one is damaged.
        """
        query = (
            select(envelopes.c.gateway, envelopes.c.envelope)
            .where(envelopes.c.kind == "labels")
            .order_by(envelopes.c.gateway, envelopes.c.labels_window)
        )
        found: dict[str, list[LabelReport]] = {}
        with self._database.reading() as connection:
            for who, data in connection.execute(query):
                found.setdefault(who, []).append(read_stored_labels(data))
        return {who: tuple(own) for who, own in found.items()}

    def heard(self) -> dict[str, float]:
        """When the latest report of each gateway that sent any arrived, by the centre's clock."""
        query = (
            select(envelopes.c.gateway, func.max(envelopes.c.received_at))
            .where(envelopes.c.kind == "report")
            .group_by(envelopes.c.gateway)
        )
        with self._database.reading() as connection:
            return {who: float(at) for who, at in connection.execute(query)}

    def ledger_entries(self, gateway: str) -> tuple[bytes, ...]:
        """The stored ledger entries of a gateway by number, each once, the very bytes.

        Raises:
            StateError: a stored batch is damaged.
        """
        query = (
            select(envelopes.c.envelope)
            .where(envelopes.c.gateway == gateway, envelopes.c.kind == "audit")
            .order_by(envelopes.c.audit_first)
        )
        found: dict[int, bytes] = {}
        with self._database.reading() as connection:
            for (data,) in connection.execute(query):
                batch = read_stored_audit(data)
                found.update(enumerate(batch.entries, batch.first_seq))
        return tuple(found[seq] for seq in sorted(found))

    def create_run(self, spec: RunSpec) -> bool:
        """Store a run, in state `created`. True if this call created it.

        A run id is decided once: where it exists, nothing changes, even if `spec` differs now.
        """
        at = self._clock()
        row = {"run_id": spec.run_id, "spec": spec.to_bytes(), "created_at": at}
        try:
            with self._database.writing() as connection:
                if _run_exists(connection, spec.run_id):
                    return False
                connection.execute(insert(runs).values(**row))
                _append_state(connection, spec.run_id, CREATED, "", at)
        except IntegrityError:  # another process was faster (Postgres only)
            return False
        return True

    def runs(self) -> tuple[Run, ...]:
        """All runs, the oldest first."""
        latest = (
            select(run_states.c.run_id, func.max(run_states.c.number).label("number"))
            .group_by(run_states.c.run_id)
            .subquery()
        )
        query = (
            select(runs, run_states.c.state, run_states.c.detail, run_states.c.at)
            .join(latest, latest.c.run_id == runs.c.run_id)
            .join(run_states, run_states.c.number == latest.c.number)
            .order_by(runs.c.created_at, runs.c.run_id)
        )
        with self._database.reading() as connection:
            return tuple(_run(row) for row in connection.execute(query))

    def set_run_state(self, run_id: str, state: str, detail: str = "") -> None:
        """Append a state; the one that the run is in already changes nothing.

        Raises:
            RuntimeError: no such run was created.
        """
        with self._database.writing() as connection:
            if not _run_exists(connection, run_id):
                raise RuntimeError(f"run {run_id} was never created")
            query = (
                select(run_states.c.state, run_states.c.detail)
                .where(run_states.c.run_id == run_id)
                .order_by(run_states.c.number.desc())
                .limit(1)
            )
            if tuple(connection.execute(query).one()) != (state, detail):
                _append_state(connection, run_id, state, detail, self._clock())

    def run_history(self, run_id: str) -> tuple[RunState, ...]:
        """Every state of a run in order; empty if there is no such run."""
        query = (
            select(run_states).where(run_states.c.run_id == run_id).order_by(run_states.c.number)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(RunState(state=row.state, detail=row.detail, at=row.at) for row in rows)

    def record_release(self, run_id: str, counter: int) -> None:
        """Note which release a run led to; the same again changes nothing.

        Raises:
            RuntimeError: no such run was created, or it led to another release already.
        """
        with self._database.writing() as connection:
            query = select(runs.c.release).where(runs.c.run_id == run_id)
            row = connection.execute(query).first()
            if row is None:
                raise RuntimeError(f"run {run_id} was never created")
            if row.release not in (None, counter):
                raise RuntimeError(f"run {run_id} led to release {row.release}, not {counter}")
            connection.execute(update(runs).where(runs.c.run_id == run_id).values(release=counter))


def _run_exists(connection: Connection, run_id: str) -> bool:
    query = select(runs.c.run_id).where(runs.c.run_id == run_id)
    return connection.execute(query).first() is not None


def _append_state(connection: Connection, run_id: str, state: str, detail: str, at: float) -> None:
    connection.execute(insert(run_states).values(run_id=run_id, state=state, detail=detail, at=at))


def _run(row: Row[Any]) -> Run:
    try:
        spec = RunSpec.from_bytes(row.spec)
    except RecordError as error:
        raise StateError(f"the stored run {row.run_id} cannot be read: {error}") from error
    return Run(
        spec=spec,
        state=row.state,
        detail=row.detail,
        created_at=row.created_at,
        updated_at=row.at,
        release=row.release,
    )
