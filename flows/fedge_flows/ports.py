"""What the flows ask of the world: small interfaces that a test can speak from memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fedge.drift.fleet.interventions import Intervention
from fedge.records import LabelReport, RunSpec, WindowReport
from fedge_flows.alerts import Alert

Clock = Callable[[], float]
Sleep = Callable[[float], None]


class Objects(Protocol):
    """Storage by name, put once; `fedge_server.objects.ObjectStore` is the real one."""

    def put(self, name: str, data: bytes) -> object: ...
    def get(self, name: str) -> bytes: ...
    def exists(self, name: str) -> bool: ...


class RunRow(Protocol):
    """A stored run. `state` is one of `fedge_flows.progress.STATES`."""

    @property
    def spec(self) -> RunSpec: ...
    @property
    def state(self) -> str: ...
    @property
    def created_at(self) -> float: ...
    @property
    def release(self) -> int | None: ...


class GatewayFact(Protocol):
    """An admitted gateway."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def public_key(self) -> str: ...


class Facts(Protocol):
    """The runs table, and the reports and labelled errors that gateways pushed."""

    def gateways(self) -> Sequence[GatewayFact]: ...
    def reports(self) -> Mapping[str, Sequence[WindowReport]]: ...
    def labels(self) -> Mapping[str, Sequence[LabelReport]]: ...
    def heard(self) -> Mapping[str, float]: ...
    def runs(self) -> Sequence[RunRow]: ...
    def create_run(self, spec: RunSpec) -> bool: ...
    def set_run_state(self, run_id: str, state: str, detail: str = "") -> None: ...
    def record_release(self, run_id: str, counter: int) -> None: ...


class Bus(Protocol):
    """Where events go that start the next flow. Losing one is safe: `monitor` sends again.

    Every bus is an `AlertChannel`, too.
    """

    def emit(self, event: str, run_id: str) -> None: ...
    def send(self, alert: Alert) -> None: ...


class Interventions(Protocol):
    """The stored log of interventions; `fedge_server.interventions.InterventionLog`."""

    def all(self) -> Sequence[Intervention]: ...
    def unannounced(self) -> Sequence[Intervention]: ...

    def record(self, one: Intervention) -> bool:
        """Store it; False if this action was stored for the episode before."""
        ...

    def announced(self, one: Intervention) -> None: ...


class AlertChannel(Protocol):
    """Somewhere alerts go; raises OutboundError where one was not taken."""

    def send(self, alert: Alert) -> None: ...


class Rounds(Protocol):
    """Flower's side of a run: submit once, then ask. Ids are Flower's own."""

    def submit(self, run_id: str) -> int: ...

    def status(self, flower_run: int) -> str:
        """`running`, `completed`, `failed`, or `unknown` where Flower lost the run."""
        ...

    def stop(self, flower_run: int) -> None: ...


Environment = Mapping[str, str]
process_environment: Environment = os.environ
