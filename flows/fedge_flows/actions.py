"""Carrying out what the policy asks for besides retraining, each once for an episode.

Recalibrating is storing the fact from which a new baseline follows, holding a gateway
likewise; both need a person's attention or at least his knowledge, so each fact is
followed by an alert. The fact comes first: a process killed between the two finds it
stored, stores nothing again, and sends the alert that is still owed under the same key.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fedge.drift.fleet.interventions import POLICY, Intervention
from fedge.drift.fleet.monitor import Due
from fedge.errors import OutboundError, OutboundRefusedError
from fedge_flows.alerts import Alert, alert_of
from fedge_flows.ports import AlertChannel, Clock, Interventions

log = logging.getLogger(__name__)


def carry_out(due: Sequence[Due], log_of: Interventions, clock: Clock) -> tuple[Intervention, ...]:
    """Store what is due; answers what this call stored."""
    stored = []
    for one in due:
        fact = Intervention(
            episode=one.episode,
            gateway=one.gateway,
            action=one.action,
            window=one.window,
            at=clock(),
            by=POLICY,
            reason=one.reason,
        )
        if log_of.record(fact):
            stored.append(fact)
    return tuple(stored)


def announce(log_of: Interventions, channels: Sequence[AlertChannel]) -> tuple[Alert, ...]:
    """Send the alerts that are owed; one that some channel did not take stays owed.

    A channel that could not be reached gets no further alert in this call, the others do. An
    alert that a channel refuses holds up no other.

    Returns:
        the alerts that every channel took.
    """
    down: set[int] = set()
    taken = []
    for fact in log_of.unannounced():
        alert = alert_of(fact)
        owed = bool(down)
        for number, channel in enumerate(channels):
            if number in down:
                continue
            try:
                channel.send(alert)
            except OutboundError as error:
                log.warning("alert %s for %s: %s", alert.event, alert.gateway, error)
                owed = True
                if not isinstance(error, OutboundRefusedError):
                    down.add(number)
        if not owed:
            log_of.announced(fact)
            taken.append(alert)
    return tuple(taken)
