"""Prefect as an event bus."""

from __future__ import annotations

import datetime
import uuid

import httpx
from prefect.client.orchestration import get_client

from fedge.errors import OutboundError


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
        body = {
            # A new id each time: the server drops an id that it has seen.
            "id": str(uuid.uuid4()),
            "occurred": datetime.datetime.now(datetime.UTC).isoformat(),
            "event": event,
            "resource": {"prefect.resource.id": f"fedge.run.{run_id}"},
            "payload": {"run_id": run_id},
        }
        try:
            with get_client(sync_client=True) as client:
                client.request("POST", "/events", json=[body]).raise_for_status()
        except httpx.HTTPError as error:
            raise OutboundError(f"Prefect did not take {event} for {run_id}: {error}") from error
