"""What is sent about an intervention, under a key that stays the same for every attempt."""

from __future__ import annotations

import uuid

from fedge.drift.fleet.interventions import Intervention
from fedge.records import Record

SENSOR_CHECK = "fedge.sensor.check"
QUARANTINED = "fedge.gateway.quarantined"
RECALIBRATED = "fedge.gateway.recalibrated"
EVENTS = {
    "check-sensor": SENSOR_CHECK,
    "quarantine": QUARANTINED,
    "recalibrate": RECALIBRATED,
}

_NAMESPACE = uuid.UUID("6b1a6b0e-5d0c-5c39-9a53-0f6a3e3cf8d4")


class Alert(Record):
    """What is sent about an intervention. Holds nothing that reports did not hold.

    Attributes:
        key: the same for every attempt, so that a receiver can tell a repetition.
        message: the verdict's sentence.
        at: when the intervention was decided.
    """

    key: str
    event: str
    episode: str
    gateway: str
    action: str
    message: str
    at: float


def alert_of(fact: Intervention) -> Alert:
    """The alert that belongs to a stored intervention."""
    return Alert(
        key=str(uuid.uuid5(_NAMESPACE, f"{fact.episode} {fact.action}")),
        event=EVENTS[fact.action],
        episode=fact.episode,
        gateway=fact.gateway,
        action=fact.action,
        message=fact.reason,
        at=fact.at,
    )
