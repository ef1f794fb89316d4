"""Prefect as an event bus."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import httpx
from prefect.client.orchestration import get_client

from fedge.errors import OutboundError
from fedge_flows.alerts import Alert


class PrefectBus:
    """Sends events to the Prefect server of this process's settings (`PREFECT_API_URL`).

    Posts and waits for the answer: Prefect's own `emit_event` hands the event to a background
    thread, and a process that ends just then loses it.
    """

    def emit(self, event: str, run_id: str) -> None:
        """Send `event` about a run.

        Raises:
            OutboundError: the server did not take it.
        """
        # A new id each time: the server drops an id that it has seen.
        self._post(str(uuid.uuid4()), event, f"fedge.run.{run_id}", {"run_id": run_id})

    def send(self, alert: Alert) -> None:
        """Send an alert as an event about its gateway, under the alert's own key.

        So the server itself drops one that it was sent before.

        Raises:
            OutboundError: the server did not take it.
        """
        resource = f"fedge.gateway.{alert.gateway}"
        self._post(alert.key, alert.event, resource, alert.model_dump(mode="json"))

    @staticmethod
    def _post(key: str, event: str, resource: str, payload: dict[str, Any]) -> None:
        body = {
            "id": key,
            "occurred": datetime.datetime.now(datetime.UTC).isoformat(),
            "event": event,
            "resource": {"prefect.resource.id": resource},
            "payload": payload,
        }
        try:
            with get_client(sync_client=True) as client:
                client.request("POST", "/events", json=[body]).raise_for_status()
        except httpx.HTTPError as error:
            raise OutboundError(f"Prefect did not take {event} on {resource}: {error}") from error
