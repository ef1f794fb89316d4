"""Alerts as one POST each to an operator's own server.

https, or plain http on this host alone: an alert names gateways and what is wrong with
them. The receiver may see an alert twice and tells so by its `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging

from fedge.config import AlertSettings
from fedge.errors import OutboundError, OutboundRefusedError, SettingError
from fedge.serving.upstream import Endpoint, HttpClient
from fedge_flows.alerts import Alert
from fedge_flows.ports import AlertChannel, Sleep
from fedge_server.alerts import read_token

log = logging.getLogger(__name__)

PAUSE_S = 0.5
"""Before the second attempt; doubled before each further one."""

MAX_ANSWER_BYTES = 2**16

ALREADY_TAKEN = 409
"""What a receiver may answer to an `Idempotency-Key` that it saw before."""

_TRY_AGAIN = (408, 425, 429)
"""Client errors that speak of the moment, not of the message."""


class Webhook:
    """Posts alerts to `[alerts] webhook_url`.

    Args:
        settings: with a `webhook_url`.
        sleep: waits between attempts.

    Raises:
        SettingError: the address is neither https nor this host, or a file cannot be read.
    """

    def __init__(self, settings: AlertSettings, sleep: Sleep) -> None:
        self._endpoint = _checked(Endpoint.parse(settings.webhook_url, ca_file=settings.ca_file))
        self._settings, self._sleep = settings, sleep
        self._token = read_token(settings.token_file) if settings.token_file is not None else b""

    def send(self, alert: Alert) -> None:
        """Post one alert; a few attempts, each within `timeout_s`.

        Raises:
            OutboundRefusedError: the receiver does not take this alert.
            OutboundError: no attempt was answered with a 2xx.
        """
        trouble = OutboundError("no attempt was made")
        for attempt in range(self._settings.attempts):
            if attempt:
                self._sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                status = asyncio.run(self._post(alert))
            except OutboundError as error:
                trouble = error
                continue
            if 200 <= status < 300 or status == ALREADY_TAKEN:
                return
            if 400 <= status < 500 and status not in _TRY_AGAIN:
                raise OutboundRefusedError(f"the webhook answered {status}")
            trouble = OutboundError(f"the webhook answered {status}")
        raise trouble

    async def _post(self, alert: Alert) -> int:
        client = HttpClient(self._endpoint, max_answer_bytes=MAX_ANSWER_BYTES)
        target = "" if self._endpoint.prefix else "/"
        headers = [
            (b"content-type", b"application/json"),
            (b"idempotency-key", alert.key.encode()),
        ]
        if self._token:
            headers.append((b"authorization", b"Bearer " + self._token))
        try:
            answer = await client.request(
                "POST", target, headers, alert.to_bytes(), timeout_s=self._settings.timeout_s
            )
        finally:
            client.close()
        return answer.status


class UnusableChannel:
    """Stands where a channel is set that cannot be used: its alerts stay owed, all else goes on.

    Args:
        reason: why, in words; whoever looks at the log finds it with each alert.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def send(self, _alert: Alert) -> None:
        """Take nothing.

        Raises:
            OutboundError: always, with the reason.
        """
        raise OutboundError(self._reason)


def webhook_of(settings: AlertSettings, sleep: Sleep) -> AlertChannel | None:
    """The channel to the operator's server; None where no address is set.

    A fault of its settings or files is an error in the log, and no reason to retrain nobody.
    """
    if not settings.webhook_url:
        return None
    try:
        return Webhook(settings, sleep)
    except SettingError as error:
        log.error("alerts are owed and not sent: %s", error)
        return UnusableChannel(str(error))


def _checked(endpoint: Endpoint) -> Endpoint:
    """Raise SettingError for plain http to another host."""
    if endpoint.tls is None and not _loopback(endpoint.host):
        raise SettingError(f"alerts to {endpoint.host} need https: they name gateways")
    return endpoint


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
